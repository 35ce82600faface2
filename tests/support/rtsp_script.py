"""An RTSP server that records, and answers each request as a test says: also not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

__all__ = ["Asked", "RtspScript", "agree", "answered", "scripted"]


@dataclass(frozen=True)
class Asked:
    method: str
    uri: str
    headers: dict[str, str]
    body: bytes


def answered(asked: Asked, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"RTSP/1.0 {status}", f"CSeq: {asked.headers['cseq']}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def agree(asked: Asked) -> bytes:
    if asked.method == "SETUP":
        transport = "Transport: RTP/AVP/TCP;unicast;interleaved=4-5;mode=record"
        return answered(asked, "200 OK", transport, "Session: 8f3a;timeout=4")
    return answered(asked)


@dataclass
class RtspScript:
    answer: Callable[[Asked], bytes | None] = agree
    """None: silence; empty: hang up."""
    reads: bool = True
    """Whether it takes packets after RECORD."""
    asked: list[Asked] = field(default_factory=list)
    packets: list[tuple[int, bytes]] = field(default_factory=list)
    """Channel and content of each."""
    connections: int = 0
    port: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        threads: list[threading.Thread] = []
        while not self.over.is_set():
            try:
                peer, _ = listener.accept()
            except OSError:
                break
            self.connections += 1
            threads.append(threading.Thread(target=self._serve_one, args=(peer,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve_one(self, peer: socket.socket) -> None:
        peer.settimeout(0.1)
        with peer, contextlib.suppress(OSError, EOFError):
            held = bytearray()
            while self._one(peer, held):
                pass

    def _one(self, peer: socket.socket, held: bytearray) -> bool:
        if (first := self._take(peer, held, 1)) == b"$":
            head = self._take(peer, held, 3)
            self.packets.append((head[0], self._take(peer, held, int.from_bytes(head[1:], "big"))))
            return True
        text = bytearray(first)
        while not text.endswith(b"\r\n\r\n"):
            text += self._take(peer, held, 1)
        line, *rest = text.decode().split("\r\n")
        method, uri, _ = line.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (h.partition(":") for h in rest)}
        asked = Asked(method, uri, headers, self._take(peer, held, int(headers.get("content-length", 0))))
        self.asked.append(asked)
        if answer := self.answer(asked):
            peer.sendall(answer)
        if method == "RECORD" and not self.reads:
            self.over.wait()
        return answer != b""

    def _take(self, peer: socket.socket, held: bytearray, n: int) -> bytes:
        """Raises EOFError where nothing more comes."""
        while len(held) < n:
            data = b""
            with contextlib.suppress(TimeoutError):
                if not (data := peer.recv(1 << 16)):
                    raise EOFError
            if not data and self.over.is_set():
                raise EOFError
            held += data
        taken = bytes(held[:n])
        del held[:n]
        return taken


@contextlib.contextmanager
def scripted(answer: Callable[[Asked], bytes | None] = agree, *, reads: bool = True) -> Iterator[RtspScript]:
    """One that listens at ``127.0.0.1:<port>``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = RtspScript(answer, reads, port=listener.getsockname()[1])
        thread = threading.Thread(target=script.serve, args=(listener,))
        thread.start()
        try:
            yield script
        finally:
            script.over.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
