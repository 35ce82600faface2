"""Write float16 into a graph for strongly typed TensorRT networks (10.x, 11.x), which take every precision
from the graph.

Works on float graphs and on explicit Q/DQ graphs: what int8 leaves over computes in float16 instead of
float32. The scales of Q/DQ pairs become float16 with it (ONNX opset 19), because a convolution has the type
of what it dequantizes. Inputs and outputs of the graph keep their types.

What stays float32 (the rules of NVIDIA ModelOpt's AutoCast): nodes that see a value above
512, constants outside float16, reductions, exponentials and normalisations, recurrent layers and what feeds
them, and nodes whose values were never seen. TensorRT 8.x does not need this: its builder flag chooses
float16 by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgectl.builder.graph import GraphIndex, has_type, subgraphs
from edgectl.builder.int8.placement import MOVES
from edgectl.core.errors import ModelError

__all__ = ["to_float16"]

# the first in which QuantizeLinear and DequantizeLinear take float16
_OPSET = 19
_MAX_VALUE = 512.0
_MAX_CONSTANT = 65504.0
# the least normal float16: below, a scale loses digits
_MIN_SCALE = 6.104e-5
_FLOAT32 = frozenset(
    (
        "Softmax",
        "LogSoftmax",
        "Exp",
        "Log",
        "Pow",
        "Sqrt",
        "Reciprocal",
        "Erf",
        "LayerNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "BatchNormalization",
        "LpNormalization",
        "CumSum",
        "NonMaxSuppression",
        "LSTM",
        "GRU",
        "RNN",
        "Cast",
        "Constant",
        "ConstantOfShape",
        "Range",
        "RandomNormal",
        "RandomUniform",
        "EyeLike",
        "STFT",
        "DFT",
        "Einsum",
        "Mod",
        "QLinearConv",
        "ConvInteger",
        "MatMulInteger",
        "DynamicQuantizeLinear",
    )
)
# inputs that are float32 whatever the type of the data
_ALWAYS_FLOAT32 = {"Resize": (1, 2)}
_LOOPS = ("LSTM", "GRU", "RNN", "Loop", "Scan")
_PASSES_ON = frozenset((*MOVES, "Concat", "Cast", "Pad"))
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def to_float16(model: ModelProto, largest: Mapping[str, float]) -> tuple[ModelProto, frozenset[str]]:
    """A copy of ``model`` that computes in float16 where that is safe, and the names of the nodes that do.

    Inputs, outputs and their types stay. ``largest``: tensor → largest magnitude seen in calibration. Raises
    :class:`ModelError` if the opset cannot be raised to 19.
    """
    writer = _Float16Writer(_upgraded(model), largest)
    return writer.write(), frozenset(writer.chosen)


def _upgraded(model: ModelProto) -> ModelProto:
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    try:
        raised = onnx.version_converter.convert_version(model, _OPSET) if opset < _OPSET else model
        raised.ir_version = max(raised.ir_version, 9)
        # the converter forgets what inference cannot tell
        lost = {v.name: v for v in model.graph.value_info if has_type(v)}
        kept = [v for v in raised.graph.value_info if v.name not in lost]
        del raised.graph.value_info[:]
        raised.graph.value_info.extend([*kept, *lost.values()])
        return onnx.shape_inference.infer_shapes(raised, data_prop=True)
    except Exception as e:
        # the converter is C++ and raises RuntimeError and others
        raise ModelError(
            f"the graph cannot be raised to opset {_OPSET}: {(str(e).strip() or 'no reason').splitlines()[0][:200]}"
        ) from e


class _Float16Writer:
    def __init__(self, model: ModelProto, largest: Mapping[str, float]) -> None:
        self._index = GraphIndex(model)
        self._largest = largest
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._made: set[str] = set()
        """Tensors that are float16 in the written graph."""
        self._casts: dict[tuple[str, bool], str] = {}
        self.chosen = {
            n.name for n in self._index.nodes if n.op_type not in _PAIR and self._safe(n)
        } - self._before_loops()
        """Nodes that compute in float16."""

    def write(self) -> ModelProto:
        index, chosen = self._index, self.chosen
        for source in index.nodes:
            node = NodeProto()
            node.CopyFrom(source)
            if source.op_type == "DequantizeLinear":
                self._nodes.append(node)  # float32; a float16 reader gets a twin of it
            elif source.op_type == "QuantizeLinear":
                self._quantize(node)
            else:
                self._node(node, source.name in chosen)
        for output in index.outputs:
            if output in self._made:
                self._rename(output)
        return self._finished()

    def _safe(self, n: NodeProto) -> bool:
        index = self._index
        if (
            n.op_type in _FLOAT32
            or n.op_type.startswith("Reduce")
            or n.domain not in ("", "ai.onnx")
            or any(subgraphs(n))
        ):
            return False
        data = [t for t in (*n.input, *n.output) if t and t not in index.initializers]
        # of a sequence it is not known what it holds
        if any(not index.is_known(t) or not index.is_tensor(t) for t in data):
            return False
        floats = [t for t in (*n.input, *n.output) if t and index.is_float(t)]
        if not floats or any(t in index.captured for t in n.output):
            return False
        for i, t in enumerate(n.input):
            if i in _ALWAYS_FLOAT32.get(n.op_type, ()) or not t:
                continue
            value = index.weights(t)
            if value is not None and value.dtype == np.float32:
                if not np.all(np.abs(value) <= _MAX_CONSTANT):
                    return False
            elif value is None and index.is_float(t) and not self._fits(t):
                return False
        return all(self._fits(t) for t in n.output if t and index.is_float(t))

    def _before_loops(self) -> set[str]:
        """What makes the inputs of recurrent layers, back to the first node that computes something.

        These layers compute in float32. Where a cast is the last thing before one, or only moves lie between,
        TensorRT takes the cast into the loop, over one time step, and refuses the graph ("Mismatched number
        of elements in reshape").
        """
        index = self._index
        found: set[str] = set()
        todo = [t for n in index.nodes if n.op_type in _LOOPS for t in n.input if t and index.is_float(t)]
        while todo:
            made = index.producer.get(todo.pop())
            if made is None or made.name in found:
                continue
            found.add(made.name)
            if made.op_type in _PASSES_ON:
                todo.extend(t for t in made.input if t and index.is_float(t))
        return found

    def _fits(self, tensor: str) -> bool:
        """Whether all that was seen of a tensor is well inside float16; for one behind a DequantizeLinear
        its scales decide, too."""
        made = self._index.producer.get(tensor)
        if made is not None and made.op_type == "DequantizeLinear":
            scale = np.asarray(self._index.weights(made.input[1]), np.float32)
            codes = self._index.weights(made.input[0])
            used = np.ones(scale.shape, bool)
            if codes is not None and scale.ndim:  # a channel of zeros has any scale
                axis = next((a.i for a in made.attribute if a.name == "axis"), 1)
                used = np.any(codes, axis=tuple(i for i in range(codes.ndim) if i != axis % codes.ndim))
            if np.any(scale[used] < _MIN_SCALE) or np.any(scale[used] * 256 > _MAX_CONSTANT):
                return False
            return codes is not None or self._fits(self._index.producer[made.input[0]].input[0])
        return self._largest.get(tensor, np.inf) <= _MAX_VALUE

    def _node(self, node: NodeProto, in_float16: bool) -> None:
        for i, t in enumerate(node.input):
            if not t:
                continue
            keep = i in _ALWAYS_FLOAT32.get(node.op_type, ())
            node.input[i] = self._as(t, in_float16 and not keep)
        self._nodes.append(node)
        if in_float16:
            self._made.update(o for o in node.output if o and self._index.is_float(o))

    def _quantize(self, node: NodeProto) -> None:
        """It has the type of what it reads; its scale is the one of its DequantizeLinear either way."""
        in_float16 = node.input[0] in self._made
        scale = np.asarray(self._index.weights(node.input[1]), np.float32)
        if in_float16 and np.any(scale < _MIN_SCALE):
            node.input[0], in_float16 = self._as(node.input[0], False), False
        if in_float16:
            node.input[1] = self._constant(node.input[1])
        self._nodes.append(node)

    def _as(self, tensor: str, in_float16: bool) -> str:
        """The tensor in the type that a reader computes in: itself, a constant of that type, a twin pair,
        or a cast."""
        if tensor in self._index.initializers:
            value = self._index.initializers[tensor]
            return self._constant(tensor) if in_float16 and value.data_type == TensorProto.FLOAT else tensor
        if not self._index.is_float(tensor) or (tensor in self._made) == in_float16:
            return tensor
        name = self._casts.get((tensor, in_float16))
        if name is None:
            name = self._casts[tensor, in_float16] = f"{tensor}_{'float16' if in_float16 else 'float'}"
            made = self._index.producer.get(tensor)
            if made is not None and made.op_type == "DequantizeLinear":
                twin = NodeProto()
                twin.CopyFrom(made)
                twin.name, twin.output[0] = f"{made.name}_float16", name
                twin.input[1] = self._constant(made.input[1])
                self._nodes.append(twin)
            else:
                kind = TensorProto.FLOAT16 if in_float16 else TensorProto.FLOAT
                self._nodes.append(helper.make_node("Cast", [tensor], [name], name=f"{name}_Cast", to=kind))
        return name

    def _constant(self, name: str) -> str:
        new = f"{name}_float16"
        if new not in self._constants:
            value = np.asarray(numpy_helper.to_array(self._index.initializers[name]), np.float32)
            stored = np.maximum(value, _MIN_SCALE) if self._is_scale(name) else value
            self._constants[new] = numpy_helper.from_array(stored.astype(np.float16), new)
        return new

    def _is_scale(self, name: str) -> bool:
        return any(n.op_type in _PAIR and i == 1 for n, i in self._index.readers[name])

    def _rename(self, output: str) -> None:
        """A float16 tensor behind a graph output of type float32."""
        taken = {t for node in self._nodes for t in (*node.input, *node.output)}.union(self._index.inputs)
        inner = next(n for i in range(len(taken) + 1) if (n := f"{output}_inner{'_' * i}") not in taken)
        for node in self._nodes:
            node.output[:] = [inner if o == output else o for o in node.output]
            node.input[:] = [inner if i == output else i for i in node.input]
        self._nodes.append(
            helper.make_node("Cast", [inner], [output], name=f"{output}_Cast", to=TensorProto.FLOAT)
        )

    def _finished(self) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(self._index.model)
        graph = model.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(_read(self._nodes, set(self._index.outputs)))
        read = {i for n in graph.node for i in n.input} | self._index.captured | set(self._index.outputs)
        kept = [t for t in (*graph.initializer, *self._constants.values()) if t.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return onnx.shape_inference.infer_shapes(model)


def _read(nodes: Iterable[NodeProto], outputs: set[str]) -> list[NodeProto]:
    """Without the DequantizeLinear nodes that only their twins are read of."""
    every = list(nodes)
    read = {i for n in every for i in n.input} | outputs
    return [n for n in every if n.op_type != "DequantizeLinear" or n.output[0] in read]
