"""What NVIDIA's Deep Learning Accelerator runs, layer by layer; the GPU takes the rest, and the builder is
told nothing about it.

Source: TensorRT documentation, "DLA supported layers and restrictions". Static
shapes are a pass's business.
"""

from __future__ import annotations

from onnx import NodeProto

from edgectl.builder.graph import GraphIndex, attribute

__all__ = ["refusal"]

_PLAIN = frozenset(
    (
        "Relu",
        "Sigmoid",
        "Tanh",
        "Clip",
        "LeakyRelu",
        "PRelu",
        "Add",
        "Sub",
        "Mul",
        "Max",
        "Min",
        "Div",
        "Pow",
        "LRN",
        "BatchNormalization",
        "GlobalAveragePool",
        "Identity",
    )
)
_MAX_BATCH, _MAX_DIMENSION = 4096, 8192


def refusal(index: GraphIndex, n: NodeProto) -> str:
    """Why DLA does not run a node; empty if it does."""
    for t in (*n.input[:1], *n.output):
        shape = index.shape(t)
        if shape is None:
            return "its shape is not known"
        if len(shape) != 4:
            return "not four-dimensional"
        if shape[0] > _MAX_BATCH or max(shape[1:]) > _MAX_DIMENSION:
            return f"a dimension above {_MAX_DIMENSION}"
    if n.op_type in _PLAIN:
        return ""
    kernel, strides = _ints(n, "kernel_shape") or _kernel(index, n), _ints(n, "strides") or [1, 1]
    if n.op_type == "Conv":
        fits = len(kernel) == 2 and max(kernel) <= 32 and max(strides) <= 8
        return "" if fits else "kernel above 32 or stride above 8"
    if n.op_type == "ConvTranspose":
        plain = (
            attribute(n, "group", 1) == 1
            and set(_ints(n, "dilations") or [1]) == {1}
            and not any(_ints(n, "pads"))
        )
        return (
            "" if plain and max(kernel) <= 32 else "transposed convolution with groups, dilation or padding"
        )
    if n.op_type in ("MaxPool", "AveragePool"):
        fits = max(kernel, default=1) <= 8 and max(strides) <= 16 and len(n.output) == 1
        return "" if fits else "pooling window above 8 or stride above 16"
    if n.op_type == "Concat":
        return "" if attribute(n, "axis") in (1, -3) else "concatenated along another axis than channels"
    if n.op_type == "Resize":
        nearest = any(a.name == "mode" and a.s in (b"nearest", b"linear") for a in n.attribute)
        return "" if nearest else "resize that is neither nearest nor linear"
    return f"DLA has no {n.op_type}"


def _ints(n: NodeProto, name: str) -> list[int]:
    return next((list(a.ints) for a in n.attribute if a.name == name), [])


def _kernel(index: GraphIndex, n: NodeProto) -> list[int]:
    """Of a convolution that leaves it to its weights."""
    shape = index.shape(n.input[1]) if n.op_type in ("Conv", "ConvTranspose") else None
    return list(shape[2:]) if shape else []
