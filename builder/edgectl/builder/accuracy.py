"""How good a candidate is on a slice of samples, by the task's metric; the float model's own outputs are the reference.

``detection``: AP at IoU 0.5 of the candidate's detections, the float model's detections being the truth. ``top1``: how often
the arg max agrees. ``sqnr`` (and where the float model detects nothing): cosine, and signal to quantization noise in dB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.data import Sample
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Engine, Outputs
from edgectl.pipelines.decode import make_decoder
from edgectl.pipelines.decode.base import Detections

__all__ = ["Accuracy", "Judge", "average_precision"]

_IOU = 0.5
_LOW_SCORE = 0.25  # of the task's threshold: how far below it candidate boxes still enter the precision–recall curve


@dataclass(frozen=True)
class Accuracy:
    """``drop`` (0 = like float, 1 = all lost) is what the budget bounds; ``values`` are the figures behind it."""

    drop: float
    values: dict[str, float]


class Judge:
    """The float model's answers on a slice, computed once; any candidate is then judged against them."""

    def __init__(self, task: TaskSpec, samples: Sequence[Sample], reference: Engine) -> None:
        self._task, self._samples = task, samples
        self._outputs = [reference.run(s.feeds) for s in samples]
        self._truth: list[Detections] | None = None
        if task.metric == "detection":
            decode = make_decoder(task)
            truth = []
            for outputs, s in zip(self._outputs, samples, strict=True):
                if s.meta is None:  # from an .npz: nothing says where the picture lies
                    return
                truth.append(decode(outputs, s.meta))
            if any(len(t) for t in truth):
                self._truth = truth

    def judge(self, candidate: Engine) -> Accuracy:
        """Run the candidate over the slice. A run that fails or is not finite is a :class:`ModelError`."""
        try:
            outputs = [candidate.run(s.feeds) for s in self._samples]
        except EdgectlError as e:
            raise ModelError(f"the candidate does not run: {e.message}") from e
        if any(not np.isfinite(o).all() for out in outputs for o in out.values() if o.dtype.kind == "f"):
            return Accuracy(1.0, {"finite": 0.0})
        values = self._signal(outputs)
        if self._truth is not None:
            low = self._task.decode.model_copy(update={"score": self._task.decode.score * _LOW_SCORE})
            decode = make_decoder(self._task.model_copy(update={"decode": low}))
            found = [decode(o, s.meta) for o, s in zip(outputs, self._samples, strict=True) if s.meta is not None]
            values["ap50_vs_float"] = round(average_precision(self._truth, found), 6)
            return Accuracy(round(1 - values["ap50_vs_float"], 6), values)
        if self._task.metric == "top1":
            same = [_argmax(a) == _argmax(b) for a, b in zip(self._outputs, outputs, strict=True)]
            values["top1_agreement"] = float(np.mean(same))
            return Accuracy(round(1 - values["top1_agreement"], 6), values)
        return Accuracy(round(max(0.0, 1 - values["cosine"]), 6), values)

    def _signal(self, outputs: list[Outputs]) -> dict[str, float]:
        """Cosine (of the worst output, over all samples) and SQNR in dB (of the worst output)."""
        cosines, ratios = [], []
        for name in self._outputs[0]:
            a = np.concatenate([o[name].astype(np.float64).ravel() for o in self._outputs])
            b = np.concatenate([o[name].astype(np.float64).ravel() for o in outputs])
            norm = float(np.linalg.norm(a) * np.linalg.norm(b))
            cosines.append(float(a @ b) / norm if norm else float(np.array_equal(a, b)))
            noise = float(np.square(a - b).sum())
            ratios.append(10 * math.log10(float(np.square(a).sum()) / noise) if noise and np.any(a) else 120.0)
        return {"cosine": round(min(cosines), 6), "sqnr_db": round(min(120.0, *ratios), 2)}


def average_precision(truth: Sequence[Detections], found: Sequence[Detections]) -> float:
    """AP at IoU 0.5 (area under the monotone precision–recall curve), all classes pooled; a hit must have the right class.

    Pooled, because the float model's own detections are the truth: a mean over classes would let a class that it saw once, by
    mistake, weigh as much as all people together.
    """
    total = sum(len(t) for t in truth)
    if not total:
        return 1.0
    rows = [row for t, f in zip(truth, found, strict=True) for row in _hits(t, f)]
    rows.sort(key=lambda r: -r[0])
    hits = np.cumsum([hit for _, hit in rows])
    recall, precision = hits / total, hits / np.arange(1, len(rows) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _hits(truth: Detections, found: Detections) -> list[tuple[float, bool]]:
    """(score, is a hit) for each detection of one picture; each box of the truth is found once."""
    free = np.ones(len(truth), bool)
    rows = []
    for i in np.argsort(-found.score, kind="stable"):
        overlaps = np.where(free & (truth.cls == found.cls[i]), _iou(found.xyxy[i], truth.xyxy), 0.0)
        best = int(overlaps.argmax()) if len(overlaps) else -1
        hit = best >= 0 and bool(overlaps[best] >= _IOU)
        if hit:
            free[best] = False
        rows.append((float(found.score[i]), hit))
    return rows


def _iou(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    left, top = np.maximum(box[0], boxes[:, 0]), np.maximum(box[1], boxes[:, 1])
    right, bottom = np.minimum(box[2], boxes[:, 2]), np.minimum(box[3], boxes[:, 3])
    shared = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None)
    area = (box[2] - box[0]) * (box[3] - box[1]) + (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.asarray(shared / np.maximum(area - shared, 1e-9), np.float64)


def _argmax(outputs: Outputs) -> int:
    return int(np.argmax(next(iter(outputs.values()))))
