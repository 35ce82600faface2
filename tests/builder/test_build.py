"""From an ONNX file to a bundle, end to end, with small models; and what is left behind when it fails."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.builder.nets import Save, residual_net
from typer.testing import CliRunner

from edgectl.builder.budget import Budget
from edgectl.builder.build import BuildProgress, build_bundle
from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.pack.bench import bench_bundle
from edgectl.builder.pack.html import render
from edgectl.builder.pack.inspect import inspect_bundle
from edgectl.cli.main import app
from edgectl.core.bundle import (
    ANNOTATION_CHUNKS,
    CHUNK_SIZE,
    LAYER_CALIBRATION,
    LAYER_ENGINE,
    LAYER_PACKED,
    LAYER_PROVENANCE,
    LAYER_RANGES,
    LAYER_SBOM,
    Bundle,
)
from edgectl.core.errors import (
    IntegrityError,
)
from edgectl.core.files import digest_of, hex_of
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.core.transfer import chunk_hashes, chunks_digest
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine
from edgectl.engines.finalise.rtx import has_compiler
from edgectl.engines.finalise.trial import warm_up
from edgectl.engines.measure.processes import RUNS

TENSOR = TaskSpec(name="tensor", input=TensorInput())


RUN = {"task": TENSOR, "validation": None, "minutes": 0.02, "version": "1.0.0"}


def relu_only() -> onnx.ModelProto:
    ends = [
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 32, 32])]
        for n in ("image", "out")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["image"], ["out"], name="relu")], "relu", *ends
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_a_cpu_bundle_is_whole_and_runs_here(save: Save, npz: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    net = residual_net(channels=64)
    onnx.helper.set_model_props(net, {"license": "AGPL-3.0 License (https://example.org)"})
    report = build_bundle(
        save(net),
        profiles=["cpu"],
        calibration=str(npz),
        out=out,
        max_drop=0.05,
        name="net",
        progress=seen.append,
        **RUN,
    )
    bundle = Bundle(out)
    assert bundle.digest == report.digest
    assert (bundle.name, bundle.version) == ("net", "1.0.0")
    bundle.verify()
    assert bundle.variants[-1].config.fallback
    assert bundle.variants[-1].config.requires == ("arch:x86_64|arch:aarch64",)
    for v in bundle.variants:
        check_golden(open_engine(v), v)
        for d in v.manifest.layers:
            data = (bundle.blobs / hex_of(d.digest)).read_bytes()
            assert (ANNOTATION_CHUNKS in d.annotations) == (len(data) > CHUNK_SIZE)
            if len(data) > CHUNK_SIZE:
                assert d.annotations[ANNOTATION_CHUNKS] == chunks_digest(chunk_hashes(data))
    best = bundle.select(probe().facts, runtimes=probe().runtimes)
    assert warm_up(bundle.blobs, best.digest, runs=10).ok
    shares = [p.share for p in seen if isinstance(p, BuildProgress)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    preferences = [preference for v in bundle.variants for preference in v.config.preferences]
    assert {"fast", "accurate", "low-power"} == set(preferences)
    for v in bundle.variants:
        if v.config.preferences:
            assert v.config.measured is not None
            assert v.config.measured.fresh is not None
            assert 2 <= v.config.measured.fresh.runs <= RUNS
            assert v.config.expected_rss_mb == v.config.measured.fresh.rss_mb
    info = inspect_bundle(out)
    assert {info.licence, report.licence, *(v.config.licence for v in bundle.variants)} == {"AGPL-3.0"}
    assert "licence of the weights: AGPL-3.0" in render(info)
    for v in bundle.variants:
        (stated,) = json.loads(v.need(LAYER_SBOM).read_bytes())["metadata"]["component"]["licenses"]
        assert stated == {"expression": "AGPL-3.0"}
    assert sum(v.added_bytes for v in info.variants) < info.total_bytes  # manifests and the index come on top
    assert info.variants[0].added_bytes == info.variants[0].total_bytes
    assert list(tmp_path.glob("*.tuning.jsonl")) == []
    rows = bench_bundle(out, seconds=0.1).rows
    assert all(r.latency is not None for r in rows), rows
    assert rows[-1].ratio is not None
    assert rows[-1].ratio.median == 1.0


def test_the_jetson_bundle_has_the_graph_the_recipe_and_an_arm_fallback(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    report = build_bundle(
        save(residual_net(channels=32)),
        profiles=["jetson-orin"],
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=0.2,
        **(RUN | {"minutes": 1}),
    )
    assert any("compiled on the device" in n for n in report.notes)
    info = inspect_bundle(tmp_path / "out")
    typed, trt, arm = info.variants
    for bound in (typed, trt):
        assert (bound.acceptance is not None and bound.acceptance.accepted) is has_compiler()
        assert ("accepted" in render(info)) is has_compiler()
    assert arm.acceptance is None
    assert (typed.variant, typed.requires) == (
        "tensorrt-int8-float16",
        ("arch:aarch64", "sm:8.7", "trt:10|trt:11"),
    )
    assert typed.precisions["float16"] >= 1
    assert typed.precisions["int8"] == trt.precisions["int8"]
    assert (trt.runtime, trt.recipe["family"], trt.recipe["plan"]) == ("tensorrt", "trt-gpu", "on-device")
    assert trt.requires == ("arch:aarch64", "sm:8.7", "trt:8")
    assert trt.measured is None
    assert trt.precisions["int8"] >= 2
    assert trt.accuracy["drop"] <= 0.2
    assert (arm.runtime, arm.recipe["family"], arm.fallback, arm.measured) == (
        "onnxruntime",
        "arm64",
        True,
        None,
    )
    assert arm.requires == ("arch:aarch64", "isa:dotprod")
    kept = {layer.node: layer.reason for layer in trt.layers if layer.precision == "float32"}
    assert kept["first"] == "fewer than 16 channels"
    table = [v.layer(LAYER_CALIBRATION) for v in Bundle(tmp_path / "out").variants]
    assert len(set(table)) == 1  # one table, stored once
    # What was recorded is this graph's own output, and ONNX Runtime reproduces it here.
    for v in Bundle(tmp_path / "out").variants:
        from edgectl.engines.finalise.open import open_model

        check_golden(open_model(v.need(LAYER_ENGINE), v.config.session), v)


def test_a_dla_profile_gets_explicit_and_implicit_int8_before_the_graphs_for_the_gpu(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    build_bundle(
        save(residual_net(channels=32)),
        profiles=["jetson-agx-orin-dla"],
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=0.2,
        **RUN,
    )
    bundle = Bundle(tmp_path / "out")
    explicit, implicit, *rest = bundle.variants
    assert [v.config.variant for v in bundle.variants][:2] == [
        "tensorrt-dla-int8-float16",
        "tensorrt-dla-int8-implicit",
    ]
    assert [v.config.variant for v in rest] == ["tensorrt-int8-float16", "tensorrt-int8", "cpu-int8"]
    assert implicit.config.requires[-1] == "trt:8|trt:10"
    ranges = json.loads(implicit.need(LAYER_RANGES).read_bytes())
    graph = onnx.load(implicit.need(LAYER_ENGINE))
    made = {"image", *(o for n in graph.graph.node for o in n.output)}
    assert ranges.keys() <= made
    assert {n.op_type for n in graph.graph.node}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
    # The golden outputs are those of the quantized graph: float is near, and not the same.
    from edgectl.engines.finalise.open import open_model

    near = check_golden(open_model(implicit.need(LAYER_ENGINE), implicit.config.session), implicit)
    assert near.outputs["out"].max_abs > 1e-5
    assert explicit.config.recipe.family == implicit.config.recipe.family == "trt-dla"


def test_provenance_and_sbom_name_what_went_in(save: Save, npz: Path, tmp_path: Path) -> None:
    model = save(residual_net())
    build_bundle(
        model, profiles=["jetson-orin"], calibration=str(npz), out=tmp_path / "out", max_drop=0.5, **RUN
    )
    v = Bundle(tmp_path / "out").variants[0]
    statement = json.loads(v.need(LAYER_PROVENANCE).read_bytes())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    made_of = {
        r["name"]: r["digest"]["sha256"]
        for r in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert made_of["model"] == hex_of(digest_of(model.read_bytes()))
    engine = next(d.digest for d in v.manifest.layers if d.mediaType == LAYER_ENGINE)
    assert statement["subject"][0]["digest"]["sha256"] == hex_of(engine)
    bom = json.loads(v.need(LAYER_SBOM).read_bytes())
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert bom["metadata"]["component"]["hashes"][0]["content"] == hex_of(engine)


def test_weights_beside_the_model_are_materials_too(save: Save, npz: Path, tmp_path: Path) -> None:
    folder = tmp_path / "beside"
    folder.mkdir()
    external = {"save_as_external_data": True, "location": "model", "size_threshold": 0}
    onnx.save(onnx.load(save(residual_net())), folder / "m.onnx", **external)
    build_bundle(
        folder / "m.onnx",
        profiles=["jetson-orin"],
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=0.5,
        **RUN,
    )
    v = Bundle(tmp_path / "out").variants[0]
    statement = json.loads(v.need(LAYER_PROVENANCE).read_bytes())
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    made_of = {r["name"]: r["digest"]["sha256"] for r in materials}
    assert made_of["model"] == hex_of(digest_of((folder / "m.onnx").read_bytes()))
    assert made_of["weights/model"] == hex_of(digest_of((folder / "model").read_bytes()))


def test_the_same_inputs_give_the_same_blobs(save: Save, npz: Path, tmp_path: Path) -> None:
    model = save(residual_net())
    digests = [
        build_bundle(
            model,
            profiles=["jetson-orin", "cpu-arm64"],
            calibration=str(npz),
            out=tmp_path / f"out{i}",
            max_drop=0.5,
            **{**RUN, "minutes": 5.0},
        ).digest
        for i in range(2)
    ]
    assert digests[0] == digests[1]  # nothing in it was measured


def test_a_flipped_byte_is_found(save: Save, npz: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_bundle(
        save(residual_net()), profiles=["jetson-orin"], calibration=str(npz), out=out, max_drop=0.5, **RUN
    )
    for blob in sorted((out / "blobs/sha256").iterdir()):
        good = blob.read_bytes()
        blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(IntegrityError):
            Bundle(out).verify()
        blob.write_bytes(good)
    Bundle(out).verify()


def test_random_data_marks_the_bundle_speed_only(save: Save, tmp_path: Path) -> None:
    build_bundle(
        save(residual_net()),
        profiles=["jetson-orin"],
        calibration=None,
        random_calibration=True,
        out=tmp_path / "out",
        **RUN,
    )
    info = inspect_bundle(tmp_path / "out")
    assert all(v.speed_only for v in info.variants if v.precisions.get("int8"))
    assert info.variants[0].precisions["int8"]


def test_an_accuracy_budget_that_int8_cannot_meet_ships_float(save: Save, npz: Path, tmp_path: Path) -> None:
    report = build_bundle(
        save(residual_net()),
        profiles=["jetson-orin"],
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=0.0,
        **RUN,
    )
    assert {v.precision for v in report.variants} == {"float16", "float32"}
    assert any("float instead" in n for n in report.notes)


def test_a_bundle_of_shared_weights_travels_packed_and_runs_here(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = CompressOptions(cluster=16)
    model = save(residual_net(channels=64))
    build_bundle(
        model,
        profiles=["cpu"],
        calibration=str(npz),
        out=out,
        max_drop=1.0,
        name="net",
        compression=options,
        **RUN,
    )
    bundle = Bundle(out)
    bundle.verify()
    fallback = bundle.variants[-1]
    assert fallback.config.unpacked is not None
    assert fallback.need(LAYER_PACKED).stat().st_size < 0.4 * fallback.config.unpacked.size
    assert not (bundle.blobs / hex_of(fallback.config.unpacked.digest)).exists()
    check_golden(open_engine(fallback), fallback)
    assert warm_up(bundle.blobs, fallback.digest, runs=10, cache=tmp_path / "cache").ok
    assert all(r.latency is not None for r in bench_bundle(out, seconds=0.1).rows)
    [row] = [v for v in inspect_bundle(out).variants if v.fallback]
    assert row.engine_bytes == fallback.need(LAYER_PACKED).stat().st_size


def test_the_command_says_in_json_what_it_built_and_what_competed(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from edgectl.cli.main import app

    arguments = [
        "-p",
        "cpu",
        "-t",
        "tensor",
        "-c",
        str(npz),
        "-o",
        str(tmp_path / "out"),
        "--minutes",
        "0.05",
        "--max-drop",
        "0.5",
    ]
    result = CliRunner().invoke(app, ["build", str(save(residual_net())), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["digest"] == Bundle(tmp_path / "out").digest
    [outcomes] = said["candidates"].values()
    assert {"float", "full"} <= {o["candidate"]["graph"]["recipe"] for o in outcomes}
    assert all("model" not in o["candidate"]["graph"] for o in outcomes)


def test_time_for_the_search_is_kept_from_before_calibration_until_it_is_over(
    save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[float] = []
    keep = Budget.keep

    def noted(self: Budget, seconds: Callable[[], float]) -> None:
        kept.append(seconds())
        keep(self, seconds)

    monkeypatch.setattr(Budget, "keep", noted)
    build_bundle(
        save(residual_net()), profiles=["cpu"], calibration=str(npz), out=tmp_path / "out", name="net", **RUN
    )
    whole, confirmation, after = kept
    assert whole > confirmation > after == 0


def test_why_float_ships_is_in_the_report_the_notes_and_the_json(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = build_bundle(
        save(relu_only()), profiles=["cpu"], calibration=str(npz), out=out, name="net", **RUN
    )
    # where the processor has bfloat16, what is against that comes second
    [[why, *_]] = report.causes.values()
    assert why.cause.value == "nothing-to-quantize"
    assert any(n.endswith(f": {why.text}") for n in report.notes)
    inspected = CliRunner().invoke(app, ["bundle", "inspect", str(out), "--json"])
    assert next(iter(json.loads(inspected.stdout)["causes"].values()))[0]["cause"] == "nothing-to-quantize"
    text = CliRunner().invoke(app, ["bundle", "inspect", str(out)]).stdout
    assert (
        "nothing-to-quantize: the model has no convolution or matrix product with constant weights"
        in " ".join(text.split())
    )
    assert "Why this one" in render(inspect_bundle(out))


def test_what_loses_too_much_is_told_by_the_least_loss_and_the_next_step(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    report = build_bundle(
        save(residual_net(channels=32)),
        profiles=["cpu"],
        calibration=str(npz),
        out=tmp_path / "out",
        max_drop=1e-9,
        **RUN,
    )
    [causes] = report.causes.values()
    assert causes[0].cause.value == "over-budget"
    assert "--max-drop" in causes[0].next
    assert float(causes[0].figure) > 0


def test_without_any_time_the_least_is_built_and_all_that_was_left_out_is_listed(
    save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.builder.build.Budget", lambda seconds: Budget(1e-9))
    out = tmp_path / "out"
    report = build_bundle(
        save(residual_net(channels=64)), profiles=["cpu"], calibration=str(npz), out=out, max_drop=0.5, **RUN
    )
    Bundle(out).verify()
    assert {"the rest of the calibration data", "the choice of ranges", "reconstruction"} <= set(
        report.left_out
    )
    assert any(n.startswith("left out for want of time") and "reconstruction" in n for n in report.notes)
    assert any("the least that a bundle needs" in n for n in report.notes)
    assert any(
        o.candidate.graph.recipe == "full" for outcomes in report.candidates.values() for o in outcomes
    )
    assert json.loads(CliRunner().invoke(app, ["bundle", "inspect", str(out), "--json"]).stdout)[
        "left_out"
    ] == list(report.left_out)


def test_build_and_bench_tell_every_context_of_what_ships(save: Save, npz: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = build_bundle(
        save(residual_net(channels=64)), profiles=["cpu"], calibration=str(npz), out=out, max_drop=0.2, **RUN
    )
    contexts = {"alone", "paced", "beside"}
    for v in report.variants:
        assert {c.context.value for c in v.contexts} == contexts
    rows = bench_bundle(out, seconds=0.1).rows
    assert {r.variant for r in rows} == {v.variant for v in report.variants}
    for r in rows:
        assert {c.context.value for c in r.contexts} == contexts
        fallback = r.variant == "cpu-float32"
        assert (r.standing is None) == fallback
        assert all((c.ratio is None) == fallback for c in r.contexts)
