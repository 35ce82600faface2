"""Fine-tune a quantized graph: the float model teaches it through its own Q/DQ nodes, and the learned codes
go back into it.

Rounding passes gradients straight through (Jacob et al., *Quantization and Training*, 2018; Bengio et al.,
2013). Scales, zero points and the graph stay as they are, so what was checked of the placement stays true;
only int8 weights and int32 biases change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from onnx import ModelProto, numpy_helper

from edgectl.builder.compress.recover import Lesson, agree, teach, trainable
from edgectl.builder.compress.torchgraph import TorchGraph
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.builder.int8.quantize import Quantized
from edgectl.core.errors import ModelError
from edgectl.core.task import DecodeSpec
from edgectl.engines.base import Feeds

__all__ = ["fine_tune"]

# of the root mean square of a tensor's codes, each step
_RATE = 1e-3
# codes that lie on an edge fall either way, here and in ONNX Runtime
_CLOSE = 0.1


def fine_tune(
    quantized: Quantized,
    model: ModelProto,
    samples: Sequence[Feeds],
    *,
    weight_max: int,
    seconds: float,
    steps: int | None = None,
    decode: DecodeSpec | None = None,
    more: Sequence[Feeds] = (),
    progress: Callable[[float, float], None] | None = None,
) -> tuple[Quantized, Lesson]:
    """``quantized`` with codes that answer more like ``model``, the float graph it was written from.

    ``more``: further inputs to train on. ``weight_max``: largest weight code of its family. Weights that are zero in ``model`` stay zero. Raises
    :class:`ModelError` for graphs that cannot be trained here.
    """
    for graph in (quantized.model, model):
        if reason := trainable(graph):
            raise ModelError(f"int8 cannot be fine-tuned: {reason}", hint="build without --recover")
    learner = TorchGraph(quantized.model)
    agree(learner, quantized.model, samples[0], samples[1], close=_CLOSE)
    codes = learner.parameters_by_name()
    index = GraphIndex(model)
    dead = {f"{n.name}_weight_q": np.asarray(index.weights(n.input[1])) == 0 for n in weighted_nodes(index)}
    zeros = [(codes[name], torch.from_numpy(z)) for name, z in dead.items() if name in codes and z.any()]
    stored = {t.name: t for t in quantized.model.graph.initializer}
    limits = {name: _limits(numpy_helper.to_array(stored[name]).dtype, weight_max) for name in codes}

    def mask() -> None:
        for name, p in codes.items():
            p.clamp_(*limits[name])
        for p, zero in zeros:
            p[zero] = 0

    groups = [
        {"params": [p], "rate": _RATE * float(p.detach().square().mean().sqrt())} for p in codes.values()
    ]
    lesson = teach(
        learner,
        model,
        samples,
        groups,
        seconds=seconds,
        steps=steps,
        decode=decode,
        more=more,
        mask=mask,
        progress=progress,
    )
    changed = ModelProto()
    changed.CopyFrom(quantized.model)
    for tensor in changed.graph.initializer:
        if tensor.name in codes:
            dtype = numpy_helper.to_array(tensor).dtype
            value = codes[tensor.name].detach().numpy()
            value = np.rint(value.astype(np.float64)) if dtype.kind in "iu" else value
            tensor.CopyFrom(numpy_helper.from_array(value.astype(dtype), tensor.name))
    return replace(quantized, model=changed), lesson


def _limits(dtype: np.dtype[np.generic], weight_max: int) -> tuple[float, float]:
    if dtype == np.int8:
        return -weight_max, weight_max
    return (0, 255) if dtype == np.uint8 else (-(2.0**30), 2.0**30)
