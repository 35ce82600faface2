"""Models that name what is in a picture: one score a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import expect, only_output

__all__ = ["DECODER", "ClassProbabilities", "Classify", "ClassifyOptions"]

_SUM = 0.02
"""So far from 1 the sum of what a graph calls probabilities may be: they come in 8 bits, too."""


class ClassifyOptions(Config):
    softmax: bool = True
    """False: the graph ends in a softmax of its own."""


@dataclass(frozen=True, slots=True)
class ClassProbabilities:
    """Of one picture."""

    p: NDArray[np.float32]
    """(C,), 0..1, their sum is 1. ``p[i]`` is that of label ``i``."""

    @property
    def best(self) -> int:
        """The index of the most probable label; of equals the first."""
        return int(self.p.argmax())

    def top(self, most: int) -> list[tuple[int, float]]:
        """Label index and probability of the ``most`` most probable, best first."""
        order = np.argsort(-self.p, kind="stable")[:most]
        return [(int(i), float(self.p[i])) for i in order]


class Classify:
    """``[1, C]`` (or ``[1, C, 1, 1]``): logits, or with ``softmax = false`` probabilities."""

    def __init__(self, task: TaskSpec) -> None:
        self._softmax = decoder_options(ClassifyOptions, task).softmax
        self._classes = len(task.labels)

    def __call__(self, outputs: Outputs) -> ClassProbabilities:
        """Raises :class:`ModelError` for shapes that do not fit the task, and for values that are no
        probabilities where the task says so; :class:`EngineError` for values that are not finite."""
        scores = only_output(outputs)
        if scores.ndim > 2 and scores.size == scores.shape[0] * scores.shape[1]:
            scores = scores.reshape(scores.shape[:2])
        score = expect(scores, (1, self._classes), "class scores output")[0]
        if not np.isfinite(score).all():
            raise EngineError(
                "the engine's output has values that are not finite",
                hint="the engine is broken; roll back to the last one",
            )
        if self._softmax:
            raised = np.exp(score - score.max())
            return ClassProbabilities(raised / raised.sum())
        if score.min() < -_SUM or abs(float(score.sum()) - 1) > _SUM:
            raise ModelError(
                f"the model's scores are no probabilities: they lie between {score.min():.3g} and {score.max():.3g}, "
                f"their sum is {score.sum():.3g}",
                hint="build it with decode.softmax = true in the task",
            )
        return ClassProbabilities(np.clip(score, 0, 1))


DECODER = DecoderType(
    "classifier",
    Classify,
    "`[1, C]` class scores of a whole picture (ResNet, MobileNet, EfficientNet, YOLO-cls with `softmax = false`)",
    ClassifyOptions,
)
