"""The annotated pictures, live, to an RTSP server (RFC 2326, ANNOUNCE and RECORD over TCP), from which players and
video recorders take them.

While the server is away, pictures are lost and nothing else is; it is asked again with growing pauses.
"""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

import av
import av.container
import av.error
from pydantic import Field, field_validator, model_validator

from edgectl.core.errors import EngineError, LinkError
from edgectl.core.uri import redact
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.encode import add_encoder, encoded_size, fitted

__all__ = ["SINK", "RestreamConfig", "RestreamSink"]

# RFC 6184 and RFC 6416: the clock of video over RTP
_TIME_BASE = Fraction(1, 90_000)


class RestreamConfig(SinkOptions):
    url: str = Field(repr=False, max_length=2048)
    """``rtsp://user:password@server/path``, at which the server lets this stream publish. ``restream: rtsp://…`` is
    short for it. The password is never printed."""
    fps: float | None = Field(default=None, gt=0, le=240)
    """At most so many frames a second; None: every frame."""
    max_width: int = Field(default=1280, ge=64, le=4096)
    """A wider picture is made smaller."""
    kbit: int = Field(default=2000, ge=50, le=100_000)
    """kbit/s at most, over a second."""

    @model_validator(mode="before")
    @classmethod
    def _an_address_alone(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme == "rtsp" and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("it must be an address that begins with rtsp://")
        return url


class RestreamSink(Sink):
    """Connects with the first picture, and anew after each failure."""

    name = "restream"
    pictures = True

    def __init__(self, options: RestreamConfig, fps: float) -> None:
        self._options = options
        self._fps = min(fps, options.fps or fps)
        self._container: av.container.OutputContainer | None = None
        self._size = (0, 0)
        self._first_ns = self._due_ns = 0
        self._last_pts = -1

    def write(self, output: StreamOutput) -> None:
        frame = output.frame
        if frame is None or (self._container is not None and frame.stamp.t_ns < self._due_ns):
            return
        try:
            if self._container is None:
                self._connect(frame.width, frame.height)
                self._first_ns, self._due_ns, self._last_pts = frame.stamp.t_ns, frame.stamp.t_ns, -1
            self._due_ns += round(0.999e9 / self._fps) if self._options.fps else 0
            picture = av.VideoFrame.from_ndarray(fitted(frame.annotated(), self._size), format="bgr24")
            since_ns = frame.stamp.t_ns - self._first_ns
            self._last_pts = max(since_ns * 9 // 100_000, self._last_pts + 1)
            picture.pts, picture.time_base = self._last_pts, _TIME_BASE
            assert self._container is not None
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as e:
            self._let_go()
            why = getattr(e, "strerror", None) or type(e).__name__
            raise LinkError(
                f"cannot send to {redact(self._options.url)}: {why}",
                hint="is the server up, and may this stream publish at that path?",
                retryable=True,
            ) from None

    def close(self) -> None:
        if self._container is None:
            return
        with contextlib.suppress(av.error.FFmpegError, OSError):
            for packet in self._stream.encode(None):
                self._container.mux(packet)
        self._let_go()

    def _connect(self, width: int, height: int) -> None:
        self._size = encoded_size(width, height, self._options.max_width)
        container = av.open(self._options.url, "w", format="rtsp", options={"rtsp_transport": "tcp"})
        stream = add_encoder(container, self._size, self._fps, _TIME_BASE, self._options.kbit)
        if stream is None:
            container.close()
            raise EngineError("this FFmpeg has no video encoder", hint="turn it off: restream: false")
        self._container, self._stream = container, stream

    def _let_go(self) -> None:
        """Say goodbye if the server still hears it."""
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(av.error.FFmpegError, OSError):
                container.close()


def _open(options: RestreamConfig, context: SinkContext) -> RestreamSink:
    return RestreamSink(options, context.fps or 25.0)


SINK = SinkType(
    _open,
    "the annotated pictures, live, to an RTSP server; `restream: rtsp://server/path` is enough",
    RestreamConfig,
    pictures=True,
)
