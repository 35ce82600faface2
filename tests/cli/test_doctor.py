"""`edgectl doctor` on machines with no runtime, two, the wrong one; the machines are made, the command is
real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgectl.cli import doctor
from edgectl.cli.doctor import runtime_check
from edgectl.device_profiles.machine import Machine
from edgectl.pipelines.stream import machine as machine_module
from edgectl.pipelines.stream.machine import MachineState

CPU = {"distributions": {"onnxruntime": ("onnxruntime",)}, "providers": ("CPUExecutionProvider",)}
GPU = {
    "distributions": {"onnxruntime": ("onnxruntime-gpu",)},
    "providers": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}


def machine(**changes: object) -> Machine:
    values = {
        "arch": "x86_64",
        "cpu": "x",
        "isa": (),
        "cores": 2,
        "memory_mb": 2048,
        "runtimes": {"onnxruntime": "1.32.0"},
    }
    return Machine.model_validate(values | CPU | changes)


@pytest.mark.parametrize(
    ("changes", "cuda", "state", "words", "step"),
    [
        ({}, None, "ok", "onnxruntime 1.32.0", ""),
        ({"gpu": "L4"}, None, "missing", "leaves L4 unused", "edgectl[gpu]"),
        (GPU | {"gpu": "L4"}, "", "ok", "ran on the GPU", ""),
        (
            GPU | {"gpu": "L4"},
            "libcudnn.so.9 is not there",
            "broken",
            "cannot use L4: libcudnn.so.9",
            "CUDA and cuDNN",
        ),
        (GPU, "no device", "broken", "nvidia-smi finds none", "edgectl[cpu]"),
        (
            GPU | {"providers": ("AzureExecutionProvider", "CPUExecutionProvider"), "gpu": "L4"},
            None,
            "broken",
            "no CUDA provider",
            "CUDA",
        ),
        (
            {"arch": "aarch64", "jetson": "NVIDIA Jetson Orin Nano", "gpu": "Tegra"},
            None,
            "missing",
            "no CUDA on a Jetson",
            "NVIDIA's",
        ),
        (
            {
                "arch": "aarch64",
                "jetson": "NVIDIA Jetson Orin Nano",
                "gpu": "Tegra",
                "distributions": {"onnxruntime": ("onnxruntime-gpu",)},
            },
            None,
            "missing",
            "onnxruntime-gpu 1.32.0 of the package index has no CUDA on a Jetson",
            "NVIDIA's",
        ),
        (
            GPU | {"arch": "aarch64", "jetson": "NVIDIA Jetson Orin Nano", "gpu": "Tegra"},
            "",
            "ok",
            "ran on the GPU",
            "",
        ),
    ],
)
def test_what_is_said_of_an_installed_runtime(
    changes: dict[str, object], cuda: str | None, state: str, words: str, step: str
) -> None:
    check = runtime_check(machine(**changes), cuda)
    assert (check.state, words in check.detail, step in check.next_step) == (state, True, True), check
    assert bool(check.next_step) is (state != "ok")


def distribution(folder: Path, name: str, module: str) -> None:
    """What pip leaves of a wheel that brings ``module``."""
    info = folder / f"{name.replace('-', '_')}-1.20.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.20.0\n")
    (info / "top_level.txt").write_text(f"{module}\n")


@pytest.mark.parametrize("second", ["onnxruntime-gpu", "onnxruntime-openvino", "ort-nightly"])
def test_two_wheels_that_overwrite_each_other_are_told_with_the_way_out(second: str, tmp_path: Path) -> None:
    distribution(tmp_path, second, "onnxruntime")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "edgectl.cli", "doctor", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    check = next(c for c in json.loads(run.stdout)["checks"] if c["name"] == "runtime")
    assert check["state"] == "broken"
    assert f"onnxruntime and {second}" in check["detail"]
    assert f"pip uninstall -y onnxruntime {second}" in check["next_step"]


def test_a_runtime_that_does_not_import_is_a_row_and_not_the_end_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_text("raise ImportError('libonnxruntime.so: cannot open')\n")
    run = subprocess.run(
        [sys.executable, "-m", "edgectl.cli", "doctor", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    checks = {c["name"]: c for c in json.loads(run.stdout)["checks"]}
    assert checks["runtime"]["state"] == "broken"
    assert "disk" in checks


def test_what_the_governor_can_go_by_is_told_and_what_this_machine_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = MachineState(None, 2048.0, True, "MODE_15W", ("temperature",))
    monkeypatch.setattr(machine_module, "machine_state", lambda: state)
    (check,) = doctor._sensors(Path())
    assert check.state == "ok"
    assert check.detail == (
        "2,048 MiB available; on battery; power mode MODE_15W; not told here: temperature"
    )
