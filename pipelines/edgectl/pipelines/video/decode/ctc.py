"""Models that read a line of text: scores of characters along the picture, decoded greedily (connectionist temporal
classification, Graves et al., ICML 2006: best path)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.schema import Config
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import expect, only_output

__all__ = ["DECODER", "Ctc", "CtcOptions", "Reading"]

_MOST_STEPS = 1024
_SUM = 0.02


class CtcOptions(Config):
    layout: Literal["ntc", "tnc", "nct"] = "ntc"
    """Order of the output's axes: n is 1, t goes along the line, c are the characters."""
    blank: Literal["first", "last"] = "first"
    """Where the score of "no character" stands; the labels are the characters without it."""
    softmax: bool = True
    """False: the graph ends in a softmax of its own."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a line says."""

    text: str
    score: float
    """0..1, the mean probability of its characters; 0 where there are none."""


class Ctc:
    """``[1, T, C + 1]``, ``[T, 1, C + 1]`` or ``[1, C + 1, T]`` for C labels: the best character of each step, repeats
    merged, blanks left out."""

    def __init__(self, task: TaskSpec) -> None:
        self._options = decoder_options(CtcOptions, task)
        self._labels = task.labels

    def __call__(self, outputs: Outputs) -> Reading:
        """Raises :class:`ModelError` for shapes that do not fit the task, and for values that are no probabilities
        where the task says so; :class:`EngineError` for values that are not finite."""
        p = self._probabilities(only_output(outputs))
        blank = 0 if self._options.blank == "first" else len(self._labels)
        best = p.argmax(axis=1)
        kept = best != blank
        kept[1:] &= best[1:] != best[:-1]
        steps = np.nonzero(kept)[0]
        first = 1 if blank == 0 else 0
        text = "".join(self._labels[int(i) - first] for i in best[steps])
        return Reading(text, float(p[steps, best[steps]].mean()) if len(steps) else 0.0)

    def _probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, C + 1)."""
        layout, c = self._options.layout, len(self._labels) + 1
        shape = {"ntc": (1, None, c), "tnc": (None, 1, c), "nct": (1, c, None)}[layout]
        line = expect(scores, shape, f"character scores output ({layout})")
        line = line[:, 0] if layout == "tnc" else line[0].T if layout == "nct" else line[0]
        if len(line) > _MOST_STEPS:
            raise ModelError(f"the model reads {len(line)} steps, {_MOST_STEPS} are allowed")
        if not np.isfinite(line).all():
            raise EngineError(
                "the engine's output has values that are not finite",
                hint="the engine is broken; roll back to the last one",
            )
        if self._options.softmax:
            raised = np.exp(line - line.max(axis=1, keepdims=True))
            out: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
            return out
        if len(line) and (line.min() < -_SUM or np.abs(line.sum(axis=1) - 1).max() > _SUM):
            raise ModelError(
                "the model's scores are no probabilities: those of a step do not add up to 1",
                hint="build it with decode.softmax = true in the task",
            )
        return np.clip(line, 0, 1)


DECODER = DecoderType(
    "reader",
    Ctc,
    "`[1, T, C + 1]` scores of characters along a line of text, decoded greedily by CTC (CRNN, LPRNet, PaddleOCR's "
    "recognition)",
    CtcOptions,
)
