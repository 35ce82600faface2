"""Low-bit forms of matrix products that need no calibrated activations: for graphs that such products
dominate.

``dynamic``: inputs are quantized when they come (DynamicQuantizeLinear), products are MatMulInteger. Only
MatMul and Gemm, never convolutions: ConvInteger has slow kernels or none. ``weights-8``, ``weights-4``: only
the weight is stored in 8 or 4 bits, with a scale for every 32 inputs of each output
(``com.microsoft::MatMulNBits``, which ONNX Runtime and OpenVINO both read; a plain DequantizeLinear in blocks
runs 2 to 15 × slower in ONNX Runtime; bench/matrix_products.py). Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgectl.builder.graph import GraphIndex, attribute
from edgectl.builder.int8.families import FAMILIES, Family
from edgectl.builder.int8.placement import KEPT, Placement, plain_matmul, weighted_nodes
from edgectl.builder.int8.quantize import Quantized, weight_codes
from edgectl.core.bundle import LayerReport

__all__ = ["BLOCK", "FORMS", "Form", "block_codes", "block_product", "matmuls_dominate", "rewrite_matmuls"]

Form = Literal["dynamic", "weights-8", "weights-4"]
FORMS: tuple[Form, ...] = get_args(Form)
BLOCK = 32
"""Inputs that share a scale in the weight-only forms."""
_MOSTLY = 0.5
# ``accuracy_level``: the input is rounded to int8 per block; float accumulation is 2 to 20 × slower
_INT8_ACCUMULATION = 4


def matmuls_dominate(model: ModelProto) -> bool:
    """Whether at least half of the weights belong to matrix products that can be rewritten."""
    index = GraphIndex(model)
    sizes = {n.name: int(np.prod(index.initializers[n.input[1]].dims)) for n in weighted_nodes(index)}
    rewritten = sum(sizes[n.name] for n in _matmuls(index, ()))
    return rewritten > 0 and rewritten >= _MOSTLY * sum(sizes.values())


def rewrite_matmuls(
    model: ModelProto, form: Form, family: Family, *, kept: Collection[str] = ()
) -> Quantized:
    """``model`` with every matrix product in ``form``, the rest float, and so the nodes that are ``kept``.
    ``family`` says how many bits its products stand."""
    index = GraphIndex(model)
    chosen = {n.name for n in _matmuls(index, kept)}
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    constants: dict[str, NDArray[np.generic]] = {}
    reports = []
    weighted = {n.name for n in weighted_nodes(index)}
    for n in index.nodes:
        if n.name in chosen:
            weight = np.asarray(index.weights(n.input[1]), np.float32)
            weight = weight.T if n.op_type == "Gemm" and attribute(n, "transB") else weight
            nodes, made = (
                _dynamic(n, weight, family)
                if form == "dynamic"
                else _packed(n, weight, 8 if form == "weights-8" else 4)
            )
            changed.graph.node.extend(nodes)
            constants |= made
            reports.append(LayerReport(node=n.name, op=n.op_type, precision="int8"))
        else:
            changed.graph.node.append(n)
            if n.name in weighted:
                reason = KEPT if n.name in kept else f"not in the {form} form"
                reports.append(LayerReport(node=n.name, op=n.op_type, precision="float32", reason=reason))
    read = (
        {i for n in changed.graph.node for i in n.input}
        | index.captured
        | {o.name for o in changed.graph.output}
    )
    kept = [t for t in model.graph.initializer if t.name in read]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(
        [*kept, *(numpy_helper.from_array(v, name) for name, v in constants.items())]
    )
    if form != "dynamic" and not any(o.domain == "com.microsoft" for o in changed.opset_import):
        changed.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    reasons = {r.node: r.reason for r in reports if r.reason}
    own = FAMILIES[form]
    own = replace(own, weight_max=family.weight_max) if form == "dynamic" else own
    return Quantized(changed, Placement(frozenset(chosen), (), frozenset(), {}, reasons), tuple(reports), own)


def _matmuls(index: GraphIndex, kept: Collection[str]) -> list[NodeProto]:
    def fits(n: NodeProto) -> bool:
        weight = index.weights(n.input[1])
        return (
            n.op_type in ("Gemm", "MatMul")
            and n.name not in kept
            and n.input[0] not in index.initializers
            and weight is not None
            and weight.dtype == np.float32
            and not plain_matmul(n, weight)
        )

    return [n for n in weighted_nodes(index) if fits(n)]


def _dynamic(
    n: NodeProto, weight: NDArray[np.float32], family: Family
) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
    """``weight``: (inputs, outputs). y = (codes(x) · codes(w)) × scale(x) × scale(w) + bias."""
    codes, scale = weight_codes(weight, 1, family)
    name = n.name
    constants: dict[str, NDArray[np.generic]] = {
        f"{name}_codes": codes,
        f"{name}_scale": scale,
        f"{name}_zero": np.zeros(scale.shape, np.int8),
    }
    x, s, z = (f"{name}_x{part}" for part in ("", "_scale", "_zero"))
    nodes = [
        helper.make_node(
            "DynamicQuantizeLinear", [n.input[0]], [x, s, z], name=f"{name}_DynamicQuantizeLinear"
        ),
        helper.make_node(
            "MatMulInteger", [x, f"{name}_codes", z, f"{name}_zero"], [f"{name}_integer"], name=name
        ),
        helper.make_node(
            "Cast", [f"{name}_integer"], [f"{name}_cast"], name=f"{name}_Cast", to=TensorProto.FLOAT
        ),
        helper.make_node("Mul", [s, f"{name}_scale"], [f"{name}_scales"], name=f"{name}_Scales"),
    ]
    last = helper.make_node("Mul", [f"{name}_cast", f"{name}_scales"], [n.output[0]], name=f"{name}_Mul")
    if not _bias(n):
        return [*nodes, last], constants
    last.output[0] = f"{name}_product"
    return [*nodes, last, _add_bias(n)], constants


def _packed(
    n: NodeProto, weight: NDArray[np.float32], bits: int
) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
    """``weight``: (inputs, outputs)."""
    inputs, outputs = weight.shape
    codes, scale = block_codes(weight, bits)
    names = (f"{n.name}_codes", f"{n.name}_scale")
    return block_product(n, names, (inputs, outputs), bits), {names[0]: codes, names[1]: scale}


def block_codes(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """``weight`` (inputs, outputs) as ``MatMulNBits`` takes it: codes (outputs, blocks, bytes of a block) and a scale for each
    block of :data:`BLOCK` inputs, output by output; the largest value of a block gets the code that is furthest out."""
    inputs, outputs = weight.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((outputs, blocks * BLOCK), np.float32)
    padded[:, :inputs] = weight.T
    grouped = padded.reshape(outputs, blocks, BLOCK)
    middle = 1 << (bits - 1)
    furthest = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=2)[..., None], 2)[..., 0]
    scale = np.where(furthest == 0, 1.0, furthest / -middle).astype(np.float32)
    codes = np.clip(np.rint(grouped / scale[..., None]), -middle, middle - 1) + middle
    if bits == 4:
        codes = codes[..., 0::2] + codes[..., 1::2] * 16
    return codes.astype(np.uint8), scale.ravel()


def block_product(n: NodeProto, names: tuple[str, str], shape: tuple[int, int], bits: int) -> list[NodeProto]:
    """The nodes in the place of ``n``, whose weight of ``shape`` (inputs, outputs) is now codes and scales, by ``names``."""
    node = helper.make_node(
        "MatMulNBits",
        [n.input[0], *names],
        [n.output[0]],
        name=n.name,
        domain="com.microsoft",
        K=shape[0],
        N=shape[1],
        bits=bits,
        block_size=BLOCK,
        accuracy_level=_INT8_ACCUMULATION,
    )
    if not _bias(n):
        return [node]
    node.output[0] = f"{n.name}_product"
    return [node, _add_bias(n)]


def _bias(n: NodeProto) -> str:
    return n.input[2] if len(n.input) > 2 else ""


def _add_bias(n: NodeProto) -> NodeProto:
    return helper.make_node("Add", [f"{n.name}_product", _bias(n)], [n.output[0]], name=f"{n.name}_Bias")
