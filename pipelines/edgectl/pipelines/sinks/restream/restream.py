"""The annotated pictures, live, to an RTSP server, from which players and video recorders take them.

Only the newest picture waits for a server that is slow; while it is away pictures are lost and nothing else is, and it
is asked again with growing pauses.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from pathlib import Path
from typing import Any

import av.error
from pydantic import Field, field_validator, model_validator

from edgectl.core.errors import EdgectlError, EngineError
from edgectl.link.mqtt import Tls
from edgectl.pipelines.places import OwnPlace, restream_places
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.encode import encoded_size
from edgectl.pipelines.sinks.restream.packets import RtpEncoder
from edgectl.pipelines.sinks.restream.publisher import PublishAddress, PublishError, RtspPublisher
from edgectl.pipelines.sinks.restream.wire import Stopped
from edgectl.pipelines.sources.media.camera import backoff_s
from edgectl.pipelines.video.shown import ShownFrame

__all__ = ["SINK", "RestreamConfig", "RestreamSink"]

_log = logging.getLogger(__name__)

_CEILING_S = 5.0
_CEILINGS_S = {"auth": 60.0, "not_found": 60.0, "tls": 60.0}
"""The longest wait between two tries, by reason code: long where a person must act."""
_LISTEN_S = 1.0
"""How often the server is heard while no pictures come."""
_LAST_S = 0.5
"""For the last picture, at the end."""
_JOIN_S = 1.0
_HANGS_S = 10.0
_STEADY_S = 2.0
"""A connection that lasted so long is one: what went wrong before is over."""


class RestreamConfig(SinkOptions):
    url: str = Field(repr=False, max_length=2048)
    """``rtsp://user:password@server/path``, or ``rtsps://…`` with TLS, at which the server lets this stream publish.
    ``restream: rtsp://…`` is short for it. The password is never printed; in it write ``/ ? # @ :`` as
    ``%2F %3F %23 %40 %3A``."""
    ca: Path | None = None
    """PEM file of the authority that signed the server's certificate; none: the system's."""
    fps: float | None = Field(default=None, gt=0, le=240)
    """At most so many frames a second; none: every frame."""
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
            PublishAddress.of(url)
        except ValueError:
            raise ValueError(
                "it must be an address that begins with rtsp:// or rtsps://; in a user name or password write / as %2F, "
                "? as %3F, # as %23, @ as %40 and : as %3A"
            ) from None
        return url

    def own_places(self, stream: str) -> tuple[OwnPlace, ...]:
        return restream_places(self.url)


class RestreamSink(Sink):
    """:meth:`write` only says which picture is the newest; a thread of its own paints, encodes and sends it."""

    name = "restream"
    pictures = True

    def __init__(self, options: RestreamConfig, context: SinkContext) -> None:
        """Raises :class:`LinkError` for an authority that cannot be used."""
        self._options = options
        self._address = PublishAddress.of(options.url)
        self._tls = Tls(options.ca).context() if self._address.secure else None
        fps = context.fps or 25.0
        self._fps = min(fps, options.fps or fps)
        self._due_ns: int | None = None
        self._newest: ShownFrame | None = None
        self._change = threading.Condition()
        self._ending = False
        self._stop = threading.Event()
        self._failed: EdgectlError | None = None
        self._trouble: str | None = None
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"restream-{context.stream}", daemon=True)
        self._thread.start()

    def write(self, output: StreamOutput) -> None:
        frame = output.frame
        if self._failed is not None:
            raise self._failed
        if frame is None or (self._due_ns is not None and frame.stamp.t_ns < self._due_ns):
            return
        if self._options.fps is not None:
            # what the camera is late by is not caught up with
            step = round(0.999e9 / self._fps)
            before = frame.stamp.t_ns if self._due_ns is None else self._due_ns
            self._due_ns = max(before + step, frame.stamp.t_ns)
        with self._change:
            self._newest = frame
            self._change.notify_all()

    def trouble(self) -> str | None:
        since = self._busy_since
        if since is not None and time.monotonic() - since > _HANGS_S:
            return f"the encoder has not come back for {_HANGS_S:g} s"
        return self._trouble

    def close(self) -> None:
        with self._change:
            self._ending = True
            self._change.notify_all()
        self._thread.join(_LAST_S)
        self._stop.set()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            _log.error("restream to %s: a call does not come back", self._address.what)

    def _run(self) -> None:
        attempt, since = 0, 0.0
        while self._failed is None:
            began = time.monotonic()
            try:
                self._publish()
            except Stopped:
                return
            except PublishError as e:
                now = time.monotonic()
                if self.cause is None:
                    since = now
                attempt = attempt + 1 if e.reason == self.cause or now - began < _STEADY_S else 0
                self._trouble, self.cause = e.message, e.reason
                ceiling_s = _CEILINGS_S.get(e.reason, _CEILING_S)
                self._pause(backoff_s(attempt, ceiling_s, now - since, random.uniform(-1, 1)))
            except EdgectlError as e:
                self._failed = e
            except Exception as e:
                _log.exception("restream to %s", self._address.what)
                self._failed = EngineError(f"restream failed: {type(e).__name__}: {e}")

    def _publish(self) -> None:
        """Over one connection, until it fails or the sink is closed: something is always raised."""
        frame = self._next(None)
        assert frame is not None
        with contextlib.closing(RtspPublisher(self._address, self._stop, tls=self._tls)) as server:
            server.connect()
            size = encoded_size(frame.width, frame.height, self._options.max_width)
            with contextlib.closing(RtpEncoder(size, self._fps, self._options.kbit)) as encoder:
                packets = self._encoded(encoder, frame)
                server.record(encoder.description())
                began = time.monotonic()
                while True:
                    server.send(packets)
                    if self._trouble is not None and time.monotonic() - began > _STEADY_S:
                        self._trouble = self.cause = None
                    while (frame := self._next(_LISTEN_S)) is None:
                        server.listen()
                    packets = self._encoded(encoder, frame)

    def _encoded(self, encoder: RtpEncoder, frame: ShownFrame) -> list[bytes]:
        self._busy_since = time.monotonic()
        try:
            return encoder.packets(frame.annotated(), frame.stamp.t_ns)
        except av.error.FFmpegError as e:
            raise EngineError(f"restream: the encoder failed: {e}") from e
        finally:
            self._busy_since = None

    def _next(self, timeout_s: float | None) -> ShownFrame | None:
        """The newest picture that was not sent yet; None: there is none in time. Raises :class:`Stopped` at the end."""
        with self._change:
            self._change.wait_for(lambda: self._newest is not None or self._ending, timeout_s)
            frame, self._newest = self._newest, None
            if frame is None and self._ending:
                raise Stopped
            return frame

    def _pause(self, seconds: float) -> None:
        with self._change:
            self._change.wait_for(lambda: self._ending, seconds)
            if self._ending:
                self._newest = None


def _open(options: RestreamConfig, context: SinkContext) -> RestreamSink:
    return RestreamSink(options, context)


SINK = SinkType(
    _open,
    "the annotated pictures, live, to an RTSP server; `restream: rtsp://server/path` is enough",
    RestreamConfig,
    pictures=True,
)
