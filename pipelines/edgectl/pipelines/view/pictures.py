"""Annotated pictures of streams for whoever watches: drawn and encoded only while somebody does, once for all
viewers of the same width, newest first.

A stream's :class:`PictureTap` keeps the newest frame and nothing else, so the frame path pays for a reference. One
thread encodes for all streams; a viewer that is slow misses pictures and delays nobody. Beside them, events get a
small picture of their frame, at most two a second of a stream.
"""

from __future__ import annotations

import json
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgectl.core.errors import BusyError
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.video.shown import ShownFrame

__all__ = ["WIDTHS", "PictureHub", "PictureTap", "ViewerPicture", "Watch", "width_for"]

_log = logging.getLogger(__name__)

WIDTHS = (320, 640, 960, 1280, 1920)
"""Pixels. What a viewer asks for is rounded up to one of these, so that viewers share pictures."""
_QUALITY = 75  # of the JPEG
_CLOSE_S = 10.0
SNAPSHOT_WIDTH = 640
"""Of an event's picture, pixels."""
_SNAPSHOT_EVERY_S = 0.5
_MAX_SNAPSHOTS_WAITING = 8


@dataclass(frozen=True, slots=True)
class ViewerPicture:
    """One frame as a viewer gets it."""

    stream: str
    seq: int
    """Of the frame."""
    width: int
    """Of the JPEG, pixels."""
    height: int
    taken_ns: int
    """CLOCK_MONOTONIC: when the frame was taken, or, in a file, when it was decoded."""
    time_s: float | None
    """Unix time of the frame; None for a file."""
    jpeg: bytes = field(repr=False)

    def age_ms(self, now_ns: int) -> float:
        """How long ago it was taken; ``now_ns`` is CLOCK_MONOTONIC."""
        return (now_ns - self.taken_ns) / 1e6

    def head(self, now_ns: int) -> dict[str, Any]:
        """All but the JPEG, as JSON values, and its age."""
        about = {key: value for key, value in asdict(self).items() if key != "jpeg"}
        return {**about, "age_ms": round(self.age_ms(now_ns), 1)}

    def packed(self, now_ns: int) -> bytes:
        """For a connection that carries many streams: length of the head and length of the JPEG (unsigned
        32 bit, big endian), the head as JSON, the JPEG."""
        head = json.dumps(self.head(now_ns), separators=(",", ":")).encode()
        return struct.pack(">II", len(head), len(self.jpeg)) + head + self.jpeg


class PictureTap(Sink):
    """The sink that shows a stream's frames to the hub."""

    name = "view"
    pictures = True

    def __init__(self, offer: Callable[[StreamOutput], None]) -> None:
        self._offer = offer

    def write(self, output: StreamOutput) -> None:
        self._offer(output)


class Watch:
    """What one viewer looks at. :meth:`take` gives each picture once, only the newest of each stream."""

    def __init__(self, hub: PictureHub, wanted: Mapping[str, int], ring: Callable[[], None]) -> None:
        self.wanted = dict(wanted)
        """Stream → width, one of :data:`WIDTHS`."""
        self.ring = ring
        self._hub = hub
        self._taken: dict[str, int] = {}

    def take(self) -> list[ViewerPicture]:
        found = []
        for picture in self._hub.newest(self.wanted):
            if self._taken.get(picture.stream) != picture.taken_ns:
                self._taken[picture.stream] = picture.taken_ns
                found.append(picture)
        return found

    @property
    def over(self) -> bool:
        """Nothing will come any more."""
        return self._hub.over

    def close(self) -> None:
        self._hub.leave(self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Watched:
    newest: ShownFrame | None = None
    encoded: dict[int, ViewerPicture] = field(default_factory=dict)
    """Width → picture of ``source``."""
    source: ShownFrame | None = None
    due_s: float = 0.0
    snapshot_due_s: float = 0.0


class PictureHub:
    """Safe for any thread. ``fps``: at most so many pictures a second of each stream. ``keep`` is given the
    pictures of events: stream, ids of the events, JPEG."""

    def __init__(
        self, keep: Callable[[str, Sequence[str], bytes], None], *, fps: float = 10.0, max_viewers: int = 8
    ) -> None:
        self._keep = keep
        self._period_s = 1 / fps
        self._max_viewers = max_viewers
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
                if ids and now_s >= entry.snapshot_due_s and len(self._snapshots) < _MAX_SNAPSHOTS_WAITING:
                    entry.snapshot_due_s = now_s + _SNAPSHOT_EVERY_S
                    self._snapshots.append((stream, ids, frame))
                    wanted = True
                if wanted:
                    self._change.notify_all()

        return PictureTap(offer)

    def watch(self, wanted: Mapping[str, int], ring: Callable[[], None]) -> Watch:
        """Begin to look. ``ring`` is called from the hub's thread when there may be something to take.

        Raises :class:`BusyError` when there are too many viewers.
        """
        watch = Watch(self, {s: w for s, w in wanted.items() if s in self._streams}, ring)
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

    def newest(self, wanted: Mapping[str, int]) -> list[ViewerPicture]:
        """The newest picture of each of these streams that has one of that width."""
        with self._change:
            found = [self._streams[s].encoded.get(width) for s, width in wanted.items()]
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
            for name, frame, widths in jobs:
                self._encode(name, frame, widths)
            if snapshot is not None:
                name, ids, frame = snapshot
                for jpeg in self._jpegs(name, frame, [SNAPSHOT_WIDTH]).values():
                    self._keep(name, ids, jpeg)

    def _jobs(self, now_s: float) -> tuple[list[tuple[str, ShownFrame, set[int]]], float | None]:
        """What is to be encoded now, or in how many seconds the next picture is due (None: nobody knows)."""
        wanted: dict[str, set[int]] = {}
        for watch in self._watches:
            for name, width in watch.wanted.items():
                wanted.setdefault(name, set()).add(width)
        jobs = []
        wait_s: float | None = None
        for name, widths in wanted.items():
            stream = self._streams[name]
            frame = stream.newest
            if frame is None:
                continue
            if frame is stream.source:
                # a viewer of another width came: it gets the frame that the others have
                lacking = widths - stream.encoded.keys()
                if lacking and stream.encoded:
                    jobs.append((name, frame, lacking))
                continue
            # Frames come a little early or late: half a period is forgiven, and the rate stays what it is.
            early_s = stream.due_s - self._period_s / 2 - now_s
            if early_s > 0:
                wait_s = early_s if wait_s is None else min(wait_s, early_s)
                continue
            stream.due_s = max(stream.due_s, now_s - self._period_s / 2) + self._period_s
            jobs.append((name, frame, widths))
        return jobs, wait_s

    def _encode(self, name: str, frame: ShownFrame, widths: set[int]) -> None:
        jpegs = self._jpegs(name, frame, widths)
        pictures = {width: _picture(name, frame, width, jpeg) for width, jpeg in jpegs.items()}
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

    def _jpegs(self, name: str, frame: ShownFrame, widths: Iterable[int]) -> dict[int, bytes]:
        """Width → JPEG; none where the frame cannot be drawn: it may be another package's kind that draws."""
        try:
            return {width: frame.jpeg(_QUALITY, max_width=width) for width in widths}
        except Exception:
            if name not in self._broken:
                self._broken.add(name)
                _log.exception("stream %s cannot be drawn", name)
            return {}


def width_for(asked: int) -> int:
    """The smallest of :data:`WIDTHS` that has the pixels that were asked for, or the largest."""
    return next((width for width in WIDTHS if width >= asked), WIDTHS[-1])


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
