"""Whether the converted model computes what the framework's own does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.convert.inside.shape import Arithmetic
from edgectl.core.errors import ModelError

__all__ = ["Agreement", "compare_outputs"]

_RELATIVE: Mapping[Arithmetic, float] = {"float32": 1e-3, "float16": 1e-2, "int8": 0.1}
"""Of an output's largest value. Float32 sums in another order; float16 rounds each layer to 11 bits; integer kernels round
their codes another way than Q/DQ does, and a step of a code goes on through the layers behind."""
_MEAN: Mapping[Arithmetic, float] = {"float32": 1e-3, "float16": 1e-2, "int8": 0.02}
"""The same of the mean error: a few codes may be a few steps off, not most of them."""
_NOUGHT = 1e-5
_DIFFERENT_LABELS = 0.01
"""Share of integers that may differ: arg max where two are level."""
_HINT = "export to ONNX with the framework's own tools, look at the difference, and give that file; if the model draws random numbers, switch that off"


@dataclass(frozen=True)
class Agreement:
    """``worst``: the largest error of any float output, as a share of that output's largest value. ``samples``: how many were
    compared. ``different``: share of integer outputs that differ."""

    worst: float
    samples: int
    different: float = 0.0

    def told(self) -> str:
        labels = f", {self.different:.2%} of its integers differ" if self.different else ""
        return f"outputs within {self.worst:.1e} of the largest value on {self.samples} samples{labels}"


def compare_outputs(
    names: Sequence[str],
    theirs: Sequence[Mapping[str, NDArray[Any]]],
    ours: Sequence[Mapping[str, NDArray[Any]]],
    arithmetic: Arithmetic,
) -> Agreement:
    """``theirs``: of the framework, one set of outputs a sample; ``ours``: of the ONNX file. Outputs that either of them lacks are
    none of numbers.

    Raises :class:`ModelError` with the figure where they are not the same, and where nothing can be compared.
    """
    worst, different, compared = 0.0, 0.0, 0
    for name in names:
        pairs = [(a[name], b[name]) for a, b in zip(theirs, ours, strict=True) if name in a and name in b]
        if not pairs:
            continue
        compared += 1
        for a, b in pairs:
            # converters of estimators write columns where those give rows
            if _without_ones(a) != _without_ones(b):
                raise ModelError(
                    f"the converted model gives {list(b.shape)} for output {name}, the framework {list(a.shape)}",
                    hint=_HINT,
                )
        left = np.concatenate([a.ravel() for a, _ in pairs])
        right = np.concatenate([b.ravel() for _, b in pairs])
        codes = arithmetic == "int8" and left.dtype.itemsize == 1
        if left.dtype.kind == "f" or right.dtype.kind == "f" or codes:
            worst = max(worst, _float_error(name, left, right, arithmetic))
        else:
            different = max(different, _label_error(name, left, right))
    if not compared:
        raise ModelError(
            "no output of the converted model is of numbers: nothing can be compared with the framework",
            hint="leave out of the model what makes strings or maps of its answers",
        )
    return Agreement(worst, len(theirs), different)


def _without_ones(array: NDArray[Any]) -> tuple[int, ...]:
    return tuple(n for n in array.shape if n != 1)


def _float_error(name: str, a: NDArray[Any], b: NDArray[Any], arithmetic: Arithmetic) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = np.isfinite(a)
    if not np.array_equal(a[~same], b[~same], equal_nan=True):
        raise ModelError(
            f"output {name} of the converted model is not what the framework computes: other places are not finite",
            hint=_HINT,
        )
    size = float(np.abs(a[same]).max(initial=0.0))
    off = np.abs(a[same] - b[same])
    largest, mean = float(off.max(initial=0.0)), float(off.mean()) if off.size else 0.0
    if not (largest <= _RELATIVE[arithmetic] * size + _NOUGHT and mean <= _MEAN[arithmetic] * size + _NOUGHT):
        raise ModelError(
            f"output {name} of the converted model is not what the framework computes: error {largest:.3g} where values go up to {size:.3g} "
            f"({largest / max(size, 1e-30):.1%}; {_RELATIVE[arithmetic]:.1%} is allowed)",
            hint=_HINT,
        )
    return largest / size if size > _NOUGHT else 0.0


def _label_error(name: str, a: NDArray[Any], b: NDArray[Any]) -> float:
    share = float(np.mean(a.astype(np.int64) != b.astype(np.int64))) if a.size else 0.0
    if share > _DIFFERENT_LABELS:
        raise ModelError(
            f"output {name} of the converted model is not what the framework computes: {share:.1%} of its integers differ",
            hint=_HINT,
        )
    return share
