"""Cross-layer equalisation: channels of one tensor brought to the same range, so that one scale fits them
all.

Between a layer and the layers that read it lie only operators that commute with a positive factor per channel
(Relu, pooling): multiplying an output channel of the first by ``s`` and dividing that input channel of the
readers by ``s`` changes nothing in float (Nagel et al., *Data-Free Quantization*, 2019, section 4.1). The
factors come from the channels' observed ranges; where a reader mixes channels its weights pay for it, so that
half of the imbalance (geometrically) is left in the activations (Xiao et al., *SmoothQuant*, 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from edgectl.builder.graph import GraphIndex, attribute
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.builder.passes.base import Pass
from edgectl.core.errors import ModelError

__all__ = ["Chain", "Equalise", "chains", "factors"]

_COMMUTES = (
    "Relu",
    "LeakyRelu",
    "PRelu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Identity",
    "Dropout",
)
_MOST = 64.0
"""Largest factor: a channel that is nearly always zero is not blown up to the size of the others."""


@dataclass(frozen=True)
class Chain:
    """``maker`` writes ``tensor``; ``ends`` are the ranges' tensors (behind the commuting operators),
    ``readers`` read those."""

    maker: str
    tensor: str
    readers: tuple[str, ...]
    channels: int


def chains(index: GraphIndex) -> list[Chain]:
    """Every tensor whose channels can be rescaled freely, in graph order."""
    weighted = {n.name: n for n in weighted_nodes(index)}
    found = []
    for n in weighted.values():
        channels = _outputs(n, index)
        readers: list[str] = []
        todo, ok = [n.output[0]], channels is not None
        while ok and todo:
            name = todo.pop()
            if name in index.outputs or name in index.captured or not index.readers[name]:
                ok = False
            for reader, position in index.readers[name]:
                if position == 0 and reader.name in weighted and _inputs(reader, index) == channels:
                    readers.append(reader.name)
                elif (
                    position == 0
                    and reader.op_type in _COMMUTES
                    and len(reader.output) == 1
                    and _channelwise(reader, index)
                ):
                    todo.append(reader.output[0])
                else:
                    ok = False
        if ok and channels is not None and len(set(readers)) == len(readers):
            found.append(Chain(n.name, n.output[0], tuple(readers), channels))
    return found


def factors(chain: Chain, peak: NDArray[np.float64], index: GraphIndex) -> NDArray[np.float64]:
    """The factor of each channel, from the largest absolute value that each was seen to hold."""
    by_name = {n.name: n for n in index.nodes}
    live = np.maximum(peak, peak.max(initial=0.0) / _MOST)
    if not live.max(initial=0.0) > 0:
        return np.ones(chain.channels)
    mixing = any(_is_mixing(by_name[r]) for r in chain.readers)
    return np.asarray((live.max() / live) ** (0.5 if mixing else 1.0), np.float64)


class Equalise(Pass):
    """``peaks``: tensor → largest absolute value per channel, over the calibration samples."""

    name = "equalise"

    def __init__(self, peaks: Mapping[str, NDArray[np.float64]]) -> None:
        self._peaks = peaks

    def requires(self, model: ModelProto) -> None:
        return None

    def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
        changed = ModelProto()
        changed.CopyFrom(model)
        index = GraphIndex(changed)
        by_name = {n.name: n for n in index.nodes}
        modified = False
        for chain in chains(index):
            peak = self._peaks.get(chain.tensor)
            involved = [by_name[chain.maker], *(by_name[r] for r in chain.readers)]
            if peak is None or not all(_own(index, i) for n in involved for i in n.input[1:3] if i):
                continue
            s = factors(chain, peak, index)
            if np.allclose(s, 1.0):
                continue
            _scale_outputs(index, by_name[chain.maker], s)
            for r in chain.readers:
                _scale_inputs(index, by_name[r], 1 / s)
            modified = True
        return changed, modified

    def ensures(self, model: ModelProto) -> None:
        for n in weighted_nodes(GraphIndex(model)):
            w = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == n.input[1]))
            if not np.isfinite(w).all():
                raise ModelError(f"the weight of {n.name} is no longer finite")


def _own(index: GraphIndex, constant: str) -> bool:
    """Whether a weight or bias belongs to one layer alone: another one's, a subgraph's or an output of the
    graph must not change."""
    return constant in index.initializers and index.only_reader(constant) is not None


def _outputs(n: NodeProto, index: GraphIndex) -> int | None:
    dims = index.initializers[n.input[1]].dims
    if n.op_type == "Conv":
        return int(dims[0])
    if n.op_type == "Gemm" and not any(a.name in ("alpha", "beta") and a.f != 1.0 for a in n.attribute):
        return int(dims[0] if attribute(n, "transB") else dims[1])
    return None


def _inputs(n: NodeProto, index: GraphIndex) -> int | None:
    dims = index.initializers[n.input[1]].dims
    if n.op_type == "Conv":
        return int(dims[1]) * attribute(n, "group", 1)
    if n.op_type == "Gemm" and not attribute(n, "transA"):
        return int(dims[1] if attribute(n, "transB") else dims[0])
    return None


def _channelwise(n: NodeProto, index: GraphIndex) -> bool:
    return n.op_type != "PRelu" or n.input[1] in index.initializers


def _is_mixing(n: NodeProto) -> bool:
    return n.op_type != "Conv" or attribute(n, "group", 1) == 1


def _scale_outputs(index: GraphIndex, n: NodeProto, s: NDArray[np.float64]) -> None:
    w = np.asarray(index.weights(n.input[1]), np.float64)
    axis = 0 if n.op_type == "Conv" or attribute(n, "transB") else 1
    _store(index, n.input[1], w * s.reshape([-1 if a == axis else 1 for a in range(w.ndim)]))
    if len(n.input) > 2 and n.input[2]:
        bias = np.asarray(index.weights(n.input[2]), np.float64)
        _store(index, n.input[2], bias * s)


def _scale_inputs(index: GraphIndex, n: NodeProto, s: NDArray[np.float64]) -> None:
    w = np.asarray(index.weights(n.input[1]), np.float64)
    if n.op_type == "Gemm":
        _store(index, n.input[1], w * (s[None, :] if attribute(n, "transB") else s[:, None]))
        return
    group = attribute(n, "group", 1)
    grouped = w.reshape(group, w.shape[0] // group, *w.shape[1:])
    per_group = s.reshape(group, 1, w.shape[1], *(1,) * (w.ndim - 2))
    _store(index, n.input[1], (grouped * per_group).reshape(w.shape))


def _store(index: GraphIndex, name: str, value: NDArray[np.float64]) -> None:
    index.initializers[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
