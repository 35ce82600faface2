"""Models with their weights beside them, built as if they were too large for one file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.builder.devices import FakeDevice
from support.builder.fakes import FakeMachine
from support.builder.large import beside, large_net, tokens

from edgectl.builder import build
from edgectl.builder.build import build_bundle
from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.ingest.source_precision import AS_RECEIVED
from edgectl.builder.int8.previous_release import read_previous_release
from edgectl.builder.large import choose, ingest
from edgectl.builder.pack.extract import extract
from edgectl.core.bundle import (
    LAYER_ENGINE,
    LAYER_PROVENANCE,
    LAYER_WEIGHTS,
    Bundle,
    SessionSettings,
    Variant,
)
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.files import file_digest, hex_of
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.admission import MemoryBound, MemoryRoom
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine, open_model
from edgectl.engines.measure.processes import MeasuredEngine, ProcessTimes

TASK = TaskSpec(name="tensor", input=TensorInput())
Build = Callable[..., Bundle]


def quick(speed: Mapping[str, float]) -> Callable[..., dict[str, ProcessTimes]]:
    """Measures nothing: recipe → milliseconds a call. Remembers that it was asked for one process at a time."""

    def measure(
        contenders: Mapping[str, MeasuredEngine], feeds: Any, *, together: bool, **_: Any
    ) -> dict[str, ProcessTimes]:
        assert not together
        assert all(isinstance(c.model, Path) and c.model.is_file() for c in contenders.values())
        found = {}
        for name in contenders:
            ms = speed[name.split("/")[0]] * (1 + 0.01 * np.random.default_rng(0).random(60))
            series = tuple(ms.tolist())
            found[name] = ProcessTimes(
                (0.1,) * 3,
                (100.0,) * 3,
                (1.0,) * 3,
                series,
                series,
                paced_ms=series,
                others=(0.0,) * 3,
                cores=4,
            )
        return found

    return measure


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setattr(build, "MAX_MODEL_BYTES", 100)

    def run(
        model: ModelProto | None = None,
        speed: Mapping[str, float] | None = None,
        name: str = "out",
        **more: Any,
    ) -> Bundle:
        known = {"float": 10.0, "weights-8": 5.0, "weights-4": 2.0}
        monkeypatch.setattr(choose, "measure_in_processes", quick({**known, **(speed or {})}))
        path = beside(model or large_net(), tmp_path / "model")
        settings: dict[str, Any] = {
            "profiles": ["cpu"],
            "task": TASK,
            "calibration": str(tokens(tmp_path / "x.npz")),
            "max_drop": 0.05,
        }
        out = tmp_path / "out" / name
        build_bundle(path, out=out, **{**settings, **more})
        return Bundle(out)

    return run


def of(bundle: Bundle) -> dict[str, Variant]:
    return {v.config.variant: v for v in bundle.variants}


def test_every_variant_opens_from_its_blobs_and_meets_its_golden_outputs(
    built: Build, tmp_path: Path
) -> None:
    found = of(built())
    assert list(found) == ["onnxruntime-int4", "onnxruntime-int8-accurate", "cpu-float32"]
    x = {"x": np.random.default_rng(8).standard_normal((1, 4, 192)).astype(np.float32)}
    want = open_model(tmp_path / "model" / "model.onnx", SessionSettings()).run(x)["y"]
    sizes = []
    for v in found.values():
        v.verify()
        engine = open_engine(v, cache=tmp_path / "cache")
        assert check_golden(engine, v).samples == 2
        error = np.abs(engine.run(x)["y"] - want).max()
        assert error < {"float32": 1e-5, "int8": 0.2 * np.abs(want).max()}[v.config.recipe.precision]
        names = onnx.load_from_string(v.need(LAYER_ENGINE).read_bytes()).graph.initializer
        assert {e.value for t in names for e in t.external_data if e.key == "location"} == {
            v.need(LAYER_WEIGHTS).name
        }
        sizes.append(v.need(LAYER_WEIGHTS).stat().st_size)
    # a device keeps no second copy
    assert not list((tmp_path / "cache").glob("*.onnx"))
    assert sizes[0] < 0.7 * sizes[1] < 0.3 * sizes[2]
    # nothing is left beside the bundle, and none of the blobs belongs to the model's own files
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["out"]
    (tmp_path / "model" / "weights.bin").write_bytes(b"")
    found["cpu-float32"].verify()


def test_the_same_model_gives_the_same_engines(built: Build) -> None:
    blobs = [
        [
            d.digest
            for v in built(name=n).variants
            for d in v.manifest.layers
            if d.mediaType in (LAYER_ENGINE, LAYER_WEIGHTS)
        ]
        for n in ("a", "b")
    ]
    assert blobs[0] == blobs[1]


def test_float_ships_alone_where_nothing_is_faster(built: Build) -> None:
    bundle = built(speed={"weights-8": 11.0, "weights-4": 12.0})
    assert list(of(bundle)) == ["cpu-float32"]


def test_what_loses_too_much_does_not_ship_however_fast_it_is(built: Build) -> None:
    assert list(of(built(max_drop=1e-4))) == ["onnxruntime-int8", "cpu-float32"]
    bundle = built(max_drop=1e-9, name="none")
    assert list(of(bundle)) == ["cpu-float32"]


@pytest.mark.parametrize("opset", [13, 17])
def test_a_float16_model_is_widened_and_its_forms_are_coded_from_what_came(built: Build, opset: int) -> None:
    found = of(built(large_net(dtype=np.float16, opset=opset)))
    float32 = found["cpu-float32"]
    assert float32.config.inputs[0].dtype == "float32"
    assert float32.need(LAYER_WEIGHTS).stat().st_size >= 2 * 192 * 192 * 4
    assert "onnxruntime-int4" in found


def test_a_profile_that_is_not_this_machine_gets_float(built: Build) -> None:
    found = of(built(profiles=["jetson-orin"]))
    assert list(found) == ["cpu-float32"]
    assert found["cpu-float32"].config.fallback


def test_extracted_weights_lie_beside_the_model_under_the_name_that_it_gives(
    built: Build, tmp_path: Path
) -> None:
    v = of(built())["onnxruntime-int4"]
    extract(v, tmp_path / "plain", triton=True)
    for model in (
        tmp_path / "plain" / "model.onnx",
        next((tmp_path / "plain" / "triton").glob("*/1/model.onnx")),
    ):
        check_golden(open_model(model, v.config.session), v)


def test_a_machine_that_is_too_small_is_told_before_work_begins(
    built: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    room = MemoryRoom((MemoryBound(100 << 20, 1 << 30, "this machine"),))
    monkeypatch.setattr(ingest, "memory_room", lambda: room)
    with pytest.raises(
        ModelError, match=r"takes 512 MiB of memory; 100 MiB of 1024 are free \(this machine\)"
    ):
        built()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("asked", "called"),
    [
        ({"compression": CompressOptions(cluster=16)}, "compression"),
        ({"batches": (1, 4)}, "--batch"),
        ({"float16_weights": True}, "--float16-weights"),
    ],
)
def test_what_a_large_model_cannot_have_is_said(built: Build, asked: dict[str, Any], called: str) -> None:
    with pytest.raises(UsageError, match=f"{called} takes the whole model in memory"):
        built(**asked)


def test_another_runtime_alone_is_refused(built: Build) -> None:
    with pytest.raises(UsageError, match="--runtime openvino: a model this large runs in onnxruntime alone"):
        built(runtimes=["openvino"])


def test_devices_that_would_not_be_asked_are_refused(built: Build) -> None:
    device = FakeDevice(FakeMachine({}), profile="cpu")
    with pytest.raises(
        UsageError, match="--on: candidates of a model this large are measured on this machine"
    ):
        built(devices=[device])


def test_each_file_of_weights_is_a_material_of_every_variant(built: Build, tmp_path: Path) -> None:
    for v in built().variants:
        statement = json.loads(v.need(LAYER_PROVENANCE).read_bytes())
        materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        made_of = {r["name"]: r["digest"]["sha256"] for r in materials}
        weights = file_digest(tmp_path / "model" / "weights.bin")
        assert made_of.keys() == {"model", "weights/weights.bin"}
        assert made_of["weights/weights.bin"] == hex_of(weights)


def test_a_model_that_came_quantized_ships_as_it_is_under_the_name_of_all_such(built: Build) -> None:
    model = large_net()
    scale = numpy_helper.from_array(np.float32(0.05), "scale")
    zero = numpy_helper.from_array(np.uint8(128), "zero")
    model.graph.initializer.extend([scale, zero])
    pair = (("QuantizeLinear", "x", "codes"), ("DequantizeLinear", "codes", "again"))
    model.graph.node[0].input[0] = "again"
    for at, (op, source, out) in enumerate(pair):
        model.graph.node.insert(at, onnx.helper.make_node(op, [source, "scale", "zero"], [out], name=op))
    for v in built(model).variants:
        assert (v.config.recipe.family, v.config.recipe.precision) == (AS_RECEIVED, "int8")


def test_a_large_bundle_is_no_release_to_follow(built: Build, tmp_path: Path) -> None:
    built()
    with pytest.raises(UsageError, match="of a large model"):
        read_previous_release(tmp_path / "out" / "out")


def test_a_model_that_answers_by_chance_is_refused(built: Build, tmp_path: Path) -> None:
    model = large_net()
    model.graph.node.insert(0, onnx.helper.make_node("RandomNormalLike", ["x"], ["r"], name="chance"))
    model.graph.node.insert(1, onnx.helper.make_node("Add", ["x", "r"], ["xr"], name="mix"))
    model.graph.node[2].input[0] = "xr"
    with pytest.raises(ModelError, match="answers differently each time"):
        built(model)
    assert not list((tmp_path / "out").iterdir())
