"""From an ONNX file to a bundle, end to end, with small models; and what is left behind when it fails."""

import contextlib
import errno
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.builder.nets import Save, nms_net, residual_net
from typer.testing import CliRunner

from edgectl.builder.budget import Budget
from edgectl.builder.build import BuildProgress, _samples_folder, build_bundle
from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.pack import package
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
    DataError,
    EdgectlError,
    IntegrityError,
    ModelError,
    ProfileError,
    StorageError,
    UsageError,
)
from edgectl.core.files import digest_of, hex_of
from edgectl.core.task import DecodeSpec, ImageInput, TaskSpec, TensorInput
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine
from edgectl.engines.finalise.trial import warm_up
from edgectl.engines.measure.processes import RUNS
from edgectl.pipelines.tasks import load_task

TENSOR = TaskSpec(name="tensor", input=TensorInput())
RUN = {"task": TENSOR, "validation": None, "minutes": 0.02, "version": "1.0.0"}


def test_a_cpu_bundle_is_whole_and_runs_here(save: Save, npz: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    report = build_bundle(
        save(residual_net(channels=64)),
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
                assert d.annotations[ANNOTATION_CHUNKS] == package.chunks_digest(data)
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
        **RUN,
    )
    assert any("compiled on the device" in n for n in report.notes)
    info = inspect_bundle(tmp_path / "out")
    typed, trt, arm = info.variants
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


def test_a_graph_with_nms_inside_is_built_without_it(tmp_path: Path) -> None:
    boxes = TaskSpec(
        name="boxes",
        input=ImageInput(width=16, height=16),
        labels=("a", "b"),
        metric="detection",
        decode=DecodeSpec(kind="boxes-scores", score=0.05, box_unit="relative"),
    )
    model, pixels = nms_net(), np.random.default_rng(0).random((24, 3, 16, 16)).astype(np.float32)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "c.npz", image=pixels)
    report = build_bundle(
        tmp_path / "model.onnx",
        profiles=["cpu-arm64"],
        calibration=str(tmp_path / "c.npz"),
        out=tmp_path / "out",
        **{**RUN, "task": boxes},
    )
    assert any("cut off" in n for n in report.notes)
    for v in Bundle(tmp_path / "out").variants:
        assert [o.name for o in v.config.outputs] == ["boxes", v.config.task.decode.scores]
        assert v.config.task.decode.boxes == "boxes"


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


def test_without_data_the_error_says_how(save: Save, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no calibration data") as e:
        build_bundle(save(residual_net()), profiles=["cpu"], calibration=None, out=tmp_path / "out", **RUN)
    assert "--random-calibration" in (e.value.hint or "")
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize(
    ("content", "profile", "error"),
    [
        (b"no model", "cpu", ModelError),
        (residual_net().SerializeToString()[:500], "cpu", ModelError),
        (None, "no-such", ProfileError),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, npz: Path, content: bytes | None, profile: str, error: type[EdgectlError]
) -> None:
    model = tmp_path / "bad.onnx"
    model.write_bytes(residual_net().SerializeToString() if content is None else content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error) as e:
        build_bundle(model, profiles=[profile], calibration=str(npz), out=tmp_path / "out", **RUN)
    assert "\n" not in e.value.message
    assert sorted(tmp_path.iterdir()) == before


def test_bad_calibration_leaves_nothing(save: Save, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", image=np.zeros((2, 3, 32, 32), np.float32))
    with pytest.raises(DataError):
        build_bundle(
            save(residual_net()),
            profiles=["cpu"],
            calibration=str(tmp_path / "few.npz"),
            out=tmp_path / "out",
            **RUN,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("room", [0, 3, 6])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    out = tmp_path / "bundles" / "net"
    model = save(residual_net())
    first = build_bundle(
        model, profiles=["jetson-orin"], calibration=str(npz), out=out, max_drop=0.5, **RUN
    ).digest
    written, fsync = [0], os.fsync

    def full(fd: int) -> None:
        written[0] += 1
        if written[0] > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(fd)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        build_bundle(model, profiles=["jetson-thor"], calibration=str(npz), out=out, max_drop=0.5, **RUN)
    monkeypatch.undo()
    assert [p.name for p in out.parent.iterdir()] == ["net"]
    assert Bundle(out).digest == first
    Bundle(out).verify()


def test_a_bundle_is_replaced_and_anything_else_is_not(save: Save, npz: Path, tmp_path: Path) -> None:
    model, out = save(residual_net()), tmp_path / "out"
    build_bundle(model, profiles=["jetson-orin"], calibration=str(npz), out=out, max_drop=0.5, **RUN)
    build_bundle(model, profiles=["jetson-thor"], calibration=str(npz), out=out, max_drop=0.5, **RUN)
    assert Bundle(out).variants[0].config.profile == "jetson-thor"
    other = tmp_path / "home"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="is not a bundle"):
        build_bundle(model, profiles=["jetson-orin"], calibration=str(npz), out=other, **RUN)
    assert (other / "letter.txt").read_text() == "dear"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("file", "task", "data"),
    [
        ("fastestdet-352.onnx", "fastestdet", "media/one-by-one-person-detection.mp4"),
        ("kws-dscnn-mlperf-tiny.onnx", "keyword", "media/speech-60s.wav"),
        ("silero-vad-16k.onnx", "silero-vad", "media/speech-60s.wav"),
    ],
)
def test_real_models_build_for_this_machine(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, task: str, data: str
) -> None:
    monkeypatch.setattr("edgectl.builder.ingest.samples.MAX_SAMPLES", 48)  # still spread over the whole clip
    monkeypatch.setattr("edgectl.builder.int8.escalate._EASY_DB", 10.0)  # no equalisation: test_ladder has it
    report = build_bundle(
        shared / "models" / file,
        profiles=["cpu"],
        task=load_task(task),
        calibration=str(shared / data),
        out=tmp_path / "out",
        max_drop=0.1,
        minutes=0.02,
    )
    bundle = Bundle(tmp_path / "out")
    bundle.verify()
    for v in bundle.variants:
        with contextlib.closing(open_engine(v, cache=tmp_path / "cache")) as engine:
            check_golden(engine, v)
    for s in report.variants:
        assert s.drop is not None
        assert s.drop <= 0.1
        assert s.precision == "float32" or (s.ratio_to_float is not None and s.ratio_to_float < 1 / 1.02)


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
    result = CliRunner().invoke(app, ["build_bundle", str(save(residual_net())), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["digest"] == Bundle(tmp_path / "out").digest
    [outcomes] = said["candidates"].values()
    assert {"float", "full"} <= {o["candidate"]["graph"]["recipe"] for o in outcomes}
    assert all("model" not in o["candidate"]["graph"] for o in outcomes)


def test_samples_of_a_killed_build_go_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (tmp_path / f"edgectl-samples-{pid}-x").mkdir()
    with _samples_folder() as own:
        assert {p.name for p in tmp_path.iterdir()} == {f"edgectl-samples-{os.getpid()}-x", own.name}
    assert [p.name for p in tmp_path.iterdir()] == [f"edgectl-samples-{os.getpid()}-x"]


def relu_only() -> onnx.ModelProto:
    ends = [
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 32, 32])]
        for n in ("image", "out")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["image"], ["out"], name="relu")], "relu", *ends
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_why_float_ships_is_in_the_report_the_notes_and_the_json(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = build_bundle(
        save(relu_only()), profiles=["cpu"], calibration=str(npz), out=out, name="net", **RUN
    )
    [[why]] = report.causes.values()
    assert why.cause.value == "nothing-to-quantize"
    assert any(n.endswith(f": {why.text}") for n in report.notes)
    inspected = CliRunner().invoke(app, ["bundle", "inspect", str(out), "--json"])
    assert [c["cause"] for c in next(iter(json.loads(inspected.stdout)["causes"].values()))] == [
        "nothing-to-quantize"
    ]
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


def test_a_disk_that_is_full_of_temporary_files_is_said_and_is_no_defect(
    save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere/3.onnx")

    monkeypatch.setattr("edgectl.builder.search.machine.measure_fresh", full)
    with pytest.raises(StorageError, match=r"the disk is full while writing /somewhere/3\.onnx"):
        build_bundle(
            save(residual_net()), profiles=["cpu"], calibration=str(npz), out=tmp_path / "out", **RUN
        )
    assert not (tmp_path / "out").exists()


def test_an_out_whose_folder_takes_no_files_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        build_bundle(
            tmp_path / "missing.onnx",
            profiles=["cpu"],
            calibration="x.npz",
            out=tmp_path / "file" / "out",
            **RUN,
        )


def test_a_model_whose_integers_are_places_in_a_table_asks_for_real_inputs(
    save: Save, tmp_path: Path
) -> None:
    table = onnx.numpy_helper.from_array(np.ones((3, 8), np.float32), "table")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "ids"], ["out"])],
        "net",
        [onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [1, 16])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [table],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(DataError, match="does not take noise") as e:
        build_bundle(
            save(model),
            profiles=["cpu"],
            calibration=None,
            random_calibration=True,
            out=tmp_path / "out",
            **RUN,
        )
    assert "--calibration" in (e.value.hint or "")


def test_an_exception_that_nobody_thought_of_is_one_sentence_and_its_traceback_is_in_the_log(
    save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("t2")

    monkeypatch.setattr("edgectl.builder.int8.escalate.quantize", broken)
    with (
        caplog.at_level("DEBUG", logger="edgectl"),
        pytest.raises(ModelError, match=r"build step quantize .* broke: KeyError: 't2'") as e,
    ):
        build_bundle(
            save(residual_net()), profiles=["cpu"], calibration=str(npz), out=tmp_path / "out", **RUN
        )
    assert "--debug" in (e.value.hint or "")
    assert "in broken" in caplog.text
    assert isinstance(e.value.__cause__, KeyError)
    assert not (tmp_path / "out").exists()


def test_a_float16_model_is_quantized_like_any_other_and_competes_as_it_came(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    model = residual_net(channels=32)
    for t in model.graph.initializer:
        t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float16), t.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del model.graph.value_info[:]
    # time enough on a busy machine, too: what is not judged in time does not compete
    run = {**RUN, "minutes": 0.5}
    report = build_bundle(save(model), profiles=["cpu"], calibration=str(npz), out=tmp_path / "out", **run)
    (outcomes,) = report.candidates.values()
    graphs = {o.candidate.graph.recipe: o for o in outcomes}
    assert {"float", "as-received-float16"} < graphs.keys()
    assert any(o.candidate.graph.precision == "int8" for o in outcomes)
    assert graphs["as-received-float16"].measured is not None
    assert any("widened to float32" in note for note in report.notes)


def test_sizes_come_from_the_samples_or_from_the_user(save: Save, npz: Path, tmp_path: Path) -> None:
    model = residual_net()
    for axis, symbol in ((0, "N"), (2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = symbol
    model.graph.output[0].type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    path = save(model)
    build_bundle(path, profiles=["cpu"], calibration=str(npz), out=tmp_path / "data", **RUN)
    build_bundle(
        path,
        profiles=["cpu"],
        calibration=None,
        random_calibration=True,
        shapes={"image": (1, 3, 32, 32)},
        out=tmp_path / "user",
        **RUN,
    )
    for out in ("data", "user"):
        assert {v.config.inputs[0].shape for v in Bundle(tmp_path / out).variants} == {(1, 3, 32, 32)}
    with pytest.raises(ModelError, match="size of input image open: 1 × 3 × H × W"):
        build_bundle(
            path, profiles=["cpu"], calibration=None, random_calibration=True, out=tmp_path / "none", **RUN
        )


def test_a_background_class_is_found_on_the_calibration_pictures(save: Save, tmp_path: Path) -> None:
    """64 boxes, softmax over background and two classes, and a bias that makes most of them background."""
    rng = np.random.default_rng(0)
    weights = {
        "wb": rng.standard_normal((4, 3, 2, 2)),
        "ws": rng.standard_normal((3, 3, 2, 2)) * 0.3,
        "bs": np.asarray([4.0, 0.0, 0.0]),
    }
    nodes = [
        onnx.helper.make_node("Conv", ["image", "wb"], ["cb"], name="boxes", strides=[2, 2]),
        onnx.helper.make_node("Flatten", ["cb"], ["fb"], name="flat", axis=2),
        onnx.helper.make_node("Transpose", ["cb"], ["tb"], name="turn", perm=[0, 2, 3, 1]),
        onnx.helper.make_node("Reshape", ["tb", "four"], ["b"], name="list"),
        onnx.helper.make_node("Conv", ["image", "ws", "bs"], ["cs"], name="scores", strides=[2, 2]),
        onnx.helper.make_node("Transpose", ["cs"], ["ts"], name="turn_scores", perm=[0, 2, 3, 1]),
        onnx.helper.make_node("Reshape", ["ts", "three"], ["rs"], name="list_scores"),
        onnx.helper.make_node("Softmax", ["rs"], ["s"], name="softmax", axis=2),
    ]
    constants = [onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    constants += [
        onnx.numpy_helper.from_array(np.asarray([1, -1, k]), n) for n, k in (("four", 4), ("three", 3))
    ]
    graph = onnx.helper.make_graph(
        [n for n in nodes if n.name != "flat"],
        "ssd",
        [onnx.helper.make_tensor_value_info("image", 1, [1, 3, 16, 16])],
        [
            onnx.helper.make_tensor_value_info("b", 1, [1, 64, 4]),
            onnx.helper.make_tensor_value_info("s", 1, [1, 64, 3]),
        ],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    np.savez(tmp_path / "c.npz", image=rng.random((16, 3, 16, 16)).astype(np.float32))
    task = TaskSpec(
        name="ssd",
        input=ImageInput(width=16, height=16),
        decode=DecodeSpec(kind="boxes-scores"),
        labels=("a", "b"),
    )
    report = build_bundle(
        save(model),
        profiles=["cpu"],
        calibration=str(tmp_path / "c.npz"),
        out=tmp_path / "out",
        **{**RUN, "task": task},
    )
    assert {v.config.task.decode.background for v in Bundle(tmp_path / "out").variants} == {"first"}
    assert any("background class" in note for note in report.notes)


def test_an_output_whose_size_depends_on_the_data_ships_as_float_and_says_why(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    model = residual_net()
    model.graph.node.append(onnx.helper.make_node("NonZero", ["out"], ["places"], name="places"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("places", onnx.TensorProto.INT64, [4, "n"]))
    report = build_bundle(
        save(model), profiles=["cpu-arm64"], calibration=str(npz), out=tmp_path / "out", **RUN
    )
    assert {v.precision for v in report.variants} == {"float32"}
    assert any("output places has a size that depends on the data" in note for note in report.notes)


def test_a_graph_with_an_output_of_strings_gets_no_tensorrt_variant(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    model = residual_net()
    model.graph.node.append(
        onnx.helper.make_node("Cast", ["out"], ["text"], name="say", to=onnx.TensorProto.STRING)
    )
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("text", onnx.TensorProto.STRING, [1, 8, 16, 16])
    )
    report = build_bundle(
        save(model), profiles=["jetson-orin"], calibration=str(npz), out=tmp_path / "out", **RUN
    )
    assert {v.runtime for v in report.variants} == {"onnxruntime"}
    assert any("TensorRT does not take the output text" in note for note in report.notes)
    for variant in Bundle(tmp_path / "out").variants:
        assert [o.name for o in variant.config.outputs] == ["out"]
        with contextlib.closing(open_engine(variant)) as engine:
            check_golden(engine, variant)


def test_an_output_that_is_all_rounding_may_round_differently_on_the_device(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    """A convolution with its batch norm less the same convolution with the norm folded in by hand."""
    rng = np.random.default_rng(0)
    w, gain, shift = (rng.standard_normal(s).astype(np.float32) for s in ((8, 3, 3, 3), (8,), (8,)))
    gain = np.abs(gain) + np.float32(0.5)
    constants = {
        "w": w,
        "gain": gain,
        "shift": shift,
        "mean": np.zeros(8, np.float32),
        "var": np.full(8, 1 - 1e-5, np.float32),
        "w2": w * gain[:, None, None, None],
    }
    nodes = [
        onnx.helper.make_node("Conv", ["image", "w"], ["c"], name="conv"),
        onnx.helper.make_node(
            "BatchNormalization", ["c", "gain", "shift", "mean", "var"], ["n"], name="norm"
        ),
        onnx.helper.make_node("Conv", ["image", "w2", "shift"], ["m"], name="folded"),
        onnx.helper.make_node("Sub", ["n", "m"], ["d"], name="difference"),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(n, 1, s)
        for n, s in (("image", [1, 3, 32, 32]), ("n", [1, 8, 30, 30]), ("d", [1, 8, 30, 30]))
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "nought",
        ends[:1],
        ends[1:],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    build_bundle(save(model), profiles=["cpu"], calibration=str(npz), out=tmp_path / "out", **RUN)
    for variant in Bundle(tmp_path / "out").variants:
        if variant.config.recipe.precision == "float32":
            tolerances = variant.config.golden.tolerances
            assert tolerances["d"].cosine == 0
            assert 1e-7 < tolerances["d"].max_abs < 1e-4
            assert tolerances["n"].cosine > 0.999
