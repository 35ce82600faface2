"""How much a weight or channel matters. Magnitude needs no data; activation looks at what flows through;
Taylor at gradients too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgectl.builder.compress.coupling import Coupling
from edgectl.builder.compress.weights import Weight
from edgectl.core.bundle import SessionSettings
from edgectl.engines.base import Feeds
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

__all__ = ["channel_damage", "input_norms", "scored"]


def input_norms(
    model: ModelProto, weights: Sequence[Weight], samples: Iterable[Feeds]
) -> dict[str, NDArray[np.float64]]:
    """Weight name → L2 norm of each channel that its node reads, over all samples (root of the mean
    square)."""
    tensors = {w.name: w.node.input[0] for w in weights}
    watched = ModelProto()
    watched.CopyFrom(model)
    known = {*(o.name for o in model.graph.output), *(i.name for i in model.graph.input)}
    extra = [t for t in dict.fromkeys(tensors.values()) if t not in known]
    watched.graph.output.extend(helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in extra)
    engine = OnnxRuntimeEngine(watched.SerializeToString(), SessionSettings())
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for feeds in samples:
        values: Mapping[str, NDArray[np.generic]] = {**feeds, **engine.run(feeds)}
        count += 1
        for w in weights:
            x = np.asarray(values[tensors[w.name]], np.float64)
            axis = 1 if w.node.op_type.startswith("Conv") else x.ndim - 1
            square = np.square(x).mean(axis=tuple(i for i in range(x.ndim) if i != axis))
            sums[w.name] = sums.get(w.name, np.zeros_like(square)) + square
    engine.close()
    return {name: np.sqrt(total / max(1, count)) for name, total in sums.items()}


def channel_damage(coupling: Coupling, norms: Mapping[str, NDArray[np.float64]] | None) -> dict[int, float]:
    """Channel → the share of its readers' output energy that goes with it, summed over the readers.

    Without ``norms`` (:func:`input_norms`) the energy of a channel is guessed from the weights that make it.
    """
    made: dict[int, float] = defaultdict(float)
    if norms is None:
        for (name, axis), channels in coupling.constants.items():
            weight = coupling.weights.get(name)
            if weight is not None and axis != weight.input_axis:
                square = np.square(weight.value.astype(np.float64)).sum(
                    axis=tuple(i for i in range(weight.value.ndim) if i != axis)
                )
                for c, s in zip(channels.tolist(), square.tolist(), strict=True):
                    made[c] += s
    damage: dict[int, float] = defaultdict(float)
    for r in coupling.readers:
        w, axis = r.weight.value.astype(np.float64), r.weight.input_axis
        energy = np.square(w).sum(axis=tuple(i for i in range(w.ndim) if i != axis))
        energy *= (
            np.asarray([made[int(c)] for c in r.channels])
            if norms is None
            else np.square(norms[r.weight.name])
        )
        for c, e in zip(
            r.channels.tolist(), (energy / max(float(energy.sum()), 1e-30)).tolist(), strict=True
        ):
            damage[c] += e
    return damage


def scored(w: Weight, norms: Mapping[str, NDArray[np.float64]] | None) -> NDArray[np.float64]:
    """|w|, times the norm of the input that it multiplies where that is known. Grouped convolutions: plain
    |w|."""
    score = np.abs(w.value.astype(np.float64))
    if norms is None or norms[w.name].size != w.value.shape[w.input_axis]:
        return score
    shape = [1] * w.value.ndim
    shape[w.input_axis] = -1
    return score * norms[w.name].reshape(shape)
