"""Check a written graph against the rules of its family: what slipped through the placement is found here,
not on a device.

One function a rule, all in :data:`RULES`. Sources: the explicit-quantization rules of NVIDIA's TensorRT
developer guide and Model Optimizer, ONNX Runtime's quantization guide, and this project's own measurements
(docs/builder.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from onnx import ModelProto, NodeProto
from onnx.shape_inference import infer_shapes

from edgectl.builder.graph import GraphIndex, attribute
from edgectl.builder.int8.dla import refusal
from edgectl.builder.int8.families import Family
from edgectl.builder.int8.placement import MOVES, WEIGHTED, fewest_channels, heads, weight_axis
from edgectl.core.errors import ModelError

__all__ = ["RULES", "check", "lint"]

_PER_CHANNEL_OPSET = 13
_INT8_ACCUMULATION = 4


def lint(model: ModelProto, family: Family) -> list[str]:
    """Every broken rule as ``node: what is wrong``. An empty list is a clean graph."""
    index = GraphIndex(model)
    return [problem for rule in RULES for problem in rule(index, family)]


def check(model: ModelProto, family: Family) -> None:
    """Raise :class:`ModelError` with the first broken rules."""
    if problems := lint(model, family):
        raise ModelError(
            f"the {family.name} graph breaks {len(problems)} placement rules: {'; '.join(problems[:3])}",
            hint="this is a defect of edgectl, not of the model: report it; profiles of other kernel families may still build",
        )


def _opset(index: GraphIndex, family: Family) -> Iterator[str]:
    version = next((o.version for o in index.model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < _PER_CHANNEL_OPSET and any(n.op_type == "DequantizeLinear" for n in index.nodes):
        yield f"graph: opset {version} has no scale per channel; {_PER_CHANNEL_OPSET} has"


def _scales(index: GraphIndex, family: Family) -> Iterator[str]:
    for n in _all(index, "QuantizeLinear", "DequantizeLinear"):
        scale = index.weights(n.input[1])
        if (
            scale is None
            or not np.all(np.isfinite(np.asarray(scale, np.float64)))
            or not np.all(np.asarray(scale) > 0)
        ):
            yield f"{n.name}: its scale is not a positive constant"


def _payload(index: GraphIndex, family: Family) -> Iterator[str]:
    for n in _all(index, "QuantizeLinear"):
        if n.input[0] in index.initializers:
            yield f"{n.name}: a weight is shipped as float and quantized at load"


def _activations(index: GraphIndex, family: Family) -> Iterator[str]:
    """U8S8 is what x86 dot products take, S8S8 what ARM and TensorRT do; TensorRT wants zero point 0."""
    for n in _all(index, "QuantizeLinear"):
        zero = index.weights(n.input[2]) if len(n.input) > 2 else None
        if zero is None or zero.dtype != family.activation:
            yield f"{n.name}: activations are not {family.activation}"
        elif family.symmetric and np.any(zero):
            yield f"{n.name}: zero point is not 0"


def _codes(index: GraphIndex, family: Family) -> Iterator[str]:
    for n in _all(index, "QuantizeLinear"):
        if any(r.op_type != "DequantizeLinear" for r, _ in index.readers[n.output[0]]):
            yield f"{n.name}: an operator reads codes directly"


def _pairs(index: GraphIndex, family: Family) -> Iterator[str]:
    """What is dequantized was quantized, and with the same scale and zero point."""
    for n in _all(index, "DequantizeLinear"):
        if n.input[0] in index.initializers:
            continue
        source = index.producer.get(n.input[0])
        if source is None or source.op_type != "QuantizeLinear":
            yield f"{n.name}: what it reads are no codes"
        elif not all(_same(index, a, b) for a, b in zip(source.input[1:], n.input[1:], strict=False)):
            yield f"{n.name}: another scale or zero point than {source.name} has"


def _weights(index: GraphIndex, family: Family) -> Iterator[str]:
    """A weighted node is float throughout, or reads int8 data and int8 weights with a scale for each
    output channel."""
    for n, dequantize in _quantized(index):
        if not _dequantized(index, n.input[0]):
            yield f"{n.name}: int8 weights but float data"
        codes, scale = index.weights(dequantize.input[0]), index.weights(dequantize.input[1])
        if codes is None or codes.dtype != np.int8:
            yield f"{n.name}: its weight codes are not int8"
            continue
        if np.abs(codes.astype(np.int16)).max(initial=0) > family.weight_max:
            yield f"{n.name}: weight codes exceed ±{family.weight_max}"
        axis = weight_axis(n) % codes.ndim
        if (
            scale is None
            or scale.shape != (codes.shape[axis],)
            or attribute(dequantize, "axis", 1) % codes.ndim != axis
        ):
            yield f"{n.name}: its weight has no scale for each output channel"


def _biases(index: GraphIndex, family: Family) -> Iterator[str]:
    for n, _ in _quantized(index):
        if len(n.input) > 2 and n.input[2] in index.producer and not family.int32_bias:
            yield f"{n.name}: its bias is not float"


def _size(index: GraphIndex, family: Family) -> Iterator[str]:
    """TensorRT: int8 loses on few channels and on matrix-vector products."""
    for n, dequantize in _quantized(index):
        if fewest_channels(n, index.initializers[dequantize.input[0]].dims) < family.min_channels:
            yield f"{n.name}: fewer than {family.min_channels} channels in int8"
        shape = index.shape(n.output[0])
        if (
            n.op_type in ("Gemm", "MatMul")
            and not family.quantize_gemv
            and shape is not None
            and shape[-2:][0] == 1
        ):
            yield f"{n.name}: a matrix-vector product in int8"


def _activation_fused(index: GraphIndex, family: Family) -> Iterator[str]:
    """Nothing between a layer and its Relu, or they do not fuse (DLA wants a scale there, too)."""
    if family.placement == "everything":
        return
    for n in _all(index, "Relu", "Clip"):
        if index.only_reader(n.input[0]) is None:
            continue  # somebody else needs the layer's own result
        before = _dequantized(index, n.input[0])
        source = index.producer.get(before.input[0]) if before else None
        maker = index.producer.get(source.input[0]) if source is not None else None
        if maker is not None and maker.op_type in WEIGHTED and index.only_reader(maker.output[0]) is not None:
            yield f"{n.name}: a quantization lies between it and {maker.name}"


def _moves(index: GraphIndex, family: Family) -> Iterator[str]:
    """What only moves values keeps their codes: one scale before and behind."""
    for n in _all(index, *MOVES):
        before = _dequantized(index, n.input[0])
        for o in n.output:
            for q in (r for r, _ in index.readers[o] if before and r.op_type == "QuantizeLinear"):
                assert before is not None
                if not all(_same(index, a, b) for a, b in zip(before.input[1:], q.input[1:], strict=True)):
                    yield f"{n.name}: its output has another scale than its input"


def _joins(index: GraphIndex, family: Family) -> Iterator[str]:
    """Compilers fuse a convolution with the add behind it, and join int8 tensors only at one scale."""
    if family.placement != "inputs":
        return
    for n in _all(index, "Add"):
        if all(_dequantized(index, i) for i in n.input):
            yield f"{n.name}: both branches of an add are quantized; it cannot fuse with its convolution"
    for n in _all(index, "Concat"):
        pairs = [_dequantized(index, i) for i in n.input]
        scales = [p.input[1] for p in pairs if p is not None]
        if len(scales) == len(pairs) and not all(_same(index, scales[0], s) for s in scales):
            yield f"{n.name}: its int8 inputs have different scales"


def _ends(index: GraphIndex, family: Family) -> Iterator[str]:
    """TensorRT and OpenVINO: the last layers and the graph's outputs are float (scores and boxes need more
    than 256 values)."""
    if family.placement != "inputs":
        return
    for o in index.outputs:
        if made := _dequantized(index, o):
            yield f"{made.name}: a graph output is quantized"
    quantized = {n.name for n, _ in _quantized(index)}
    for name in sorted(_last(index) & quantized):
        yield f"{name}: a head in int8"


def _scaled(index: GraphIndex, family: Family) -> Iterator[str]:
    """DLA: a layer that reads one scaled tensor reads nothing else, and what it makes has a scale."""
    if family.placement != "everything":
        return
    shaped = GraphIndex(infer_shapes(index.model))
    for n in shaped.nodes:
        kept = n.op_type in WEIGHTED and n.input[1] in shaped.initializers
        if kept or n.op_type in ("QuantizeLinear", "DequantizeLinear") or refusal(shaped, n):
            continue
        read = [_dequantized(index, i) is not None for i in n.input if i and i not in index.initializers]
        if any(read):
            if not all(read):
                yield f"{n.name}: one of its inputs has no scale"
            if {r.op_type for o in n.output for r, _ in index.readers[o]} != {"QuantizeLinear"}:
                yield f"{n.name}: what it makes has no scale"


def _integers(index: GraphIndex, family: Family) -> Iterator[str]:
    """No convolution on integers at run time; products in the form that has a fast kernel."""
    for n in _all(index, "ConvInteger"):
        yield f"{n.name}: convolutions quantized at run time have no fast kernel"
    for n in _all(index, "MatMulInteger"):
        codes = index.weights(n.input[1])
        if codes is None or codes.dtype != np.int8:
            yield f"{n.name}: its weight codes are not int8"
        elif np.abs(codes.astype(np.int16)).max(initial=0) > family.weight_max:
            yield f"{n.name}: weight codes exceed ±{family.weight_max}"
    for n in _all(index, "MatMulNBits"):
        if attribute(n, "accuracy_level") != _INT8_ACCUMULATION:
            yield f"{n.name}: accumulates in float, which is slower than no quantization"


def _products_only(index: GraphIndex, family: Family) -> Iterator[str]:
    if family.placement != "matmul":
        return
    for n in _all(index, "QuantizeLinear", "DequantizeLinear"):
        yield f"{n.name}: a {family.name} graph has no calibrated scales"
    if not any(n.op_type in ("MatMulInteger", "MatMulNBits") for n in index.nodes):
        yield "graph: nothing in it has low-bit weights"


RULES: tuple[Callable[[GraphIndex, Family], Iterator[str]], ...] = (
    _opset,
    _scales,
    _payload,
    _activations,
    _codes,
    _pairs,
    _weights,
    _biases,
    _size,
    _activation_fused,
    _moves,
    _joins,
    _ends,
    _scaled,
    _integers,
    _products_only,
)


def _all(index: GraphIndex, *kinds: str) -> list[NodeProto]:
    return [n for n in index.nodes if n.op_type in kinds]


def _same(index: GraphIndex, a: str, b: str) -> bool:
    x, y = index.weights(a), index.weights(b)
    return x is not None and y is not None and np.array_equal(x, y)


def _dequantized(index: GraphIndex, tensor: str) -> NodeProto | None:
    """The DequantizeLinear that makes a tensor."""
    maker = index.producer.get(tensor)
    return maker if maker is not None and maker.op_type == "DequantizeLinear" else None


def _quantized(index: GraphIndex) -> list[tuple[NodeProto, NodeProto]]:
    """Nodes with an int8 weight, and the DequantizeLinear of that weight."""
    found = [(n, _dequantized(index, n.input[1])) for n in _all(index, *WEIGHTED) if len(n.input) > 1]
    return [(n, d) for n, d in found if d is not None and d.input[0] in index.initializers]


def _last(index: GraphIndex) -> frozenset[str]:
    """Heads of a written graph, where weights come out of DequantizeLinear nodes."""
    plain = GraphIndex(index.model)
    plain.initializers |= {d.output[0]: index.initializers[d.input[0]] for _, d in _quantized(index)}
    return heads(plain)
