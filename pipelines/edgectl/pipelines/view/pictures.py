"""Annotated pictures of streams for whoever watches: drawn and encoded only while somebody does, once for all
viewers who want the same, newest first.

A stream's :class:`PictureTap` keeps the newest frame and nothing else, so the frame path pays for a reference. One
thread encodes for all streams; a viewer that is slow misses pictures and delays nobody. Beside them, events get a
small picture of their frame, two a second of a stream for long, and some more at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgectl.core.errors import BusyError
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.view.looks import Keep, Look, ViewerPicture, Watch

__all__ = ["PictureHub", "PictureTap"]

_log = logging.getLogger(__name__)

_QUALITY = 75  # of the JPEG
_CLOSE_S = 10.0
SNAPSHOT_WIDTH = 640
"""Of an event's picture, pixels."""
_SNAPSHOTS_PER_S = 2.0
_SNAPSHOTS_AT_ONCE = 6
_MAX_SNAPSHOTS_WAITING = 8


class PictureTap(Sink):
    """The sink that shows a stream's frames to the hub."""

    name = "view"
    pictures = True

    def __init__(self, offer: Callable[[StreamOutput], None]) -> None:
        self._offer = offer

    def write(self, output: StreamOutput) -> None:
        self._offer(output)


@dataclass(slots=True)
class _Watched:
    newest: ShownFrame | None = None
    encoded: dict[Look, ViewerPicture] = field(default_factory=dict)
    """Of ``source``."""
    source: ShownFrame | None = None
    due_s: float = 0.0
    snapshots_left: float = _SNAPSHOTS_AT_ONCE
    """How many pictures of events may be made at once; it grows again by and by."""
    snapshot_s: float = 0.0


class PictureHub:
    """Safe for any thread. ``fps``: at most so many pictures a second of each stream. ``keep`` is given the
    pictures of events; not ``always``: only of those that happen while somebody watches."""

    def __init__(self, keep: Keep, *, fps: float = 10.0, max_viewers: int = 8, always: bool = True) -> None:
        self._keep = keep
        self._period_s = 1 / fps
        self._max_viewers = max_viewers
        self._always = always
        self._streams: dict[str, _Watched] = {}
        self._watches: list[Watch] = []
        self._snapshots: deque[tuple[str, Sequence[str], ShownFrame]] = deque()
        self._change = threading.Condition()
        self.over = False
        self._broken: set[str] = set()
        self.encoded = 0
        """Pictures that were encoded so far."""
        self._thread = threading.Thread(target=self._run, name="view-pictures", daemon=True)
        self._thread.start()

    def __contains__(self, stream: object) -> bool:
        return stream in self._streams

    def sinks(self, stream: str) -> tuple[PictureTap, ...]:
        return (self.tap(stream),)

    def tap(self, stream: str) -> PictureTap:
        """The sink for a stream that is to be seen."""
        entry = _Watched()
        with self._change:
            self._streams[stream] = entry

        def offer(output: StreamOutput) -> None:
            frame = output.frame
            if frame is None:
                return
            ids = [record["id"] for record in output.records if record.get("phase") != "update"]
            now_s = time.monotonic()
            with self._change:
                entry.newest = frame
                wanted = bool(self._watches)
                if not wanted and not self._always:
                    return
                if ids:
                    grown = (now_s - entry.snapshot_s) * _SNAPSHOTS_PER_S
                    entry.snapshots_left = min(_SNAPSHOTS_AT_ONCE, entry.snapshots_left + grown)
                    entry.snapshot_s = now_s
                if ids and entry.snapshots_left >= 1 and len(self._snapshots) < _MAX_SNAPSHOTS_WAITING:
                    entry.snapshots_left -= 1
                    self._snapshots.append((stream, ids, frame))
                    wanted = True
                if wanted:
                    self._change.notify_all()

        return PictureTap(offer)

    def watch(self, wanted: Mapping[str, Look], ring: Callable[[], None]) -> Watch:
        known = {name: look for name, look in wanted.items() if name in self._streams}
        watch = Watch(self, known, ring)
        with self._change:
            if len(self._watches) >= self._max_viewers:
                raise BusyError(
                    f"{self._max_viewers} viewers are watching already", hint="close another page first"
                )
            self._watches.append(watch)
            self._change.notify_all()
        return watch

    def leave(self, watch: Watch) -> None:
        with self._change:
            if watch in self._watches:
                self._watches.remove(watch)
            # who comes later must not be shown how it was
            for name in watch.wanted.keys() - {name for w in self._watches for name in w.wanted}:
                self._streams[name].source, self._streams[name].encoded = None, {}

    @property
    def viewers(self) -> int:
        return len(self._watches)

    def newest(self, wanted: Mapping[str, Look]) -> list[ViewerPicture]:
        with self._change:
            found = [self._streams[s].encoded.get(look) for s, look in wanted.items()]
        return [picture for picture in found if picture is not None]

    def close(self) -> None:
        """Stop encoding and join."""
        with self._change:
            self.over = True
            self._change.notify_all()
            watches = list(self._watches)
        for watch in watches:
            watch.ring()
        self._thread.join(_CLOSE_S)

    # -- the hub's thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._change:
                jobs, wait_s = self._jobs(time.monotonic())
                snapshot = self._snapshots.popleft() if self._snapshots else None
                if self.over:
                    return
                if not jobs and snapshot is None:
                    self._change.wait(wait_s)
                    continue
            for name, frame, looks in jobs:
                self._encode(name, frame, looks)
            if snapshot is not None:
                name, ids, frame = snapshot
                for jpeg in self._jpegs(name, frame, [Look(SNAPSHOT_WIDTH)]).values():
                    self._keep(name, ids, jpeg)

    def _jobs(self, now_s: float) -> tuple[list[tuple[str, ShownFrame, set[Look]]], float | None]:
        """What is to be encoded now, or in how many seconds the next picture is due (None: nobody knows)."""
        wanted: dict[str, set[Look]] = {}
        for watch in self._watches:
            for name, look in watch.wanted.items():
                wanted.setdefault(name, set()).add(look)
        jobs = []
        wait_s: float | None = None
        for name, looks in wanted.items():
            stream = self._streams[name]
            frame = stream.newest
            if frame is None:
                continue
            if frame is stream.source:
                # a viewer who wants another look came: it gets the frame that the others have
                lacking = looks - stream.encoded.keys()
                if lacking and stream.encoded:
                    jobs.append((name, frame, lacking))
                continue
            # Frames come a little early or late: half a period is forgiven, and the rate stays what it is.
            early_s = stream.due_s - self._period_s / 2 - now_s
            if early_s > 0:
                wait_s = early_s if wait_s is None else min(wait_s, early_s)
                continue
            stream.due_s = max(stream.due_s, now_s - self._period_s / 2) + self._period_s
            jobs.append((name, frame, looks))
        return jobs, wait_s

    def _encode(self, name: str, frame: ShownFrame, looks: set[Look]) -> None:
        jpegs = self._jpegs(name, frame, looks)
        pictures = {look: _picture(name, frame, look.width, jpeg) for look, jpeg in jpegs.items()}
        with self._change:
            stream = self._streams[name]
            if stream.source is frame:
                stream.encoded |= pictures
            else:
                stream.source, stream.encoded = frame, pictures
            self.encoded += len(pictures)
            rings = [watch.ring for watch in self._watches if name in watch.wanted]
        for ring in rings:
            ring()

    def _jpegs(self, name: str, frame: ShownFrame, looks: Iterable[Look]) -> dict[Look, bytes]:
        """JPEGs; none where the frame cannot be drawn: it may be another package's kind that draws."""
        try:
            return {
                look: frame.jpeg(_QUALITY, annotated=look.annotated, max_width=look.width) for look in looks
            }
        except Exception:
            if name not in self._broken:
                self._broken.add(name)
                _log.exception("stream %s cannot be drawn", name)
            return {}


def _picture(stream: str, frame: ShownFrame, width: int, jpeg: bytes) -> ViewerPicture:
    offset = frame.stamp.wall_offset_ns
    width = min(width, frame.width)
    return ViewerPicture(
        stream,
        frame.stamp.seq,
        width,
        max(1, round(frame.height * width / frame.width)),
        frame.stamp.avail_ns if offset is None else frame.stamp.t_ns,
        None if offset is None else (frame.stamp.t_ns + offset) / 1e9,
        jpeg,
    )
