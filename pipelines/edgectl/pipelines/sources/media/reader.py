"""PyAV behind files and cameras: demux and decode. No threads, no pacing, no reconnect here.

What is damaged is counted, never handed on (:mod:`.damage`). Left out: what a picture's numbers mean
(:mod:`.picture`) and what its time does to the clock (:mod:`.clock`).
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import av.logging

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.sources.base import MAX_PIXELS
from edgectl.pipelines.sources.media.clock import BestTime
from edgectl.pipelines.sources.media.damage import Damage, Doubt
from edgectl.pipelines.sources.media.hardware import Hardware
from edgectl.pipelines.sources.media.interlace import Deinterlacer
from edgectl.pipelines.sources.media.picture import Picture, Upright, picture_of
from edgectl.pipelines.sources.media.ring import PacketRing
from edgectl.pipelines.sources.media.transport import PACKET, changed_table

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = ["Away", "VideoReader", "reason_of"]

# FFmpeg's own lines go nowhere: what matters becomes an exception or a counter
av.logging.set_level(None)

_MAX_BAD = 250
"""Undecodable packets in a row after which a source is broken rather than damaged."""
_MAX_FAILED = 8
"""The same after which the hardware is to blame, where it has given no picture yet."""
_MAX_SEARCH = 32 << 20
"""Bytes that are searched for the tables of another codec."""
_MODERN = frozenset({"hevc", "vp9", "av1", "libdav1d", "vvc"})
"""Decoders that find damage with several threads, too, and need them for large pictures."""
_ALL_KEYS = frozenset({"mjpeg", "mjpegb", "rawvideo", "png", "jpeg2000", "prores", "dnxhd"})
"""Codecs that have nothing but key frames."""
_TS_DISCONT = 0x0200
"""AVFMT_TS_DISCONT: a format whose times may jump (transport streams, DVDs)."""


class Away(OSError):
    """Why a camera cannot be read, where the code of that is known: the cause of a :class:`SourceError`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_of(e: BaseException) -> str:
    """Reason code of a failure to open or read: for back-off, events and messages."""
    if isinstance(e, Away):
        return e.reason
    table: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("refused", ("ConnectionRefusedError",)),
        ("timeout", ("TimeoutError", "ExitError", "BlockingIOError")),
        ("auth", ("HTTPUnauthorizedError", "HTTPForbiddenError", "PermissionError")),
        (
            "not_found",
            ("HTTPNotFoundError", "FileNotFoundError", "ProtocolNotFoundError", "DemuxerNotFoundError"),
        ),
        ("tls", ("SSLError",)),
        ("ended", ("EOFError", "ConnectionResetError", "BrokenPipeError")),
    )
    # EIO: a name that does not resolve
    if getattr(e, "errno", None) in (errno.EIO, errno.EHOSTUNREACH, errno.ENETUNREACH):
        return "unreachable"
    names = {c.__name__ for c in type(e).__mro__}
    return next((code for code, known in table if names & set(known)), "invalid")


class VideoReader:
    """One opened container. Iterate :meth:`frames`.

    ``errors`` counts packets that did not decode, ``corrupt`` pictures that FFmpeg flags as damaged,
    ``codec_changes`` what the name says. ``start_ns`` and ``end_ns`` are times of the container, None where
    it does not state them; ``count`` is its number of frames.
    """

    def __init__(
        self,
        url: str,
        what: str,
        *,
        format: str | None = None,
        options: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        low_delay: bool = False,
        opener: Callable[..., Any] | None = None,
        hardware: Hardware | None = None,
    ) -> None:
        """Open ``url``. Raises :class:`DataError` if it is no video, :class:`SourceError` if it cannot be
        reached.

        ``opener``: from an address to a file, for ``url`` itself and for whatever else the format names;
        without one, FFmpeg opens them. ``hardware``: what the source was told about decoding by it; what this
        reader learns is written there.
        """
        self.what = what
        self.errors = 0
        self.corrupt = 0
        self.left_out = 0
        """None: whatever lies in the connection is read."""
        self.only_keys = False
        """Packets that are no key frames are not decoded; set from any thread. Then ``skipped`` counts them."""
        self.skipped = 0
        self._until_key = False
        self.codec_changes = 0
        self._url = url
        self._format = format
        self._options = dict(options or {})
        self._timeout_s = timeout_s
        self._low_delay = low_delay
        self._ring: PacketRing | None = None
        self._opener = opener
        self.hardware = hardware or Hardware()
        self._file: Any = None
        self._deinterlacer: Deinterlacer | None = None
        self.deinterlaced = False
        """Whether some picture was interlaced."""
        self._open(0)
        context = self._stream.codec_context
        # A camera may not tell its size before the first picture: every picture is checked instead.
        self.width, self.height = context.width or None, context.height or None
        rate = self._stream.average_rate
        self.fps = float(rate) if rate else None
        self.count = self._stream.frames or None
        start = self._container.start_time
        self.start_ns = 0 if start is None else start * 1000  # AV_TIME_BASE is 1 µs
        self.jumps_expected = bool(self._container.format.flags & _TS_DISCONT)
        self.end_ns = None if self.jumps_expected else self._end_ns()

    def frames(self) -> Iterator[Picture | None]:
        """Every whole picture in order. Raises SourceError / DataError; ends at the end.

        What is damaged is counted and left out. With ``low_delay``, None stands in its place, so that the
        reader stays in control.
        """
        packets, damage, doubt, best = self._packets(), Damage(self.codec), Doubt(), BestTime()
        errors, corrupt = self.errors, self.corrupt  # of decoders before this one
        while (packet := next(packets, None)) is not None:
            if self._skips(packet):
                self.skipped += 1
                if self._low_delay:
                    yield None
                continue
            pictures, error = _decode(packet)
            damage.packet(packet, len(pictures), error is not None)
            doubtful = doubt.packet(packet, len(pictures), error is not None)
            if self._hardware_fails(doubt.bad):
                # by the processor, from where the container is opened again
                self.close()
                self._open(0)
                packets, damage, doubt, best = self._packets(), Damage(self.codec), Doubt(), BestTime()
                errors, corrupt = self.errors, self.corrupt
                continue
            if doubt.bad >= _MAX_BAD:
                raise DataError(
                    f"{self.what} does not decode: {doubt.bad} packets in a row are damaged"
                ) from error
            held = self._follow_codec(doubt.places) if doubtful else None
            # Nothing in here keeps a picture while its taker has gone on: its memory is the decoder's.
            waiting, pictures = deque((*pictures, *(held or ()))), ()
            while waiting:
                picture = waiting.popleft()
                if not 0 < picture.width * picture.height <= MAX_PIXELS:
                    raise self._size_error(picture.width, picture.height)
                whole = damage.whole(picture)
                self.errors, self.corrupt = errors + damage.errors, corrupt + damage.corrupt
                if whole:
                    self.delivered += 1
                    made = self._finished(picture, best.of(picture.pts, picture.dts))
                    del picture
                    while made:
                        yield made.popleft()
                elif self._low_delay:
                    yield None
            if held is not None:
                # they are read again, by the decoder that knows them
                damage.errors -= doubt.bad
            self.errors, self.corrupt = errors + damage.errors, corrupt + damage.corrupt
            if held is not None:
                packets, damage, doubt, best = self._packets(), Damage(self.codec), Doubt(), BestTime()
                errors, corrupt = self.errors, self.corrupt
            if not pictures and self._low_delay:
                yield None
        if self._deinterlacer is not None:
            yield from map(self._timed, self._deinterlacer.rest())
        if not self.delivered:
            raise DataError(
                f"{self.what} is not a video that can be decoded: it has no whole frame",
                hint="check it with `ffprobe`",
            )

    def _finished(self, frame: Any, pts: int | None) -> deque[Picture | None]:
        """The frame as it is handed on: from the first interlaced one on, all take the same way."""
        if self._deinterlacer is None and not frame.interlaced_frame:
            return deque((picture_of(frame, pts, self._upright),))
        if self._deinterlacer is None:
            self._deinterlacer, self.deinterlaced = Deinterlacer(), True
        made: deque[Picture | None] = deque(map(self._timed, self._deinterlacer.feed(frame, pts)))
        if not made and self._low_delay:
            made.append(None)
        return made

    def _timed(self, done: tuple[Any, int | None, Any]) -> Picture:
        """A picture out of the deinterlacer, with the time that went in."""
        frame, pts, base = done
        picture = picture_of(frame, None, self._upright)
        return replace(picture, pts_ns=None if pts is None else round(pts * base * 1_000_000_000))

    def _skips(self, packet: Any) -> bool:
        """Whether it is left out. What is built on a packet that was left out is left out, too."""
        if not packet.size:  # the end: what the decoder still holds
            return False
        if packet.is_keyframe:
            self._until_key = False
        elif self.only_keys:
            self._until_key = True
        return self._until_key

    @property
    def has_key_frames(self) -> bool:
        """Whether there are others beside them: not where each picture stands alone."""
        return self.codec not in _ALL_KEYS

    @property
    def codec(self) -> str:
        return str(self._stream.codec_context.name)

    def rewind(self) -> None:
        """Back to the first frame. Raises :class:`SourceError` if the container cannot seek."""
        self.delivered = 0
        self._deinterlacer = None
        try:
            if self._skipped:
                self.close()
                self._open(0)
            else:
                self._container.seek(0)
        except (av.error.FFmpegError, OSError) as e:
            raise SourceError(f"{self.what} cannot be played in a loop: {_said(e)}") from e

    def keep_packets(self, ring: PacketRing) -> bool:
        """See :class:`~edgectl.pipelines.sources.media.ring.PacketSource`."""
        self._ring = ring
        ring.begin(self._stream)
        return True

    def close(self) -> None:
        if self._ring is not None:
            self._ring.end()
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self, skip: int) -> None:
        """``skip``: bytes at the start that are left out. Raises :class:`DataError` or
        :class:`SourceError`."""
        # a picture that is too large is refused before there is memory for it
        options = {"max_pixels": str(MAX_PIXELS), **self._options}
        if skip:
            options["skip_initial_bytes"] = str(skip)
        timeout = None if self._timeout_s is None else (self._timeout_s, self._timeout_s)
        try:
            self._file = None if self._opener is None else self._opener(self._url)
            self._container: InputContainer = av.open(
                self._file or self._url,
                format=self._format,
                options=options,
                timeout=timeout,
                io_open=self._opener,
                **self._accelerated(),
            )
        except (av.error.FFmpegError, OSError, ValueError) as e:
            self._close_file()
            reason = reason_of(e)
            remote = "://" in self._url
            if reason == "invalid" and not remote and self._is_empty():
                raise DataError(f"{self.what} is empty", hint="was it copied to its end?") from e
            if reason == "invalid" and not remote:
                raise DataError(
                    f"{self.what} is not a video that can be decoded", hint="check it with `ffprobe`"
                ) from e
            raise SourceError(
                f"cannot open {self.what}: {_said(e)}",
                hint="check the address and the network" if remote else "check the path and its permissions",
                retryable=reason not in ("auth", "not_found"),
            ) from e
        streams = self._container.streams.video
        if not streams:
            self.close()
            raise DataError(
                f"{self.what} has no video stream",
                hint="`ffprobe` lists what is in it; sound alone is for edgectl run speech",
            )
        self._stream = streams[0]
        if self.hardware.device is not None and not self._stream.codec_context.is_hwaccel:
            self.hardware.give_up("codec")
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if width * height > MAX_PIXELS:
            self.close()
            raise self._size_error(width, height)
        self._stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        self._upright = Upright()
        self._skipped = skip
        self.delivered = 0
        # Frame threading buffers a frame per thread, and conceals damage in another way each time it runs.
        # Slice threading turns off the detection of damage in the older codecs.
        self._stream.thread_type = "SLICE"
        self._stream.codec_context.thread_count = 0 if self.codec in _MODERN else 1
        if self._ring is not None:
            self._ring.begin(self._stream)

    def _is_empty(self) -> bool:
        path = Path(self._url)
        return self._opener is None and path.is_file() and path.stat().st_size == 0

    def _accelerated(self) -> dict[str, Any]:
        accelerator = self.hardware.accelerator()
        return {} if accelerator is None else {"hwaccel": accelerator}

    def _hardware_fails(self, bad: int) -> bool:
        """Whether the hardware was asked to decode, and gave nothing of the first packets: it has no room for one more
        stream, or does not know this profile."""
        if self.hardware.device is None or self.delivered or bad < _MAX_FAILED:
            return False
        self.hardware.give_up("failed")
        return True

    def _size_error(self, width: int, height: int) -> DataError:
        return DataError(
            f"{self.what} has a picture size of {width}x{height}, which is not supported",
            hint=f"up to {MAX_PIXELS / 1e6:.0f} megapixels are; let the camera or ffmpeg make it smaller",
        )

    def _end_ns(self) -> int | None:
        """Where the video ends, if the header states it: not what FFmpeg estimates from the length of the
        file."""
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            end_ns: int = round(
                ((stream.start_time or 0) + stream.duration) * stream.time_base * 1_000_000_000
            )
            return end_ns
        if len(container.streams) == 1 and container.duration is not None and container.duration > 0:
            return self.start_ns + container.duration * 1000
        return None

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                if self._ring is not None:
                    self._ring.add(packet)
                yield packet
            except (StopIteration, av.error.EOFError):
                return
            except (av.error.FFmpegError, OSError) as e:
                broken = "://" in self._url and e.errno == errno.EIO
                said = "the connection broke" if broken else _said(e)
                raise SourceError(f"reading {self.what} failed: {said}", retryable=True) from (
                    Away("ended") if broken else e
                )

    def _follow_codec(self, places: Sequence[int]) -> Sequence[Any] | None:
        """Go over to another codec if there is one: two recordings in one transport stream.

        PyAV keeps the decoder that it opened first, whatever the tables of the stream announce later; so the
        file is opened again at the tables that announce another. ``places``: bytes where the last packets
        lie. Returns the pictures that the old decoder still held, or None where the codec is the same.
        """
        container, stream, skipped, delivered = self._container, self._stream, self._skipped, self.delivered
        if container.format.name != "mpegts" or self._opener or "://" in self._url or not places:
            return None
        try:
            with open(self._url, "rb") as f:
                f.seek(min(places))
                at = changed_table(f.read(min(max(places) - min(places) + PACKET, _MAX_SEARCH)))
            if at is None:
                return None
            self._open(min(places) + at)
        except (OSError, DataError, SourceError):
            self._container, self._stream, self._skipped, self.delivered = (
                container,
                stream,
                skipped,
                delivered,
            )
            return None
        self.delivered = delivered
        held: Sequence[Any] = ()
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            held = stream.codec_context.decode(None)
        container.close()
        self.codec_changes += self.codec != stream.codec_context.name
        return held


def _decode(packet: Any) -> tuple[Sequence[Any], Exception | None]:
    try:
        return packet.decode(), None
    except (av.error.FFmpegError, OSError, ValueError) as e:
        return (), e


def _said(e: BaseException) -> str:
    # FFmpeg's "Immediate exit requested": our own time-out
    if isinstance(e, av.error.ExitError):
        return "no answer in time"
    if getattr(e, "errno", None) == errno.EIO:
        return "Input/output error (does its name resolve?)"
    return str(getattr(e, "strerror", None) or e)[:200]
