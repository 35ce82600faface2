"""What a student must get right: every output channel; of detections, how sure each place is, and boxes
and classes where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgectl.core.task import DecodeSpec

__all__ = ["Loss"]

# weight of a box and a class where there is nothing, against a place where the teacher is certain
_BACKGROUND = 0.01
# of the mean variance: channels that hardly vary do not count for more than that
_FLAT = 1e-3
_TINY = 1e-6


@dataclass(frozen=True)
class _Parts:
    """Where an output has what, along its channels. ``scores``: how sure a place is. ``classes``: beside them, shares
    that add up to one, or (``gated``) probabilities each of its own, which a score is multiplied with."""

    scores: slice
    box: slice
    classes: slice | None = None
    gated: bool = False


_PARTS = {
    "fastestdet": _Parts(slice(0, 1), slice(1, 5), slice(5, None)),
    "yolov8": _Parts(slice(4, None), slice(0, 4)),
    "yolox": _Parts(slice(4, 5), slice(0, 4), slice(5, None), gated=True),
}


class Loss:
    """Distance of a student's outputs from the teacher's, label-free; ``examples``: outputs of the teacher.

    In general the mean square error of each output channel in units of its variance over ``examples``. Where
    ``decode`` says that an output holds detections (``fastestdet``, ``yolov8``, ``yolox``): per detection, the cross
    entropy of the scores everywhere; and, weighted by the teacher's score, the squared error of the boxes in
    those units and the divergence of the classes.
    """

    def __init__(self, examples: Sequence[Tensor], decode: DecodeSpec | None) -> None:
        self._kind = decode.kind if decode is not None and len(examples) == 1 else "none"
        self._variance = []
        for e in examples:
            others = [i for i in range(e.ndim) if i != _channel_axis(e)]
            variance = e.var(others, unbiased=False, keepdim=True)
            self._variance.append(variance.clamp(min=max(1e-12, _FLAT * float(variance.mean()))))

    def __call__(self, got: Sequence[Tensor], want: Sequence[Tensor]) -> Tensor:
        if self._kind not in _PARTS:
            return torch.stack(
                [((g - w).square() / v).mean() for g, w, v in zip(got, want, self._variance, strict=True)]
            ).sum()
        parts = _PARTS[self._kind]
        axis = _channel_axis(want[0])
        g, w, v = (x[0].movedim(axis, 1) for x in (got, want, self._variance))
        sure = w[:, parts.scores].clamp(0, 1)
        certain = sure.amax(1, keepdim=True)
        if parts.gated:
            certain = certain * w[:, parts.classes].amax(1, keepdim=True).clamp(0, 1)
        weight = certain.clamp(min=_BACKGROUND)
        total = F.binary_cross_entropy(g[:, parts.scores].clamp(_TINY, 1 - _TINY), sure, reduction="sum")
        total = total + (weight * (g[:, parts.box] - w[:, parts.box]).square() / v[:, parts.box]).sum()
        if parts.gated:
            # each class has a sigmoid of its own
            classes, truth = g[:, parts.classes].clamp(_TINY, 1 - _TINY), w[:, parts.classes].clamp(0, 1)
            total = total + (weight * F.binary_cross_entropy(classes, truth, reduction="none")).sum()
        elif parts.classes is not None:
            classes, truth = g[:, parts.classes].clamp(min=_TINY), w[:, parts.classes].clamp(min=_TINY)
            total = total + (weight * truth * (truth.log() - classes.log())).sum()
        return total / sure.sum().clamp(min=1.0)


def _channel_axis(output: Tensor) -> int:
    """``[N, C, …]``, or ``[N, places, C]`` where there are more places than channels."""
    return 2 if output.ndim == 3 and output.shape[2] < output.shape[1] else min(1, output.ndim - 1)
