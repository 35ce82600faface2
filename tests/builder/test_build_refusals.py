"""What a build refuses, and what is left on disk then."""

import errno
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.builder.nets import Save, residual_net

from edgectl.builder.build import build_bundle
from edgectl.builder.scratch import scratch_folder
from edgectl.core.bundle import (
    Bundle,
)
from edgectl.core.errors import (
    DataError,
    EdgectlError,
    ModelError,
    ProfileError,
    StorageError,
    UsageError,
)
from edgectl.core.task import TaskSpec, TensorInput

TENSOR = TaskSpec(name="tensor", input=TensorInput())


RUN = {"task": TENSOR, "validation": None, "minutes": 0.02, "version": "1.0.0"}


def test_without_data_the_error_says_how(save: Save, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no calibration data") as e:
        build_bundle(save(residual_net()), profiles=["cpu"], calibration=None, out=tmp_path / "out", **RUN)
    assert "--random-calibration" in (e.value.hint or "")
    assert not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("prefix", ["edgectl-samples-", "edgectl-convert-"])
def test_what_a_killed_build_left_goes_with_the_next_one(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        (tmp_path / f"{prefix}{pid}-x").mkdir()
    with scratch_folder(prefix) as own:
        assert {p.name for p in tmp_path.iterdir()} == {f"{prefix}{os.getpid()}-x", own.name}
    assert [p.name for p in tmp_path.iterdir()] == [f"{prefix}{os.getpid()}-x"]


def test_a_disk_that_is_full_of_temporary_files_is_said_and_is_no_defect(
    save: Save, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere/3.onnx")

    monkeypatch.setattr("edgectl.builder.search.machine.measure_in_processes", full)
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
