"""How annotated pictures become video: the encoder, its settings, and pictures of another size than the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from io import FileIO
from pathlib import Path
from typing import Any

import av
import av.container
import av.error
import cv2
from numpy.typing import NDArray

__all__ = ["FRAGMENTED", "add_encoder", "encoded_size", "fitted", "written_by_python"]

_FLAGS = "hybrid_fragmented" if av.library_versions["libavformat"] >= (61, 7) else "empty_moov"
# µs
FRAGMENTED = {"movflags": f"{_FLAGS}+default_base_moof", "frag_duration": "1000000", "flush_packets": "1"}
"""Options of an MP4 that plays while it is written: fragments of a second; on a good end FFmpeg 7.1 and later makes a plain
MP4 of them, with an index to seek by."""

# No look-ahead: a frame is out soon after it was seen.
_ENCODERS: tuple[tuple[str, dict[str, str], str, str], ...] = (
    ("libx264", {"preset": "veryfast", "tune": "zerolatency"}, "crf", "25"),
    ("mpeg4", {}, "qscale", "4"),
)
_KEY_EVERY_S = 2
_AVIO_FLAG_WRITE = 2


@contextlib.contextmanager
def written_by_python(
    path: Path, format: str, options: dict[str, str]
) -> Iterator[av.container.OutputContainer]:
    """A new file for FFmpeg, finished and closed at the end. Raises :class:`OSError`.

    Python opens it, and opens it again where a muxer reads what it wrote: a disk that hangs keeps the thread that writes
    waiting. Where FFmpeg opens a file itself, PyAV holds Python's lock meanwhile, and all threads wait.
    """

    def again(name: str, flags: int, options: dict[str, str]) -> FileIO:
        return FileIO(path, "r+" if flags & _AVIO_FLAG_WRITE else "r")

    try:
        with (
            _WholeFile(path, "w") as file,
            av.open(file, "w", format=format, options=options, io_open=again) as container,
        ):
            yield container
    except av.error.PyAVCallbackError as e:
        # what our own file said: the disk is full
        said = e.__cause__ or e.__context__
        if isinstance(said, OSError):
            raise OSError(said.errno, said.strerror) from e
        raise


class _WholeFile(FileIO):
    """FFmpeg does not ask how much of a piece was written."""

    def write(self, data: Any) -> int:
        view, at = memoryview(data), 0
        while at < len(view):
            at += super().write(view[at:]) or 0
        return at


def add_encoder(
    container: av.container.OutputContainer,
    size: tuple[int, int],
    fps: float,
    time_base: Fraction,
    kbit: int | None = None,
    *,
    h264: bool = False,
) -> av.VideoStream | None:
    """A stream of H.264, or of MPEG-4 where FFmpeg has no H.264 encoder; None where it has neither. ``h264``: of nothing
    else.

    ``kbit``: kbit/s at most; None: as many as the quality takes.
    """
    encoder, options, quality, value = next(
        (e for e in _ENCODERS[: 1 if h264 else None] if e[0] in av.codecs_available), (None, {}, "", "")
    )
    if encoder is None:
        return None
    bounds = {quality: value} if kbit is None else {"maxrate": f"{kbit}k", "bufsize": f"{kbit}k"}
    if kbit is not None:
        bounds |= {quality: value} if encoder == "libx264" else {"b": f"{kbit}k"}
    stream = container.add_stream(encoder, rate=max(1, round(fps)), options={**options, **bounds})
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    stream.codec_context.time_base = time_base
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = max(1, round(_KEY_EVERY_S * fps))
    return stream


def encoded_size(width: int, height: int, max_width: int) -> tuple[int, int]:
    """Of the video of such frames: even, and not wider than ``max_width``."""
    scale = min(1.0, max_width / width)
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def fitted(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Scaled into ``size`` (width, height) without distortion, on black: a camera may change its format in
    the middle of a video."""
    if image.shape[1::-1] == size:
        return image
    width, height = size
    scale = min(width / image.shape[1], height / image.shape[0])
    # What rounding alone leaves over is no border.
    inner = [
        n if abs(n - m * scale) <= 2 else max(1, round(m * scale))
        for n, m in zip(size, image.shape[1::-1], strict=True)
    ]
    small = cv2.resize(image, (inner[0], inner[1]), interpolation=cv2.INTER_AREA)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    return cv2.copyMakeBorder(
        small,
        top,
        height - inner[1] - top,
        left,
        width - inner[0] - left,
        cv2.BORDER_CONSTANT,
        value=(0, 0, 0),
    )
