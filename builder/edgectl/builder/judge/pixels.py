"""What each pixel is by the float model, as far as it is sure, and how many of these another model names alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import make_reader
from edgectl.pipelines.video.class_map import ClassMap
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["PixelTruth", "class_decoder"]


def class_decoder(task: TaskSpec) -> Callable[[Outputs, LetterboxMeta], ClassMap]:
    """Raises :class:`ModelError` for a task that does not say what each pixel is."""
    decoder: Callable[[Outputs, LetterboxMeta], ClassMap] = make_reader("segmenter", task, task)
    return decoder


@dataclass(frozen=True)
class PixelTruth:
    """One picture."""

    classes: NDArray[np.uint8]  # (h, w)
    sure: NDArray[np.bool_]  # (h, w): of the same class in noisy copies of the picture

    @classmethod
    def of(cls, seen: ClassMap, copies: Sequence[ClassMap]) -> PixelTruth:
        sure = np.ones(seen.classes.shape, np.bool_)
        for copy in copies:
            sure &= copy.classes == seen.classes
        return cls(seen.classes, sure)

    def agreement(self, found: ClassMap) -> float | None:
        """0..1: how many of the pixels that float is sure of are of the same class. None: it is sure of none."""
        n = int(self.sure.sum())
        return float((found.classes == self.classes)[self.sure].sum() / n) if n else None
