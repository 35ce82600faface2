"""Refit the weights that are left so that each layer answers as before, in closed form, without labels or
training.

Layer by layer from the input on: the inputs that the pruned graph really makes, against the outputs that the
original made for the same pictures; ridge regression towards the weights as they are (He et al., *Channel
Pruning*, 2017, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.builder.int8.reconstruct import Layer, Walk, patched
from edgectl.engines.base import Feeds

__all__ = ["refit"]

Array = NDArray[np.float64]

_ROWS = 6  # patches per unknown weight of an output
_MIN_ROWS = 2048
# per output; the solution is cubic in it: larger layers keep their weights and get a new bias
_MAX_INPUTS = 2400
_RIDGE = 1e-3  # of the mean variance of an input


def refit(
    pruned: ModelProto,
    model: ModelProto,
    kept: Mapping[str, NDArray[np.int64]],
    samples: Sequence[Feeds],
    *,
    progress: Callable[[float], None] | None = None,
) -> ModelProto:
    """``pruned`` with refitted weights and biases. ``kept``: layer → which of its outputs in ``model`` are
    left."""
    changed = ModelProto()
    changed.CopyFrom(pruned)
    stored = {t.name: t for t in changed.graph.initializer}
    before, after = GraphIndex(model), GraphIndex(changed)
    nodes = {n.name: n for n in weighted_nodes(after)}
    layers = [
        n
        for n in weighted_nodes(before)
        if n.name in nodes and patched(n, before) and len(after.readers[n.input[1]]) == 1
    ]
    exact, rough = (Walk(m, [n.input[0] for n in layers], samples) for m in (model, changed))
    rng = np.random.default_rng(0)
    for i, n in enumerate(layers):
        was, now = Layer.read(before, n), Layer.read(after, nodes[n.name])
        outputs = kept.get(n.name, np.arange(was.weight.shape[0] * was.weight.shape[1]))
        grouped = was.weight.shape[0] > 1
        wanted = was.weight[outputs] if grouped else was.weight[:, outputs]
        bias = before.weights(n.input[2]) if len(n.input) > 2 else None
        count = max(1, -(-max(_MIN_ROWS, _ROWS * now.weight.shape[2]) // len(samples)))
        sums = _Sums()
        for a, b in zip(exact.next(), rough.next(), strict=True):
            x, y = now.patches(a[:, outputs] if grouped else a, b, count, rng)
            sums.add(y.astype(np.float64), x @ wanted.transpose(0, 2, 1))
        weight, shift = _solve(now.weight, sums, bias is not None)
        _store(stored[nodes[n.name].input[1]], now.unflattened(weight).astype(np.float32))
        if bias is not None:
            whole = np.asarray(bias, np.float64)
            _store(stored[nodes[n.name].input[2]], (whole[..., outputs] + shift).astype(np.float32))
        if progress is not None:
            progress((i + 1) / len(layers))
    return changed


class _Sums:
    """Means and products of inputs (groups, rows, inputs) and wanted outputs (groups, rows, outputs),
    summed in turn."""

    def __init__(self) -> None:
        self._rows = 0
        self._sums: list[Array] = []

    def add(self, x: Array, y: Array) -> None:
        parts = [x.sum(1), y.sum(1), x.transpose(0, 2, 1) @ x, x.transpose(0, 2, 1) @ y]
        self._sums = [a + b for a, b in zip(self._sums, parts, strict=True)] if self._sums else parts
        self._rows += x.shape[1]

    def means(self) -> list[Array]:
        """Of x, y, x·xᵀ and x·yᵀ."""
        return [s / self._rows for s in self._sums]


def _solve(weight: Array, sums: _Sums, biased: bool) -> tuple[Array, Array]:
    """The weights (groups, outputs, inputs) that give the wanted outputs best, and what must be added to
    the bias (outputs)."""
    x, y, xx, xy = sums.means()
    if biased:
        xx, xy = xx - x[:, :, None] * x[:, None, :], xy - x[:, :, None] * y[:, None, :]
    inputs = weight.shape[2]
    if inputs <= _MAX_INPUTS:
        ridge = (_RIDGE * xx.trace(axis1=1, axis2=2)[:, None, None] / inputs + 1e-12) * np.eye(inputs)
        weight = np.linalg.solve(xx + ridge, xy + ridge @ weight.transpose(0, 2, 1)).transpose(0, 2, 1)
    return weight, np.asarray(y - (weight @ x[:, :, None])[:, :, 0], np.float64).ravel()


def _store(tensor: TensorProto, value: NDArray[np.float32]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.reshape(tensor.dims)), tensor.name))
