"""A socket whose waits end: with a time limit, or because nobody waits any longer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from edgectl.pipelines.sinks.restream.wire import BoundedSocket, Stopped


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as s:
        yield s


def connected(listener: socket.socket, stop: threading.Event) -> BoundedSocket:
    wire = BoundedSocket(stop)
    wire.connect(listener.getsockname()[:2], 5)
    return wire


def test_nobody_there_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as s:
        place = s.getsockname()
    wire = BoundedSocket(threading.Event())
    with pytest.raises(ConnectionRefusedError):
        wire.connect(place, 5)
    wire.close()


def test_what_does_not_come_in_time_is_none_and_what_is_not_taken_is_an_error(
    listener: socket.socket,
) -> None:
    wire = connected(listener, threading.Event())
    assert wire.receive(0) is None
    assert wire.receive(0.05) is None
    with pytest.raises(TimeoutError):
        wire.send(bytes(64 << 20), 0.05)
    wire.close()


def test_a_wait_ends_with_its_owner(listener: socket.socket) -> None:
    stop = threading.Event()
    wire = connected(listener, stop)
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Stopped):
        wire.receive(3600)
    with pytest.raises(Stopped):
        wire.send(bytes(64 << 20), 3600)
    wire.close()


def test_all_arrives_and_the_end_is_seen(listener: socket.socket) -> None:
    wire = connected(listener, threading.Event())
    peer, _ = listener.accept()
    with peer:
        sent, got = bytes(range(256)) * 8192, bytearray()

        def take() -> None:
            while len(got) < len(sent):
                got.extend(peer.recv(1 << 16))

        thread = threading.Thread(target=take)
        thread.start()
        wire.send(sent, 5)
        thread.join()
        assert bytes(got) == sent
        peer.sendall(b"x")
        assert wire.receive(5) == b"x"
    assert wire.receive(5) == b""
    wire.close()
