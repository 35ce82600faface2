"""A model that nobody vouches for → the float32 graph with static shapes that everything else works on,
checked against the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgectl.builder.graph import GraphIndex, all_nodes, reads, shape_of
from edgectl.builder.ingest.fit_task import fit_input
from edgectl.builder.ingest.known_types import with_known_types
from edgectl.builder.ingest.read import read_model
from edgectl.builder.passes.base import FloatReference, PassLog, run_passes
from edgectl.builder.passes.canonicalise import Canonicalise
from edgectl.builder.passes.shapes import Shape, StaticShapes, check_sizes, resolve_inputs
from edgectl.builder.passes.space_to_depth import FoldSpaceToDepth
from edgectl.builder.passes.upgrade import Upgrade
from edgectl.builder.passes.widen import Widen, as_received, other_floats
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.engines.finalise.open import open_model

__all__ = [
    "ROUGH_COSINE",
    "ROUGH_RELATIVE",
    "canonical",
    "check_same_answers",
    "float16_as_received",
    "made_up",
    "prepare",
]

# float16 rounds each tensor to 11 bits on the way
ROUGH_COSINE, ROUGH_RELATIVE = 0.99, 0.1
_COUNTING = ("NonZero", "NonMaxSuppression", "Unique", "Compress")
_RANDOM = (
    "Dropout",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
)


def prepare(
    path: Path, task: TaskSpec, *, shapes: Mapping[str, Shape] | None = None
) -> tuple[ModelProto, tuple[TensorSpec, ...], PassLog]:
    """Read the model and bring it to the form that everything else works on: :func:`canonical`."""
    model = read_model(path)
    return canonical(model, fit_input(task, model, shapes or {}), shapes=shapes)


def canonical(
    original: ModelProto,
    task: TaskSpec,
    *,
    shapes: Mapping[str, Shape] | None = None,
    data: Mapping[str, Shape] | None = None,
) -> tuple[ModelProto, tuple[TensorSpec, ...], PassLog]:
    """Run the passes, checked against the model's own outputs on made-up inputs.

    ``shapes``, ``data``: what else says the sizes that the model leaves open (:func:`resolve_inputs`). A
    model in another float type is float32 from here on; what it computes after that is what later passes are
    checked against. Returns the canonical float graph, its inputs and what ran. Raises :class:`ModelError` or
    :class:`UsageError`.
    """
    check_sizes(original)
    inputs = resolve_inputs(original, task, shapes=shapes, data=data)
    log = PassLog()
    graph = original
    if kinds := other_floats(original):
        rough = _rough(original, inputs, log)
        graph, log = run_passes(original, [Upgrade(), Widen()], rough, log)
        inputs = resolve_inputs(graph, task, shapes=shapes, data=data)
        log.notes.append(
            f"the model is in {' and '.join(kinds)}: it was widened to float32, its inputs and outputs, too"
        )
    reference = FloatReference.record(graph.SerializeToString(), made_up(inputs))
    _check_repeats(graph, reference)
    graph, log = run_passes(
        graph, [StaticShapes(inputs)] if kinds else [Upgrade(), StaticShapes(inputs)], reference, log
    )
    try:
        graph, log = run_passes(graph, [Canonicalise()], reference, log)
    except ModelError as e:
        # onnxslim does not get every graph right; as it is, it is larger, and as good
        graph, log = run_passes(graph, [Canonicalise(simplify=False)], reference, log)
        log.notes.append(f"the graph is used without being simplified: {e.message}")
    graph, log = run_passes(graph, [FoldSpaceToDepth()], reference, log)
    return with_known_types(_with_output_shapes(graph, inputs, reference)), inputs, log


def _with_output_shapes(
    graph: ModelProto, inputs: tuple[TensorSpec, ...], reference: FloatReference
) -> ModelProto:
    """The shapes of outputs that inference could not tell, where other inputs give the same; the others
    stay open."""
    unknown = [o for o in graph.graph.output if o.name in reference.outputs and shape_of(o) is None]
    if not unknown:
        return graph
    other = FloatReference.record(graph.SerializeToString(), made_up(inputs, seed=1)).outputs
    index = GraphIndex(graph)
    for info in unknown:
        first, second = reference.outputs[info.name].shape, other[info.name].shape
        if _counts(index, info.name):
            second = (-1,) * len(first)
        info.type.tensor_type.ClearField("shape")
        info.type.tensor_type.shape.SetInParent()
        for i, (a, b) in enumerate(zip(first, second, strict=False)):
            info.type.tensor_type.shape.dim.add(
                **({"dim_value": a} if a == b else {"dim_param": f"{info.name}_{i}"})
            )
    return graph


def _counts(index: GraphIndex, output: str) -> bool:
    """Whether the size of an output comes from a node that counts what it finds in the data."""
    todo, seen = [output], set()
    while todo:
        made = index.producer.get(todo.pop())
        if made is None or made.output[0] in seen:
            continue
        if made.op_type in _COUNTING:
            return True
        seen.add(made.output[0])
        todo.extend(t for t in reads(made) if index.shape(t) is None)
    return False


def float16_as_received(source: ModelProto, inputs: tuple[TensorSpec, ...], notes: list[str]) -> bytes | None:
    """A float16 model in the precision that it came in, a candidate of its own; None for any other, or
    with a note where nothing runs it."""
    ingested, _ = Upgrade().run(source)
    received = as_received(ingested)
    if received is None:
        return None
    try:
        graph, _ = run_passes(received, [StaticShapes(inputs)], None)
        FloatReference.record(graph.SerializeToString(), made_up(inputs))
    except ModelError as e:
        notes.append(f"as it came, in float16, the model is no candidate: {e.message}")
        return None
    return bytes(graph.SerializeToString(deterministic=True))


def made_up(inputs: tuple[TensorSpec, ...], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Noise in 0..1 (another seed: around nought) for floats; zeros for integers, and a sample rate for a
    single one."""
    rng = np.random.default_rng(seed)
    return {
        i.name: np.asarray(rng.standard_normal(i.shape) if seed else rng.random(i.shape), i.dtype)
        if np.dtype(i.dtype).kind == "f"
        else np.full(i.shape, 16000 if not i.shape else 0, i.dtype)
        for i in inputs
    }


def _rough(original: ModelProto, inputs: tuple[TensorSpec, ...], log: PassLog) -> FloatReference | None:
    """What a model computes in few bits; None where no runtime here has kernels for its type (bfloat16)."""
    try:
        reference = FloatReference.record(original.SerializeToString(), made_up(inputs))
    except EdgectlError as e:
        log.notes.append(f"nothing here runs the model in the precision that it came in: {e.message}")
        return None
    return replace(reference, cosine=ROUGH_COSINE, relative=ROUGH_RELATIVE)


def _check_repeats(model: ModelProto, reference: FloatReference) -> None:
    """Raise :class:`ModelError` for a model that answers differently each time: nothing could be compared
    with it.

    Two runs of one engine: a new one starts from the same seed.
    """
    engine = open_model(model.SerializeToString(), SessionSettings(optimization="disabled"))
    first, again = (engine.run(reference.feeds) for _ in range(2))
    engine.close()
    check_same_answers(model, first, again)


def check_same_answers(model: ModelProto, first: Outputs, again: Outputs) -> None:
    """Raise :class:`ModelError` for a model that answered differently the second time."""
    different = [
        n for n, o in first.items() if not np.array_equal(o, again[n], equal_nan=o.dtype.kind == "f")
    ]
    if different:
        random = [n for n in all_nodes(model.graph) if n.op_type in _RANDOM]
        who = (
            f"node {random[0].name or random[0].output[0]} ({random[0].op_type})"
            if random
            else "something in it"
        )
        raise ModelError(
            f"the model answers differently each time (output {different[0]}): {who} is random",
            hint="export the model in evaluation mode, without random nodes",
        )
