"""A video file: every frame in order, as fast as the reader takes them; or, paced, a stand-in for a camera."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from edgectl.pipelines.frame import Frame, Stamp
from edgectl.pipelines.sources.base import EndOfStream, FileOptions, SourceInfo
from edgectl.pipelines.sources.pace import Pacer
from edgectl.pipelines.sources.video import Decoded, VideoReader

__all__ = ["FileSource"]


class FileSource:
    def __init__(self, path: Path, options: FileOptions) -> None:
        self._path = path
        self._options = options
        self._reader: VideoReader | None = None
        self._frames: Iterator[Decoded] | None = None
        self._pacer: Pacer | None = None
        self._pending: Decoded | None = None
        self._seq = 0
        self._last_ns = -1
        self._round_ns = 0
        self._period_ns = 40_000_000
        self.decode_errors = 0
        self.outage: str | None = None

    def open(self) -> SourceInfo:
        self._reader = reader = VideoReader(str(self._path), self._path.name)
        self._frames = reader.frames()
        try:
            self._pending = next(self._frames)  # proves that it decodes, before anything is built on it
        except BaseException:
            self.close()
            raise
        fps = self._options.fps or reader.fps or 25.0
        self._period_ns = round(1e9 / fps)
        if self._options.paced:
            self._pacer = Pacer(fps)
        frames = None if self._options.loop else reader.count
        return SourceInfo(str(self._path), "file", reader.width, reader.height, fps, self._options.paced, frames)

    def read(self, timeout_s: float) -> Frame | None:
        if self._reader is None or self._frames is None:
            raise EndOfStream
        if self._pending is None:
            self._pending = self._next(self._frames, self._reader)
        due_ns = None
        if self._pacer is not None:
            due_ns = self._pacer.wait(self._seq, timeout_s)
            if due_ns is None:
                return None
        planes, fmt, width, height, pts = self._pending
        self._pending = None
        now = time.monotonic_ns()
        if due_ns is not None:
            stamp = Stamp(self._seq, due_ns, now, pts, time.time_ns() - now, "synthetic")
        else:
            t_ns = self._round_ns + (round(pts * 1e9) if pts is not None else self._seq * self._period_ns)
            self._last_ns = max(t_ns, self._last_ns + 1)  # containers with broken times must not stop the trackers' clock
            stamp = Stamp(self._seq, self._last_ns, now, pts, None, "pts")
        self._seq += 1
        return Frame(stamp, width, height, fmt, planes)

    def interrupt(self) -> None:
        if self._pacer is not None:
            self._pacer.interrupt()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._frames = self._pending = None

    def _next(self, frames: Iterator[Decoded], reader: VideoReader) -> Decoded:
        item = next(frames, None)
        self.decode_errors = reader.errors
        if item is not None:
            return item
        if not self._options.loop:
            raise EndOfStream
        reader.rewind()
        self._round_ns = self._last_ns + self._period_ns
        self._frames = reader.frames()
        return next(self._frames)
