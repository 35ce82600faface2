"""Which pictures of a decoder are whole, and when its packets are no longer meant for it. Pure: it looks
at what FFmpeg says."""

from __future__ import annotations

from collections import deque
from typing import Any

__all__ = ["Damage", "Doubt"]

_ONE_EACH = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
"""Codecs whose packets are one picture each."""
_BLIND_START = frozenset(
    {"mpeg4", "h263", "h263p", "h263i", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "flv1", "wmv1", "wmv2"}
)
"""Decoders that show grey pictures before the first key frame without a word; the others hold them back or
flag them."""
_MAX_BLIND = 600
"""Pictures after which a stream is taken to have no key frames at all (it refreshes bit by bit)."""
_MAX_SMEAR = 250
"""Pictures after which damage is believed to be gone from a stream without key frames."""
_MAX_BAD, _MAX_EMPTY = 12, 48
_LEAD_IN = 25
"""Packets before those in doubt, in which the old tables of a transport stream lie: they come every half
second at least."""


class Damage:
    """Counts and judges what one decoder makes of its packets.

    ``errors``: packets that gave no picture. ``corrupt``: pictures that FFmpeg flags, that are built on a
    damaged key frame (up to the next clean one: FFmpeg flags the first alone), or that come before the first
    key frame. Damage in other pictures stays local and is left out only where it is flagged: to look away for
    longer would be worse.
    """

    def __init__(self, codec: str) -> None:
        self.errors = self.corrupt = 0
        self._one_each = codec in _ONE_EACH
        self._has_begun = codec not in _BLIND_START
        self._shown = 0
        # pictures that packets without an error still stand for
        self._owed = 0
        self._smear_left = 0
        self._smear_from: int | None = None

    def packet(self, packet: Any, pictures: int, failed: bool) -> None:
        """A packet was decoded, or not. The empty packet at the end may give what was held back, and
        nothing else is owed then."""
        self.errors += failed
        self._owed += bool(packet.size and not failed) - pictures
        if failed and packet.is_keyframe:
            self._smear(packet.pts)
        hurt = self.errors + self.corrupt > 0
        if not packet.size and self._owed > 0 and hurt and self._one_each:
            # the decoder swallowed them: what they are built on is lost
            self.errors += self._owed

    def whole(self, picture: Any) -> bool:
        """Whether the next picture may be shown; it is counted if not."""
        self._shown += 1
        self._has_begun = self._has_begun or bool(picture.key_frame) or self._shown > _MAX_BLIND
        whole = not self._smeared(picture) and self._has_begun
        self.corrupt += not whole
        return whole

    def _smear(self, pts: int | None) -> None:
        """The key frame of ``pts`` is lost or damaged."""
        self._smear_left, self._smear_from = _MAX_SMEAR, pts

    def _smeared(self, picture: Any) -> bool:
        if picture.is_corrupt:
            if picture.key_frame:
                self._smear(picture.pts)
            return True
        if not self._smear_left:
            return False
        if picture.pts is not None and self._smear_from is not None and picture.pts < self._smear_from:
            return False
        self._smear_left = 0 if picture.key_frame else self._smear_left - 1
        return self._smear_left > 0


class Doubt:
    """Packets in a row that a decoder makes nothing of, and where they lie: a transport stream may have
    gone over to another codec."""

    def __init__(self) -> None:
        self.bad = 0
        """Packets in a row that raised."""
        self._empty = 0
        self._places: deque[int | None] = deque(maxlen=_LEAD_IN + _MAX_EMPTY)

    def packet(self, packet: Any, pictures: int, failed: bool) -> bool:
        """Whether it is time to look what these packets are: after a while, and at the end of the file."""
        self._places.append(packet.pos)
        if not packet.size:
            return bool(self.bad or self._empty)
        self._empty = 0 if pictures else self._empty + 1
        self.bad = 0 if pictures else self.bad + failed
        return (failed and self.bad == _MAX_BAD) or self._empty == _MAX_EMPTY

    @property
    def places(self) -> list[int]:
        """Bytes of the file where the last packets lie, with some that were good."""
        return [p for p in self._places if p is not None]
