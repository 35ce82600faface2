"""A way between two ports that a test cuts and joins."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

__all__ = ["Forwarder"]

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, 0 s. Closing then resets the connection."""


class Forwarder:
    """Passes the connections of one port on to another one, until it is cut. Who counts what a broker passes on sits
    at the broker itself, and is there before who sends comes back."""

    def __init__(self, port: int, to: int) -> None:
        self.port, self._to = port, to
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def join(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        assert self._listener is not None
        # wakes who waits in accept()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for s in self._open:
            with contextlib.suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                s.shutdown(socket.SHUT_RDWR)
            s.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(("127.0.0.1", self._to))
                self._open += [here, there]
                for a, b in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)
