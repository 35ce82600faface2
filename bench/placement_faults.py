"""Faults of Q/DQ placement, seeded into graphs that the builder wrote for TensorRT: which does our linter find, which does
NVIDIA's compiler refuse, which does nobody find?

    python bench/placement_faults.py [--count 30] [--seed 0] [--json OUT]

Each fault is of a kind and at a place drawn by the seed, in a graph of a residual block or of the yard detector. A fault
that leaves the graph as it was is drawn anew. Exits with 1 if fewer than 95 % are found by either.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from support.builder.nets import images, residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.canonical import canonical
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.lint import lint
from edgectl.builder.int8.quantize import quantize
from edgectl.core.errors import EngineError
from edgectl.engines.finalise.rtx import accept, need_compiler
from edgectl.models import reference
from edgectl.pipelines.tasks import load_task

FAMILY = FAMILIES["trt-gpu"]
GOAL = 0.95
DATA = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Tried:
    graph: str
    kind: str
    place: str
    lint: str
    vendor: str

    @property
    def found(self) -> bool:
        return bool(self.lint or self.vendor)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    need_compiler()
    rng = random.Random(a.seed)
    graphs = {"residual": residual(), "yard-detector": yard()}
    for name, graph in graphs.items():
        if problems := (*lint(graph, FAMILY), *filter(None, [refusal(graph)])):
            print(f"the graph {name} is not clean before: {problems}", file=sys.stderr)
            return 2
    # each kind at least once, where there are as many faults
    kinds = (sorted(FAULTS) * (a.count // len(FAULTS) + 1))[: a.count]
    tried = []
    for kind in kinds:
        found = seeded(kind, graphs, rng)
        tried.append(found)
        print(f"{found.kind:42s} {found.graph}/{found.place}: {told(found)}", flush=True)
    ours, theirs = sum(bool(t.lint) for t in tried), sum(bool(t.vendor) for t in tried)
    either = sum(t.found for t in tried)
    print(
        f"\nfound: {either} of {len(tried)} (our linter {ours}, NVIDIA's compiler {theirs}); the goal is {GOAL:.0%}"
    )
    if a.json is not None:
        a.json.write_text(json.dumps([asdict(t) for t in tried], indent=1))
    return 0 if either >= GOAL * len(tried) else 1


def told(t: Tried) -> str:
    return (
        " | ".join(f"{who}: {said[:90]}" for who, said in (("linter", t.lint), ("NVIDIA", t.vendor)) if said)
        or "NOT FOUND"
    )


def residual() -> ModelProto:
    model = residual_net(channels=32)
    return quantize(model, calibrate(model, images(8), data_digest=DATA), FAMILY).model


def yard() -> ModelProto:
    ours = reference("yard-detector")
    model, _, _ = canonical(onnx.load(ours.model), load_task(str(ours.task)))
    index = GraphIndex(model)
    (name,) = index.inputs
    shape = index.shape(name)
    rng = np.random.default_rng(0)
    feeds = [{name: rng.random(shape, np.float32)} for _ in range(8)]
    return quantize(model, calibrate(model, feeds, data_digest=DATA), FAMILY).model


def refusal(graph: ModelProto) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(graph.SerializeToString())
        try:
            verdict = accept(path)
        except EngineError as e:
            # some faults crash it
            return e.message
    return "" if verdict.accepted else f"{verdict.node}: {verdict.sentence}".removeprefix(": ")


def seeded(kind: str, graphs: dict[str, ModelProto], rng: random.Random) -> Tried:
    for _ in range(100):
        name = rng.choice(sorted(graphs))
        graph = ModelProto()
        graph.CopyFrom(graphs[name])
        place = FAULTS[kind](graph, rng)
        if place and graph != graphs[name]:
            return Tried(name, kind, place, "; ".join(lint(graph, FAMILY)), refusal(graph))
    raise SystemExit(f"no graph has a place for the fault {kind!r}")


Fault = Callable[[ModelProto, random.Random], str]
"""Changes a graph; the node where, or "" where there is no such place."""


def _nodes(m: ModelProto, kind: str) -> list[NodeProto]:
    return [n for n in m.graph.node if n.op_type == kind]


def _of_activations(m: ModelProto, rng: random.Random) -> tuple[NodeProto, NodeProto] | None:
    """A pair of QuantizeLinear and DequantizeLinear."""
    readers = {n.input[0]: n for n in _nodes(m, "DequantizeLinear")}
    pairs = [(q, readers[q.output[0]]) for q in _nodes(m, "QuantizeLinear") if q.output[0] in readers]
    return rng.choice(pairs) if pairs else None


def _of_weights(m: ModelProto, rng: random.Random) -> NodeProto | None:
    stored = {t.name for t in m.graph.initializer}
    found = [n for n in _nodes(m, "DequantizeLinear") if n.input[0] in stored]
    return rng.choice(found) if found else None


def _own(
    m: ModelProto, nodes: tuple[NodeProto, ...], position: int, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Give nodes a changed copy of the constant that they read there."""
    old = next(t for t in m.graph.initializer if t.name == nodes[0].input[position])
    name = f"{old.name}_of_{nodes[0].name}"
    m.graph.initializer.append(numpy_helper.from_array(change(numpy_helper.to_array(old)), name))
    for n in nodes:
        n.input[position] = name


def _scale(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def fault(m: ModelProto, rng: random.Random) -> str:
        if (pair := _of_activations(m, rng)) is None:
            return ""
        _own(m, pair, 1, lambda v: change(v).astype(v.dtype))
        return pair[0].name

    return fault


def _zero(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def fault(m: ModelProto, rng: random.Random) -> str:
        if (pair := _of_activations(m, rng)) is None:
            return ""
        _own(m, pair, 2, change)
        return pair[0].name

    return fault


def _weight_scale(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def fault(m: ModelProto, rng: random.Random) -> str:
        if (n := _of_weights(m, rng)) is None:
            return ""
        _own(m, (n,), 1, lambda v: change(v).astype(v.dtype))
        return n.name

    return fault


def _weight_axis(m: ModelProto, rng: random.Random) -> str:
    if (n := _of_weights(m, rng)) is None:
        return ""
    for a in n.attribute:
        if a.name == "axis":
            a.i = 1 if a.i == 0 else 0
            return n.name
    n.attribute.append(helper.make_attribute("axis", 0))
    return n.name


def _weight_codes(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def fault(m: ModelProto, rng: random.Random) -> str:
        if (n := _of_weights(m, rng)) is None:
            return ""
        _own(m, (n,), 0, change)
        return n.name

    return fault


def _codes_are_read(m: ModelProto, rng: random.Random) -> str:
    """Who read what was dequantized reads the codes."""
    if (pair := _of_activations(m, rng)) is None:
        return ""
    quantize_, dequantize = pair
    for n in m.graph.node:
        for i, name in enumerate(n.input):
            if name == dequantize.output[0]:
                n.input[i] = quantize_.output[0]
    return dequantize.name


def _float_is_dequantized(m: ModelProto, rng: random.Random) -> str:
    if (pair := _of_activations(m, rng)) is None:
        return ""
    pair[1].input[0] = pair[0].input[0]
    return pair[1].name


def _two_scales(m: ModelProto, rng: random.Random) -> str:
    """What dequantizes has another scale than what quantized. It computes, and wrongly."""
    if (pair := _of_activations(m, rng)) is None:
        return ""
    _own(m, (pair[1],), 1, lambda v: (v * 2).astype(v.dtype))
    return pair[1].name


def _before(m: ModelProto, rng: random.Random, kinds: tuple[str, ...], every_input: bool) -> str:
    """A pair on the edge into a node of a kind."""
    made = {o: n for n in m.graph.node for o in n.output}
    places = [
        n
        for n in m.graph.node
        if n.op_type in kinds and any(i in made and made[i].op_type != "DequantizeLinear" for i in n.input)
    ]
    if not places or (pair := _of_activations(m, rng)) is None:
        return ""
    node = rng.choice(places)
    at = next(i for i, n in enumerate(m.graph.node) if n.name == node.name)
    for k, name in enumerate(node.input):
        if name not in made or made[name].op_type == "DequantizeLinear":
            continue
        codes, back = f"{name}_q_{node.name}", f"{name}_dq_{node.name}"
        m.graph.node.insert(
            at, helper.make_node("QuantizeLinear", [name, *pair[0].input[1:]], [codes], name=codes)
        )
        m.graph.node.insert(
            at + 1, helper.make_node("DequantizeLinear", [codes, *pair[0].input[1:]], [back], name=back)
        )
        node = next(n for n in m.graph.node if n.name == node.name)
        node.input[k] = back
        at += 2
        if not every_input:
            break
    return node.name


def _output_in_codes(m: ModelProto, rng: random.Random) -> str:
    """A graph output goes through a pair."""
    if (pair := _of_activations(m, rng)) is None:
        return ""
    out = rng.choice(list(m.graph.output)).name
    maker = next(n for n in m.graph.node if out in n.output)
    maker.output[list(maker.output).index(out)] = f"{out}_plain"
    for n in m.graph.node:
        for i, name in enumerate(n.input):
            if name == out:
                n.input[i] = f"{out}_plain"
    extra = pair[0].input[1:]
    m.graph.node.append(
        helper.make_node("QuantizeLinear", [f"{out}_plain", *extra], [f"{out}_q"], name="end_q")
    )
    m.graph.node.append(helper.make_node("DequantizeLinear", [f"{out}_q", *extra], [out], name="end_dq"))
    return maker.name


def _data_is_float(m: ModelProto, rng: random.Random) -> str:
    """A layer of int8 weights reads data that was never quantized."""
    made = {o: n for n in m.graph.node for o in n.output}
    places = [
        n
        for n in m.graph.node
        if n.op_type in ("Conv", "Gemm", "MatMul")
        and all(i in made and made[i].op_type == "DequantizeLinear" for i in n.input[:2])
        and made[n.input[0]].input[0] in made
    ]
    if not places:
        return ""
    node = rng.choice(places)
    node.input[0] = made[made[node.input[0]].input[0]].input[0]
    return node.name


def _moving_scale(m: ModelProto, rng: random.Random) -> str:
    """A scale that is computed while the network runs."""
    if (pair := _of_activations(m, rng)) is None:
        return ""
    peak = f"{pair[0].name}_peak"
    at = next(i for i, n in enumerate(m.graph.node) if n.name == pair[0].name)
    m.graph.node.insert(at, helper.make_node("ReduceMax", [pair[0].input[0]], [peak], name=peak, keepdims=0))
    for n in m.graph.node:
        if n.name in (pair[0].name, pair[1].name):
            n.input[1] = peak
    return peak


def _wide_bias(m: ModelProto, rng: random.Random) -> str:
    """An int32 bias behind a DequantizeLinear, as ONNX Runtime writes it."""
    stored = {t.name: t for t in m.graph.initializer}
    places = [n for n in _nodes(m, "Conv") if len(n.input) > 2 and n.input[2] in stored]
    if not places:
        return ""
    node = rng.choice(places)
    bias = numpy_helper.to_array(stored[node.input[2]])
    name = f"{node.name}_bias"
    m.graph.initializer.append(
        numpy_helper.from_array(np.rint(bias / 1e-4).astype(np.int32), f"{name}_codes")
    )
    m.graph.initializer.append(
        numpy_helper.from_array(np.full(bias.shape, 1e-4, np.float32), f"{name}_scale")
    )
    zero = numpy_helper.from_array(np.zeros(bias.shape, np.int32), f"{name}_zero")
    m.graph.initializer.append(zero)
    at = next(i for i, n in enumerate(m.graph.node) if n.name == node.name)
    back = helper.make_node(
        "DequantizeLinear",
        [f"{name}_codes", f"{name}_scale", f"{name}_zero"],
        [name],
        name=f"{name}_dq",
        axis=0,
    )
    m.graph.node.insert(at, back)
    next(n for n in m.graph.node if n.name == node.name).input[2] = name
    return node.name


def _old_opset(m: ModelProto, rng: random.Random) -> str:
    m.opset_import[0].version = 12
    return "graph"


FAULTS: dict[str, Fault] = {
    "a scale of 0": _scale(lambda v: v * 0),
    "a scale below 0": _scale(lambda v: -v),
    "a scale that is no number": _scale(lambda v: v * np.nan),
    "a scale without end": _scale(lambda v: v * np.inf),
    "a zero point that is not 0": _zero(lambda v: v + np.int8(3)),
    "codes of uint8": _zero(lambda v: v.astype(np.uint8) + np.uint8(128)),
    "a weight scale of 0": _weight_scale(lambda v: v * 0),
    "one weight scale for all channels": _weight_scale(lambda v: v.reshape(-1)[0]),
    "too few weight scales": _weight_scale(lambda v: v[:-1]),
    "weight scales along another axis": _weight_axis,
    "weight codes of uint8": _weight_codes(lambda v: v.view(np.uint8)),
    "weights beyond the symmetric range": _weight_codes(lambda v: np.full_like(v, -128)),
    "codes without their dequantization": _codes_are_read,
    "a dequantization without codes": _float_is_dequantized,
    "other scales in and out": _two_scales,
    "a pair between a layer and its activation": lambda m, r: _before(m, r, ("Relu", "Clip"), False),
    "both branches of an add quantized": lambda m, r: _before(m, r, ("Add",), True),
    "a graph output through codes": _output_in_codes,
    "int8 weights but float data": _data_is_float,
    "a scale made at run time": _moving_scale,
    "a bias of int32": _wide_bias,
    "an opset without scales per channel": _old_opset,
}

if __name__ == "__main__":
    raise SystemExit(main())
