"""What the pictures of a source tell about the source: another size, a picture that stands still, nothing
but damage. Pure."""

from __future__ import annotations

from edgectl.pipelines.stream.frame import Frame, Notice

__all__ = ["PictureWatch"]

_FROZEN_S = 10.0
"""A picture that is the same to the bit for so long comes from no living sensor: even a dark and empty
scene has noise."""
_BLIND_S = 2.0
"""Nothing but damaged frames for so long is an outage; less is a count."""
_EVERY_ROW = 8
"""Of the luma, compared."""


class PictureWatch:
    """One per stream. Feed it what arrives, in order."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._rows: bytes | None = None
        self._still_since_s = 0.0
        self._frozen = False
        self._good_s: float | None = None
        self._damaged = self._damaged_at_good = 0

    @property
    def frozen(self) -> bool:
        """The picture stands still now."""
        return self._frozen

    def damaged(self, total: int) -> None:
        """How many frames were damaged so far."""
        self._damaged = total

    def blind(self, now_s: float) -> bool:
        """Whether nothing but damaged frames has come for too long."""
        hurt = self._damaged > self._damaged_at_good
        return self._good_s is not None and hurt and now_s - self._good_s >= _BLIND_S

    def good(self, frame: Frame) -> tuple[Notice, ...]:
        """What is to be told before a whole frame."""
        found = (*self._sized(frame), *self._moved(frame))
        self._good_s = frame.stamp.t_s
        self._damaged_at_good = self._damaged
        return found

    def _sized(self, frame: Frame) -> tuple[Notice, ...]:
        before, self._size = self._size, (frame.width, frame.height)
        if before in (None, self._size):
            return ()
        assert before is not None
        return (Notice("picture", "size_changed", data={"from": list(before), "to": list(self._size)}),)

    def _moved(self, frame: Frame) -> tuple[Notice, ...]:
        t = frame.stamp.t_s
        rows = frame.planes[0][::_EVERY_ROW].tobytes()
        same = rows == self._rows
        self._rows = rows
        if not same:
            self._still_since_s = t
            if self._frozen:
                self._frozen = False
                return (Notice("picture", "frozen", True, "end"),)
        elif not self._frozen and t - self._still_since_s >= _FROZEN_S:
            self._frozen = True
            return (
                Notice("picture", "frozen", False, "start", {"still_s": round(t - self._still_since_s, 3)}),
            )
        return ()
