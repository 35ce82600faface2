"""What a web server sends: the pictures of a camera (MJPEG), HLS, or a video file.

Which of them it is, the server says. A camera and a list of HLS that goes on are live, and opened again whenever they
fail; a list that has an end and a file of known length are recordings.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import av
import av.error

from edgectl.core.errors import DataError, SourceError
from edgectl.core.schema import Config
from edgectl.core.uri import redact
from edgectl.pipelines.sources.base import (
    MAX_PIXELS,
    EndOfStream,
    Source,
    SourceInfo,
    SourceType,
    parse_options,
)
from edgectl.pipelines.sources.file import FileOptions, FileSource
from edgectl.pipelines.sources.media.camera import Camera, CameraReader, LiveSource
from edgectl.pipelines.sources.media.hardware import Hardware, HardwareChoice
from edgectl.pipelines.sources.media.http_fetch import HttpBody, HttpServer
from edgectl.pipelines.sources.media.multipart import Multipart
from edgectl.pipelines.sources.media.network import check_address, look_for
from edgectl.pipelines.sources.media.picture import Picture, Upright, picture_of
from edgectl.pipelines.sources.media.picture_size import stated_size
from edgectl.pipelines.sources.media.reader import Away, VideoReader
from edgectl.pipelines.sources.media.ring import PacketRing
from edgectl.pipelines.stream.frame import Frame

__all__ = ["SOURCE", "HttpOptions"]

_log = logging.getLogger(__name__)
_LISTS = ("application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl")
_RECORDINGS = (".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm")
"""What an address ends with whose server will not turn out to be a camera."""
_MAX_LIST = 1 << 20
"""Bytes of a list of HLS."""
_SILENCE_S = 15.0
"""A list that goes on and gives nothing for so long is away: longer than a piece of it usually is."""
_BUFFER = 32 << 10
"""Bytes that are read at once."""
_HLS = {
    # each is opened by us, so none is kept open by FFmpeg
    "http_persistent": "0",
    "http_multiple": "0",
    "fpsprobesize": "0",
}


class HttpOptions(Config):
    ca: str | None = None
    """File of the certificates to trust, in place of this machine's: a camera signs its own."""
    hw: HardwareChoice = "none"
    """Decode by hardware: ``auto``, or a device of FFmpeg. Where that is not possible the processor decodes, and an event
    says why. Pictures of a camera that sends one JPEG after the other are decoded by the processor in any case."""


class HttpSource:
    """Becomes a :class:`LiveSource` or a :class:`FileSource` once the server has said what it sends."""

    def __init__(self, uri: str, server: HttpServer, *, patient: bool, hw: HardwareChoice = "none") -> None:
        self._uri, self._server, self._patient = uri, server, patient
        self._hardware = Hardware(hw)
        self._source: LiveSource | FileSource | None = None
        self._ring: PacketRing | None = None
        self._closed = threading.Event()
        self.decode_errors = self.corrupt_frames = self.degraded_frames = 0
        self.outage: str | None = None
        self.trouble: str | None = None

    def keep_packets(self, ring: PacketRing) -> bool:
        self._ring = ring
        return True

    def only_key_frames(self, on: bool) -> bool:
        return isinstance(self._source, LiveSource) and self._source.only_key_frames(on)

    def open(self) -> SourceInfo:
        server = self._server
        try:
            kind = self._kind()
        except SourceError as e:
            if not (self._patient and e.retryable) or _names_a_recording(server.url):
                raise
            kind = "camera"  # a recording is not waited for
        if kind == "camera":
            parts = urlsplit(server.url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            camera = Camera(
                lambda stop: _reader(server, self._hardware),
                lambda: look_for(parts.hostname or "", port, server.what),
                {"auth": 300.0, "not_found": 300.0, "tls": 300.0},
                gives_packets=True,
            )
            self._source = LiveSource(self._uri, camera, patient=self._patient)
        else:
            name = urlsplit(server.url).path.rpartition("/")[2] or "video"
            self._source = FileSource(
                server.what, name, lambda: _recording(server, kind, self._hardware), FileOptions()
            )
        if self._ring is not None:
            self._source.keep_packets(self._ring)
        if self._closed.is_set():
            self._source.interrupt()
        try:
            return self._source.open()
        finally:
            self._follow(self._source)

    def read(self, timeout_s: float) -> Frame | None:
        if self._source is None:
            raise EndOfStream
        try:
            return self._source.read(timeout_s)
        finally:
            self._follow(self._source)

    def interrupt(self) -> None:
        self._closed.set()
        if self._source is not None:
            self._source.interrupt()

    def close(self) -> None:
        if self._source is not None:
            self._source.close()

    def _follow(self, source: Source) -> None:
        self.decode_errors, self.corrupt_frames = source.decode_errors, source.corrupt_frames
        self.degraded_frames = source.degraded_frames if isinstance(source, LiveSource) else 0
        self.outage = source.outage
        self.trouble = source.trouble if isinstance(source, LiveSource) else None

    def retry_s(self) -> float | None:
        return self._source.retry_s() if isinstance(self._source, LiveSource) else None

    def _kind(self) -> str:
        """``camera``, ``list`` or ``file``."""
        with self._server.get() as body:
            if not _is_list(body):
                return "camera" if body.boundary or not body.seekable() else "file"
            text = body.start(_MAX_LIST)
            # RFC 8216 §4.3.3.4; a list of lists does not say, and is taken for live
            return "list" if b"#EXT-X-ENDLIST" in text else "camera"


class MjpegReader:
    """The pictures of a camera that sends one JPEG after the other. They carry no times."""

    start_ns = 0
    deinterlaced = False

    def __init__(self, body: HttpBody, what: str) -> None:
        self.errors = self.corrupt = self.left_out = 0
        self.width: int | None = None
        self.height: int | None = None
        self.fps: float | None = None
        self._body, self._what = body, what
        self._upright = Upright()
        self._parts = Multipart(body.boundary or "")

    def frames(self) -> Iterator[Picture | None]:
        """See :class:`CameraReader`. A picture that does not decode is counted."""
        while True:
            try:
                data = self._body.read(_BUFFER)
            except OSError as e:
                raise SourceError(f"reading {self._what} failed: {e}", retryable=True) from e
            if not data:
                raise SourceError(f"{self._what} ended", retryable=True) from Away("ended")
            parts = self._parts.feed(data)
            for part in parts:
                yield self._decoded(part)
            if not parts:
                yield None

    def close(self) -> None:
        self._body.close()

    def _decoded(self, part: bytes) -> Picture | None:
        size = stated_size(part) if part[:2] == b"\xff\xd8" else None
        if size is None:
            self.errors += 1
            return None
        if not 0 < size[0] * size[1] <= MAX_PIXELS:
            raise DataError(f"{self._what} has a picture size of {size[0]}x{size[1]}, which is not supported")
        decoder: Any = av.CodecContext.create("mjpeg", "r")
        try:
            frames = [*decoder.decode(av.Packet(part)), *decoder.decode(None)]
        except (av.error.FFmpegError, OSError, ValueError):
            frames = []
        if not frames:
            self.errors += 1
            return None
        if frames[0].is_corrupt:
            self.corrupt += 1
            return None
        return picture_of(frames[0], None, self._upright)


def _reader(server: HttpServer, hardware: Hardware) -> CameraReader:
    body = server.get()
    if body.boundary:
        return MjpegReader(body, server.what)
    body.close()
    if _is_list(body):
        return _list_reader(server, hardware, live=True)
    opener = _Opener(server, live=True)
    return VideoReader(server.url, server.what, low_delay=True, opener=opener, hardware=hardware)


def _recording(server: HttpServer, kind: str, hardware: Hardware) -> VideoReader:
    if kind == "list":
        return _list_reader(server, hardware, live=False)
    return VideoReader(server.url, server.what, opener=_Opener(server, live=False), hardware=hardware)


def _list_reader(server: HttpServer, hardware: Hardware, *, live: bool) -> VideoReader:
    return VideoReader(
        server.url,
        server.what,
        format="hls",
        options=_HLS,
        low_delay=live,
        opener=_Opener(server, live=live),
        timeout_s=_SILENCE_S if live else None,
        hardware=hardware,
    )


def _names_a_recording(url: str) -> bool:
    return urlsplit(url).path.lower().endswith(_RECORDINGS)


def _is_list(body: HttpBody) -> bool:
    return body.content_type.split(";")[0].strip() in _LISTS or urlsplit(body.name).path.endswith(".m3u8")


class _Opener:
    """Opens what FFmpeg asks for: the web, and nothing of this machine that a list might name.

    A piece of a live list may be gone before it is read: it is left out. One of a recording that is missing is an
    error, told once: FFmpeg goes on asking for the pieces behind it.
    """

    def __init__(self, server: HttpServer, *, live: bool) -> None:
        self._server, self._live = server, live
        self._has_failed = False

    def __call__(self, url: str, flags: int = 0, options: Any = None) -> Any:
        if self._has_failed:
            return io.BytesIO()
        try:
            return self._opened(url)
        except SourceError as e:
            if url == self._server.url:
                raise
            if self._live:
                _log.warning("%s: a piece is left out: %s", self._server.what, e.message)
                return io.BytesIO()
            self._has_failed = True
            cause = e.__cause__
            raise (cause if isinstance(cause, OSError) else OSError(e.message)) from e

    def _opened(self, url: str) -> HttpBody:
        if urlsplit(url).scheme not in ("http", "https"):
            raise SourceError(f"a list names {redact(url)[:200]}, which is not opened")
        body = self._server.get(url)
        if _is_list(body):
            body.limit = _MAX_LIST
        return body


def _open(uri: str, patient: bool) -> Source:
    address, _, fragment = uri.partition("#")
    check_address(address)
    options = parse_options(HttpOptions, fragment, uri)
    return HttpSource(address, HttpServer(address, ca=options.ca), patient=patient, hw=options.hw)


SOURCE = SourceType(
    (
        (
            "http://user:secret@cam/video.mjpg, https://…",
            "what a web server sends: the pictures of a camera (MJPEG), HLS, or a video file. Certificates are checked",
        ),
    ),
    video=_open,
    options=(("an address of the web, behind `#`", HttpOptions),),
)
