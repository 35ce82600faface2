"""A camera: a reader of it, opened again whenever it fails."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.sources.base import EndOfStream, SourceInfo, redact
from edgectl.pipelines.sources.media.arrival import ArrivalClock
from edgectl.pipelines.sources.media.clock import MediaClock
from edgectl.pipelines.sources.media.picture import Picture
from edgectl.pipelines.sources.media.reader import Away, VideoReader, reason_of
from edgectl.pipelines.sources.media.ring import PacketRing, PacketSource
from edgectl.pipelines.stream.frame import Frame, Notice, Stamp

__all__ = ["Camera", "CameraReader", "LiveSource", "backoff_s"]

_log = logging.getLogger(__name__)
_END = object()
_LONG_S = 900.0
"""After an outage of this long nobody waits for the first second of the picture."""
_LATE_S = 10.0
_TELL_S = 60.0
"""How often the same outage is written into the log."""
_SOON_S = 5.0
"""A wait that is shorter is not told."""


class CameraReader(Protocol):
    """An opened camera. Each of its calls comes back: what can hang is bounded in time, or in another process."""

    errors: int
    corrupt: int
    left_out: int
    """Frames that came while nobody read, and gave way to newer ones."""
    width: int | None
    height: int | None
    fps: float | None
    start_ns: int
    deinterlaced: bool

    def frames(self) -> Iterator[Picture | None]:
        """As those of :class:`~edgectl.pipelines.sources.media.reader.VideoReader` with ``low_delay``."""
        ...

    def close(self) -> None: ...


def _nothing_to_look_at() -> None:
    return


@dataclass(frozen=True)
class Camera:
    """How one camera is opened."""

    connect: Callable[[threading.Event], CameraReader]
    """Raises :class:`SourceError` or :class:`DataError`. The event is set when nobody waits any longer."""
    look: Callable[[], None] = _nothing_to_look_at
    """Before it is opened again: costs next to nothing, and raises :class:`SourceError` if it is not there."""
    ceilings_s: Mapping[str, float] = field(default_factory=lambda: {"auth": 300.0, "not_found": 300.0})
    """The longest wait between two tries, by reason code: long where a person must act."""
    ceiling_s: float = 0.8
    """For every other reason. With a look of 1 s, a camera that is back is seen within 2 s."""
    gives_packets: bool = False
    """Whether its readers have packets: a network camera's have."""


def backoff_s(attempt: int, ceiling_s: float, away_s: float, jitter: float) -> float:
    """Seconds to wait before try ``attempt`` (0, 1, …) for one reason: 0.5·2ⁿ up to the ceiling, × (1 ± 0.2).

    ``away_s``: how long the camera has been away; after a quarter of an hour the ceiling is at least 10 s. ``jitter`` is a
    random number in [-1, 1].
    """
    ceiling = ceiling_s if away_s < _LONG_S else max(ceiling_s, _LATE_S)
    return min(ceiling, 0.5 * 2.0 ** min(attempt, 20)) * (1 + 0.2 * jitter)


class LiveSource:
    """Latest-wins belongs to the reader: this delivers each frame as it decodes, stamped on arrival.

    The camera's own times are watched: where they restart or go missing, the frame says so. They are used for what a
    stall held up (:class:`ArrivalClock`).
    """

    def __init__(self, uri: str, camera: Camera, *, patient: bool = False) -> None:
        """``patient``: a camera that is away at first is waited for, too."""
        self._what = redact(uri)
        self._camera = camera
        self._patient = patient
        self._reader: CameraReader | None = None
        self._frames: Iterator[Picture | None] | None = None
        self._clock: MediaClock | None = None
        self._arrival = ArrivalClock()
        self._tilted = self._deinterlaced = False
        self._told_decoder: object = None
        self._missed = 0
        self._closed = threading.Event()
        self._attempt = 0
        self._retry_at = 0.0
        self._away_since = 0.0
        self._told_at = float("-inf")
        self._seq = 0
        self._earlier_errors = self._earlier_corrupt = self._earlier_left_out = self._earlier_skipped = 0
        self._only_keys = False
        self.reconnects = 0
        self.decode_errors = 0
        self.corrupt_frames = 0
        self.superseded_frames = 0
        self.degraded_frames = 0
        self.outage: str | None = None
        self.trouble: str | None = None
        self._ring: PacketRing | None = None

    def keep_packets(self, ring: PacketRing) -> bool:
        self._ring = ring
        return self._camera.gives_packets

    def only_key_frames(self, on: bool) -> bool:
        reader = self._reader
        can = (
            reader.has_key_frames
            if isinstance(reader, VideoReader)
            else self._camera.gives_packets and not reader
        )
        self._only_keys = on and can
        if isinstance(reader, VideoReader):
            reader.only_keys = self._only_keys
        return can

    def retry_s(self) -> float | None:
        return None if self.outage is None else max(0.0, self._retry_at - time.monotonic())

    def open(self) -> SourceInfo:
        try:
            self._connect()
        except (SourceError, DataError) as e:
            if not self._patient or not getattr(e, "retryable", True):
                raise
            self._failed(e)
        r = self._reader
        return SourceInfo(
            self._what, "live", r.width if r else None, r.height if r else None, r.fps if r else None, True
        )

    def read(self, timeout_s: float) -> Frame | None:
        if self._closed.is_set():
            raise EndOfStream
        if self._reader is None:
            wait_s = self._retry_at - time.monotonic()
            if wait_s > timeout_s:
                self._closed.wait(timeout_s)
                return None
            if wait_s > 0 and self._closed.wait(wait_s):
                raise EndOfStream
            try:
                self._connect()
            except (SourceError, DataError) as e:
                self._failed(e)
                return None
        assert self._frames is not None
        deadline = time.monotonic() + timeout_s
        picture: Picture | None = None
        while picture is None:
            try:
                item = next(self._frames, _END)
                if item is _END:
                    raise SourceError(f"{self._what} ended", retryable=True) from Away("ended")
            except (SourceError, DataError) as e:
                if self._closed.is_set():
                    raise EndOfStream from e
                self._failed(e)
                return None
            self._count()
            picture = item if isinstance(item, Picture) else None
            if picture is None and time.monotonic() >= deadline:
                return None  # nothing but damage
        now = picture.arrived_ns or time.monotonic_ns()
        if self.outage is not None:
            _log.info("%s is back after %s", self._what, self.outage)
            self.outage = self.trouble = None
            self.reconnects += 1
        self._attempt = 0
        pts_s = None if picture.pts_ns is None else picture.pts_ns / 1e9
        t_ns = self._arrival.step(now, picture.pts_ns)
        stamp = Stamp(self._seq, t_ns, now, pts_s, time.time_ns() - time.monotonic_ns(), "arrival")
        self._seq += 1
        notices = self._watch(picture)
        return Frame(
            stamp, picture.width, picture.height, picture.fmt, picture.planes, {}, picture.colour, notices
        )

    def interrupt(self) -> None:
        """Stops a waiting :meth:`read` at once, one that is blocked within its own time-out."""
        self._closed.set()

    def close(self) -> None:
        if self._reader is not None:
            self._count()
            self._earlier_errors, self._earlier_corrupt = self.decode_errors, self.corrupt_frames
            self._earlier_left_out, self._earlier_skipped = self.superseded_frames, self.degraded_frames
            self._reader.close()
        self._reader = self._frames = None

    def _count(self) -> None:
        if self._reader is not None:
            self.decode_errors = self._earlier_errors + self._reader.errors
            self.corrupt_frames = self._earlier_corrupt + self._reader.corrupt
            self.superseded_frames = self._earlier_left_out + self._reader.left_out
        if isinstance(self._reader, VideoReader):
            self.degraded_frames = self._earlier_skipped + self._reader.skipped

    def _watch(self, picture: Picture) -> tuple[Notice, ...]:
        notices: tuple[Notice, ...] = ()
        if self._clock is not None:
            missed = self.decode_errors + self.corrupt_frames + self.degraded_frames
            notices = self._clock.step(picture.pts_ns, missed - self._missed)[1]
            self._missed = missed
        if picture.tilted and not self._tilted:
            self._tilted = True
            notices += (Notice("picture", "rotation_unsupported", False),)
        if isinstance(self._reader, VideoReader):
            decoder = self._reader.hardware.told()
            if decoder is not None and decoder != self._told_decoder:
                self._told_decoder = decoder
                notices += (Notice("source", decoder[0], data=decoder[1]),)
        if self._reader is not None and self._reader.deinterlaced and not self._deinterlaced:
            self._deinterlaced = True
            notices += (Notice("picture", "deinterlaced"),)
        return notices

    def _connect(self) -> None:
        if self.outage is not None:
            self._camera.look()
        self._reader = self._camera.connect(self._closed)
        if self._ring is not None and isinstance(self._reader, PacketSource):
            self._reader.keep_packets(self._ring)
        if isinstance(self._reader, VideoReader):
            self._reader.only_keys = self._only_keys
        self._frames = self._reader.frames()
        if self._clock is None:
            period_ns = round(1e9 / (self._reader.fps or 25.0))
            self._clock = MediaClock(period_ns, start_ns=self._reader.start_ns, jumps_expected=True)
        else:
            self._clock.join()
            self._arrival.join()

    def _failed(self, e: SourceError | DataError) -> None:
        self.close()
        now = time.monotonic()
        before, self.outage = self.outage, reason_of(e.__cause__ or e)
        self.trouble = e.message
        if before is None:
            self._away_since = now
        if before != self.outage:
            self._attempt, self._told_at = 0, float("-inf")
        ceiling_s = self._camera.ceilings_s.get(self.outage, self._camera.ceiling_s)
        wait_s = backoff_s(self._attempt, ceiling_s, now - self._away_since, random.uniform(-1, 1))
        if now - self._told_at >= _TELL_S:
            self._told_at = now
            # the message names the camera
            hint = f" ({e.hint})" if e.hint and before != self.outage else ""
            again = f" in {wait_s:.0f} s" if wait_s >= _SOON_S else ""
            _log.warning("%s%s; trying again%s", e.message, hint, again)
        self._retry_at = now + wait_s
        self._attempt += 1
