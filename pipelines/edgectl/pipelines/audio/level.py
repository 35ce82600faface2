"""Is there sound that can be understood? What a microphone or a recording lacks is said, and nothing else
changes.

Pure; time is the sample index. Everything is decided over stretches of a quarter of a second that begin at
sample 0 or after a gap, so block sizes change nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np

from edgectl.pipelines.audio.blocks import RATE, Samples

__all__ = ["STRETCH", "Loudness", "SoundCheck", "SoundFault"]

STRETCH = RATE // 4  # samples

SoundFault = Literal["channels_cancel", "clipped", "silent", "too_quiet"]
"""Channels of opposite sign take each other away; samples at full scale; not one bit of noise: muted,
unplugged or dead; speech, but so soft that its beginning may be missed."""

# Stretches in a row with evidence until it is said; the first of them that is due is said.
_NEEDED: dict[SoundFault, int] = {"channels_cancel": 4, "clipped": 4, "silent": 20, "too_quiet": 4}
# stretches in a row with evidence of the opposite until it is taken back
_CLEAR = 4
_STEP = 1 / 32768  # of 16 bits
# mean square (-80 dBFS) below which channels are too soft to compare
_FAINT = 1e-8
# of the power that independent channels would leave
_CANCEL = 0.1
# full scale, and the share of samples at it that speech never has
_FULL, _SHARE = 0.999, 0.02

# -30 dBFS: speech that is recorded well is louder
_QUIET_PEAK = 0.03
# sound so long ago still tells how loud speech is here
_HOLD_S = 10.0


class Loudness:
    """The loudest sample of the last ten seconds, and the gain that makes up for it."""

    def __init__(self, most_db: float) -> None:
        """``most_db``: at most so much gain is given."""
        self._most = 10 ** (most_db / 20)
        self._peaks: deque[tuple[int, float]] = deque()  # falling: only these can become the loudest

    def step(self, end: int, frame: Samples) -> None:
        """The samples before index ``end``."""
        peak = float(np.abs(frame).max(initial=0.0))
        while self._peaks and self._peaks[-1][1] <= peak:
            self._peaks.pop()
        self._peaks.append((end, peak))
        while self._peaks[0][0] <= end - _HOLD_S * RATE:
            self._peaks.popleft()

    @property
    def peak(self) -> float:
        return self._peaks[0][1] if self._peaks else 0.0

    @property
    def quiet(self) -> bool:
        """Nothing was as loud as speech that is recorded well."""
        return self.peak < _QUIET_PEAK

    @property
    def gain(self) -> float:
        """1 at normal levels; else what brings the loudest sample to half of full scale, within bounds."""
        return min(self._most, 0.5 / self.peak) if self.quiet and self.peak > 0 else 1.0


class SoundCheck:
    """Says when a fault has lasted, and when it is over."""

    def __init__(self) -> None:
        self.fault: SoundFault | None = None
        self._seen: dict[SoundFault, int] = dict.fromkeys(_NEEDED, 0)
        self._clear = 0

    def step(
        self, frame: Samples, unmixed: Samples | None, soft_speech: bool | None
    ) -> SoundFault | Literal["over"] | None:
        """One stretch. ``unmixed``: see :class:`AudioBlock`. ``soft_speech``: None where that cannot be told
        now.

        Returns a fault that is new, ``"over"``, or None for no change.
        """
        evidence: dict[SoundFault, bool | None] = {
            "channels_cancel": _cancels(frame, unmixed),
            "clipped": float((np.abs(frame) >= _FULL).mean()) > _SHARE,
            "silent": float(frame.max() - frame.min()) < 2.5 * _STEP
            and (unmixed is None or float(unmixed.mean()) < _FAINT),
            "too_quiet": soft_speech,
        }
        for fault, seen in evidence.items():
            if seen is not None:
                self._seen[fault] = self._seen[fault] + 1 if seen else 0
        if self.fault is None:
            self.fault = next(
                (fault for fault, needed in _NEEDED.items() if self._seen[fault] >= needed), None
            )
            self._clear = 0
            return self.fault
        if evidence[self.fault] is not None:
            self._clear = 0 if evidence[self.fault] else self._clear + 1
        if self._clear < _CLEAR:
            return None
        self.fault = None
        return "over"


def _cancels(frame: Samples, unmixed: Samples | None) -> bool | None:
    if unmixed is None:
        return False
    power = float(unmixed.mean(dtype=np.float64))
    return None if power < _FAINT else float(np.square(frame, dtype=np.float64).mean()) < _CANCEL * power
