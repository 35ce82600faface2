"""PyAV behind files and cameras: demux, decode, plane views. No threads, no pacing, no reconnect here."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import av
import av.error
import av.logging
import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.sources.base import MAX_PIXELS

__all__ = ["Decoded", "VideoReader", "reason_of"]

av.logging.set_level(None)  # FFmpeg's own lines go nowhere: what matters becomes an exception or a counter

_PASS = ("yuv420p", "yuvj420p")
_MAX_BAD = 250
"""Undecodable packets in a row after which a source is broken rather than damaged."""

Decoded = tuple[tuple[NDArray[np.uint8], ...], Literal["I420", "BGR"], int, int, "float | None"]
"""Planes, format, width, height, presentation time in seconds."""


def reason_of(e: BaseException) -> str:
    """Reason code of a failure to open or read: for back-off, events and messages."""
    table: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("refused", ("ConnectionRefusedError",)),
        ("timeout", ("TimeoutError", "ExitError", "BlockingIOError")),
        ("auth", ("HTTPUnauthorizedError", "HTTPForbiddenError", "PermissionError")),
        ("not_found", ("HTTPNotFoundError", "FileNotFoundError", "ProtocolNotFoundError", "DemuxerNotFoundError")),
        ("ended", ("EOFError", "ConnectionResetError", "BrokenPipeError")),
    )
    if getattr(e, "errno", None) in (errno.EIO, errno.EHOSTUNREACH, errno.ENETUNREACH):  # EIO: a name that does not resolve
        return "unreachable"
    names = {c.__name__ for c in type(e).__mro__}
    return next((code for code, known in table if names & set(known)), "invalid")


class VideoReader:
    """One opened container. Iterate :meth:`frames`; ``errors`` counts packets that did not decode."""

    def __init__(
        self,
        url: str,
        what: str,
        *,
        format: str | None = None,
        options: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        low_delay: bool = False,
    ) -> None:
        """Open ``url``. Raises :class:`DataError` if it is no video, :class:`SourceError` if it cannot be reached."""
        self.what = what
        self.errors = 0
        try:
            self._container = av.open(
                url, format=format, options=dict(options or {}), timeout=None if timeout_s is None else (timeout_s, timeout_s)
            )
        except (av.error.FFmpegError, OSError, ValueError) as e:
            reason = reason_of(e)
            remote = url.startswith(("rtsp://", "rtsps://"))
            if reason == "invalid" and not remote:
                raise DataError(f"{what} is not a video that can be decoded", hint="check it with `ffprobe`") from e
            raise SourceError(
                f"cannot open {what}: {_said(e)}",
                hint="check the address and the network" if remote else "check the path and its permissions",
                retryable=reason not in ("auth", "not_found"),
            ) from e
        streams = self._container.streams.video
        if not streams:
            self.close()
            raise DataError(f"{what} has no video stream")
        self._stream = streams[0]
        # Frame threading buffers a frame per thread: good for files, latency for cameras.
        self._stream.thread_type = "SLICE" if low_delay else "AUTO"
        context = self._stream.codec_context
        # A camera may not tell its size before the first picture: every picture is checked instead.
        self.width, self.height = context.width or None, context.height or None
        rate = self._stream.average_rate
        self.fps = float(rate) if rate else None
        self.count = self._stream.frames or None

    def frames(self) -> Iterator[Decoded]:
        """Every frame in order. Damaged packets are counted and skipped. Raises SourceError / DataError; ends at the end."""
        bad = 0
        delivered = False
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (av.error.FFmpegError, OSError) as e:
                if isinstance(e, av.error.EOFError):
                    break
                raise SourceError(f"reading {self.what} failed: {_said(e)}", retryable=True) from e
            try:
                pictures = packet.decode()
            except (av.error.FFmpegError, OSError, ValueError) as e:
                self.errors += 1
                bad += 1
                if bad >= _MAX_BAD:
                    raise DataError(f"{self.what} does not decode: {bad} packets in a row are damaged") from e
                continue
            for picture in pictures:
                bad, delivered = 0, True
                if not 0 < picture.width * picture.height <= MAX_PIXELS:
                    raise DataError(f"{self.what} has a picture size of {picture.width}x{picture.height}, which is not supported")
                yield _planes(picture)
        if not delivered:
            raise DataError(
                f"{self.what} is not a video that can be decoded: it has no whole frame", hint="check it with `ffprobe`"
            )

    def rewind(self) -> None:
        """Back to the first frame. Raises :class:`SourceError` if the container cannot seek."""
        try:
            self._container.seek(0)
        except (av.error.FFmpegError, OSError) as e:
            raise SourceError(f"{self.what} cannot be played in a loop: {_said(e)}") from e

    def close(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()


def _said(e: BaseException) -> str:
    if isinstance(e, av.error.ExitError):  # FFmpeg's "Immediate exit requested": our own time-out
        return "no answer in time"
    if getattr(e, "errno", None) == errno.EIO:
        return "Input/output error (does its name resolve?)"
    return str(getattr(e, "strerror", None) or e)[:200]


def _planes(picture: Any) -> Decoded:
    """Views of the decoder's planes; other pixel formats are converted to I420 first, odd sizes to BGR (I420 halves both)."""
    width, height, time = picture.width, picture.height, picture.time
    if width % 2 or height % 2:
        return (picture.to_ndarray(format="bgr24"),), "BGR", width, height, time
    if picture.format.name not in _PASS:
        picture = picture.reformat(format="yuv420p")
    views = []
    for plane, (w, h) in zip(
        picture.planes, ((width, height), (width // 2, height // 2), (width // 2, height // 2)), strict=False
    ):
        view = np.frombuffer(plane, np.uint8)
        views.append(view[: plane.line_size * h].reshape(h, plane.line_size)[:, :w])
    return tuple(views), "I420", width, height, time
