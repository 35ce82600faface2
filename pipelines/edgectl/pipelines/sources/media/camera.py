"""A camera: the reader of :mod:`~edgectl.pipelines.sources.media.reader`, opened again whenever it fails."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.sources.base import EndOfStream, SourceInfo, redact
from edgectl.pipelines.sources.media.clock import MediaClock
from edgectl.pipelines.sources.media.picture import Picture
from edgectl.pipelines.sources.media.reader import VideoReader, reason_of
from edgectl.pipelines.sources.media.ring import PacketRing
from edgectl.pipelines.stream.frame import Frame, Notice, Stamp

__all__ = ["LiveSource", "backoff_s"]

_log = logging.getLogger(__name__)
_OPEN_TIMEOUT_S = 5.0
_END = object()


def backoff_s(attempt: int, reason: str, jitter: float) -> float:
    """Seconds to wait before try ``attempt`` (0, 1, …): 0.5·2ⁿ up to 30 s, 5 minutes where a person must act,
    × (1 ± 0.2).

    ``jitter`` is a random number in [-1, 1].
    """
    ceiling = 300.0 if reason in ("auth", "not_found") else 30.0
    return min(ceiling, 0.5 * 2.0 ** min(attempt, 20)) * (1 + 0.2 * jitter)


class LiveSource:
    """Latest-wins belongs to the reader: this delivers each frame as it decodes, stamped on arrival.

    The camera's own times are watched, not used: where they restart or go missing, the frame says so.
    """

    def __init__(self, uri: str, url: str, *, format: str | None = None, patient: bool = False) -> None:
        self._what = redact(uri)
        self._url = url
        self._format = format
        self._patient = patient
        # FFmpeg named the RTSP socket timeout (µs) "stimeout" before version 5; unknown options are ignored.
        timeout_us = str(int(_OPEN_TIMEOUT_S * 1e6))
        network = {"rtsp_transport": "tcp", "timeout": timeout_us, "stimeout": timeout_us}
        self._options = {} if format else {**network, "fflags": "nobuffer"}
        self._reader: VideoReader | None = None
        self._frames: Iterator[Picture | None] | None = None
        self._clock: MediaClock | None = None
        self._tilted = False
        self._damaged = 0
        self._closed = threading.Event()
        self._attempt = 0
        self._retry_at = 0.0
        self._seq = 0
        self._last_ns = 0
        self._earlier_errors = self._earlier_corrupt = 0
        self.reconnects = 0
        self.decode_errors = 0
        self.corrupt_frames = 0
        self.outage: str | None = None
        self.packets: PacketRing | None = None
        """Set before :meth:`open`: gets what the camera sends."""

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
                    raise SourceError(f"{self._what} ended", retryable=True) from EOFError("end of stream")
            except (SourceError, DataError) as e:
                if self._closed.is_set():
                    raise EndOfStream from e
                self._failed(e)
                return None
            self._count()
            picture = item if isinstance(item, Picture) else None
            if picture is None and time.monotonic() >= deadline:
                return None  # nothing but damage
        now = max(time.monotonic_ns(), self._last_ns + 1)
        self._last_ns = now
        if self.outage is not None:
            _log.info("%s is back after %s", self._what, self.outage)
            self.outage = None
            self.reconnects += 1
        self._attempt = 0
        pts_s = None if picture.pts_ns is None else picture.pts_ns / 1e9
        stamp = Stamp(self._seq, now, now, pts_s, time.time_ns() - now, "arrival")
        self._seq += 1
        notices = self._watch(picture)
        return Frame(
            stamp, picture.width, picture.height, picture.fmt, picture.planes, {}, picture.colour, notices
        )

    def interrupt(self) -> None:
        """Stops a waiting :meth:`read` at once, a blocked one within its network time-out."""
        self._closed.set()

    def close(self) -> None:
        if self._reader is not None:
            self._count()
            self._earlier_errors, self._earlier_corrupt = self.decode_errors, self.corrupt_frames
            self._reader.close()
        self._reader = self._frames = None

    def _count(self) -> None:
        if self._reader is not None:
            self.decode_errors = self._earlier_errors + self._reader.errors
            self.corrupt_frames = self._earlier_corrupt + self._reader.corrupt

    def _watch(self, picture: Picture) -> tuple[Notice, ...]:
        notices: tuple[Notice, ...] = ()
        if self._clock is not None:
            damaged = self.decode_errors + self.corrupt_frames
            notices = self._clock.step(picture.pts_ns, damaged - self._damaged)[1]
            self._damaged = damaged
        if picture.tilted and not self._tilted:
            self._tilted = True
            notices += (Notice("picture", "rotation_unsupported", False),)
        return notices

    def _connect(self) -> None:
        self._reader = VideoReader(
            self._url,
            self._what,
            format=self._format,
            options=self._options,
            timeout_s=_OPEN_TIMEOUT_S,
            low_delay=True,
            packets=self.packets,
        )
        self._frames = self._reader.frames()
        if self._clock is None:
            period_ns = round(1e9 / (self._reader.fps or 25.0))
            self._clock = MediaClock(period_ns, start_ns=self._reader.start_ns, jumps_expected=True)
        else:
            self._clock.join()

    def _failed(self, e: Exception) -> None:
        self.close()
        self.outage = reason_of(e.__cause__ or e)
        wait_s = backoff_s(self._attempt, self.outage, random.uniform(-1, 1))
        _log.warning("%s: %s; trying again in %.1f s", self._what, e, wait_s)
        self._retry_at = time.monotonic() + wait_s
        self._attempt += 1
