"""Clients that are slow, half open or hostile at a real server: they are closed, told of in one line, and
keep nobody out."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import httpx
import pytest
import uvicorn
from conftest import free_port
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from edgectl.link import http
from edgectl.link.http import BoundedProtocol

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n"


class Server:
    def __init__(self) -> None:
        self.port = free_port()
        self.lost = threading.Semaphore(0)
        app = Starlette(
            routes=[
                Route("/", self._take, methods=["POST"]),
                Route("/big", self._big),
                Route("/live", self._live),
                Route("/no", self._refuse, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(
            app,
            port=self.port,
            http=BoundedProtocol,
            log_level="warning",
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    async def _take(self, request: Request) -> Response:
        try:
            size = sum([len(piece) async for piece in request.stream()])
        except ClientDisconnect:
            self.lost.release()
            return Response(status_code=400)
        return PlainTextResponse(str(size))

    async def _refuse(self, request: Request) -> Response:
        return Response(status_code=401)

    async def _big(self, request: Request) -> Response:
        return PlainTextResponse("x" * (32 << 20))

    async def _live(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(32):
                yield b"x" * (1 << 20)

        return StreamingResponse(pieces())

    def connect(self, sent: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        client.sendall(sent)
        return client

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http, "PATIENCE_S", 0.5)
    server = Server()
    yield server
    server.close()


def end_of(client: socket.socket) -> bytes:
    """All that comes until the server closes; the test hangs, and fails, if it does not."""
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HT",
        HEAD,
        HEAD + b"\r\n",
        HEAD + b"\r\nbegun",
        HEAD.replace(b"/ ", b"/no ") + b"\r\nbegun",
    ],
    ids=["nothing", "half a line", "half a head", "no body", "a slow body", "a slow body after an answer"],
)
def test_client_that_stops_sending_is_closed(
    server: Server, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server.connect(sent) as client:
        end_of(client)
    assert "Traceback" not in caplog.text


def test_client_that_drips_is_closed(server: Server) -> None:
    """A byte now and then is no progress."""
    with server.connect(HEAD + b"\r\n") as client:
        client.settimeout(0.05)
        for _ in range(400):
            try:
                client.sendall(b"x")
                if not client.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("it is still open")


def test_client_that_goes_on_sending_after_its_answer_is_closed(server: Server) -> None:
    """Refused, and never done: uvicorn would read and throw away for ever."""
    head = b"POST /no HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000000\r\n\r\n"
    with server.connect(head) as client:
        assert b"401" in client.recv(1000)
        for _ in range(400):
            try:
                client.sendall(b"x" * 8192)
            except OSError:
                break
            threading.Event().wait(0.05)
        else:
            pytest.fail("it is still read")


def test_three_hundred_slow_bodies_are_closed_with_one_line_and_keep_nobody_out(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    told = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    logging.getLogger("edgectl.link.http").addHandler(heard := Heard())
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect(HEAD + b"\r\n{")) for _ in range(300)]
            assert (
                httpx.post(f"http://127.0.0.1:{server.port}/", content=b"y" * 100_000, timeout=30).text
                == "100000"
            )
            for client in clients:
                end_of(client)
        assert told.wait(10)
    finally:
        logging.getLogger("edgectl.link.http").removeHandler(heard)
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) <= 2
    assert not any(r.exc_info for r in caplog.records)


def test_body_that_comes_steadily_may_take_long(server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(12):
            threading.Event().wait(0.15)
            yield b"z" * 8192

    assert httpx.post(f"http://127.0.0.1:{server.port}/", content=pieces(), timeout=30).text == str(12 * 8192)


def test_client_that_does_not_read_its_answer_is_closed(server: Server) -> None:
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
        while server._server.server_state.connections:
            threading.Event().wait(0.05)


def test_no_http_after_an_answer_ends_the_connection_without_a_traceback(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    chunked = b"POST /no HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with server.connect(chunked) as client:
        assert b"401" in client.recv(1000)
        client.sendall(b"zz\r\n" * 10)
        end_of(client)
    assert not any(r.exc_info for r in caplog.records)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    one = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"
    with server.connect(b"".join(one % (n, b"a" * n) for n in (1, 22, 333))) as client:
        answer = end_of(client)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"1", b"22", b"333"]


def test_a_client_that_reads_slowly_and_goes_on_is_kept(server: Server) -> None:
    """A viewer of a live picture on a thin line: it always has something left to take."""
    with server.connect(b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        taken = 0
        while data := client.recv(1 << 16):
            taken += len(data)
            threading.Event().wait(0.01)
    assert taken > 32 << 20
