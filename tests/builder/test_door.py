"""The front door of the builder: what a Python user imports, and that asking for it costs nothing before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.builder.nets import Save, residual_net

import edgectl.builder
from edgectl.builder import BuildProgress, build_bundle
from edgectl.core.bundle import Bundle
from edgectl.core.errors import UsageError


def test_every_public_name_is_there_and_no_other() -> None:
    for name in edgectl.builder.__all__:
        assert getattr(edgectl.builder, name).__name__ == name
    assert set(edgectl.builder.__all__) <= set(dir(edgectl.builder))
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = edgectl.builder.no_such_thing


def test_importing_the_builder_loads_nothing_heavy() -> None:
    heavy = ("onnx", "onnxruntime", "numpy", "torch")
    code = f"import sys, edgectl.builder; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_three_lines_build_a_bundle_where_the_command_would(
    save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = build_bundle(
        str(save(residual_net())),
        profiles="cpu-arm64, cpu-x86-avx2",
        task="tensor",
        calibration=npz,
        minutes=0.02,
    )
    assert report.out == Path("out/model")
    bundle = Bundle(tmp_path / "out/model")
    assert (bundle.name, bundle.version) == ("model", "0.1.0")
    assert {v.config.profile for v in bundle.variants} == {"cpu-arm64", "cpu-x86-avx2"}


def test_no_profile_is_refused(save: Save, npz: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no device profile"):
        build_bundle(save(residual_net()), profiles=" , ", task="tensor", calibration=npz, out=tmp_path / "b")


def test_files_of_a_profile_and_a_task_are_paths_too(save: Save, npz: Path, tmp_path: Path) -> None:
    profile, task = tmp_path / "ours.toml", tmp_path / "task.toml"
    profile.write_text('inherits = "cpu-arm64"\nname = "ours"\ndescription = "ours"\n')
    task.write_text('inherits = "tensor"\nname = "four"\n')
    report = build_bundle(
        save(residual_net()),
        profiles=[profile],
        task=task,
        calibration=npz,
        out=tmp_path / "b",
        minutes=0.02,
    )
    assert {v.config.profile for v in Bundle(report.out).variants} == {"ours"}


@pytest.mark.parametrize("wrong", [{"max_drop": -1}, {"max_drop": float("nan")}, {"minutes": float("nan")}])
def test_a_number_that_makes_no_sense_is_refused_by_its_name(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is .*, it must be from 0 to"):
        build_bundle(tmp_path / "m.onnx", profiles="cpu", task="tensor", random_calibration=True, **wrong)


def test_who_listens_may_end_the_build(save: Save, npz: Path, tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def listen(progress: BuildProgress) -> None:
        if progress.step == "quantize":
            raise Cancelled

    with pytest.raises(Cancelled):
        build_bundle(
            save(residual_net()),
            profiles="cpu-arm64",
            task="tensor",
            calibration=npz,
            out=tmp_path / "b",
            progress=listen,
        )
    assert not (tmp_path / "b").exists()
