"""The last seconds of a source as they came, without decoding or encoding: for clips that begin before their event, and
for recordings.

Packets are put into MP4 fragments (ISO/IEC 14496-12, section 8.8) in memory, one for each group of pictures. Whoever
wants a clip gets the beginning of the file and the fragments of that time, which stand for themselves.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import av
import av.error

__all__ = ["Cut", "PacketRing", "PacketSource", "PictureGroup"]

_MOST_EARLY = 16
"""The longest delay of a decoder of H.264 and H.265, in pictures."""
_FLAGS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


@dataclass(frozen=True, slots=True)
class Cut:
    """A playable piece of the source. Times are the container's, in seconds."""

    data: bytes
    """A fragmented MP4 of whole groups of pictures."""
    start_s: float
    end_s: float
    key_s: float
    """Of the packet with which it begins: a key frame, but others may be shown before it."""


@dataclass(frozen=True, slots=True)
class PictureGroup:
    """One group of pictures."""

    number: int
    """Counted from 1, also over beginnings of the source."""
    begun: int
    """The how-manieth beginning it belongs to."""
    cut: Cut


@dataclass(frozen=True, slots=True)
class _Fragment:
    number: int
    data: bytes
    head: bytes
    """What stands before the first fragment."""
    begun: int
    start_s: float
    end_s: float
    key_s: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.end_s - self.start_s)

    def cut(self) -> Cut:
        return Cut(self.head + self.data, self.start_s, self.end_s, self.key_s)


class _Bytes:
    """What the muxer wrote since it was last asked."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class PacketRing:
    """Filled by the thread that reads the source; :meth:`cut` may be called from any."""

    def __init__(self, seconds: float, max_bytes: int = 64 << 20) -> None:
        """At least ``seconds`` are kept, unless they are more than ``max_bytes``; also of what a source had before it began
        anew."""
        self.trouble: str | None = None
        """Why nothing is kept."""
        self.begun = 0
        """How often a source has begun. Times of another beginning may be the same."""
        self.seconds = seconds
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._fragments: deque[_Fragment] = deque()
        self._bytes = 0
        self._kept_s = 0.0
        self._closed = 0
        """Groups that were ever kept."""
        self._group_bytes = 0
        """Of the packets of the group that is being written."""
        self._over = True
        self._head = b""
        self._source: Any = None
        self._muxer: Any = None
        self._written = _Bytes()
        self._group: tuple[float, float, float] | None = None
        """First and last time of the group that is being written, and that of its key frame."""
        self._early: list[Any] = []
        """Packets whose time of decoding is not known yet."""
        self._last_dts: int | None = None

    def begin(self, stream: Any) -> None:
        """A source was opened: what came before has nothing to do with it. ``stream``: PyAV's, until :meth:`end`."""
        self.end()
        with self._lock:
            self._head = b""
            self.begun += 1
            self._over = False
        self.trouble = None
        self._source, self._written, self._last_dts, self._early = stream, _Bytes(), None, []
        try:
            self._muxer = av.open(self._written, "w", format="mp4", options=_FLAGS)
            self._stream = self._muxer.add_stream_from_template(stream)
        except (av.error.FFmpegError, ValueError, OSError) as e:
            self._gone(f"its codec does not go into an MP4: {e}")

    def add(self, packet: Any) -> None:
        """One packet of the stream, before it is decoded."""
        if self._muxer is None or not packet.size:
            return
        if packet.dts is not None and packet.pts is not None:
            self._add_early(packet)
            self._add(packet, packet.dts)
        elif self._last_dts is None and (self._early or packet.is_keyframe):
            # Matroska states no times of decoding; the first ones are known once the decoder's delay is. RTSP states none
            # at all of its first packet, where the server does not say when it began
            self._early.append(packet)
            del self._early[_MOST_EARLY:]

    def _add_early(self, packet: Any) -> None:
        """Those before the first whose time of decoding is known: as far apart as the frames are."""
        early, self._early = self._early, []
        step = packet.duration or 1
        for i, one in enumerate(early):
            dts = packet.dts - (len(early) - i) * step
            if one.pts is None:
                one.pts = dts
            self._add(one, dts)

    def _add(self, packet: Any, dts: int) -> None:
        if self._last_dts is not None and dts <= self._last_dts:
            self.begin(self._source)  # played in a loop, or another recording in the same file
        if self._muxer is None or (self._last_dts is None and not packet.is_keyframe):
            return
        self._last_dts = dts
        self._group_bytes = packet.size if packet.is_keyframe else self._group_bytes + packet.size
        if self._group_bytes > self._max_bytes:
            # the muxer holds a group until the next begins
            self.begin(self._source)
            self.trouble = f"no key frame comes within {self._max_bytes >> 20} MiB"
            return
        start_s = float(packet.pts * packet.time_base)
        end_s = start_s + float((packet.duration or 0) * packet.time_base)
        copy = av.Packet(bytes(packet))
        copy.pts, copy.dts, copy.duration = packet.pts, dts, packet.duration
        copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
        copy.stream = self._stream
        try:
            self._muxer.mux(copy)
        except (av.error.FFmpegError, ValueError, OSError) as e:
            self._gone(str(e))
            return
        if packet.is_keyframe:
            self.trouble = None
            self._close_group()
        first, last, key = self._group or (start_s, start_s, start_s)
        self._group = (min(first, start_s), max(last, end_s), key)

    def end(self) -> None:
        """The source is closed: its last group is complete."""
        muxer, self._muxer = self._muxer, None
        try:
            if muxer is not None:
                muxer.close()
                self._close_group()
        except (av.error.FFmpegError, OSError):
            return
        finally:
            with self._lock:
                self._over = True
        self._source = None

    def is_over(self, begun: int) -> bool:
        """Whether nothing comes any more of a beginning: the source was closed, or has begun anew."""
        with self._lock:
            return self._over or begun != self.begun

    def newest_s(self, begun: int) -> float | None:
        """Where the last whole group of a beginning ends."""
        with self._lock:
            return next((f.end_s for f in reversed(self._fragments) if f.begun == begun), None)

    def since(self, number: int) -> list[PictureGroup]:
        """The whole groups that came after the ``number``-th and are still kept, also of earlier beginnings."""
        with self._lock:
            return [PictureGroup(f.number, f.begun, f.cut()) for f in self._fragments if f.number > number]

    def cut(self, start_s: float, end_s: float, begun: int | None = None) -> Cut | None:
        """The groups that hold something of that time. None where there is nothing of it any more, or not yet.
        ``begun``: of which beginning; None: of the last one."""
        with self._lock:
            wanted = self.begun if begun is None else begun
            found = [
                f for f in self._fragments if f.begun == wanted and f.end_s > start_s and f.start_s < end_s
            ]
            if not found:
                return None
            data = b"".join([found[0].head, *(f.data for f in found)])
            return Cut(data, found[0].start_s, found[-1].end_s, found[0].key_s)

    def _close_group(self) -> None:
        """The muxer has written the group before the key frame that it was just given."""
        data, group = self._written.take(), self._group
        self._group = None
        with self._lock:
            if group is None:
                self._head = data
                return
            if not self._head:
                return
            self._closed += 1
            self._fragments.append(_Fragment(self._closed, data, self._head, self.begun, *group))
            self._bytes += len(data)
            self._kept_s += self._fragments[-1].seconds
            while len(self._fragments) > 1 and (
                self._bytes > self._max_bytes or self._kept_s - self._fragments[0].seconds > self.seconds
            ):
                gone = self._fragments.popleft()
                self._bytes -= len(gone.data)
                self._kept_s -= gone.seconds

    def _gone(self, why: str) -> None:
        self.trouble = why[:200]
        self._muxer = None


@runtime_checkable
class PacketSource(Protocol):
    """A source that can hand out its packets."""

    def keep_packets(self, ring: PacketRing) -> bool:
        """Give ``ring`` each packet as it came, from now on; of a source, before it is opened. False: it has none."""
        ...
