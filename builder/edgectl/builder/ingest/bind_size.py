"""The second input of RT-DETR's and D-FINE's exports, the picture's size, becomes part of the graph.

Their post-processing multiplies boxes of 0..1 with it. Bound to 1 × 1 they stay what they are, for a picture of any
size, and an engine has one input.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.graph import real_inputs
from edgectl.core.task import TaskSpec

__all__ = ["bind_size", "size_input"]

_NAMES = ("orig_target_sizes", "orig_sizes", "orig_size", "target_sizes")


def size_input(model: ModelProto) -> str | None:
    """Name of the input that takes the picture's size; None if there is none."""
    return next((i.name for i in real_inputs(model) if i.name in _NAMES), None)


def bind_size(model: ModelProto, task: TaskSpec) -> tuple[ModelProto, TaskSpec, bool]:
    """The model without its input for the size, the task that reads relative boxes, and whether anything
    changed. Other decoders than ``boxes-labels``, and models without such an input, come back as they are."""
    name = size_input(model)
    if task.decode.kind != "boxes-labels" or name is None:
        return model, task, False
    bound = ModelProto()
    bound.CopyFrom(model)
    at = next(i for i, v in enumerate(bound.graph.input) if v.name == name)
    dtype = helper.tensor_dtype_to_np_dtype(
        bound.graph.input[at].type.tensor_type.elem_type or TensorProto.INT64
    )
    del bound.graph.input[at]
    bound.graph.initializer.append(numpy_helper.from_array(np.ones((1, 2), dtype), name))
    decode = task.decode.model_copy(update={"box_unit": "relative"})
    return bound, task.model_copy(update={"decode": decode}), True
