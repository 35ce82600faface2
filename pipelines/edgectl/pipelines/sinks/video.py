"""The annotated video: H.264 (or MPEG-4 where FFmpeg has no H.264 encoder) in an MP4 with the times of the
frames.

It is written in fragments of a second, each of which stands for itself: of a process that is killed, all but
the last second plays.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
from pydantic import Field

from edgectl.core.errors import StorageError
from edgectl.core.files import storage
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.encode import FRAGMENTED, add_encoder, encoded_size, fitted, written_by_python
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.stream.frame import Stamp

__all__ = ["SINK", "AnnotateConfig", "VideoSink"]


class AnnotateConfig(SinkOptions):
    video: bool = True
    """False: it is not written."""
    fps: float | None = Field(default=None, gt=0, le=240)
    """At most so many frames a second; None: every frame."""
    max_width: int = Field(default=1280, ge=64, le=4096)
    """A wider picture is made smaller."""
    rotate_s: float | None = Field(default=None, ge=1, le=86400)
    """A new file after so much time: `annotated/<time>.mp4`; none: one file, `annotated.mp4`."""
    rotate_mib: int | None = Field(default=None, ge=1, le=100_000)
    """A new file once one has so much."""


_TIME_BASE = Fraction(1, 1000)


class VideoSink(Sink):
    """Starts ``path`` anew with the first frame. It can be played at any time, also while it is being
    written."""

    name = "annotate"
    pictures = True

    path: Path

    def __init__(self, path: Path, config: AnnotateConfig, fps: float, files: OutFiles | None = None) -> None:
        """``files``: hears of the parts, where there are several."""
        self._whole = path
        self._rotates = config.rotate_s is not None or config.rotate_mib is not None
        self.path = path.with_suffix("") if self._rotates else path
        self._files = files
        self._config = config
        self._fps = min(fps, config.fps or fps)
        self._container: av.container.OutputContainer | None = None
        self._size = (0, 0)
        self._first_ns = 0
        self._last_pts = -1
        self._due_ns = 0

    def write(self, output: StreamOutput) -> None:
        frame = output.frame
        if frame is None or (self._container is not None and frame.stamp.t_ns < self._due_ns):
            return
        if self._container is not None and self._is_full(frame.stamp.t_ns):
            self.close()
        image = frame.annotated()
        with self._wrapped("write"):
            if self._container is None:
                self._name(frame.stamp)
                self._open(frame.width, frame.height)
                self._first_ns = self._due_ns = frame.stamp.t_ns
            self._due_ns += round(0.999e9 / self._fps) if self._config.fps else 0
            picture = av.VideoFrame.from_ndarray(fitted(image, self._size), format="bgr24")
            self._last_pts = max((frame.stamp.t_ns - self._first_ns) // 1_000_000, self._last_pts + 1)
            picture.pts, picture.time_base = self._last_pts, _TIME_BASE
            self._mux(picture)

    def close(self) -> None:
        if self._container is None:
            return
        container, stream, self._container = self._container, self._stream, None
        with self._wrapped("finish"), self._held:
            for packet in stream.encode(None):
                container.mux(packet)
        if self._rotates and self._files is not None:
            self._files.wrote(self._part)

    def _is_full(self, t_ns: int) -> bool:
        limit_s, limit_mib = self._config.rotate_s, self._config.rotate_mib
        if limit_s is not None and t_ns - self._first_ns >= limit_s * 1e9:
            return True
        with storage(str(self._part)):
            return limit_mib is not None and self._part.stat().st_size >= limit_mib << 20

    def _name(self, stamp: Stamp) -> None:
        """The file that begins with a frame: named by UTC, or by the time in a recording."""
        self._part = self._whole
        if self._rotates:
            if stamp.wall_offset_ns is None:
                name = f"{stamp.t_s:010.3f}"
            else:
                name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime((stamp.t_ns + stamp.wall_offset_ns) / 1e9))
            self._part = self.path / f"{name}.mp4"
            self._last_pts = -1
            if self._files is not None:
                self._files.wrote(self._part, still=True)

    def _open(self, width: int, height: int) -> None:
        self._size = encoded_size(width, height, self._config.max_width)
        with storage(str(self._part)):
            self._part.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            container = held.enter_context(written_by_python(self._part, "mp4", FRAGMENTED))
            stream = add_encoder(container, self._size, self._fps, _TIME_BASE)
            if stream is None:
                raise StorageError(
                    "this FFmpeg has no MP4 video encoder",
                    hint="turn the annotated video off: annotate: {video: false}",
                )
            self._container, self._stream, self._held = container, stream, held.pop_all()

    @contextlib.contextmanager
    def _wrapped(self, what: str) -> Iterator[None]:
        try:
            with storage(str(self.path)):
                yield
        except av.error.FFmpegError as e:  # those that are no OSError
            raise StorageError(f"cannot {what} {self.path}: {e}", hint="check the disk") from e

    def _mux(self, picture: av.VideoFrame) -> None:
        assert self._container is not None
        for packet in self._stream.encode(picture):
            self._container.mux(packet)


def _open(options: AnnotateConfig, context: SinkContext) -> VideoSink | None:
    if context.out is None or not options.video:
        return None
    return VideoSink(context.out / "annotated.mp4", options, context.fps or 25.0, context.files)


SINK = SinkType(
    _open,
    "the video with what was found drawn in; it can be played while it is written, and after a kill: `annotated.mp4`",
    AnnotateConfig,
    default=True,
    begins_anew=True,
    files=True,
    pictures=True,
)
