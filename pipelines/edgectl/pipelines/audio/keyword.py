"""Keyword spotting: class scores of overlapping windows, and the trigger that turns them into single
detections."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Engine
from edgectl.pipelines.audio.blocks import RATE
from edgectl.pipelines.decoders import DecoderType, decoder_options

__all__ = ["DECODER", "Detection", "KeywordScores", "Trigger"]


class KeywordOptions(Config):
    softmax: bool = True
    """False: the graph ends in a softmax of its own."""


class KeywordScores:
    """Class probabilities of one feature window."""

    def __init__(self, engine: Engine, task: TaskSpec) -> None:
        if task.input.kind != "audio" or task.decode.kind != "keyword":
            raise ModelError(
                f"task {task.name!r} is not a keyword task",
                hint="build it with --task keyword or your own TOML",
            )
        self.audio = task.input
        self.labels = task.labels
        self._softmax = decoder_options(KeywordOptions, task).softmax
        self._name = task.input.tensor or engine.inputs[0].name
        self.engine = engine

    def __call__(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities float32 ``(C,)``. Raises :class:`EngineError` if the output does not fit the
        labels."""
        scores = next(iter(self.engine.run({self._name: tensor}).values())).ravel()
        if len(scores) != len(self.labels) or not np.isfinite(scores).all():
            raise EngineError(f"the keyword engine gave {len(scores)} scores for {len(self.labels)} labels")
        if self._softmax:
            scores = np.exp(scores - scores.max())
            scores = scores / scores.sum()
        return np.asarray(scores, dtype=np.float32)


DECODER = DecoderType("keyword", KeywordScores, "`[1, C]` class scores of a window of sound", KeywordOptions)


@dataclass(frozen=True)
class Detection:
    label: str
    score: float
    sample: int
    """Index after the newest sample that was heard when the trigger fired."""


class Trigger:
    """Pure: smoothed probability over ``smooth_s``, ``patience`` windows in a row above ``threshold``,
    then silence for ``refractory_s``. All times are audio time, so a slow machine does not change what is
    detected."""

    def __init__(
        self,
        labels: tuple[str, ...],
        background: tuple[str, ...],
        *,
        threshold: float = 0.8,
        smooth_s: float = 0.24,
        patience: int = 2,
        refractory_s: float = 1.0,
    ) -> None:
        self._labels = labels
        self._active = np.array([label not in background for label in labels])
        self._threshold, self._patience = threshold, patience
        self._smooth = round(smooth_s * RATE)
        self._refractory = round(refractory_s * RATE)
        self.reset()

    def reset(self) -> None:
        self._recent: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=1024)
        self._streak: tuple[int, int] = (-1, 0)
        self._deaf_until = 0

    def step(self, end: int, scores: NDArray[np.float32]) -> Detection | None:
        """One window that ends before sample ``end`` with probabilities ``(C,)``."""
        self._recent.append((end, scores))
        while self._recent[0][0] <= end - self._smooth and len(self._recent) > 1:
            self._recent.popleft()
        if end < self._deaf_until:
            return None
        mean = np.mean([s for _, s in self._recent], axis=0) * self._active
        best = int(mean.argmax())
        if mean[best] < self._threshold:
            self._streak = (-1, 0)
            return None
        label, count = self._streak
        self._streak = (best, count + 1 if label == best else 1)
        if self._streak[1] < self._patience:
            return None
        self._streak = (-1, 0)
        self._deaf_until = end + self._refractory
        return Detection(self._labels[best], float(mean[best]), end)
