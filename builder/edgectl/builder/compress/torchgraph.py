"""A small float ONNX graph as a torch module, for training: the operators of convolutional networks and
classifiers.

Constant float weights of convolutions and matrix products become parameters, and so do the codes that a
DequantizeLinear reads; everything else is a constant. Rounding passes gradients straight through. What it
cannot do it names (:func:`unsupported`); nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, helper
from torch import Tensor

from edgectl.builder.compress.weights import Floats
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.placement import weighted_nodes

__all__ = ["TorchGraph", "unsupported"]

Op = Callable[[list[Any], dict[str, Any]], Any]


def unsupported(model: ModelProto) -> list[str]:
    """Operators of the graph that cannot be trained here, sorted; empty if all can."""
    found = {n.op_type for n in model.graph.node if n.op_type not in _OPS or n.domain not in ("", "ai.onnx")}
    for n in model.graph.node:
        a = _attributes(n)
        if n.op_type == "Resize" and (
            a.get("mode", "nearest") != "nearest"
            or a.get("coordinate_transformation_mode") not in (None, "asymmetric")
        ):
            found.add("Resize (other than nearest, asymmetric)")
        if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or (
            n.op_type in ("MaxPool", "AveragePool") and a.get("ceil_mode")
        ):
            found.add(f"{n.op_type} (auto_pad or ceil_mode)")
    return sorted(found)


class TorchGraph(torch.nn.Module):
    """``forward(inputs)`` → the graph's outputs, in order. The batch axis may be longer than the graph
    says."""

    def __init__(self, model: ModelProto) -> None:
        super().__init__()
        index = GraphIndex(model)
        trained = {name for n in weighted_nodes(index) for name in n.input[1:] if name in index.initializers}
        codes = {
            n.input[0]
            for n in index.nodes
            if n.op_type == "DequantizeLinear" and n.input[0] in index.initializers
        }
        self._nodes = [(n.op_type, list(n.input), list(n.output), _attributes(n)) for n in index.nodes]
        self._inputs, self._outputs = index.inputs, index.outputs
        self._values: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        for i, name in enumerate(index.initializers):
            array = np.array(index.weights(name))
            if (name in trained and array.dtype == np.float32) or name in codes:
                self._names[f"w{i}"] = name
                self.register_parameter(
                    f"w{i}", torch.nn.Parameter(torch.from_numpy(array.astype(np.float32)))
                )
            else:
                self._values[name] = torch.from_numpy(array)

    def forward(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        values: dict[str, Any] = {
            "": None,
            **self._values,
            **{self._names[k]: p for k, p in self.named_parameters()},
        }
        values.update({n: inputs[n] for n in self._inputs})
        for op, reads, writes, attributes in self._nodes:
            result = _OPS[op]([values[r] for r in reads], attributes)
            for name, value in zip(
                writes, result if isinstance(result, (list, tuple)) else [result], strict=False
            ):
                values[name] = value
        return [values[o] for o in self._outputs]

    def parameters_by_name(self) -> dict[str, torch.nn.Parameter]:
        """Initializer name → its parameter."""
        return {self._names[k]: p for k, p in self.named_parameters()}

    def weights(self) -> dict[str, Floats]:
        """Initializer name → what it is now."""
        return {name: p.detach().numpy().copy() for name, p in self.parameters_by_name().items()}


def _attributes(node: NodeProto) -> dict[str, Any]:
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def _padded(x: Tensor, pads: list[int], value: float = 0.0) -> Tensor:
    """ONNX pads (begins, then ends, of the spatial axes) as torch wants them."""
    half = len(pads) // 2
    flat = [p for i in reversed(range(half)) for p in (pads[i], pads[half + i])]
    return F.pad(x, flat, value=value) if any(pads) else x


def _conv(v: list[Any], a: dict[str, Any]) -> Tensor:
    x, w, b = v[0], v[1], v[2] if len(v) > 2 else None
    rank = w.ndim - 2
    call = {1: F.conv1d, 2: F.conv2d}[rank]
    pads = a.get("pads", [0] * 2 * rank)
    around = pads[:rank]
    if around != pads[rank:]:
        # a copy of the whole input: only where the convolution itself cannot do it
        x, around = _padded(x, pads), [0] * rank
    strides, dilations = a.get("strides", [1] * rank), a.get("dilations", [1] * rank)
    return call(x, w, b, strides, around, dilations, a.get("group", 1))


def _max_pool(v: list[Any], a: dict[str, Any]) -> Tensor:
    k = a["kernel_shape"]
    x = _padded(v[0], a.get("pads", [0] * 2 * len(k)), float("-inf"))
    return {1: F.max_pool1d, 2: F.max_pool2d}[len(k)](x, k, a.get("strides", [1] * len(k)))


def _average_pool(v: list[Any], a: dict[str, Any]) -> Tensor:
    k = a["kernel_shape"]
    strides, pads = a.get("strides", [1] * len(k)), a.get("pads", [0] * 2 * len(k))
    call = {1: F.avg_pool1d, 2: F.avg_pool2d}[len(k)]
    mean: Tensor = call(_padded(v[0], pads), k, strides)
    if not any(pads) or a.get("count_include_pad"):
        return mean
    inside: Tensor = mean / call(_padded(torch.ones_like(v[0]), pads), k, strides)
    return inside


def _gemm(v: list[Any], a: dict[str, Any]) -> Tensor:
    x, w = (v[0].T if a.get("transA") else v[0]), (v[1].T if a.get("transB") else v[1])
    y: Tensor = a.get("alpha", 1.0) * (x @ w)
    return y + a.get("beta", 1.0) * v[2] if len(v) > 2 else y


def _reshape(v: list[Any], a: dict[str, Any]) -> Tensor:
    x, shape = v[0], [int(s) for s in v[1]]
    shape = [x.shape[i] if s == 0 and not a.get("allowzero") else s for i, s in enumerate(shape)]
    if shape and shape[0] == 1:  # the batch axis, as the graph was exported
        shape[0] = x.shape[0]
    y: Tensor = x.reshape(shape)
    return y


def _resize(v: list[Any], a: dict[str, Any]) -> Tensor:
    if len(v) > 3 and v[3] is not None:
        return F.interpolate(v[0], size=[int(s) for s in v[3][2:]], mode="nearest")
    return F.interpolate(v[0], scale_factor=[float(s) for s in v[2][2:]], mode="nearest")


def _clip(v: list[Any], a: dict[str, Any]) -> Tensor:
    return torch.clamp(v[0], v[1] if len(v) > 1 else a.get("min"), v[2] if len(v) > 2 else a.get("max"))


def _slice(v: list[Any], a: dict[str, Any]) -> Tensor:
    x = v[0]
    starts, ends = v[1].tolist(), v[2].tolist()
    axes = v[3].tolist() if len(v) > 3 and v[3] is not None else range(len(starts))
    steps = v[4].tolist() if len(v) > 4 and v[4] is not None else [1] * len(starts)
    where = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        where[axis] = slice(start, min(end, x.shape[axis]), step)
    y: Tensor = x[tuple(where)]
    return y


def _split(v: list[Any], a: dict[str, Any]) -> Any:
    axis = a.get("axis", 0)
    if len(v) > 1 and v[1] is not None:
        return torch.split(v[0], v[1].tolist(), axis)
    return torch.chunk(v[0], a["num_outputs"], axis)


def _quantize(v: list[Any], a: dict[str, Any]) -> Tensor:
    limits = torch.iinfo(v[2].dtype)
    axis = a.get("axis", 1)
    return _rounded(v[0] / _along(v[1], v[0], axis) + _along(v[2], v[0], axis)).clamp(limits.min, limits.max)


def _dequantize(v: list[Any], a: dict[str, Any]) -> Tensor:
    codes = _rounded(v[0]) if isinstance(v[0], torch.nn.Parameter) else v[0]
    axis = a.get("axis", 1)
    y: Tensor = (codes - _along(v[2], codes, axis).float()) * _along(v[1], codes, axis)
    return y


def _rounded(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def _along(value: Tensor, like: Tensor, axis: int) -> Tensor:
    """One value for all, or one along an axis."""
    return (
        value
        if value.ndim == 0
        else value.reshape([-1 if i == axis % like.ndim else 1 for i in range(like.ndim)])
    )


_OPS: dict[str, Op] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Gemm": _gemm,
    "Reshape": _reshape,
    "Resize": _resize,
    "Clip": _clip,
    "Slice": _slice,
    "Split": _split,
    "MatMul": lambda v, a: v[0] @ v[1],
    "Relu": lambda v, a: F.relu(v[0]),
    "LeakyRelu": lambda v, a: F.leaky_relu(v[0], a.get("alpha", 0.01)),
    "Sigmoid": lambda v, a: torch.sigmoid(v[0]),
    "Tanh": lambda v, a: torch.tanh(v[0]),
    "HardSwish": lambda v, a: F.hardswish(v[0]),
    "HardSigmoid": lambda v, a: torch.clamp(a.get("alpha", 0.2) * v[0] + a.get("beta", 0.5), 0, 1),
    "Elu": lambda v, a: F.elu(v[0], a.get("alpha", 1.0)),
    "Softplus": lambda v, a: F.softplus(v[0]),
    "Softmax": lambda v, a: torch.softmax(v[0], a.get("axis", -1)),
    "Add": lambda v, a: v[0] + v[1],
    "Sub": lambda v, a: v[0] - v[1],
    "Mul": lambda v, a: v[0] * v[1],
    "Div": lambda v, a: v[0] / v[1],
    "Exp": lambda v, a: torch.exp(v[0]),
    "Identity": lambda v, a: v[0],
    "Concat": lambda v, a: torch.cat(v, a["axis"]),
    "Flatten": lambda v, a: (
        v[0].flatten(1) if a.get("axis", 1) == 1 else v[0].reshape(int(np.prod(v[0].shape[: a["axis"]])), -1)
    ),
    "Transpose": lambda v, a: v[0].permute(a["perm"]),
    "GlobalAveragePool": lambda v, a: v[0].mean(tuple(range(2, v[0].ndim)), keepdim=True),
    "BatchNormalization": lambda v, a: F.batch_norm(v[0], v[3], v[4], v[1], v[2], eps=a.get("epsilon", 1e-5)),
    "Squeeze": lambda v, a: v[0].squeeze(tuple(v[1].tolist())),
    "Unsqueeze": lambda v, a: _unsqueezed(v[0], v[1].tolist()),
    "ReduceMean": lambda v, a: v[0].mean(
        tuple(v[1].tolist() if len(v) > 1 else a["axes"]), keepdim=bool(a.get("keepdims", 1))
    ),
}


def _unsqueezed(x: Tensor, axes: list[int]) -> Tensor:
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x
