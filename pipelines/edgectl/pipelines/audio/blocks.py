"""Audio as blocks that know where they are in time.

Positions are 64-bit sample indices since the stream began (16 kHz reaches 2^31 after 37 hours, where 32-bit
counters of other systems end). Wall time is added at the edge only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.audio.clock import ClockFit

__all__ = ["BLOCK", "RATE", "AudioBlock", "AudioSource", "Reframer"]

RATE = 16_000  # Hz, of everything after a source
# samples that a source gives at a time: 16 ms, which divides the windows of 512 and 1280
BLOCK = 256

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class AudioBlock:
    """``data`` float32 ``(n,)`` in ±1, mono, 16 kHz. ``first == previous.first + previous.n + gap`` always
    holds."""

    first: int
    data: Samples
    captured_ns: int
    """CLOCK_MONOTONIC when the last sample of the block was available."""
    gap: int = 0
    """Samples known lost just before this block."""
    outage: str | None = None
    """Reason code while a live source gives nothing (:class:`AudioSource`); such a block has no samples."""
    clock: ClockFit | None = None
    """When the samples of a live source were taken; None: they have no time of day."""
    unmixed: Samples | None = None
    """float32 ``(n,)``, where several channels were mixed: the square that each sample would have on
    average if the channels had nothing in common. Much more of it than of ``data**2`` means that the
    channels cancel each other."""


class AudioSource(Protocol):
    """A microphone, a file or a synthetic speaker. ``read`` belongs to one thread; ``close`` may come from
    another."""

    uri: str
    live: bool
    seconds: float | None
    """How long it is, if that can be told."""
    counters: dict[str, int]
    """What went wrong so far, by name: ``source_restarts``, ``repaired_samples`` …"""

    def read(self) -> AudioBlock | None:
        """The next block; None: the stream has ended. Raises :class:`SourceError`, :class:`DataError`.

        A live source that gives nothing answers within a second all the same, with a block without samples,
        whose ``outage`` says why once that is known (``timeout``, ``ended``, ``not_found``, ``busy``,
        ``overrun``, ``auth``).
        """
        ...

    def close(self) -> None:
        """Stop whatever reads, free what is held. Safe to call twice."""
        ...


class Reframer:
    """Cuts a stream of blocks into frames of ``size`` new samples after ``context`` old ones, whatever the
    block sizes.

    With ``silence_first`` the context of the first frame, and of the first one after a gap, is zeros;
    otherwise it is the first samples themselves, so that frame ``k`` starts at sample ``k·size`` as it would
    in a file.
    """

    def __init__(self, size: int, context: int = 0, *, silence_first: bool = True) -> None:
        self.size = size
        self.context = context
        self._lead = np.zeros(context if silence_first else 0, dtype=np.float32)
        self._buffer = self._lead
        self._end = 0

    def push(self, block: AudioBlock) -> tuple[bool, list[tuple[int, Samples]]]:
        """``(discontinuity, [(end sample index, frame of context + size samples), …])``.

        ``discontinuity`` is True if samples were lost before this block: the rest of the old frame was
        dropped and the caller must reset its state before using these frames.
        """
        broken = block.gap > 0
        if broken:
            self._buffer = self._lead
        self._buffer = np.concatenate([self._buffer, block.data])
        self._end = block.first + len(block.data)
        frames = []
        while len(self._buffer) >= self.context + self.size:
            frame = self._buffer[: self.context + self.size]
            left = len(self._buffer) - (self.context + self.size)
            frames.append((self._end - left, frame))
            self._buffer = self._buffer[self.size :]
        return broken, frames
