"""Fold what need not be computed: batch norms into convolutions, constants, duplicates, dead nodes
(onnxslim); shorten names."""

from __future__ import annotations

import contextlib
import logging
import os

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from edgectl.builder.graph import GraphIndex, all_nodes, is_quantized
from edgectl.builder.passes.base import Pass
from edgectl.builder.passes.einsum import write_plain_equations
from edgectl.builder.passes.names import settle_names
from edgectl.core.errors import ModelError

__all__ = ["Canonicalise"]


class Canonicalise(Pass):
    """Deterministic: the same model in gives the same bytes out."""

    name = "canonicalise"

    def __init__(self, *, simplify: bool = True) -> None:
        """``simplify`` False: without onnxslim, for graphs that it does not get right; batch norms and
        constant nodes then stay."""
        self._simplify = simplify

    def requires(self, model: ModelProto) -> None:
        if not model.graph.node:
            raise ModelError("the graph is empty")

    def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
        before = model.SerializeToString(deterministic=True)
        slim = _simplified(model) if self._simplify else _with_stored_constants(model)
        for i, node in enumerate(slim.graph.node):
            if not node.name:
                node.name = f"{node.op_type}_c{i}"
        if all(n.op_type == "DequantizeLinear" or not is_quantized(n) for n in all_nodes(slim.graph)):
            # of a model whose activations are float; with both, the codes are what its kernels take
            _fold_stored_weights(slim)
        _fold_scales(slim)
        _pad_every_axis(slim)
        write_plain_equations(slim)
        settle_names(slim)
        slim = onnx.shape_inference.infer_shapes(slim, data_prop=True)
        return slim, slim.SerializeToString(deterministic=True) != before

    def ensures(self, model: ModelProto) -> None:
        index = GraphIndex(model)
        if missing := [
            n.name
            for n in index.nodes
            for i in n.input
            if i and i not in index.producer and i not in index.initializers and i not in index.inputs
        ]:
            raise ModelError(f"nodes read tensors that nobody makes: {', '.join(missing[:3])}")


def _simplified(model: ModelProto) -> ModelProto:
    import onnxslim  # here: it sets up logging when it is imported

    logging.getLogger("onnxslim").setLevel(logging.ERROR)
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            slim: ModelProto = onnxslim.slim(copy)
    except Exception as e:
        raise ModelError(
            f"the graph cannot be simplified: {(str(e).strip() or type(e).__name__).splitlines()[0][:200]}"
        ) from e
    del slim.graph.input[:], slim.graph.output[:]  # it drops inputs that nobody reads
    slim.graph.input.extend(model.graph.input)
    slim.graph.output.extend(model.graph.output)
    return slim


def _with_stored_constants(model: ModelProto) -> ModelProto:
    """A copy whose Constant nodes are initializers, so that weights are seen as such."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for node in [n for n in copy.graph.node if n.op_type == "Constant"]:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if value is not None:
            copy.graph.initializer.add().CopyFrom(value)
            copy.graph.initializer[-1].name = node.output[0]
            copy.graph.node.remove(node)
    return copy


def _fold_stored_weights(model: ModelProto) -> None:
    """DequantizeLinear over constants becomes its float value (converters of TFLite models leave such
    weights)."""
    index = GraphIndex(model)
    for node in [n for n in model.graph.node if n.op_type == "DequantizeLinear"]:
        values = [index.weights(i) for i in node.input]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if any(v is None for v in values) or any(a.name == "block_size" and a.i for a in node.attribute):
            continue
        x, scale = np.asarray(values[0]), np.asarray(values[1], np.float32)
        zero = np.asarray(values[2] if len(values) > 2 else 0)
        if scale.ndim == 1 and scale.size > 1:
            along = [1] * x.ndim
            along[axis] = -1
            scale, zero = scale.reshape(along), zero.reshape(along) if zero.ndim else zero
        folded = ((x.astype(np.int64) - zero.astype(np.int64)) * scale).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(folded, node.output[0]))
        model.graph.node.remove(node)
    _drop_unread(model)


def _fold_scales(model: ModelProto) -> None:
    """Gemm with factors for its constants becomes one without: x · (alpha w) + (beta b) is a product like
    any other, and may be int8."""
    index = GraphIndex(model)
    for node in (n for n in model.graph.node if n.op_type == "Gemm"):
        factors = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta") and a.f != 1.0}
        of = {"alpha": 1, "beta": 2}
        scaled = {
            of[name]: (index.weights(node.input[of[name]]), f)
            for name, f in factors.items()
            if len(node.input) > of[name]
        }
        if not factors or any(w is None or w.dtype != np.float32 for w, _ in scaled.values()):
            continue
        for i, (w, factor) in scaled.items():
            name = f"{node.output[0]}_{i}_scaled"
            model.graph.initializer.append(
                numpy_helper.from_array((np.asarray(w) * np.float32(factor)).astype(np.float32), name)
            )
            node.input[i] = name
        kept = [a for a in node.attribute if a.name not in ("alpha", "beta")]
        del node.attribute[:]
        node.attribute.extend(kept)
    _drop_unread(model)


def _pad_every_axis(model: ModelProto) -> None:
    """A Pad that names its axes becomes one with sizes for all: ONNX Runtime, which turns the layout around
    int8 convolutions, takes the sizes for those of all axes."""
    index = GraphIndex(model)
    for node in (n for n in model.graph.node if n.op_type == "Pad" and len(n.input) > 3 and n.input[3]):
        sizes, axes, shape = (
            index.weights(node.input[1]),
            index.weights(node.input[3]),
            index.shape(node.input[0]),
        )
        if sizes is None or axes is None or shape is None:
            continue
        rank = len(shape)
        full = np.zeros((2, rank), np.int64)
        full[:, np.asarray(axes, np.int64) % rank] = np.asarray(sizes, np.int64).reshape(2, -1)
        name = f"{node.output[0]}_sizes"
        model.graph.initializer.append(numpy_helper.from_array(full.ravel(), name))
        kept = [node.input[0], name, *(i for i in node.input[2:3] if i)]
        node.input[:] = kept
    _drop_unread(model)


def _drop_unread(model: ModelProto) -> None:
    read = (
        {i for n in model.graph.node for i in n.input}
        | GraphIndex(model).captured
        | {o.name for o in model.graph.output}
    )
    kept = [t for t in model.graph.initializer if t.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
