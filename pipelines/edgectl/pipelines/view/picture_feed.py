"""The pictures of a worker's streams for the agent's page, over a Unix socket (:mod:`edgectl.pipelines.view.picture_wire`).
Drawn and encoded only while somebody is connected and wants them."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from edgectl.core.errors import BusyError, ProtocolError
from edgectl.pipelines.sinks.base import Sink
from edgectl.pipelines.view.looks import Watch
from edgectl.pipelines.view.picture_wire import (
    ALIVE,
    MAX_WANTED_BYTES,
    EventPicture,
    Shown,
    packed_picture,
    parse_wanted,
    reachable,
)
from edgectl.pipelines.view.pictures import PictureHub

__all__ = ["PictureFeed"]

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 4
_MAX_LOOKS = 1024
_MAX_EVENTS = 16
"""Pictures of events that wait for a connection."""
_ALIVE_S = 1.0
_AGAIN_S = 1.0
"""After which somebody may connect again, where that failed."""
_CLOSE_S = 10.0
_SEND_S = 5.0
"""For who is connected to take what it is sent."""


class PictureFeed:
    """Listens at once. Raises ``OSError`` where the socket cannot be made."""

    def __init__(self, path: Path) -> None:
        self._connections: list[_Connection] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        # a worker before this one was killed, and left it
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with reachable(path) as address:
                self._socket.bind(address)
            # the folder is closed to others: nobody comes in between
            path.chmod(0o600)
            self._socket.listen(_MAX_CONNECTIONS)
        except OSError:
            self._socket.close()
            raise
        self._hub = PictureHub(self._keep, max_viewers=_MAX_LOOKS, always=False)
        self._thread = threading.Thread(target=self._accept, name="picture-feed", daemon=True)
        self._thread.start()

    def sinks(self, stream: str) -> tuple[Sink, ...]:
        """Show a stream: the sinks that it needs."""
        return self._hub.sinks(stream)

    @property
    def hub(self) -> PictureHub:
        return self._hub

    def close(self) -> None:
        """Who is connected is left, every thread has ended."""
        self._closing.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(_CLOSE_S)
        self._socket.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            connection.thread.join(_CLOSE_S)
        self._hub.close()

    def leave(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.remove(connection)

    def _keep(self, stream: str, ids: Sequence[str], jpeg: bytes) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.happened(EventPicture(stream, tuple(ids), jpeg))

    def _accept(self) -> None:
        while not self._closing.is_set():
            accepted: socket.socket | None = None
            try:
                accepted, _ = self._socket.accept()
                with self._lock:
                    if len(self._connections) >= _MAX_CONNECTIONS:
                        accepted.close()
                        continue
                    connection = _Connection(accepted, self)
                    self._connections.append(connection)
            except OSError as e:
                if accepted is not None:
                    accepted.close()
                # who closed it, or no file descriptors for now
                if not self._closing.wait(_AGAIN_S):
                    _log.warning("nobody else is served pictures for now: %s", e)
                continue
            connection.thread.start()


class _Connection:
    """Two ends: what is wanted comes in, pictures go out, on one thread. One that takes nothing is left."""

    def __init__(self, connected: socket.socket, feed: PictureFeed) -> None:
        self._socket = connected
        self._feed = feed
        self._bell, self._rope = socket.socketpair()
        for end in (self._bell, self._rope):
            end.setblocking(False)
        self._wanted: frozenset[Shown] = frozenset()
        self._watches: dict[Shown, Watch] = {}
        self._events: deque[EventPicture] = deque(maxlen=_MAX_EVENTS)
        self._line = b""
        self.thread = threading.Thread(target=self._run, name="picture-viewer", daemon=True)

    def close(self) -> None:
        """Its thread ends."""
        # who is connected may have gone
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def happened(self, picture: EventPicture) -> None:
        self._events.append(picture)
        self._ring()

    def _ring(self) -> None:
        # a bell that was rung already, or is gone
        with contextlib.suppress(OSError):
            self._rope.send(b"!")

    def _run(self) -> None:
        try:
            self._socket.settimeout(_SEND_S)
            while True:
                readable, _, _ = select.select([self._socket, self._bell], [], [], _ALIVE_S)
                if self._bell in readable:
                    self._bell.recv(4096)
                if self._socket in readable and not self._read():
                    return
                if not readable:
                    self._socket.sendall(ALIVE)
                self._watch()
                self._send()
        except (OSError, ProtocolError, BusyError) as e:
            _log.info("pictures are not sent any more: %s", e)
        finally:
            self._feed.leave(self)
            for watch in self._watches.values():
                watch.close()
            for end in (self._socket, self._bell, self._rope):
                end.close()

    def _read(self) -> bool:
        """What is wanted; False at the end."""
        data = self._socket.recv(65536)
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > MAX_WANTED_BYTES:
            raise ProtocolError(f"a line of more than {MAX_WANTED_BYTES} bytes")
        if lines:
            self._wanted = parse_wanted(lines[-1])
        return bool(data)

    def _watch(self) -> None:
        """What is wanted and nothing else. A stream may be asked for before it is here."""
        hub = self._feed.hub
        for shown in self._watches.keys() - self._wanted:
            self._watches.pop(shown).close()
        for stream, look in self._wanted - self._watches.keys():
            if stream in hub:
                self._watches[stream, look] = hub.watch({stream: look}, self._ring)

    def _send(self) -> None:
        for (_, look), watch in self._watches.items():
            for picture in watch.take():
                self._socket.sendall(packed_picture(look, picture))
        while self._events:
            self._socket.sendall(self._events.popleft().packed())
