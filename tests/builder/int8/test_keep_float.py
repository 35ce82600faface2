"""Layers that the user keeps in float: found by any name that a report or a framework gives them, and float in every graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from support.builder.generated import mlp
from support.builder.nets import images, residual_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8 import lint
from edgectl.builder.int8.basis import prepare_basis
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import escalate
from edgectl.builder.int8.families import FAMILIES, QDQ
from edgectl.builder.int8.keep_float import kept_in_float, told_kept
from edgectl.builder.int8.placement import KEPT
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.judge.accuracy import Judge
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import UsageError
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model

DATA = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("pattern", "nodes"),
    [
        ("point", {"point"}),
        ("c2", {"point"}),  # the tensor that it makes
        ("w2", {"point"}),  # its weight, which is what PyTorch names
        ("image", {"first"}),
        ("relu1", {"relu1", "first"}),  # its layer absorbs it
        ("r1", {"relu1", "first"}),
        ("p*t", {"point"}),
        ("[dh]e*", {"depth", "head"}),
        ("w[34]", {"depth", "head"}),
    ],
)
def test_a_layer_is_found_by_node_tensor_weight_or_pattern(pattern: str, nodes: set[str]) -> None:
    assert kept_in_float(residual_net(), [pattern]) == {pattern: frozenset(nodes)}


def test_a_name_that_looks_like_a_pattern_is_a_name_first() -> None:
    model = residual_net()
    for n in model.graph.node:
        n.name = {"point": "blocks[1]", "depth": "blocks1"}.get(n.name, n.name)
    assert kept_in_float(model, ["blocks[1]"]) == {"blocks[1]": frozenset({"blocks[1]"})}


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("hed", "did you mean 'head'?"), ("xyz*", "its layers are: first, point, depth, head")],
)
def test_what_nothing_is_called_is_refused_with_the_next_step(pattern: str, hint: str) -> None:
    with pytest.raises(UsageError, match=r"--keep-float .*: nothing in the model is called so") as e:
        kept_in_float(residual_net(), ["point", pattern])
    assert e.value.hint == hint


def test_a_note_names_what_is_kept() -> None:
    model = residual_net()
    assert told_kept(model, kept_in_float(model, ["r1", "cat"])) == [
        "kept in float by --keep-float r1: 1 layer (first) and 1 other node",
        "kept in float by --keep-float cat: 0 layers and 1 other node",
    ]


@pytest.mark.parametrize("family", QDQ)
def test_a_kept_layer_is_float_in_every_family(family: str) -> None:
    model = residual_net(channels=32)
    table = calibrate(model, images(4), data_digest=DATA)
    assert "point" in quantize(model, table, FAMILIES[family]).placement.nodes
    q = quantize(model, table, FAMILIES[family], kept={"point", "add"})
    lint.check(q.model, FAMILIES[family])
    assert {"point", "add"}.isdisjoint(q.placement.nodes)
    assert {r.node: (r.precision, r.reason) for r in q.layers if r.node in ("point", "add")} == {
        "point": ("float32", KEPT),
        "add": ("float32", KEPT),
    }
    index = GraphIndex(q.model)
    point, add = (next(n for n in index.nodes if n.name == name) for name in ("point", "add"))
    assert list(point.input[1:]) == ["w2", "b2"]
    if family in ("trt-gpu", "openvino"):
        # the compiler would take a pair on an input for an order to compute in int8
        assert list(point.input) == ["r1", "w2", "b2"]
        assert list(add.input) == ["c3", "r1"]


def _judge(model: ModelProto, feeds: list[Feeds]) -> Judge:
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TaskSpec(name="t", input=TensorInput()), [Sample(f) for f in feeds], engine)
    engine.close()
    return judge


@pytest.mark.parametrize("of", ["convolutions", "products"])
def test_no_recipe_of_an_escalation_quantizes_what_is_kept(of: str) -> None:
    rng = np.random.default_rng(0)
    products = of == "products"
    model = mlp(2, width=64) if products else residual_net()
    feeds: list[Feeds] = (
        [{"x": rng.standard_normal((2, 64)).astype(np.float32)} for _ in range(8)] if products else images(8)
    )
    kept = frozenset({"gemm2" if products else "point"})
    family, judge = FAMILIES["x86-vnni"], _judge(model, feeds)
    table = calibrate(model, feeds, data_digest=DATA)
    limits = {"max_drop": 0.5, "tell": lambda what: None}
    basis = prepare_basis(model, table, family, feeds, judge, kept=kept, **limits)
    graphs = escalate(basis, family, feeds, judge, timed=False, also=[FAMILIES["openvino"]], **limits)
    assert {"full", "openvino", "dynamic" if products else "conv-only"} <= graphs.recipes.keys()
    for name, q in graphs.recipes.items():
        assert kept.isdisjoint(q.placement.nodes), name
        assert kept <= set(q.placement.reasons), name
