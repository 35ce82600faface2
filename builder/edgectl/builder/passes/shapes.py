"""Static shapes: batch 1, the task's input size, shape inference over the graph.

Engines on devices are static (TensorRT and DLA require it, int8 kernels gain from it), and every report needs
sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
from onnx import ModelProto, TensorProto

from edgectl.builder.graph import GraphIndex, np_dtype, real_inputs, shape_of
from edgectl.builder.passes.base import Pass
from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.task import AudioInput, ImageInput, TaskSpec

__all__ = ["Shape", "StaticShapes", "check_sizes", "model_dims", "parse_shapes", "resolve_inputs"]

Shape = tuple[int, ...]
MAX_ELEMENTS = 1 << 28
_NUMBERS = frozenset(
    (
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.BOOL,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    )
)


def parse_shapes(texts: Sequence[str]) -> dict[str, Shape]:
    """``["x=1,3,32,32"]`` → ``{"x": (1, 3, 32, 32)}``. Raises :class:`UsageError` for anything else, or a
    name given twice."""
    shapes: dict[str, Shape] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        parts = [p.strip() for p in sizes.replace("x", ",").split(",")]
        if not name or not all(p.isdecimal() and int(p) > 0 for p in parts):
            raise UsageError(f"--shape {text!r} is no shape of an input", hint="write --shape NAME=1,3,32,32")
        if name in shapes:
            raise UsageError(f"--shape gives two shapes for input {name}", hint="give one for each input")
        shapes[name] = tuple(int(p) for p in parts)
    return shapes


def resolve_inputs(
    model: ModelProto,
    task: TaskSpec,
    *,
    shapes: Mapping[str, Shape] | None = None,
    data: Mapping[str, Shape] | None = None,
) -> tuple[TensorSpec, ...]:
    """The graph's inputs with static shapes. What the model leaves open is taken from ``shapes`` (the user's),
    from the task, from ``data`` (input → shape of the array of its samples, samples along axis 0); what is
    then still open is 1 if it is the batch.

    Raises :class:`UsageError` where these disagree with the graph, :class:`ModelError` naming an input whose
    size stays unknown, or that is no tensor of numbers.
    """
    if not real_inputs(model):
        raise ModelError(
            "the model has no inputs: it answers the same whatever is seen",
            hint="export the model with its input",
        )
    main, wanted = _task_shape(task, [i.name for i in real_inputs(model)])
    specs = []
    for info in real_inputs(model):
        tensor = info.type.tensor_type
        if not info.type.HasField("tensor_type") or tensor.elem_type not in _NUMBERS:
            raise ModelError(
                f"input {info.name} is no tensor of numbers",
                hint="export the model from where its inputs are numbers: engines take nothing else",
            )
        dims = model_dims(model, info.name, shapes or {})
        if info.name == main and wanted is not None:
            shape: tuple[int | None, ...] = _agree(info.name, dims, wanted)
        else:
            shape = _from_data(dims, (data or {}).get(info.name))
        symbols = [d.dim_param for d in tensor.shape.dim] or [""] * len(shape)
        shape = tuple(1 if d is None and _is_batch(symbols[i], i) else d for i, d in enumerate(shape))
        closed = tuple(d for d in shape if d is not None)
        if len(closed) < len(shape) or not (shape or tensor.HasField("shape")):
            named = [d or symbols[i] or "N" for i, d in enumerate(shape)]
            raise ModelError(
                f"the model leaves the size of input {info.name} open: {_shown(named)}"
                if tensor.HasField("shape")
                else f"the model does not say how many dimensions input {info.name} has",
                hint=f"give --shape {info.name}={','.join(str(d) for d in named) or '1,3,224,224'}, an .npz of inputs, or a task whose input has a size",
            )
        if math.prod(closed) > MAX_ELEMENTS:
            raise ModelError(
                f"input {info.name} has {math.prod(closed)} elements ({_shown(closed)}); at most {MAX_ELEMENTS} fit an edge device",
                hint="export the model for a smaller input",
            )
        specs.append(TensorSpec(name=info.name, shape=closed, dtype=str(np_dtype(info))))
    return tuple(specs)


def model_dims(model: ModelProto, name: str, shapes: Mapping[str, Shape]) -> tuple[int | None, ...]:
    """The dimensions of an input as the model, and where it leaves them open the user, says; None: open.

    Raises :class:`UsageError` where the two disagree, or where ``shapes`` names something that is no input.
    """
    inputs = {i.name: i for i in real_inputs(model)}
    if unknown := sorted(shapes.keys() - inputs.keys()):
        raise UsageError(
            f"--shape names {unknown[0]}, which is no input of the model",
            hint=f"its inputs: {', '.join(inputs)}",
        )
    tensor = inputs[name].type.tensor_type
    dims = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim
    )
    wanted = shapes.get(name)
    if wanted is None:
        return dims
    if tensor.HasField("shape") and (
        len(dims) != len(wanted) or any(d is not None and d != w for d, w in zip(dims, wanted, strict=True))
    ):
        raise UsageError(
            f"--shape says {_shown(wanted)} for input {name}; the model takes {_shown(['?' if d is None else d for d in dims])}",
            hint="give what the model leaves open (?) and keep the rest",
        )
    return wanted


def check_sizes(model: ModelProto) -> None:
    """Refuse a graph whose tensors would not fit any device, before a runtime allocates them (a small file
    can ask for terabytes).

    Raises :class:`ModelError` naming the first such tensor. Sizes that inference cannot tell are not judged.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        return  # the shapes pass says what is wrong with them
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        elements = math.prod(d.dim_value for d in info.type.tensor_type.shape.dim if d.HasField("dim_value"))
        if elements > MAX_ELEMENTS:
            raise ModelError(
                f"tensor {info.name[:80]} would have {elements} elements; at most {MAX_ELEMENTS} fit an edge device",
                hint="give smaller sizes (--shape), or mend what makes that tensor",
            )


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
        # open dimensions are inferred again from the inputs
        for info in fixed.graph.output:
            if info.type.HasField("tensor_type") and shape_of(info) is None:
                info.type.tensor_type.ClearField("shape")
        del fixed.graph.value_info[:]
        try:
            fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
        except Exception as e:
            raise ModelError(
                f"shapes do not fit together: {str(e).strip().splitlines()[0][:200]}",
                hint="give sizes that the model takes (--shape, or the task's width and height)",
            ) from e
        return fixed, True

    def ensures(self, model: ModelProto) -> None:
        index = GraphIndex(model)
        if open_inputs := [n for n in index.inputs if index.shape(n) is None]:
            raise ModelError(f"inputs still have open sizes: {', '.join(open_inputs)}")


def _from_data(dims: tuple[int | None, ...], array: Shape | None) -> tuple[int | None, ...]:
    """Open dimensions from an array of samples, with or without a batch axis of its own; as they are where
    that does not fit."""
    if array is None or None not in dims:
        return dims
    one = array[1:] if len(array) == len(dims) + 1 else (1, *array[1:]) if len(array) == len(dims) else ()
    fits = len(one) == len(dims) and all(d in (None, o) for d, o in zip(dims, one, strict=True))
    return one if fits else dims


def _shown(shape: Sequence[object]) -> str:
    return " × ".join(map(str, shape)) or "a single value"


def _task_shape(task: TaskSpec, names: list[str]) -> tuple[str | None, tuple[int, ...] | None]:
    """Name and shape of the input that the task describes."""
    spec = task.input
    if not isinstance(spec, ImageInput | AudioInput):
        return None, None
    if spec.tensor is not None and spec.tensor not in names:
        raise UsageError(
            f"task {task.name} feeds input {spec.tensor}; the model has {', '.join(names)}",
            hint="set input.tensor to one of those",
        )
    if spec.tensor is None and len(names) != 1:
        raise UsageError(
            f"the model has inputs {', '.join(names)}; task {task.name} does not say which one it feeds",
            hint="set input.tensor",
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


def _agree(name: str, dims: tuple[int | None, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    if dims and (
        len(dims) != len(wanted) or any(d is not None and d != w for d, w in zip(dims, wanted, strict=True))
    ):
        shown = [d if d is not None else "?" for d in dims]
        raise UsageError(
            f"the task makes {list(wanted)} for input {name}; the model takes {shown}",
            hint="set the task's input size and layout to the model's",
        )
    return wanted


def _is_batch(symbol: str, axis: int) -> bool:
    return axis == 0 or "batch" in symbol.lower() or symbol in ("N", "b", "B")
