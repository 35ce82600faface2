"""Preprocessing inside the graph: the input becomes plain pixels, uint8 NHWC, and what the device would
compute moves into the engine.

The scale, mean and standard deviation of the task and the change of layout are nodes in front of the old
input. Where a Q/DQ graph quantizes the picture to the pixels' own codes anyway (no mean, one scale, uint8),
nothing is left to compute: the pixel is the code, and its exact scale replaces the calibrated one. Whether it
is faster is measured with the preprocessing around it (:mod:`edgectl.builder.variants.fold_gain`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgectl.builder.graph import GraphIndex
from edgectl.builder.passes.base import Pass
from edgectl.core.errors import ModelError
from edgectl.core.task import ImageInput

__all__ = ["FoldInput", "folded_spec"]

# a calibrated scale this near to the pixels' own is that of a picture that was never quite white
_SAME_SCALE = 0.01


def folded_spec(spec: ImageInput) -> ImageInput:
    """The task's input after the fold: what the device fills in. Scale, mean and standard deviation stay
    as a record of the graph's."""
    return spec.model_copy(update={"dtype": "uint8", "layout": "NHWC"})


class FoldInput(Pass):
    """``float32 (1, 3, H, W)`` or ``(1, H, W, 3)`` → ``uint8 (1, H, W, 3)``; name and outputs stay."""

    name = "fold-input"

    def __init__(self, spec: ImageInput) -> None:
        self._spec = spec

    def requires(self, model: ModelProto) -> None:
        index = GraphIndex(model)
        s = self._spec
        wanted = (1, 3, s.height, s.width) if s.layout == "NCHW" else (1, s.height, s.width, 3)
        if (
            len(index.inputs) != 1
            or not index.is_float(index.inputs[0])
            or index.shape(index.inputs[0]) != wanted
        ):
            raise ModelError(f"the model does not take one float32 picture of {list(wanted)}")

    def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
        folded = ModelProto()
        folded.CopyFrom(model)
        index = GraphIndex(folded)
        name = index.inputs[0]
        front = _Front(self._spec, name)
        readers = index.readers[name]
        pair = front.pair_of(index)
        for node, i in readers:
            node.input[i] = front.value
        # it goes; its readers read the pixels behind their own scale
        if pair is not None:
            quantizer, dequantizer = pair
            codes = front.exact()
            for node in folded.graph.node:
                node.input[:] = [codes if i == dequantizer.output[0] else i for i in node.input]
            folded.graph.node.remove(dequantizer)
            folded.graph.node.remove(quantizer)
        if any(front.value in n.input for n in folded.graph.node):
            front.compute()
        nodes = list(folded.graph.node)
        del folded.graph.node[:]
        folded.graph.node.extend([*front.nodes, *nodes])
        folded.graph.initializer.extend(front.constants)
        shape = [1, self._spec.height, self._spec.width, 3]
        folded.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
        return folded, True

    def ensures(self, model: ModelProto) -> None:
        index = GraphIndex(model)
        if index.shape(index.inputs[0]) != (1, self._spec.height, self._spec.width, 3):
            raise ModelError("the input is not a picture of uint8 pixels")


class _Front:
    """The nodes in front of the old input."""

    def __init__(self, spec: ImageInput, name: str) -> None:
        self._spec, self._name = spec, name
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.value = f"{name}_value"
        self._pixels = name
        if spec.layout == "NCHW":
            self._pixels = f"{name}_planes"
            self.nodes.append(
                helper.make_node(
                    "Transpose", [name], [self._pixels], name=f"{name}_Transpose", perm=[0, 3, 1, 2]
                )
            )

    def pair_of(self, index: GraphIndex) -> tuple[NodeProto, NodeProto] | None:
        """The Q/DQ pair that gives the picture the pixels' own codes; None where there is no such pair."""
        if any(self._spec.mean) or len(set(self._spec.std)) != 1:
            return None
        quantizers = [n for n, _ in index.readers[self._name] if n.op_type == "QuantizeLinear"]
        if len(quantizers) != 1:
            return None
        scale, zero = (index.weights(i) for i in quantizers[0].input[1:3])
        readers = [n for n, _ in index.readers[quantizers[0].output[0]]]
        if scale is None or zero is None or zero.dtype != np.uint8 or np.any(zero) or len(readers) != 1:
            return None
        near = abs(float(np.asarray(scale)) / self._step - 1) <= _SAME_SCALE
        return (quantizers[0], readers[0]) if near else None

    @property
    def _step(self) -> float:
        return self._spec.scale / self._spec.std[0]

    def exact(self) -> str:
        """Pixels behind a DequantizeLinear of their own scale."""
        scale, zero = (
            self._constant("step", np.asarray(self._step, np.float32)),
            self._constant("nought", np.asarray(0, np.uint8)),
        )
        made = f"{self._name}_dequantized"
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [self._pixels, scale, zero], [made], name=f"{self._name}_DequantizeLinear"
            )
        )
        return made

    def compute(self) -> None:
        """``pixel * scale / std - mean / std``, in float."""
        s = self._spec
        as_float = f"{self._name}_float"
        self.nodes.append(
            helper.make_node(
                "Cast", [self._pixels], [as_float], name=f"{self._name}_Cast", to=TensorProto.FLOAT
            )
        )
        along = (1, 3, 1, 1) if s.layout == "NCHW" else (1, 1, 1, 3)
        gain = np.asarray([s.scale / d for d in s.std], np.float32).reshape(along)
        shift = np.asarray([-m / d for m, d in zip(s.mean, s.std, strict=True)], np.float32).reshape(along)
        plain = not np.any(shift)
        scaled = self.value if plain else f"{self._name}_scaled"
        self.nodes.append(
            helper.make_node(
                "Mul", [as_float, self._constant("gain", gain)], [scaled], name=f"{self._name}_Mul"
            )
        )
        if not plain:
            self.nodes.append(
                helper.make_node(
                    "Add", [scaled, self._constant("shift", shift)], [self.value], name=f"{self._name}_Add"
                )
            )

    def _constant(self, what: str, value: NDArray[np.generic]) -> str:
        name = f"{self._name}_{what}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name
