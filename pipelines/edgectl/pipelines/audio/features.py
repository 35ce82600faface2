"""Audio features, streamed. The same samples give bit-identical features for any chunking, and equal to the
offline ones.

That holds by construction: a frame is always computed alone, from the same samples, by the same operations.
Left out: Kaldi's povey window, dither and pre-emphasis; no model here was trained with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import DataError
from edgectl.core.task import AudioInput, FeatureSpec
from edgectl.pipelines.audio.blocks import AudioBlock, Reframer, Samples

__all__ = ["FeatureWindow", "mel_filters", "windows"]

Tensor = NDArray[np.float32]


class FeatureWindow:
    """Turns a stream into model inputs: one every ``every`` frames once ``spec.frames`` frames are there.

    >>> window = FeatureWindow(task.input, every=4)
    >>> for end, tensor in window.push(block): ...      # end: sample index after the newest sample used
    """

    def __init__(self, audio: AudioInput, *, every: int = 1) -> None:
        self._spec = audio.features
        self._every = every
        bins = self._spec.coefficients if self._spec.kind == "mfcc" else self._spec.mels
        self._shape = audio.shape or (
            (1, self._spec.samples) if self._spec.kind == "waveform" else (1, self._spec.frames, bins)
        )
        if self._spec.kind == "waveform":
            self._reframer = Reframer(self._spec.window, self._spec.context)
        else:
            # Frames overlap: the samples of a window beyond one hop are the context of the next.
            self._reframer = Reframer(self._spec.hop, self._spec.window - self._spec.hop, silence_first=False)
            self._taper = np.hanning(self._spec.window + 1)[:-1]
            self._filters = mel_filters(self._spec, audio.rate)
            self._dct = _dct(self._spec)
        self._fresh = every
        self._reset()

    def push(self, block: AudioBlock) -> list[tuple[int, Tensor]]:
        """Inputs completed by this block, as ``(end sample index, float32 tensor)``. A gap starts over."""
        broken, frames = self._reframer.push(block)
        if broken:
            self._reset()
        ready = []
        for end, frame in frames:
            if self._spec.kind == "waveform":
                ready.append(
                    (end, self._normalised(frame, float(np.abs(frame).max(initial=0.0))).reshape(self._shape))
                )
                continue
            self._energies.append(self._mel(frame))
            self._peaks.append(float(np.abs(frame).max()))
            self._fresh += 1
            if len(self._energies) == self._spec.frames and self._fresh >= self._every:
                self._fresh = 0
                ready.append((end, self._assemble()))
        return ready

    def _reset(self) -> None:
        self._energies: deque[NDArray[np.float64]] = deque(maxlen=self._spec.frames)
        self._peaks: deque[float] = deque(maxlen=self._spec.frames)
        self._fresh = self._every

    def _mel(self, frame: Samples) -> NDArray[np.float64]:
        spectrum = np.fft.rfft(frame * self._taper, self._spec.fft)
        magnitude = np.abs(spectrum)
        return np.asarray(self._filters @ (magnitude if self._spec.spectrum == "magnitude" else magnitude**2))

    def _assemble(self) -> Tensor:
        energies = np.stack(self._energies)
        peak = max(self._peaks)
        if self._spec.peak_normalise and peak > 0:
            # The spectrum is linear in the samples, so scaling them afterwards is scaling it.
            energies = energies / (peak if self._spec.spectrum == "magnitude" else peak**2)
        features = np.log(energies + self._spec.log_floor)
        if self._spec.kind == "mfcc":
            features = features @ self._dct
        return np.ascontiguousarray(features, dtype=np.float32).reshape(self._shape)

    def _normalised(self, frame: Samples, peak: float) -> Tensor:
        return np.asarray(frame / peak if self._spec.peak_normalise and peak > 0 else frame, dtype=np.float32)


def windows(audio: AudioInput, samples: Samples, *, every: int = 1) -> Iterator[Tensor]:
    """Model inputs of a whole recording: float32 mono samples in ±1 at ``audio.rate``.

    A recording shorter than one input is padded with zeros to one. Raises :class:`DataError` for an empty
    one.
    """
    if not len(samples):
        raise DataError("the recording is empty", hint="give a WAV file with sound in it")
    needed = audio.features.samples
    if len(samples) < needed:
        samples = np.pad(samples, (0, needed - len(samples)))
    for _, tensor in FeatureWindow(audio, every=every).push(
        AudioBlock(0, np.asarray(samples, np.float32), 0)
    ):
        yield tensor


def mel_filters(spec: FeatureSpec, rate: int) -> NDArray[np.float64]:
    """Triangular filters ``(mels, fft // 2 + 1)`` on the HTK mel scale, unnormalised
    (``tf.signal.linear_to_mel_weight_matrix``)."""

    def mel(hertz: NDArray[np.floating[Any]] | float) -> NDArray[np.float64]:
        return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0), dtype=np.float64)

    bins = mel(np.arange(spec.fft // 2 + 1) * (rate / spec.fft))
    edges = np.linspace(mel(spec.mel_low), mel(min(spec.mel_high, rate / 2)), spec.mels + 2)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.maximum(0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    filters[:, 0] = 0.0  # the DC bin belongs to no filter
    return np.asarray(filters)


def _dct(spec: FeatureSpec) -> NDArray[np.float64]:
    n, k = np.arange(spec.mels)[:, None], np.arange(spec.coefficients)[None, :]
    return np.asarray(np.cos(np.pi * k * (2 * n + 1) / (2 * spec.mels)) * np.sqrt(2.0 / spec.mels))
