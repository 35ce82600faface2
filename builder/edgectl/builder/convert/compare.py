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
_LEAST: Mapping[Arithmetic, float] = {"float32": 1e-4, "float16": 1e-3, "int8": 0.1}
"""A channel whose values are small may be off by this share of the whole output's largest value: sums of layers before it are
rounded by what is large there. Codes of int8 have one step for all channels."""
_INT8_MEAN = 0.02
"""A few codes may be a few steps off, not most of them."""
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
    """``theirs``: of the framework, one set of outputs a sample; ``ours``: of the ONNX file. Outputs that both of them lack are
    none of numbers. Each channel (axis 1, and the last) is judged by its own largest value, too: boxes of hundreds of pixels
    hide no scores.

    Raises :class:`ModelError` with the figure where they are not the same, and where nothing can be compared.
    """
    worst, different, compared = 0.0, 0.0, 0
    for name in names:
        pairs = []
        for left_all, right_all in zip(theirs, ours, strict=True):
            numbers = [_is_numbers(one.get(name)) for one in (left_all, right_all)]
            if all(numbers):
                pairs.append((left_all[name], right_all[name]))
            elif any(numbers):
                raise ModelError(
                    f"output {name} is of numbers in {'the framework' if numbers[0] else 'the converted model'} alone",
                    hint=_HINT,
                )
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
            _check_channels(name, pairs, arithmetic)
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


def _is_numbers(array: NDArray[Any] | None) -> bool:
    return array is not None and array.dtype.kind in "fiub"


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
    near = largest <= _RELATIVE[arithmetic] * size + _NOUGHT
    if not (near and (arithmetic != "int8" or mean <= _INT8_MEAN * size + _NOUGHT)):
        raise ModelError(
            f"output {name} of the converted model is not what the framework computes: error {largest:.3g} where values go up to {size:.3g} "
            f"({largest / max(size, 1e-30):.1%}; {_RELATIVE[arithmetic]:.1%} is allowed)",
            hint=_HINT,
        )
    return largest / size if size > _NOUGHT else 0.0


def _check_channels(
    name: str, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]], arithmetic: Arithmetic
) -> None:
    """Sizes and errors of a channel are the largest of all samples that have as many channels."""
    found: dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for a, b in pairs:
        values = a.astype(np.float64)
        # those of both sides, where they are not finite, have been compared
        off = np.where(np.isfinite(values), values, 0.0)
        size = np.abs(off)
        off = np.abs(off - np.where(np.isfinite(values), b.astype(np.float64).reshape(a.shape), 0.0))
        for axis in sorted({1, a.ndim - 1}) if a.ndim > 1 and a.size else ():
            others = tuple(i for i in range(a.ndim) if i != axis)
            key, one = (axis, a.shape[axis]), (size.max(axis=others), off.max(axis=others))
            before = found.get(key, one)
            found[key] = np.maximum(before[0], one[0]), np.maximum(before[1], one[1])
    largest = max((float(sizes.max()) for sizes, _ in found.values()), default=0.0)
    least = _LEAST[arithmetic] * largest + _NOUGHT
    for (axis, _), (sizes, errors) in found.items():
        beyond = errors - np.maximum(_RELATIVE[arithmetic] * sizes, least)
        c = int(beyond.argmax())
        if beyond[c] > 0:
            raise ModelError(
                f"output {name} of the converted model is not what the framework computes: error {errors[c]:.3g} at place {c} "
                f"of axis {axis}, where values go up to {sizes[c]:.3g}",
                hint=_HINT,
            )


def _label_error(name: str, a: NDArray[Any], b: NDArray[Any]) -> float:
    share = float(np.mean(a.astype(np.int64) != b.astype(np.int64))) if a.size else 0.0
    if share > _DIFFERENT_LABELS:
        raise ModelError(
            f"output {name} of the converted model is not what the framework computes: {share:.1%} of its integers differ",
            hint=_HINT,
        )
    return share
