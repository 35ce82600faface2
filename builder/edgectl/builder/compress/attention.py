"""What a student must get right: every output channel, and above all where the teacher reports a detection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgectl.core.task import DecodeSpec

__all__ = ["Loss", "confidence"]

_BACKGROUND = 0.02  # weight of a place where there is nothing, against one where the teacher is certain
_FLAT = 1e-3  # of the mean variance: channels that hardly vary do not count for more than that


def confidence(decode: DecodeSpec | None, outputs: Sequence[Tensor]) -> list[Tensor | None]:
    """Per output, how sure the teacher is of a detection at each place (0..1, broadcasts over the channels); None where nothing says so."""
    if decode is None or len(outputs) != 1:
        return [None] * len(outputs)
    [o] = outputs
    if decode.kind == "fastestdet":
        return [o[:, :1].clamp(0, 1)]
    if decode.kind == "yolov8":
        return [o[:, 4:].amax(1, keepdim=True).clamp(0, 1)]
    if decode.kind == "yolox":
        return [torch.sigmoid(o[..., 4:5])]
    return [None]


class Loss:
    """Mean square error of each output channel in units of its variance over ``examples``; see the module."""

    def __init__(self, examples: Sequence[Tensor], decode: DecodeSpec | None) -> None:
        self._decode = decode
        self._variance = []
        for e in examples:
            others = [i for i in range(e.ndim) if i != _channel_axis(e)]
            variance = e.var(others, unbiased=False, keepdim=True)
            self._variance.append(variance.clamp(min=max(1e-12, _FLAT * float(variance.mean()))))

    def plain(self, got: Sequence[Tensor], want: Sequence[Tensor]) -> Tensor:
        return torch.stack([((g - w).square() / v).mean() for g, w, v in zip(got, want, self._variance, strict=True)]).sum()

    def __call__(self, got: Sequence[Tensor], want: Sequence[Tensor]) -> Tensor:
        total = self.plain(got, want)
        for g, w, v, sure in zip(got, want, self._variance, confidence(self._decode, want), strict=True):
            if sure is not None:
                weight = sure.clamp(min=_BACKGROUND)
                total = total + (weight / weight.mean() * (g - w).square() / v).mean()
        return total


def _channel_axis(output: Tensor) -> int:
    """``[N, C, …]``, or ``[N, places, C]`` where there are more places than channels."""
    return 2 if output.ndim == 3 and output.shape[2] < output.shape[1] else min(1, output.ndim - 1)
