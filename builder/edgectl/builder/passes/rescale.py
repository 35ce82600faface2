"""The same graph for a smaller picture: fewer pixels, the same weights.

A fully convolutional graph takes any size. What a channel shuffle or another ``Reshape`` was told about the
size of its picture is told anew; where anything else depends on it (a classifier's dense layer, anchors for
one size) the graph cannot be made smaller.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from edgectl.builder.graph import GraphIndex, shape_of
from edgectl.core.errors import ModelError
from edgectl.core.task import ImageInput

__all__ = ["rescale", "smaller_size"]


def smaller_size(model: ModelProto, spec: ImageInput, factor: float) -> tuple[int, int]:
    """(height, width) nearest to ``factor`` of the task's that the graph's strides divide. Raises
    :class:`ModelError` if that is no smaller.

    ``model`` has static shapes, and is for pictures of the size of ``spec``.
    """
    steps = _strides(model, spec)
    height, width = (
        max(s, s * round(factor * size / s)) for size, s in zip((spec.height, spec.width), steps, strict=True)
    )
    if height * width >= spec.height * spec.width:
        raise ModelError(
            f"{factor:g} of {spec.width}x{spec.height} is no smaller picture in steps of {steps[1]}x{steps[0]}, the graph's strides",
            hint="give a smaller factor",
        )
    return height, width


def rescale(model: ModelProto, spec: ImageInput, height: int, width: int) -> ModelProto:
    """The graph for pictures of ``height`` × ``width``. Raises :class:`ModelError` where something in it
    is made for one size."""
    index = GraphIndex(model)
    small = ModelProto()
    small.CopyFrom(model)
    (name,) = index.inputs
    for axis, size in _axes(spec, height, width):
        next(i for i in small.graph.input if i.name == name).type.tensor_type.shape.dim[axis].dim_value = size
    del small.graph.value_info[:]
    for info in small.graph.output:
        info.type.tensor_type.ClearField("shape")
    _resize_reshapes(small, index, spec, height, width)
    try:
        inferred = onnx.shape_inference.infer_shapes(small, data_prop=True, strict_mode=True)
    except Exception as e:
        raise ModelError(
            f"the graph is made for one size of picture: {str(e).strip().splitlines()[0][:200]}"
        ) from e
    for info in inferred.graph.output:
        shape, before = shape_of(info), index.shape(info.name)
        if shape is None or before is None or len(shape) != len(before):
            raise ModelError(f"the size of output {info.name} is not known for a smaller picture")
    return inferred


def _resize_reshapes(small: ModelProto, index: GraphIndex, spec: ImageInput, height: int, width: int) -> None:
    """Shape constants that repeat the height and width, or the area, of the tensor that they reshape:
    those of a channel shuffle."""
    constants = {t.name for t in small.graph.initializer}
    for number, node in enumerate(small.graph.node):
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape, target = index.shape(node.input[0]), np.asarray(index.weights(node.input[1])).tolist()
        resized = (
            None
            if shape is None
            else _resized(shape, target, functools.partial(_scaled, node.name, spec, height, width))
        )
        if resized is not None:
            # a constant may be shared by tensors of different sizes
            constant = f"{node.input[1]}_rescaled_{number}"
            small.graph.initializer.append(numpy_helper.from_array(np.asarray(resized, np.int64), constant))
            node.input[1] = constant


def _resized(
    shape: tuple[int, ...], target: list[int], scaled: Callable[[int, int], tuple[int, int]]
) -> list[int] | None:
    """The constant for the smaller picture, where it ends like the tensor does: H, W for H, W, or H × W
    for either and the other way."""
    if (
        len(target) > 2
        and target[-1] > 1
        and (tuple(target[-2:]) == shape[-2:] or target[-2] * target[-1] == shape[-1])
    ):
        return [*target[:-2], *scaled(target[-2], target[-1])]
    if len(target) > 1 and len(shape) > 3 and target[-1] == shape[-2] * shape[-1]:
        return [*target[:-1], math.prod(scaled(shape[-2], shape[-1]))]
    return None


def _scaled(name: str, spec: ImageInput, height: int, width: int, h: int, w: int) -> tuple[int, int]:
    if (h * height) % spec.height or (w * width) % spec.width:
        raise ModelError(
            f"{name or 'a Reshape'} cannot have {height}/{spec.height} of its height {h} or {width}/{spec.width} of its width {w}"
        )
    return h * height // spec.height, w * width // spec.width


def _strides(model: ModelProto, spec: ImageInput) -> tuple[int, int]:
    """How many pixels one cell of the coarsest feature map covers, down and across."""
    index = GraphIndex(model)
    down, across = 1, 1
    for node in index.nodes:
        if node.op_type not in ("Conv", "MaxPool", "AveragePool"):
            continue
        shape = index.shape(node.output[0])
        if shape is not None and len(shape) == 4 and shape[2] and shape[3]:
            down, across = max(down, round(spec.height / shape[2])), max(across, round(spec.width / shape[3]))
    return down, across


def _axes(spec: ImageInput, height: int, width: int) -> list[tuple[int, int]]:
    return [(2, height), (3, width)] if spec.layout == "NCHW" else [(1, height), (2, width)]
