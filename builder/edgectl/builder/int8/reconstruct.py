"""Round weights so that each layer's *output* is right, not each weight: layer by layer from the input on,
without labels.

Every quantized layer sees the inputs that the layers before it, already quantized, really make, if it is to.
In closed form: the weights that reproduce the float layer's output from those inputs best (ridge regression);
rounding one input at a time, each rounding error spread over the inputs not rounded yet (Frantar et al.,
*GPTQ*, 2023; Frantar & Alistarh, *Optimal Brain Compression*,
2022); and the shift of the mean that is left goes into the bias (Nagel et al., *Data-Free Quantization*,
  2019, section 4.2).

Scales and the graph stay as they are; only codes change. Left out: transposed convolutions, convolutions over
one or three axes, and ``auto_pad`` (they keep plain rounding).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgectl.builder.graph import GraphIndex, attribute, reads
from edgectl.builder.int8.families import Family
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.builder.int8.quantize import Quantized
from edgectl.core.bundle import SessionSettings
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model

__all__ = ["ROWS", "Layer", "Walk", "adopt", "patched", "reconstruct"]

Array = NDArray[np.float64]
Patches = NDArray[np.float32]

ROWS = 3072
"""Input patches that a layer is fitted on."""
# larger layers average their rounding errors well, and the solution is cubic in it: bias only
_MAX_INPUTS = 1200
_MAX_VALUE = 1e15  # the square of what is larger leaves float32
_RIDGE = 0.01  # of the mean variance of an input
# inputs whose rounding errors are spread over the rest in one product
_BLOCK = 32


def reconstruct(
    quantized: Quantized,
    model: ModelProto,
    family: Family,
    samples: Sequence[Feeds],
    *,
    rows: int = ROWS,
    compensate: bool = True,
    towards: Mapping[str, Array] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Quantized:
    """``quantized`` with better codes and biases; ``model`` is the float graph it was written from.

    ``rows``: input patches that each layer is fitted on, over all samples; few of them fit the samples'
    noise. ``compensate``: each layer is fitted to the inputs that the quantized layers before it make;
    otherwise to the float ones, which is a little worse, but gives codes that suit any variation of the graph
    (:func:`adopt`). ``stop`` is asked before each layer; those that are left then keep plain rounding.
    ``towards``: weights of some nodes, in the shape of their initializers, to be rounded as they are and not
    refitted.
    """
    changed = ModelProto()
    changed.CopyFrom(quantized.model)
    stored = {t.name: t for t in changed.graph.initializer}
    by_name = {n.name: n for n in changed.graph.node}
    index = GraphIndex(model)
    layers = [n for n in weighted_nodes(index) if n.name in quantized.placement.nodes and patched(n, index)]
    exact = Walk(model, [n.input[0] for n in layers], samples)
    rough = Walk(changed, [by_name[n.name].input[0] for n in layers], samples)
    rng = np.random.default_rng(0)
    for n in layers:
        if stop():
            break
        layer = Layer.read(index, n)
        count = math.ceil(rows / len(samples))
        cut = [layer.patches(a, b, count, rng) for a, b in zip(exact.next(), rough.next(), strict=True)]
        want, seen = (np.concatenate([c[side] for c in cut], axis=1) for side in (0, 1))
        fitted = None if towards is None or n.name not in towards else layer.flattened(towards[n.name])
        _refit(
            layer,
            by_name[n.name],
            stored,
            rough.makers,
            want,
            seen if compensate else want,
            family.weight_max,
            fitted,
        )
    return replace(quantized, model=changed, rebuilt=True)


def adopt(quantized: Quantized, rebuilt: Quantized) -> Quantized:
    """``quantized`` with the codes and biases of ``rebuilt``, another int8 form of the same graph with the
    same scales.

    Layers that only one of them has in int8 stay as they are.
    """
    changed = ModelProto()
    changed.CopyFrom(quantized.model)
    theirs = {t.name: t for t in rebuilt.model.graph.initializer}
    scales = {n.input[0]: n.input[1] for n in changed.graph.node if n.op_type == "DequantizeLinear"}
    mine = {t.name: t for t in changed.graph.initializer}
    for name, scale in scales.items():
        if name in mine and name in theirs and scale in theirs and mine[scale] == theirs[scale]:
            mine[name].CopyFrom(theirs[name])
    return replace(quantized, model=changed, rebuilt=True)


def patched(n: NodeProto, index: GraphIndex) -> bool:
    """Whether the inputs of this node can be cut into patches here."""
    if n.op_type == "ConvTranspose" or any(
        a.name == "auto_pad" and a.s not in (b"NOTSET", b"VALID") for a in n.attribute
    ):
        return False
    return n.op_type != "Conv" or len(index.initializers[n.input[1]].dims) == 4


@dataclass(frozen=True)
class Layer:
    """``weight``: (groups, outputs per group, inputs per group); ``kernel`` etc. for convolutions."""

    weight: Array
    shape: tuple[int, ...]
    transposed: bool
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    convolution: bool = False

    @classmethod
    def read(cls, index: GraphIndex, n: NodeProto) -> Layer:
        w = np.asarray(index.weights(n.input[1]), np.float64)
        if n.op_type != "Conv":
            transposed = not (n.op_type == "Gemm" and attribute(n, "transB"))
            return cls((w.T if transposed else w)[None], w.shape, transposed)
        group = attribute(n, "group", 1)
        ints = {a.name: list(a.ints) for a in n.attribute if a.ints}
        stride_y, stride_x = ints.get("strides", (1, 1))
        step_y, step_x = ints.get("dilations", (1, 1))
        top, left, bottom, right = ints.get("pads", (0, 0, 0, 0))
        return cls(
            w.reshape(group, w.shape[0] // group, -1),
            w.shape,
            transposed=False,
            kernel=(w.shape[2], w.shape[3]),
            strides=(stride_y, stride_x),
            dilations=(step_y, step_x),
            pads=(top, left, bottom, right),
            convolution=True,
        )

    def flattened(self, weight: Array) -> Array:
        """From the shape of the initializer to that of :attr:`weight`."""
        return (weight.T if self.transposed else weight).reshape(self.weight.shape)

    def unflattened(self, weight: Array) -> Array:
        """Back into the shape of the initializer."""
        flat = weight.reshape(-1, weight.shape[-1])
        return (flat.T if self.transposed else flat).reshape(self.shape)

    def patches(
        self, a: Patches, b: Patches, count: int, rng: np.random.Generator
    ) -> tuple[Patches, Patches]:
        """The same ``count`` random input patches of two tensors, each (groups, count, inputs per group)."""
        if not self.convolution:
            flat = [x.reshape(-1, x.shape[-1]) for x in (a, b)]
            pick = rng.integers(0, len(flat[0]), min(count, len(flat[0])))
            return flat[0][pick][None], flat[1][pick][None]
        top, left, bottom, right = self.pads
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.strides, self.dilations
        height = (a.shape[2] + top + bottom - dh * (kh - 1) - 1) // sh + 1
        width = (a.shape[3] + left + right - dw * (kw - 1) - 1) // sw + 1
        y, x = rng.integers(0, height, count) * sh, rng.integers(0, width, count) * sw
        rows = y[:, None, None] + (np.arange(kh) * dh)[None, :, None]
        columns = x[:, None, None] + (np.arange(kw) * dw)[None, None, :]
        out = []
        for t in (a, b):
            padded = np.pad(t[0], ((0, 0), (top, bottom), (left, right)))
            cut = padded[:, rows, columns]  # (channels, count, kh, kw)
            groups = self.weight.shape[0]
            cut = cut.reshape(groups, -1, count, kh * kw).transpose(0, 2, 1, 3).reshape(groups, count, -1)
            out.append(cut)
        return out[0], out[1]


def _refit(
    layer: Layer,
    node: NodeProto,
    stored: dict[str, TensorProto],
    makers: dict[str, NodeProto],
    want: Patches,
    seen: Patches,
    weight_max: int,
    fitted: Array | None,
) -> None:
    """Choose codes and bias of one layer from patches of its float (``want``) and its real (``seen``) inputs,
    and store them.

    ``fitted``: the weight to round; None: what fits best.
    """
    dequantize = makers[node.input[1]]
    scale = np.asarray(numpy_helper.to_array(stored[dequantize.input[1]]), np.float64)
    scale = scale.reshape(layer.weight.shape[0], layer.weight.shape[1], 1)
    mean_want, mean_seen = (x.mean(axis=1, keepdims=True, dtype=np.float64) for x in (want, seen))
    codes = np.clip(np.rint((layer.weight if fitted is None else fitted) / scale), -weight_max, weight_max)
    if (
        layer.weight.shape[2] <= _MAX_INPUTS
        and max(float(np.abs(x).max(initial=0.0)) for x in (want, seen)) < _MAX_VALUE
    ):
        a, b = want - mean_want.astype(np.float32), seen - mean_seen.astype(np.float32)
        codes = _round(layer.weight, scale, a, b, weight_max, fitted)
        held = stored[dequantize.input[0]]
        held.CopyFrom(numpy_helper.from_array(layer.unflattened(codes).astype(np.int8), held.name))
    if len(node.input) > 2 and node.input[2]:
        shift = layer.weight @ mean_want.transpose(0, 2, 1) - (codes * scale) @ mean_seen.transpose(0, 2, 1)
        _add(stored, makers, node.input[2], shift.reshape(-1))


def _round(
    weight: Array, scale: Array, want: Patches, seen: Patches, weight_max: int, fitted: Array | None
) -> Array:
    """Codes (groups, outputs, inputs) for which ``seen @ codes.T * scale`` is close to ``want @ weight.T``;
    both are centred.

    Given ``fitted``: close to ``seen @ fitted.T``.
    """
    n, inputs = seen.shape[1], weight.shape[2]
    hessian = np.asarray(seen.transpose(0, 2, 1) @ seen, np.float64) / n
    ridge = _RIDGE * hessian.trace(axis1=1, axis2=2)[:, None, None] / inputs + 1e-12
    hessian = hessian + ridge * np.eye(inputs)
    if fitted is not None:
        fitted = fitted.copy()
    else:
        cross = np.asarray(seen.transpose(0, 2, 1) @ want, np.float64) / n + ridge * np.eye(inputs)
        fitted = np.linalg.solve(hessian, cross @ weight.transpose(0, 2, 1)).transpose(0, 2, 1)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).transpose(0, 2, 1)
    codes = np.empty_like(fitted)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = np.empty((*fitted.shape[:2], end - start))
        for j in range(start, end):
            column = fitted[:, :, j : j + 1]
            codes[:, :, j : j + 1] = np.clip(np.rint(column / scale), -weight_max, weight_max)
            error = (column - codes[:, :, j : j + 1] * scale) / upper[:, j : j + 1, j : j + 1]
            fitted[:, :, j + 1 : end] -= error * upper[:, j : j + 1, j + 1 : end]
            errors[:, :, j - start : j - start + 1] = error
        fitted[:, :, end:] -= errors @ upper[:, start:end, end:]
    return np.asarray(codes, np.float64)


def _add(stored: dict[str, TensorProto], makers: dict[str, NodeProto], bias: str, shift: Array) -> None:
    """Add to a bias, float or int32 codes behind a DequantizeLinear."""
    if bias not in makers:
        value = numpy_helper.to_array(stored[bias])
        stored[bias].CopyFrom(numpy_helper.from_array((value + shift).astype(np.float32), bias))
        return
    held, scale = (stored[name] for name in makers[bias].input[:2])
    codes = np.rint(numpy_helper.to_array(held) + shift / numpy_helper.to_array(scale).astype(np.float64))
    held.CopyFrom(numpy_helper.from_array(np.clip(codes, -(2**31), 2**31 - 1).astype(np.int32), held.name))


class Walk:
    """Computes a list of tensors one after the other, over all samples, each from the nearest ones that it
    computed before.

    So that a layer may be changed between its input and the next one's, at the cost of one inference in small
    pieces. A tensor is dropped after its last use.
    """

    def __init__(self, model: ModelProto, targets: Sequence[str], samples: Sequence[Feeds]) -> None:
        self._model, self._samples = model, samples
        self._targets = list(targets)
        self._initializers = {t.name: t for t in model.graph.initializer}
        self.makers = {o: n for n in model.graph.node for o in n.output if o}
        self._order = {n.name: i for i, n in enumerate(model.graph.node)}
        self._values: dict[str, list[NDArray[np.float32]]] = {}
        self._steps: list[tuple[list[NodeProto], list[str]]] = []
        known: set[str] = {i.name for i in model.graph.input}
        self._inputs = set(known)
        self._last: dict[str, int] = defaultdict(int)
        for step, target in enumerate(self._targets):
            nodes, known_inputs = self._needs(target, known)
            self._steps.append((nodes, known_inputs))
            known.add(target)
            for name in (*known_inputs, target):
                self._last[name] = step
        self._at = 0

    def next(self) -> list[NDArray[np.float32]]:
        """The next target's value, per sample."""
        target, (nodes, known_inputs), step = self._targets[self._at], self._steps[self._at], self._at
        self._at += 1
        if target in self._inputs:
            values = [np.asarray(f[target], np.float32) for f in self._samples]
        elif not nodes:
            values = self._values[target]
        else:
            values = self._run(target, nodes, known_inputs)
        self._values[target] = values
        for name in [n for n in self._values if self._last[n] <= step]:
            del self._values[name]
        return values

    def _needs(self, target: str, known: set[str]) -> tuple[list[NodeProto], list[str]]:
        """The nodes between known tensors and the target, in graph order, and the known tensors they read."""
        if target in known:
            return [], [target] if target not in self._inputs else []
        nodes: dict[str, NodeProto] = {}
        known_inputs: dict[str, None] = {}
        todo = [target]
        while todo:
            node = self.makers[todo.pop()]
            if node.name in nodes:
                continue
            nodes[node.name] = node
            for name in reads(node):
                if name in known:
                    known_inputs[name] = None
                elif name not in self._initializers:
                    todo.append(name)
        return sorted(nodes.values(), key=lambda n: self._order[n.name]), list(known_inputs)

    def _run(self, target: str, nodes: list[NodeProto], known: list[str]) -> list[NDArray[np.float32]]:
        constants = {i for n in nodes for i in reads(n)} & self._initializers.keys()
        known_inputs = [
            {r: f[r] if r in self._inputs else self._values[r][i] for r in known}
            for i, f in enumerate(self._samples)
        ]
        inputs = [
            helper.make_tensor_value_info(r, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for r, v in known_inputs[0].items()
        ]
        piece = helper.make_model(
            helper.make_graph(
                [_beside(n, set(known)) for n in nodes],
                "piece",
                inputs,
                [helper.make_tensor_value_info(target, TensorProto.FLOAT, None)],
                [self._initializers[c] for c in sorted(constants)],
            ),
            opset_imports=list(self._model.opset_import),
            ir_version=self._model.ir_version,
            functions=list(self._model.functions),
        )
        engine = open_model(piece.SerializeToString(), SessionSettings())
        values = [np.asarray(engine.run(g)[target], np.float32) for g in known_inputs]
        engine.close()
        return values


def _beside(node: NodeProto, known: set[str]) -> NodeProto:
    """A node that makes a known tensor beside a needed one (Split): what is known is read as it was
    computed, under its own name."""
    if not known.intersection(node.output):
        return node
    other = NodeProto()
    other.CopyFrom(node)
    other.output[:] = [f"{o}_again" if o in known else o for o in node.output]
    return other
