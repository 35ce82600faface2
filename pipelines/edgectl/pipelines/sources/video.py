"""PyAV behind files and cameras: demux and decode. No threads, no pacing, no reconnect here.

What FFmpeg knows to be damaged is counted, never handed on: packets that do not decode, and pictures that it flags as corrupt, that are
built on such, or that come before the first key frame: they are smeared or grey. Left out: what a picture's numbers mean (:mod:`.picture`).
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import av
import av.error
import av.logging

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.sources.base import MAX_PIXELS
from edgectl.pipelines.sources.picture import Picture, picture_of
from edgectl.pipelines.sources.transport import PACKET, changed_table

__all__ = ["VideoReader", "reason_of"]

av.logging.set_level(None)  # FFmpeg's own lines go nowhere: what matters becomes an exception or a counter

_MAX_BAD = 250
"""Undecodable packets in a row after which a source is broken rather than damaged."""
_SUSPECT = 12
_SUSPECT_EMPTY = 48
"""Packets in a row that do not decode, or give no picture, after which a transport stream may have gone over to another codec."""
_LEAD_IN = 25
"""Packets before them, in which the old tables lie: they come every half second at least."""
_MAX_SEARCH = 32 << 20
_BLIND_START = frozenset({"mpeg4", "h263", "h263p", "h263i", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "flv1", "wmv1", "wmv2"})
"""Decoders that show grey pictures before the first key frame without a word; the others hold them back or flag them."""
_MODERN = frozenset({"hevc", "vp9", "av1", "libdav1d", "vvc"})
"""Decoders that find damage with several threads, too, and need them for large pictures."""
_ONE_EACH = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs whose packets are one picture each."""
_MAX_SMEAR = 250
"""Pictures after which damage is believed to be gone from a stream without key frames: it refreshes bit by bit."""
_MAX_BLIND = 600
"""Pictures after which a stream is taken to have no key frames at all (it refreshes bit by bit)."""


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


_TS_DISCONT = 0x0200
"""AVFMT_TS_DISCONT: a format whose times may jump (transport streams, DVDs)."""


class VideoReader:
    """One opened container. Iterate :meth:`frames`.

    ``errors`` counts packets that did not decode, ``corrupt`` pictures that FFmpeg flags as damaged, ``codec_changes`` what the name
    says. ``start_ns`` and ``end_ns`` are times of the container, None where it does not state them; ``count`` is its number of frames.
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
    ) -> None:
        """Open ``url``. Raises :class:`DataError` if it is no video, :class:`SourceError` if it cannot be reached."""
        self.what = what
        self.errors = 0
        self.corrupt = 0
        self.codec_changes = 0
        self._url = url
        self._format = format
        self._options = dict(options or {})
        self._timeout_s = timeout_s
        self._low_delay = low_delay
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

        What is damaged is counted and left out. With ``low_delay``, None stands in its place, so that the reader stays in control.
        """
        bad = empty = shown = 0
        owed = 0  # pictures that packets without an error still stand for
        hurt = self.errors + self.corrupt
        recent: deque[int | None] = deque(maxlen=_LEAD_IN + _SUSPECT_EMPTY)  # where the last packets lie in the file
        seen_key = self.codec not in _BLIND_START
        smear = _Smear()
        best = _BestTime()
        packets = self._packets()
        while (packet := next(packets, None)) is not None:
            switched = False
            last = not packet.size  # nothing in it: the decoder gives what it still holds
            recent.append(packet.pos)
            pictures: Sequence[Any] = ()
            try:
                pictures = packet.decode()
                owed += not last
            except (av.error.FFmpegError, OSError, ValueError) as e:
                self.errors += 1
                bad += 1
                if packet.is_keyframe:
                    smear.hurt(packet.pts)
                if bad >= _MAX_BAD:
                    raise DataError(f"{self.what} does not decode: {bad} packets in a row are damaged") from e
            if not last:
                bad, empty = (0, 0) if pictures else (bad, empty + 1)
            doubtful = bad == _SUSPECT or empty == _SUSPECT_EMPTY or (last and (bad or empty))
            if doubtful and (held := self._follow_codec(recent)) is not None:
                self.errors -= bad  # they are read again, by the decoder that knows them
                bad = empty = 0
                owed = len(held)
                recent.clear()
                switched = True
                packets, pictures = self._packets(), [*pictures, *held]
            owed -= len(pictures)
            if last and owed > 0 and self.errors + self.corrupt > hurt and self.codec in _ONE_EACH:
                self.errors += owed  # the decoder swallowed them: what they are built on is lost
            if not pictures and self._low_delay:
                yield None
            for picture in pictures:
                shown += 1
                if not 0 < picture.width * picture.height <= MAX_PIXELS:
                    raise DataError(f"{self.what} has a picture size of {picture.width}x{picture.height}, which is not supported")
                seen_key = seen_key or bool(picture.key_frame) or shown > _MAX_BLIND
                if smear.on(picture) or not seen_key:
                    self.corrupt += 1
                    if self._low_delay:
                        yield None
                    continue
                self.delivered += 1
                yield picture_of(picture, best.of(picture.pts, picture.dts))
            if switched:
                smear, best, seen_key = _Smear(), _BestTime(), self.codec not in _BLIND_START
        if not self.delivered:
            raise DataError(
                f"{self.what} is not a video that can be decoded: it has no whole frame", hint="check it with `ffprobe`"
            )

    @property
    def codec(self) -> str:
        return str(self._stream.codec_context.name)

    def rewind(self) -> None:
        """Back to the first frame. Raises :class:`SourceError` if the container cannot seek."""
        self.delivered = 0
        try:
            if self._skipped:
                self.close()
                self._open(0)
            else:
                self._container.seek(0)
        except (av.error.FFmpegError, OSError) as e:
            raise SourceError(f"{self.what} cannot be played in a loop: {_said(e)}") from e

    def close(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()

    def _open(self, skip: int) -> None:
        """``skip``: bytes at the start that are left out. Raises :class:`DataError` or :class:`SourceError`."""
        options = {**self._options, "skip_initial_bytes": str(skip)} if skip else self._options
        timeout = None if self._timeout_s is None else (self._timeout_s, self._timeout_s)
        try:
            self._container = av.open(self._url, format=self._format, options=options, timeout=timeout)
        except (av.error.FFmpegError, OSError, ValueError) as e:
            reason = reason_of(e)
            remote = self._url.startswith(("rtsp://", "rtsps://"))
            if reason == "invalid" and not remote:
                raise DataError(f"{self.what} is not a video that can be decoded", hint="check it with `ffprobe`") from e
            raise SourceError(
                f"cannot open {self.what}: {_said(e)}",
                hint="check the address and the network" if remote else "check the path and its permissions",
                retryable=reason not in ("auth", "not_found"),
            ) from e
        streams = self._container.streams.video
        if not streams:
            self.close()
            raise DataError(f"{self.what} has no video stream")
        self._stream = streams[0]
        self._skipped = skip
        self.delivered = 0
        # Frame threading buffers a frame per thread, and conceals damage in another way each time it runs. Slice threading turns off
        # the detection of damage in the older codecs.
        self._stream.thread_type = "SLICE"
        self._stream.codec_context.thread_count = 0 if self.codec in _MODERN else 1

    def _end_ns(self) -> int | None:
        """Where the video ends, if the header states it: not what FFmpeg estimates from the length of the file."""
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            return round(((stream.start_time or 0) + stream.duration) * stream.time_base * 1_000_000_000)
        if len(container.streams) == 1 and container.duration is not None and container.duration > 0:
            return self.start_ns + container.duration * 1000
        return None

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                yield next(packets)
            except (StopIteration, av.error.EOFError):
                return
            except (av.error.FFmpegError, OSError) as e:
                raise SourceError(f"reading {self.what} failed: {_said(e)}", retryable=True) from e

    def _follow_codec(self, recent: Sequence[int | None]) -> Sequence[Any] | None:
        """Go over to another codec if there is one: two recordings in one transport stream.

        PyAV keeps the decoder that it opened first, whatever the tables of the stream announce later; so the file is opened again
        at the tables that announce another. ``recent``: bytes where the last packets lie. Returns the pictures that the old decoder
        still held, or None where the codec is the same.
        """
        container, stream, skipped, delivered = self._container, self._stream, self._skipped, self.delivered
        places = [p for p in recent if p is not None]
        if container.format.name != "mpegts" or "://" in self._url or not places:
            return None
        try:
            with open(self._url, "rb") as f:
                f.seek(min(places))
                at = changed_table(f.read(min(max(places) - min(places) + PACKET, _MAX_SEARCH)))
            if at is None:
                return None
            self._open(min(places) + at)
        except (OSError, DataError, SourceError):
            self._container, self._stream, self._skipped, self.delivered = container, stream, skipped, delivered
            return None
        self.delivered = delivered
        held: Sequence[Any] = ()
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            held = stream.codec_context.decode(None)
        container.close()
        self.codec_changes += self.codec != stream.codec_context.name
        return held


class _BestTime:
    """Presentation time, or decoding time where the container's presentation times are less in order (AVI has none of its own).

    FFmpeg's own guess (``best_effort_timestamp``), which PyAV does not hand out.
    """

    def __init__(self) -> None:
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._faulty_pts = self._faulty_dts = 0

    def of(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += self._last_dts is not None and dts <= self._last_dts
        if pts is not None:
            self._faulty_pts += self._last_pts is not None and pts <= self._last_pts
        self._last_dts = pts if dts is None else dts
        self._last_pts = dts if pts is None else pts
        return pts if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts) else dts


class _Smear:
    """What is built on a damaged key frame is damaged all over, up to the next clean one: FFmpeg flags the first picture alone.

    Damage in other pictures stays local, and is left out only where it is flagged: to look away for longer would be worse.
    """

    def __init__(self) -> None:
        self._from_pts: int | None = None
        self._left = 0

    def hurt(self, pts: int | None) -> None:
        """The key frame of ``pts`` is lost or damaged."""
        self._from_pts = pts
        self._left = _MAX_SMEAR

    def on(self, picture: Any) -> bool:
        """Whether the next picture is damaged."""
        if picture.is_corrupt:
            if picture.key_frame:
                self.hurt(picture.pts)
            return True
        if not self._left or (picture.pts is not None and self._from_pts is not None and picture.pts < self._from_pts):
            return False
        self._left = 0 if picture.key_frame else self._left - 1
        return self._left > 0


def _said(e: BaseException) -> str:
    if isinstance(e, av.error.ExitError):  # FFmpeg's "Immediate exit requested": our own time-out
        return "no answer in time"
    if getattr(e, "errno", None) == errno.EIO:
        return "Input/output error (does its name resolve?)"
    return str(getattr(e, "strerror", None) or e)[:200]
