"""Bad input gets one sentence, the next step and its own exit code; nothing is left half-written. The real
command, as a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgectl.core.errors import StorageError
from edgectl.models import reference

YARD = "synth://yard?seed=5&paced=0&fps=2&seconds=8"


def edgectl(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgectl.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)


def assert_refused(run: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    sentences = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, run.stderr
    assert words in sentences[0]


def unknown_operator(path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())


def truncated(path: Path) -> None:
    path.write_bytes(reference("yard-detector").model.read_bytes()[:100_000])


def no_onnx(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n not an ONNX file at all" * 50)


@pytest.mark.parametrize("make", [unknown_operator, truncated, no_onnx])
def test_a_model_that_cannot_be_built_leaves_no_bundle(make: object, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    make(model)  # type: ignore[operator]
    np.savez(tmp_path / "data.npz", x=np.zeros((16, 1, 4), np.float32))
    run = edgectl(
        "build",
        model,
        "--task",
        "tensor",
        "--profile",
        "cpu",
        "--calibration",
        "data.npz",
        "--out",
        "out/m",
        cwd=tmp_path,
    )
    assert_refused(run, 3, "model.onnx" if make is not unknown_operator else "Frobnicate")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npz", "model.onnx"]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert_refused(
        edgectl(
            "build", "none.onnx", "--task", "tensor", "--profile", "cpu", "--random-calibration", cwd=tmp_path
        ),
        3,
        "none.onnx",
    )


def test_an_unknown_profile_is_answered_with_the_nearest(tmp_path: Path) -> None:
    run = edgectl(
        "build",
        reference("yard-detector").model,
        "--task",
        "yolov8",
        "--profile",
        "jetson-orim",
        "-c",
        YARD,
        cwd=tmp_path,
    )
    assert_refused(run, 5, "jetson-orim")
    assert "jetson-orin" in run.stderr.split("next:")[1]


def test_an_unknown_task_is_answered_with_the_nearest(tmp_path: Path) -> None:
    run = edgectl(
        "build",
        reference("yard-detector").model,
        "--task",
        "yolo8",
        "--profile",
        "cpu",
        "-c",
        YARD,
        cwd=tmp_path,
    )
    assert_refused(run, 2, "yolo8")
    assert "yolov8" in run.stderr.split("next:")[1]


def test_without_calibration_data_the_error_says_how_to_give_some(tmp_path: Path) -> None:
    run = edgectl(
        "build",
        reference("yard-detector").model,
        "--task",
        reference("yard-detector").task,
        "--profile",
        "cpu",
        cwd=tmp_path,
    )
    assert_refused(run, 2, "calibration")
    assert "--calibration" in run.stderr
    assert "--random-calibration" in run.stderr


def test_a_video_that_does_not_decode(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(5000))
    run = edgectl(
        "run", "surveillance", "--bundle", bundle, "--source", "broken.mp4", "--out", "out", cwd=tmp_path
    )
    assert run.returncode in (4, 9)
    assert_refused(run, run.returncode, "broken.mp4")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_video_that_does_not_decode_is_no_calibration(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(os.urandom(20_000))
    ours = reference("yard-detector")
    run = edgectl(
        "build",
        ours.model,
        "--task",
        ours.task,
        "--profile",
        "cpu",
        "-c",
        "broken.mp4",
        "--out",
        "out/y",
        cwd=tmp_path,
    )
    assert_refused(run, 4, "broken.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["broken.mp4"]


def test_a_bundle_with_one_flipped_byte(tmp_path: Path, bundle: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    good = edgectl("bundle", "verify", copy, "--json", cwd=tmp_path)
    assert json.loads(good.stdout)["ok"] is True
    largest = max((copy / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert_refused(edgectl("bundle", "verify", copy, cwd=tmp_path), 6, largest.name[:12])
    # no controller: nothing is sent
    assert_refused(edgectl("release", "publish", copy, cwd=tmp_path), 2, "token")


def test_json_errors_are_json(tmp_path: Path) -> None:
    run = edgectl("bundle", "verify", tmp_path, "--json", cwd=tmp_path)
    assert run.returncode == 6
    error = json.loads(run.stdout)["error"]
    assert error["code"] == "bundle"
    assert error["hint"]


@pytest.mark.parametrize(
    "line", ["run surveillance -b x", "run flying -b x -s y", "frobnicate", "bundle verify x --frob"]
)
def test_a_wrong_command_line_is_one_sentence_too(tmp_path: Path, line: str) -> None:
    assert_refused(edgectl(*line.split(), cwd=tmp_path), 2, "")
    run = edgectl(*line.split(), "--json", cwd=tmp_path)
    assert run.returncode == 2
    error = json.loads(run.stdout)["error"]
    assert error["code"] == "usage"
    assert "--help" in error["hint"]


def test_a_controller_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    run = edgectl(
        "fleet", "devices", "--controller", "http://127.0.0.1:9", "--token-file", "token", cwd=tmp_path
    )
    assert_refused(run, 9, "does not answer")


def test_a_configuration_that_is_wrong(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "agent.toml").write_text('name = "Gate 1"\n')
    assert_refused(edgectl("agent", "run", "--config", "agent.toml", cwd=tmp_path), 2, "name")
    (tmp_path / "p.yaml").write_text("zones: {yard: {polygon: [0, 0, 1, 1]}}\n")
    run = edgectl("run", "surveillance", "-b", bundle, "-s", YARD, "-c", "p.yaml", cwd=tmp_path)
    assert_refused(run, 2, "polygon")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine does not allow mounting a tmpfs")
    try:
        ours = reference("yard-detector")
        run = edgectl(
            "build",
            ours.model,
            "--task",
            ours.task,
            "--profile",
            "cpu",
            "-c",
            YARD,
            "--minutes",
            "0.05",
            "--max-drop",
            "0.5",
            "--out",
            small / "y",
            cwd=tmp_path,
        )
        assert_refused(run, 10, "disk is full")
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_an_onnx_bomb_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "shape")
    node = helper.make_node("ConstantOfShape", ["shape"], ["big"])
    add = helper.make_node("ReduceSum", ["big"], ["y"], keepdims=1)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    model = helper.make_model(
        helper.make_graph([node, add], "bomb", [x], [y], [shape]),
        opset_imports=[helper.make_opsetid("", 17)],
        # onnx writes its newest, which ONNX Runtime may not know yet: that is another error
        ir_version=10,
    )
    onnx.save(model, str(tmp_path / "bomb.onnx"))
    limited = "import resource,sys,runpy;resource.setrlimit(resource.RLIMIT_AS,(8<<30,8<<30));sys.argv[1:1]=[];sys.argv[0]='edgectl';runpy.run_module('edgectl.cli',run_name='__main__')"
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            limited,
            "build",
            "bomb.onnx",
            "--task",
            "tensor",
            "--profile",
            "cpu",
            "--random-calibration",
            "--out",
            "out",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert_refused(run, 3, "1099511627776 elements")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_standard_output_is_no_defect(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "edgectl.cli", "models", "list"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=110,
            check=False,
        )
    assert run.returncode == StorageError.exit_code
    assert "error: cannot write the output: the disk is full" in run.stderr
    assert "defect" not in run.stderr


def test_a_folder_of_the_demo_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(edgectl("demo", "--out", "file/demo", cwd=tmp_path), 10, "cannot write file/demo")
