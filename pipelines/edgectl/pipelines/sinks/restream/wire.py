"""A TCP connection of which every wait is bounded, and ends when its owner is told to stop. Python's own sockets: while
they wait, the other threads run, which FFmpeg's do not allow."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["BoundedSocket", "Stopped"]

T = TypeVar("T")

_LOOK_S = 0.1
"""How often a wait asks whether it should go on."""
_BUFFER = 256 << 10
"""Bytes that wait in the kernel for a slow receiver: more would only be older."""


class Stopped(Exception):
    """The owner wants the wait to end."""


class BoundedSocket:
    """For one thread. Methods raise :class:`OSError` (TimeoutError among them, ssl.SSLError) and :class:`Stopped`."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._socket: socket.socket | None = None

    def connect(
        self, place: tuple[str, int], timeout_s: float, *, tls: ssl.SSLContext | None = None, name: str = ""
    ) -> None:
        """``place``: a numeric address and a port. ``tls``: the certificate must be that of the host ``name``."""
        until = time.monotonic() + timeout_s
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        plain = self._socket = socket.socket(family, socket.SOCK_STREAM)
        plain.setblocking(False)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            plain.connect(place)
        self._wait(select.POLLOUT, until)
        if code := plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        if tls is not None:
            secure = self._socket = tls.wrap_socket(
                plain, server_hostname=name, do_handshake_on_connect=False
            )
            self._until_done(secure.do_handshake, select.POLLIN, until)

    def send(self, data: bytes, timeout_s: float) -> None:
        """All of it. ``timeout_s`` without any progress is too long."""
        view = memoryview(data)
        while view:
            part = view[:_BUFFER]
            sent = self._until_done(
                functools.partial(self._open.send, part), select.POLLOUT, _from_now(timeout_s)
            )
            view = view[sent:]

    def receive(self, timeout_s: float) -> bytes | None:
        """What has come, empty where the other side hung up; None: nothing in time. 0 does not wait."""
        try:
            return self._until_done(lambda: self._open.recv(64 << 10), select.POLLIN, _from_now(timeout_s))
        except TimeoutError:
            return None

    def close(self) -> None:
        """Safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def _open(self) -> socket.socket:
        if self._socket is None:
            raise OSError("it is closed")
        return self._socket

    def _until_done(self, call: Callable[[], T], events: int, until: float) -> T:
        """Try, and wait for ``events`` or for what TLS wants, until it goes through."""
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except BlockingIOError:
                wanted = events
            self._wait(wanted, until)

    def _wait(self, events: int, until: float) -> None:
        poll = select.poll()
        poll.register(self._open, events)
        while True:
            if self._stop.is_set():
                raise Stopped
            left_s = until - time.monotonic()
            if poll.poll(max(0.0, min(left_s, _LOOK_S)) * 1000):
                return
            if left_s <= 0:
                raise TimeoutError("no answer in time")


def _from_now(seconds: float) -> float:
    return time.monotonic() + seconds
