"""What a student must get right: every output channel; of detections, how sure each place is, and boxes
and classes where there is one."""

from __future__ import annotations

from collections.abc import Sequence

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


class Loss:
    """Distance of a student's outputs from the teacher's, label-free; ``examples``: outputs of the teacher.

    In general the mean square error of each output channel in units of its variance over ``examples``. Where
    ``decode`` says that an output holds detections (``fastestdet``, ``yolov8``): per detection, the cross
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
        if self._kind not in ("fastestdet", "yolov8"):
            return torch.stack(
                [((g - w).square() / v).mean() for g, w, v in zip(got, want, self._variance, strict=True)]
            ).sum()
        [g], [w], [v] = got, want, self._variance
        first = 1 if self._kind == "fastestdet" else 0  # of the box
        scores = slice(0, 1) if first else slice(4, None)
        sure = w[:, scores].clamp(0, 1)
        weight = sure.amax(1, keepdim=True).clamp(min=_BACKGROUND)
        box = slice(first, first + 4)
        total = F.binary_cross_entropy(g[:, scores].clamp(_TINY, 1 - _TINY), sure, reduction="sum")
        total = total + (weight * (g[:, box] - w[:, box]).square() / v[:, box]).sum()
        if first:
            classes, truth = g[:, 5:].clamp(min=_TINY), w[:, 5:].clamp(min=_TINY)
            total = total + (weight * truth * (truth.log() - classes.log())).sum()
        return total / sure.sum().clamp(min=1.0)


def _channel_axis(output: Tensor) -> int:
    """``[N, C, …]``, or ``[N, places, C]`` where there are more places than channels."""
    return 2 if output.ndim == 3 and output.shape[2] < output.shape[1] else min(1, output.ndim - 1)
