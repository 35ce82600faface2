"""A variant as plain files: the commands run where the tool is here, and give what edgectl gives."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.builder.nets import Save, residual_net
from support.variants import MakeVariant, variant_factory

from edgectl.builder.build import build_bundle
from edgectl.builder.pack.commands import command_lines
from edgectl.builder.pack.extract import choose, extract
from edgectl.builder.pack.triton import triton_config
from edgectl.core.bundle import (
    LAYER_ENGINE,
    LAYER_RTX,
    AheadOfTime,
    Bundle,
    Recipe,
    SessionSettings,
    TensorSpec,
    Variant,
)
from edgectl.core.errors import IntegrityError, UsageError
from edgectl.device_profiles.catalogue import load_profile
from edgectl.engines.finalise.golden import read_golden

pytestmark = pytest.mark.slow


@pytest.fixture
def make_variant(tmp_path: Path) -> MakeVariant:
    return variant_factory(tmp_path)


@pytest.fixture
def bundle(save: Save, npz: Path, tmp_path: Path) -> Bundle:
    build_bundle(
        save(residual_net(channels=32)),
        profiles=["cpu", "jetson-orin"],
        task="tensor",
        calibration=str(npz),
        max_drop=0.5,
        minutes=0.1,
        out=tmp_path / "bundle",
    )
    return Bundle(tmp_path / "bundle")


def test_a_variant_of_onnx_runtime_runs_and_reproduces_its_golden_outputs(
    bundle: Bundle, tmp_path: Path
) -> None:
    variant = next(v for v in bundle.variants if v.config.runtime == "onnxruntime")
    done = extract(variant, tmp_path / "out")
    assert (tmp_path / "out/model.onnx").read_bytes() == variant.engine(tmp_path).read_bytes()
    assert {"commands.sh", "config.json", "model.onnx", "run_onnxruntime.py"} <= set(done.files)
    ran = subprocess.run(
        # from anywhere
        [sys.executable, str(done.out / "run_onnxruntime.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ran.stdout.startswith("p50 ")
    difference = float(ran.stdout.splitlines()[1].rsplit(" ", 1)[1])
    assert difference <= variant.config.golden.tolerances["out"].max_abs
    command = dict(done.commands)["time it in ONNX Runtime"]
    assert f"-x {variant.config.session.threads} " in command
    assert command in (done.out / "commands.sh").read_text()


def test_openvinos_own_tool_takes_its_command(make_variant: MakeVariant, tmp_path: Path) -> None:
    session = SessionSettings(threads=2, precision_hint="f32")
    done = extract(make_variant(runtime="openvino", session=session), tmp_path / "out")
    ((_, command),) = done.commands
    tool = Path(sys.executable).with_name("benchmark_app")
    words = shlex.split(command.replace("-t 10", "-niter 4"))
    assert words[0] == "benchmark_app"
    ran = subprocess.run(
        [str(tool), *words[1:]], cwd=done.out, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert "Throughput" in ran.stdout


def test_tensorrt_gets_the_flags_of_each_generation_that_the_variant_is_for(
    bundle: Bundle, tmp_path: Path
) -> None:
    for variant in (v for v in bundle.variants if v.config.runtime == "tensorrt"):
        done = extract(variant, tmp_path / variant.config.variant)
        told = dict(done.commands)
        typed = "trt:10|trt:11" in variant.config.requires
        assert ("compile with TensorRT 10 or 11" in told) == (typed or "trt:8" not in variant.config.requires)
        for what, command in done.commands:
            assert ("--stronglyTyped" in command) == ("10 or 11" in what)
            assert ("--fp16 --int8" in command) == (what == "compile with TensorRT 8")
        assert f"workspace:{load_profile('jetson-orin').tensorrt.workspace_mb}M" in done.commands[0][1]  # type: ignore[union-attr]
        assert "--loadInputs=image:golden/in-0.bin" in told["time it on a golden input"]
        feeds, outputs = read_golden(variant)[0]
        assert np.array_equal(np.fromfile(done.out / "golden/in-0.bin", np.float32), feeds["image"].ravel())
        assert np.array_equal(np.fromfile(done.out / "golden/out-0.bin", np.float32), outputs["out"].ravel())


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        ({"recipe": Recipe(family="trt-dla")}, ["--useDLACore=0", "--allowGPUFallback"]),
        ({"recipe": Recipe(family="trt-gpu", passes=("prune:2:4", "2:4"))}, ["--sparsity=enable"]),
    ],
)
def test_dla_and_sparse_weights_have_their_flags(
    make_variant: MakeVariant, config: dict[str, object], flags: list[str]
) -> None:
    variant = make_variant(runtime="tensorrt", **config)
    commands = command_lines(variant.config, {"model": "model.onnx", "in/x": "golden/in-0.bin"}, None)
    for what, command in commands:
        if what.startswith("compile"):
            assert set(flags) <= set(shlex.split(command))


def test_an_engine_that_was_compiled_ahead_comes_along(make_variant: MakeVariant, tmp_path: Path) -> None:
    ahead = AheadOfTime(compiler="TensorRT-RTX 1.7.1.116", sm=("8.6",))
    variant = make_variant(runtime="tensorrt-rtx", ahead=ahead, layers=((LAYER_RTX, b"engine"),))
    done = extract(variant, tmp_path / "out")
    assert (done.out / "model.rtx").read_bytes() == b"engine"
    assert dict(done.commands)["time the engine that came along"] == "tensorrt_rtx --loadEngine=model.rtx"


def parsed(text: str) -> object:
    """As Triton does: the same message, in the same text format."""
    pb2 = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] has Triton's message"
    )
    from google.protobuf import text_format

    return text_format.Parse(text, pb2.ModelConfig())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_tritons_own_parser_reads_the_configuration(
    make_variant: MakeVariant, tmp_path: Path, runtime: str
) -> None:
    done = extract(make_variant(runtime=runtime, batch=4), tmp_path / "out", triton=True)
    folder = done.out / "triton/small"
    onnx.load(folder / "1/model.onnx")
    config = parsed((folder / "config.pbtxt").read_text())
    assert (config.name, config.max_batch_size) == ("small", 0)  # type: ignore[attr-defined]
    assert [list(t.dims) for t in (*config.input, *config.output)] == [[-1, 3, 8, 8], [-1, 4, 6, 6]]  # type: ignore[attr-defined]
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator  # type: ignore[attr-defined]
    assert [a.name for a in accelerators] == (["tensorrt"] if runtime == "tensorrt" else [])


def test_names_and_types_go_into_tritons_format_or_are_refused(make_variant: MakeVariant) -> None:
    config = make_variant(name="yard det/1").config
    named = config.model_copy(update={"inputs": (TensorSpec(name='in"put', shape=(), dtype="int64"),)})
    text = triton_config(named)
    assert 'name: "yard_det_1"' in text
    assert 'name: "in\\"put"' in text
    assert "dims: [ 1 ]" in text
    assert "TYPE_INT64" in text
    odd = config.model_copy(update={"outputs": (TensorSpec(name="y", shape=(1,), dtype="complex64"),)})
    with pytest.raises(UsageError, match="no type for the tensor y of complex64"):
        triton_config(odd)


def test_a_folder_with_something_in_it_stays_as_it_is(make_variant: MakeVariant, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(UsageError, match="not an empty folder"):
        extract(make_variant(), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_damaged_bundle_leaves_nothing(make_variant: MakeVariant, tmp_path: Path) -> None:
    variant = make_variant()
    variant.need(LAYER_ENGINE).write_bytes(b"rotten")
    with pytest.raises(IntegrityError):
        extract(variant, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")] == []


def test_a_variant_is_chosen_by_its_name_or_the_bundle_says_which_there_are(bundle: Bundle) -> None:
    def names(wanted: str | None) -> Variant:
        return choose(bundle, wanted)

    first = bundle.variants[0].config
    assert names(f"{first.profile}/{first.variant}").config == first
    for wanted, said in ((None, "several variants"), ("gpu", "no variant 'gpu'")):
        with pytest.raises(UsageError, match=said) as caught:
            names(wanted)
        assert f"{first.profile}/{first.variant}" in (caught.value.hint or "")
