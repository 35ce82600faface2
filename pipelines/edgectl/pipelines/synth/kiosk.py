"""``synth://kiosk``: a voice kiosk. Words spoken by espeak-ng at random but reproducible times, over station
noise.

The word clips are package data, made by ``models/train_keyword.py`` with voices that the keyword net never
heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import av
import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import DataError
from edgectl.pipelines.synth.scene import arrivals

__all__ = ["KioskScene", "Word", "load_words"]

RATE = 16_000
_EVERY_S = 2.5


@dataclass(frozen=True)
class Word:
    """One spoken word: samples ``first`` up to, not including, ``last``."""

    label: str
    first: int
    last: int


class KioskScene:
    """A pure function of (seed, sample index)."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._words = load_words()

    def render(self, first: int, n: int) -> NDArray[np.float32]:
        """Samples ``first`` … ``first + n``, float32 in ±1."""
        out = self._noise(first, n)
        for word, clip, gain in self._spoken((first + n) / RATE):
            a, b = max(first, word.first), min(first + n, word.last)
            if a < b:
                out[a - first : b - first] += gain * clip[a - word.first : b - word.first]
        return np.clip(out, -1.0, 1.0)

    def truth(self, last: int) -> list[Word]:
        """Every word that has been spoken to its end before sample ``last``, oldest first."""
        words = []
        for slot in range(int(last / RATE // _EVERY_S) + 1):
            words += [w for w, _, _ in self._spoken((slot + 1) * _EVERY_S, longest_s=0.0) if w.last <= last]
        return sorted(set(words), key=lambda w: w.first)

    def _spoken(self, t: float, *, longest_s: float = 5.0) -> list[tuple[Word, NDArray[np.float32], float]]:
        found = []
        for _, start, rng in arrivals(self.seed, 40, t, every_s=_EVERY_S, chance=0.7, longest_s=longest_s):
            label, clip = self._words[int(rng.integers(len(self._words)))]
            first = int(start * RATE)
            found.append((Word(label, first, first + len(clip)), clip, float(rng.uniform(0.25, 0.9))))
        return found

    def _noise(self, first: int, n: int) -> NDArray[np.float32]:
        # One second at a time, so that any stretch of samples is the same however it is asked for.
        seconds = range(first // RATE, (first + n - 1) // RATE + 1)
        whole = np.concatenate(
            [np.random.default_rng((self.seed, 41, s)).normal(0, 0.006, RATE) for s in seconds]
        )
        return np.asarray(whole[first - seconds.start * RATE :][:n], dtype=np.float32)


@cache
def load_words() -> tuple[tuple[str, NDArray[np.float32]], ...]:
    """The shipped clips as ``(label, float32 samples in ±1 at 16 kHz)``, in name order."""
    folder = files("edgectl.pipelines.synth") / "words"
    words = []
    for item in sorted(folder.iterdir(), key=lambda p: p.name):
        if item.name.endswith(".flac"):
            with item.open("rb") as f, av.open(f) as container:
                frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
            clip = np.asarray(np.concatenate(frames) / 32768, dtype=np.float32)
            words.append((item.name.rsplit("-", 1)[0], clip))
    if not words:
        raise DataError(
            "this installation has no spoken words for synth://kiosk", hint="install edgectl again"
        )
    return tuple(words)
