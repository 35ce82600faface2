"""Files: a video (every frame in order, as fast as the reader takes them; or, paced, a stand-in for a camera), a
folder of pictures, one picture, a recording of sound."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from pydantic import Field

from edgectl.core.errors import SourceError
from edgectl.core.schema import Config
from edgectl.core.uri import redact
from edgectl.pipelines.sources.base import (
    IMAGE_SUFFIXES,
    EndOfStream,
    Source,
    SourceInfo,
    SourceType,
    parse_options,
)
from edgectl.pipelines.sources.media.clock import MediaClock
from edgectl.pipelines.sources.media.hardware import Hardware, HardwareChoice
from edgectl.pipelines.sources.media.images import ImagesOptions, ImagesSource
from edgectl.pipelines.sources.media.named_pipe import NamedPipe
from edgectl.pipelines.sources.media.pace import Pacer
from edgectl.pipelines.sources.media.picture import Picture
from edgectl.pipelines.sources.media.reader import VideoReader
from edgectl.pipelines.sources.media.recording import Recording, RecordingOptions
from edgectl.pipelines.sources.media.ring import PacketRing
from edgectl.pipelines.stream.frame import Frame, Notice, Stamp

__all__ = ["SOURCE", "FileOptions", "FileSource"]

_NO_FILE = "check the path of the source; the address of a camera begins with rtsp://"


class FileOptions(Config):
    paced: bool = False
    """As a camera: frames come in their own time, and a reader that is late loses some."""
    loop: bool = False
    """From the end back to the start."""
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Pace, if other than the file's own."""
    hw: HardwareChoice = "none"
    """Decode by hardware: ``auto``, or a device of FFmpeg. Where that is not possible the processor decodes, and an event
    says why."""


_CUT_NS = 500_000_000
"""A file that ends this much before its container says is cut short."""


class FileSource:
    """A recording: ``open_reader`` opens it, ``uri`` is what it is called, ``name`` the last part of that. ``stop``
    ends a wait of the reader."""

    def __init__(
        self,
        uri: str,
        name: str,
        open_reader: Callable[[], VideoReader],
        options: FileOptions,
        stop: threading.Event | None = None,
    ) -> None:
        self._uri = uri
        self._name = name
        self._open_reader = open_reader
        self._options = options
        self._ring: PacketRing | None = None
        self._stop = stop
        self._reader: VideoReader | None = None
        self._frames: Iterator[Picture | None] | None = None
        self._pacer: Pacer | None = None
        self._pending: deque[Picture] = deque()
        self._end = False  # nothing comes behind what is pending
        self._seq = 0
        self._damaged = 0
        self._codec_changes = 0
        self._tilted = self._deinterlaced = False
        self._told_decoder: object = None
        self._last_pts_ns: int | None = None
        self._period_ns = 40_000_000
        self.decode_errors = 0
        self.corrupt_frames = 0
        self.outage: str | None = None

    def keep_packets(self, ring: PacketRing) -> bool:
        self._ring = ring
        return True

    def open(self) -> SourceInfo:
        self._reader = reader = self._open_reader()
        if self._ring is not None:
            reader.keep_packets(self._ring)
        self._frames = reader.frames()
        options = self._options
        fps = options.fps or reader.fps or 25.0
        self._period_ns = round(1e9 / fps)
        self._clock = MediaClock(
            self._period_ns, start_ns=reader.start_ns, jumps_expected=reader.jumps_expected
        )
        try:
            # proves that it decodes, before anything is built on it
            first = self._next(self._frames, reader)
            self._pending.append(first)
            still = not (options.loop or options.paced) and self._has_no_other(first, self._frames, reader)
        except BaseException:
            self.close()
            raise
        if options.paced:
            self._pacer = Pacer(fps)
        kind: Literal["images", "file"] = "images" if still else "file"
        frames = None if options.loop else reader.count
        return SourceInfo(self._uri, kind, first.width, first.height, fps, options.paced, frames)

    def read(self, timeout_s: float) -> Frame | None:
        if self._reader is None or self._frames is None:
            raise EndOfStream
        if not self._pending and self._end:
            raise EndOfStream(self._ending(self._reader, self._last_pts_ns))
        due_ns = None
        if self._pacer is not None:
            due_ns = self._pacer.wait(self._seq, timeout_s)
            if due_ns is None:
                return None
        # a camera's frame, too, is decoded when it has come and not before
        if not self._pending:
            self._pending.append(self._next(self._frames, self._reader))
        picture = self._pending.popleft()
        now = time.monotonic_ns()
        damaged = self.decode_errors + self.corrupt_frames
        t_ns, notices = self._clock.step(picture.pts_ns, damaged - self._damaged)
        self._damaged = damaged
        self._last_pts_ns = picture.pts_ns
        pts_s = None if picture.pts_ns is None else picture.pts_ns / 1e9
        if due_ns is not None:
            stamp = Stamp(self._seq, due_ns, now, pts_s, time.time_ns() - now, "synthetic")
        else:
            stamp = Stamp(self._seq, t_ns, now, pts_s, None, "pts")
        self._seq += 1
        notices += self._about(picture, self._reader)
        return Frame(
            stamp,
            picture.width,
            picture.height,
            picture.fmt,
            picture.planes,
            {},
            picture.colour,
            notices,
            self._name,
        )

    def interrupt(self) -> None:
        if self._stop is not None:
            self._stop.set()
        if self._pacer is not None:
            self._pacer.interrupt()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._frames = None
        self._pending.clear()

    def _has_no_other(self, first: Picture, frames: Iterator[Picture | None], reader: VideoReader) -> bool:
        """Whether there is one picture alone, and was never meant to be more: a still picture in a video's
        format (AVIF, GIF)."""
        try:
            self._pending.append(self._next(frames, reader))
        except EndOfStream:
            self._end = True
        return self._end and self._ending(reader, first.pts_ns).reason == "ended"

    def _next(self, frames: Iterator[Picture | None], reader: VideoReader) -> Picture:
        item = next(frames, None)
        self.decode_errors, self.corrupt_frames = reader.errors, reader.corrupt
        if item is not None:
            return item
        if not self._options.loop:
            raise EndOfStream(self._ending(reader, self._last_pts_ns))
        reader.rewind()
        self._clock.join()
        self._frames = reader.frames()
        return self._next(self._frames, reader)

    def _about(self, picture: Picture, reader: VideoReader) -> tuple[Notice, ...]:
        found: tuple[Notice, ...] = ()
        if reader.codec_changes != self._codec_changes:
            self._codec_changes = reader.codec_changes
            found += (Notice("source", "codec_changed", data={"codec": reader.codec}),)
        decoder = reader.hardware.told()
        if decoder is not None and decoder != self._told_decoder:
            self._told_decoder = decoder
            found += (Notice("source", decoder[0], data=decoder[1]),)
        if picture.tilted and not self._tilted:
            self._tilted = True
            found += (Notice("picture", "rotation_unsupported", False),)
        if reader.deinterlaced and not self._deinterlaced:
            self._deinterlaced = True
            found += (Notice("picture", "deinterlaced"),)
        return found

    def _ending(self, reader: VideoReader, last_pts_ns: int | None) -> Notice:
        """A whole file has ended; one whose container promised more is cut short."""
        if reader.end_ns is not None and last_pts_ns is not None:
            missing_ns = reader.end_ns - last_pts_ns - self._period_ns
            if missing_ns > max(_CUT_NS, 3 * self._period_ns):
                return Notice(
                    "source", "truncated", False, "start", {"missing_s": round(missing_ns / 1e9, 3)}
                )
        return Notice("source", "ended", False, "start")


def _open_video(uri: str, patient: bool) -> Source:
    path, query = _split_path(uri)
    if path.is_dir():
        return ImagesSource(path, parse_options(ImagesOptions, query, uri))
    if not path.exists():
        raise SourceError(f"there is no file {redact(uri)}", hint=_NO_FILE)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImagesSource(path, parse_options(ImagesOptions, query, uri))
    options = parse_options(FileOptions, query, uri)
    if path.is_file():
        hardware = Hardware(options.hw)
        return FileSource(
            str(path), path.name, lambda: VideoReader(str(path), path.name, hardware=hardware), options
        )
    if not path.is_fifo():
        raise SourceError(f"{redact(uri)} is neither a file nor a pipe", hint=_NO_FILE)
    if options.hw != "none":
        raise SourceError(f"{redact(uri)}: a pipe cannot be decoded by hardware", hint="leave hw out")
    stop = threading.Event()
    opener = NamedPipe.opener(path, stop)
    return FileSource(
        str(path), path.name, lambda: VideoReader(str(path), path.name, opener=opener), options, stop
    )


def _open_sound(uri: str, patient: bool) -> Recording:
    path, query = _split_path(uri)
    if not path.is_file():
        raise SourceError(f"there is no file {redact(str(path))}", hint="check the path of the source")
    return Recording(uri, path, parse_options(RecordingOptions, query, uri))


def _split_path(uri: str) -> tuple[Path, str]:
    is_uri = uri.startswith("file:")
    if not is_uri and Path(uri).exists():  # a file may have a question mark in its name
        return Path(uri), ""
    raw, _, query = uri.partition("?")
    if is_uri:
        raw = raw.removeprefix("file:")
        raw = unquote("/" + raw.lstrip("/") if raw.startswith("//") else raw)
    return Path(raw), query


SOURCE = SourceType(
    (
        (
            "clip.mp4, file:/path/clip.mp4",
            "every frame, as fast as the pipeline takes them; `?paced=1&loop=1` makes a camera of it",
        ),
        (
            "folder/, picture.jpg",
            "its images in name order, each for itself: one `detections` event per picture says what is in it",
        ),
        ("folder/?fps=10", "the film that the images make: tracked, with rules, as a video"),
        ("speech.wav (any audio file)", "for speech pipelines; `?paced=1` as a microphone"),
    ),
    video=_open_video,
    sound=_open_sound,
    options=(("a video", FileOptions), ("pictures", ImagesOptions), ("a recording", RecordingOptions)),
)
