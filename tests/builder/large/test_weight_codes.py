"""Weight-only forms written a weight at a time are what they are when they are written at once."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.builder.large import beside, large_net

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.matmul import rewrite_matmuls
from edgectl.builder.large import weight_codes
from edgectl.builder.large.engine_file import stored, write_engine
from edgectl.builder.large.hollow import read_hollow
from edgectl.builder.large.weight_codes import FORMS, Form, coded
from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model

FEEDS = {"x": np.random.default_rng(5).standard_normal((1, 4, 192)).astype(np.float32)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at_once", [1000, 1 << 20])
def test_codes_are_those_of_the_whole_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form, at_once: int
) -> None:
    monkeypatch.setattr(weight_codes, "_AT_ONCE", at_once)
    hollow = read_hollow(beside(large_net(), tmp_path / "m"), tmp_path)
    found = coded(hollow.graph, hollow.weights, form)
    assert found is not None
    engine = write_engine(found.graph, found.sources, tmp_path, form)
    whole = rewrite_matmuls(large_net(), form, FAMILIES[form]).model
    loaded = onnx.load(engine.file)
    ours, theirs = GraphIndex(loaded), GraphIndex(whole)
    for name in ("first", "second", "third"):
        pairs = [next(n for n in i.nodes if n.name == name) for i in (ours, theirs)]
        for own, other in zip(pairs[0].input[1:3], pairs[1].input[1:3], strict=True):
            assert np.array_equal(ours.weights(own), theirs.weights(other)), name
        assert pairs[0].attribute == pairs[1].attribute
    assert {r.node for r in found.layers if r.precision == "int8"} == {"first", "second", "third"}
    got = open_model(engine.file, SessionSettings()).run(FEEDS)["y"]
    want = open_model(whole.SerializeToString(), SessionSettings()).run(FEEDS)["y"]
    assert np.array_equal(got, want)


def test_products_that_share_a_weight_share_its_codes_and_nothing_of_it_stays_float(tmp_path: Path) -> None:
    hollow = read_hollow(beside(large_net(), tmp_path / "m"), tmp_path)
    found = coded(hollow.graph, hollow.weights, "weights-8")
    assert found is not None
    first, third = (next(n for n in found.graph.graph.node if n.name == k) for k in ("first", "third"))
    assert first.input[1:] == third.input[1:]
    assert not {t.name for t in found.graph.graph.initializer} & hollow.weights.keys()


def test_kept_layers_stay_float_and_none_left_is_none(tmp_path: Path) -> None:
    hollow = read_hollow(beside(large_net(), tmp_path / "m"), tmp_path)
    found = coded(hollow.graph, hollow.weights, "weights-4", kept=("second",))
    assert found is not None
    assert found.excluded == ("second",)
    engine = write_engine(found.graph, found.sources, tmp_path, "kept")
    index = GraphIndex(onnx.load(engine.file))
    second = next(n for n in index.nodes if n.name == "second")
    assert second.op_type == "Gemm"
    own = next(t for t in large_net().graph.initializer if t.name == "layer")
    assert np.array_equal(index.weights(second.input[1]), numpy_helper.to_array(own))
    assert coded(hollow.graph, hollow.weights, "weights-4", kept=("first", "second", "third")) is None


def test_the_same_model_gives_the_same_files_and_weights_begin_at_pages(tmp_path: Path) -> None:
    hollow = read_hollow(beside(large_net(), tmp_path / "m"), tmp_path)
    first, again = (write_engine(hollow.graph, stored(hollow.weights), tmp_path, n) for n in ("a", "b"))
    assert first.graph == again.graph
    assert first.weights == again.weights
    places = [
        {e.key: e.value for e in t.external_data}
        for t in onnx.load_from_string(first.graph).graph.initializer
    ]
    large = [p for p in places if p]
    assert [int(p["offset"]) % 4096 for p in large] == [0, 0]
    assert {p["location"] for p in large} == {first.weights.name}
    assert not list(tmp_path.glob(".*"))
