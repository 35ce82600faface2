"""Float engines whose weights are float16 in the file: half the bytes to deliver and keep. The runtime widens them once, when it
opens the engine, and computes in float32 as before."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgectl.builder.budget import PACK
from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.pixels import PixelFed
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.trial import Trial
from edgectl.core.errors import EngineError
from edgectl.core.task import ImageInput
from edgectl.engines.finalise.guarded import open_guarded
from edgectl.engines.finalise.open import open_model

__all__ = ["float16_weights", "with_float16_weights"]

_LEAST_VALUES = 64
"""Of a tensor: below that a Cast takes more bytes than it saves."""
_LARGEST = 65504.0
_SMALLEST = 2.0**-13
"""Of the largest weight of a tensor. Near nought float16 counts in steps of 2⁻²⁴: then half a step is 2⁻¹² of that weight."""
_SHARE = 0.1
"""Of the accuracy budget: what the rounding of the weights may cost."""
_OPENED = 5
"""Times that each is opened; the median is told."""


def float16_weights(model: bytes) -> bytes:
    """An ONNX file with each large float32 weight as float16 behind a Cast to float32. A tensor that float16
    does not hold (too large, all of it tiny, not finite) stays as it is, and so does what a subgraph reads.

    A runtime folds the Cast when it opens the file: it computes, to the bit, what float32 weights that were rounded so
    would give. What the rounding costs is judged.
    """
    changed = onnx.load_from_string(model)
    index = GraphIndex(changed)
    taken = {*index.initializers, *index.inputs, *index.producer}
    casts = []
    for tensor in changed.graph.initializer:
        name = f"{tensor.name}_float16"
        if tensor.name in index.captured or tensor.name in index.outputs or name in taken:
            continue
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _LEAST_VALUES:
            continue
        value = numpy_helper.to_array(tensor)
        if not _holds(value):
            continue
        casts.append(
            helper.make_node("Cast", [name], [tensor.name], name=f"{name}_Cast", to=TensorProto.FLOAT)
        )
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), name))
    nodes = [*casts, *changed.graph.node]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return bytes(changed.SerializeToString(deterministic=True)) if casts else model


def with_float16_weights(
    drafts: Sequence[VariantDraft], model: QuantizedModel, trial: Trial
) -> list[VariantDraft]:
    """``drafts``, the float32 ones for CPU runtimes with float16 weights where that costs at most a tenth of the accuracy budget
    on the confirmation slice, and what they compute is theirs to the bit. A note says what became of each."""
    found, spec = [], model.source.task.input
    for d in drafts:
        if d.precision != "float32" or d.engine_layers or d.runtime not in ("onnxruntime", "openvino"):
            found.append(d)
            continue
        at = f"{d.profile}/{d.variant}"
        small = float16_weights(d.model)
        if small == d.model or trial.monitor.budget.over(PACK, f"{d.variant} with float16 weights"):
            trial.monitor.note(
                f"{at} keeps float32 weights: float16 does not hold them, or there was no time"
            )
            found.append(d)
            continue
        trial.monitor.tell("pack", 0.91, f"{d.variant}: float16 weights")
        try:
            engine = open_guarded(small, d.session, runtime=d.runtime)
        except EngineError as e:
            trial.monitor.note(f"{at} keeps float32 weights: {e.message}")
            found.append(d)
            continue
        if d.picture is not None and isinstance(spec, ImageInput):
            engine = PixelFed(engine, spec)
        with contextlib.closing(engine):
            accuracy = trial.judges.confirmation.judge(engine)
        if accuracy.drop > model.max_drop * _SHARE:
            trial.monitor.note(
                f"{at} keeps float32 weights: rounded to float16 they lose {accuracy.drop:.4f}, a tenth of {model.max_drop:g} is allowed"
            )
            found.append(d)
            continue
        before, after = _opening_ms(d.model, d), _opening_ms(small, d)
        trial.monitor.note(
            f"{at} has float16 weights: {len(small):,} bytes instead of {len(d.model):,}, opens in {after:.0f} ms instead of {before:.0f}, loses {accuracy.drop:.4f}"
        )
        recipe = d.recipe.model_copy(
            update={"passes": (*d.recipe.passes, "float16-weights"), "weights": "float16"}
        )
        found.append(replace(d, model=small, recipe=recipe, accuracy=accuracy))
    return found


def _holds(value: NDArray[np.generic]) -> bool:
    """Whether rounding to float16 moves no weight by more than 2⁻¹² of the largest."""
    return _SMALLEST <= float(np.abs(value).max(initial=0.0)) <= _LARGEST


def _opening_ms(model: bytes, d: VariantDraft) -> float:
    times = []
    for _ in range(_OPENED):
        start = time.perf_counter()
        open_model(model, d.session, runtime=d.runtime).close()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))
