"""Static shapes: batch 1, the task's input size, shape inference over the graph.

Engines on devices are static (TensorRT and DLA require it, int8 kernels gain from it), and every report needs sizes.
"""

from __future__ import annotations

import math

import onnx
from onnx import ModelProto

from edgectl.builder.graph import GraphIndex, np_dtype, shape_of
from edgectl.builder.passes.base import Pass
from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.task import AudioInput, ImageInput, TaskSpec

__all__ = ["StaticShapes", "check_sizes", "resolve_inputs"]

MAX_ELEMENTS = 1 << 28


def resolve_inputs(model: ModelProto, task: TaskSpec) -> tuple[TensorSpec, ...]:
    """The graph's inputs with the shapes that the task gives them; open batch dimensions become 1.

    Raises :class:`UsageError` where the task and the graph disagree, :class:`ModelError` for sizes that stay unknown.
    """
    initializers = {t.name for t in model.graph.initializer}
    graph_inputs = [i for i in model.graph.input if i.name not in initializers]
    main, wanted = _task_shape(task, [i.name for i in graph_inputs])
    specs = []
    for info in graph_inputs:
        tensor = info.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim]
        if info.name == main and wanted is not None:
            shape = _agree(info.name, dims, wanted)
        else:
            shape = tuple(1 if d is None and _is_batch(tensor.shape.dim[i].dim_param, i) else d or 0 for i, d in enumerate(dims))
        if not info.type.HasField("tensor_type") or 0 in shape or math.prod(shape) > MAX_ELEMENTS:
            raise ModelError(
                f"input {info.name} has an open or absurd size {list(shape)}",
                hint="export the model with a fixed input size, or give a task whose input says it",
            )
        specs.append(TensorSpec(name=info.name, shape=shape, dtype=str(np_dtype(info))))
    return tuple(specs)


def check_sizes(model: ModelProto) -> None:
    """Refuse a graph whose tensors would not fit any device, before a runtime allocates them (a small file can ask for terabytes).

    Raises :class:`ModelError` naming the first such tensor. Sizes that inference cannot tell are not judged.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        return  # the shapes pass says what is wrong with them
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        elements = math.prod(d.dim_value for d in info.type.tensor_type.shape.dim if d.HasField("dim_value"))
        if elements > MAX_ELEMENTS:
            raise ModelError(f"tensor {info.name[:80]} would have {elements} elements; at most {MAX_ELEMENTS} fit an edge device")


class StaticShapes(Pass):
    """Inputs get their resolved shapes, everything else is inferred."""

    name = "shapes"

    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        self._inputs = {i.name: i for i in inputs}

    def requires(self, model: ModelProto) -> None:
        if {i.name for i in model.graph.input} != self._inputs.keys():
            raise ModelError("the graph's inputs are not those that were resolved")

    def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
        fixed = ModelProto()
        fixed.CopyFrom(model)
        for info in fixed.graph.input:
            shape = info.type.tensor_type.shape
            del shape.dim[:]
            for size in self._inputs[info.name].shape:
                shape.dim.add().dim_value = size
        for info in fixed.graph.output:  # open dimensions are inferred again from the inputs
            if shape_of(info) is None:
                info.type.tensor_type.ClearField("shape")
        del fixed.graph.value_info[:]
        try:
            fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
        except Exception as e:
            raise ModelError(f"shapes do not fit together: {str(e).strip().splitlines()[0][:200]}") from e
        return fixed, True

    def ensures(self, model: ModelProto) -> None:
        index = GraphIndex(model)
        if open_inputs := [n for n in index.inputs if index.shape(n) is None]:
            raise ModelError(f"inputs still have open sizes: {', '.join(open_inputs)}")


def _task_shape(task: TaskSpec, names: list[str]) -> tuple[str | None, tuple[int, ...] | None]:
    """Name and shape of the input that the task describes."""
    spec = task.input
    if not isinstance(spec, ImageInput | AudioInput):
        return None, None
    if spec.tensor is not None and spec.tensor not in names:
        raise UsageError(f"task {task.name} feeds input {spec.tensor}; the model has {', '.join(names)}")
    if spec.tensor is None and len(names) != 1:
        raise UsageError(
            f"the model has inputs {', '.join(names)}; task {task.name} does not say which one it feeds", hint="set input.tensor"
        )
    name = spec.tensor or names[0]
    if isinstance(spec, ImageInput):
        h, w = spec.height, spec.width
        return name, (1, 3, h, w) if spec.layout == "NCHW" else (1, h, w, 3)
    if spec.shape is not None:
        return name, spec.shape
    f = spec.features
    bins = {"waveform": f.window + f.context, "log_mel": f.mels, "mfcc": f.coefficients}[f.kind]
    return name, (1, bins) if f.kind == "waveform" else (1, f.frames, bins)


def _agree(name: str, dims: list[int | None], wanted: tuple[int, ...]) -> tuple[int, ...]:
    if dims and (len(dims) != len(wanted) or any(d is not None and d != w for d, w in zip(dims, wanted, strict=True))):
        shown = [d if d is not None else "?" for d in dims]
        raise UsageError(
            f"the task makes {list(wanted)} for input {name}; the model takes {shown}",
            hint="set the task's input size and layout to the model's",
        )
    return wanted


def _is_batch(symbol: str, axis: int) -> bool:
    return axis == 0 or "batch" in symbol.lower() or symbol in ("N", "b", "B")
