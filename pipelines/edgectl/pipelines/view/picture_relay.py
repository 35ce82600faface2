"""Pictures of streams that run in other processes, passed on to whoever watches
(:mod:`edgectl.pipelines.view.picture_feed` is the other end).

One thread a worker, connected only while somebody watches one of its streams. A worker that dies or hangs costs its
pictures alone: every read has a deadline, and it is tried again. Only the newest picture of each look is kept, so a slow
viewer delays nobody.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edgectl.core.errors import BusyError, ProtocolError
from edgectl.pipelines.view.looks import Keep, Look, ViewerPicture, Watch
from edgectl.pipelines.view.picture_wire import (
    EventPicture,
    Shown,
    parse_message,
    reachable,
    receive_message,
    wanted_line,
)

__all__ = ["PictureRelay"]

_log = logging.getLogger(__name__)

_DEADLINE_S = 5.0
"""Without a word of a worker, which speaks every second."""
_AGAIN_S = 0.5
_CLOSE_S = 10.0


class PictureRelay:
    """A :class:`~edgectl.pipelines.view.looks.PictureSource`. ``socket_of``: stream → where the worker that it is in
    serves its pictures; it may change. ``keep`` is given the pictures of events that happen while somebody watches."""

    def __init__(
        self,
        keep: Keep,
        socket_of: Callable[[str], Path],
        *,
        max_viewers: int = 8,
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        self._keep = keep
        self._socket_of = socket_of
        self._max_viewers = max_viewers
        self._deadline_s = deadline_s
        self._streams: set[str] = set()
        self._watches: list[Watch] = []
        self._newest: dict[Shown, ViewerPicture] = {}
        self._lines: dict[Path, _Line] = {}
        self._change = threading.Condition()
        self.over = False

    def sinks(self, stream: str) -> tuple[()]:
        self._streams.add(stream)
        return ()

    def watch(self, wanted: Mapping[str, Look], ring: Callable[[], None]) -> Watch:
        watch = Watch(self, {name: look for name, look in wanted.items() if name in self._streams}, ring)
        with self._change:
            if len(self._watches) >= self._max_viewers:
                raise BusyError(
                    f"{self._max_viewers} viewers are watching already", hint="close another page first"
                )
            self._watches.append(watch)
            self._changed()
        return watch

    def leave(self, watch: Watch) -> None:
        with self._change:
            if watch in self._watches:
                self._watches.remove(watch)
            self._changed()

    def newest(self, wanted: Mapping[str, Look]) -> list[ViewerPicture]:
        with self._change:
            found = [self._newest.get(shown) for shown in wanted.items()]
        return [picture for picture in found if picture is not None]

    def close(self) -> None:
        """Viewers are told, every thread has ended."""
        with self._change:
            self.over = True
            self._changed()
            watches, lines = list(self._watches), list(self._lines.values())
        for watch in watches:
            watch.ring()
        for line in lines:
            line.thread.join(_CLOSE_S)

    def _changed(self) -> None:
        """With the lock held: what is wanted is another."""
        wanted = self._wanted()
        for shown in self._newest.keys() - wanted:
            # who comes later must not be shown how it was
            del self._newest[shown]
        for path in {self._socket_of(stream) for stream, _ in wanted}:
            if path not in self._lines and not self.over:
                self._lines[path] = _Line(self, path)
                self._lines[path].thread.start()
        for line in self._lines.values():
            line.ring()
        self._change.notify_all()

    def _wanted(self) -> set[Shown]:
        return {shown for watch in self._watches for shown in watch.wanted.items()}

    # -- for the threads, one a worker --------------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float:
        return self._deadline_s

    def wanted_at(self, path: Path) -> list[Shown]:
        """Of the worker that serves its pictures there."""
        with self._change:
            wanted = self._wanted()
            if any(self._socket_of(stream) not in self._lines for stream, _ in wanted):
                # a stream has got a worker of its own
                self._changed()
            return sorted(shown for shown in wanted if self._socket_of(shown[0]) == path)

    def wait_for(self, path: Path) -> bool:
        """Until something is wanted there; False at the end."""
        while not self.over:
            if self.wanted_at(path):
                return True
            with self._change:
                if not self.over and not self._wanted():
                    self._change.wait()
                else:
                    self._change.wait(_AGAIN_S)
        return False

    def pause(self) -> None:
        """Before a worker is tried again."""
        with self._change:
            if not self.over:
                self._change.wait(_AGAIN_S)

    def take(self, path: Path, message: tuple[Look, ViewerPicture] | EventPicture) -> None:
        if isinstance(message, EventPicture):
            if message.stream in self._streams and self._socket_of(message.stream) == path:
                self._keep(message.stream, message.events, message.jpeg)
            return
        look, picture = message
        with self._change:
            if (picture.stream, look) not in self._wanted() or self._socket_of(picture.stream) != path:
                return
            self._newest[picture.stream, look] = picture
            rings = [w.ring for w in self._watches if w.wanted.get(picture.stream) == look]
        for ring in rings:
            ring()

    def lost(self, path: Path) -> None:
        """The pictures of a worker that is gone are not shown to who comes now."""
        with self._change:
            for shown in [s for s in self._newest if self._socket_of(s[0]) == path]:
                del self._newest[shown]


class _Line:
    """The connection to one worker, and its thread."""

    def __init__(self, relay: PictureRelay, path: Path) -> None:
        self._relay = relay
        self._path = path
        self._lost = False
        """It was said that nothing comes from it."""
        self._bell, self._rope = socket.socketpair()
        for end in (self._bell, self._rope):
            end.setblocking(False)
        self.thread = threading.Thread(target=self._run, name=f"view-{path.name}", daemon=True)

    def ring(self) -> None:
        with contextlib.suppress(OSError):
            self._rope.send(b"!")

    def _run(self) -> None:
        with self._bell, self._rope:
            while self._relay.wait_for(self._path):
                try:
                    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                        connection.settimeout(self._relay.deadline_s)
                        with reachable(self._path) as address:
                            connection.connect(address)
                        self._follow(connection)
                except (OSError, ProtocolError) as e:
                    if not self._lost:
                        _log.info("no pictures from the worker at %s: %s", self._path.name, e)
                    self._lost = True
                    self._relay.lost(self._path)
                    self._relay.pause()

    def _follow(self, connection: socket.socket) -> None:
        """While something is wanted of it."""
        relay, said = self._relay, None
        while not relay.over and (wanted := relay.wanted_at(self._path)):
            if wanted != said:
                connection.settimeout(relay.deadline_s)
                connection.sendall(wanted_line(wanted))
                said = wanted
            readable, _, _ = select.select([connection, self._bell], [], [], relay.deadline_s)
            if not readable:
                raise TimeoutError("it says nothing")
            if self._bell in readable:
                self._bell.recv(4096)
            if connection in readable:
                message = receive_message(connection, relay.deadline_s)
                self._lost = False
                if message is not None:
                    relay.take(self._path, parse_message(*message))
