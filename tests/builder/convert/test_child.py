"""Whatever the child does, the parent says one sentence, reads no more than it allows, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.builder.converting import SIGNATURE, TFLITE, converting, program

from edgectl.builder.budget import Budget
from edgectl.builder.convert.child import Limits, run_inside
from edgectl.builder.convert.convert import converted
from edgectl.builder.convert.options import ConvertOptions
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.errors import ModelError, UsageError

LIMITS = Limits(timeout_s=120, memory_mb=4096)
FOREVER = "time.sleep(3600)"
FOREVER_ALONE = "import time; time.sleep(3600)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "private"
    made.mkdir()
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.tflite"
    path.write_bytes(TFLITE)
    return path


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders go in a test; empty afterwards."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


def run(python: Path, folder: Path, limits: Limits = LIMITS) -> dict[str, object]:
    return run_inside(folder, "convert", {}, "the conversion", ConvertOptions(python), limits)


def convert(python: Path, model: Path) -> None:
    with converted(model, ConvertOptions(python), BuildMonitor(Budget(3600))):
        pass


def test_one_that_hangs_is_stopped(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"took more than 1 s and was stopped"):
        run(program(tmp_path, FOREVER), folder, Limits(timeout_s=1, memory_mb=4096))


def test_what_it_started_ends_with_it(folder: Path, tmp_path: Path) -> None:
    python = program(
        tmp_path,
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'], start_new_session=True)\n"
        "(folder / 'other').write_text(str(other.pid))\n"
        f"(folder / 'much').write_bytes(bytes(40 << 20))\n{FOREVER}",
    )
    with pytest.raises(ModelError, match="wrote"):
        run(python, folder, Limits(timeout_s=600, memory_mb=4096, disk_mb=20))
    assert has_ended(int((folder / "other").read_text()))


@pytest.mark.parametrize("code", [0, 1])
def test_what_it_left_ends_with_it_also_when_it_ended_by_itself(
    code: int, folder: Path, tmp_path: Path
) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", FOREVER_ALONE])
    starts = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {FOREVER_ALONE!r}], "
        "start_new_session=True, stdout=subprocess.DEVNULL).pid)"
    )
    python = program(
        tmp_path,
        f"other = subprocess.run([sys.executable, '-c', {starts!r}], start_new_session=True, stdout=subprocess.PIPE)\n"
        f"(folder / 'other').write_text(other.stdout.decode())\nsay({{'ok': True}})\nsys.exit({code})",
    )
    try:
        run(python, folder)
        assert has_ended(int((folder / "other").read_text()))
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("does", "limits", "told"),
    [
        (
            "held = bytearray(os.urandom(1 << 20) * 300)",
            Limits(600, memory_mb=100),
            "of memory, more than 100",
        ),
        (
            "subprocess.Popen([sys.executable, '-c', 'import os, time; held = os.urandom(1 << 20) * 300; time.sleep(3600)'])",
            Limits(600, memory_mb=150),
            "of memory, more than 150",
        ),
        (
            "(folder / 'much').write_bytes(bytes(40 << 20))",
            Limits(600, memory_mb=4096, disk_mb=20),
            "wrote .* MiB, more than 20",
        ),
    ],
    ids=["memory", "memory of a process that it started", "disk"],
)
def test_one_that_takes_too_much_is_stopped(
    does: str, limits: Limits, told: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=told) as e:
        run(program(tmp_path, f"{does}\n{FOREVER}"), folder, limits)
    assert "\n" not in e.value.message


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("os.abort()", "died by SIGABRT"),
        (
            "print('working'); raise ValueError('this layer is unknown')",
            "ended with 1 and no answer: ValueError: this layer is unknown",
        ),
        ("sys.exit(0)", "ended with 0 and no answer"),
        ("(folder / 'answer.json').write_text('{')", "an answer that makes no sense"),
        ("(folder / 'answer.json').write_text('[' * 100000)", "an answer that makes no sense"),
        ("say([1])", "an answer that makes no sense"),
        ("(folder / 'answer.json').write_bytes(bytes(2 << 20))", "left a answer.json of 2 MiB"),
        ("(folder / 'answer.json').symlink_to('/etc/hostname')", "left a answer.json that is no plain file"),
        ("os.mkfifo(folder / 'answer.json')", "left a answer.json that is no plain file"),
        ("say({'ok': False, 'kind': 'raised', 'error': 'RuntimeError: no'})", "failed: RuntimeError: no"),
    ],
)
def test_what_it_answers_is_read_with_care(does: str, told: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=told) as e:
        run(program(tmp_path, does), folder)
    assert "\n" not in e.value.message
    assert e.value.hint


def test_an_answer_of_the_time_before_is_not_taken_for_this_one(folder: Path, tmp_path: Path) -> None:
    run(program(tmp_path, "say({'ok': True, 'n': 1})"), folder)
    with pytest.raises(ModelError, match="no answer"):
        run(program(tmp_path, "pass"), folder)


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        ({**SIGNATURE, "inputs": 3}, "makes no sense"),
        ({**SIGNATURE, "outputs": ["x" * 501]}, "makes no sense"),
        ({**SIGNATURE, "arithmetic": "decimal"}, "makes no sense"),
        ({"inputs": []}, "makes no sense"),
        ({**SIGNATURE, "more": 1}, "makes no sense"),
    ],
)
def test_a_signature_is_checked(signature: dict[str, object], told: str, model: Path, tmp_path: Path) -> None:
    python = program(
        tmp_path, f"(folder / 'model.onnx').touch()\nsay({{'ok': True, 'signature': {signature!r}}})"
    )
    with pytest.raises(ModelError, match=told):
        convert(python, model)


@pytest.mark.parametrize(
    ("leaves", "told"),
    [
        ("pass", "left no model.onnx"),
        ("(folder / 'model.onnx').symlink_to(beside / 'secret')", "no plain file"),
        ("(folder / 'model.onnx').mkdir()", "no plain file"),
        ("os.truncate(os.open(folder / 'model.onnx', os.O_CREAT | os.O_RDWR), 3 << 30)", "at most 2048"),
    ],
)
def test_the_model_that_it_leaves_must_be_a_plain_file_of_its_folder(
    leaves: str, told: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("not for reading")
    python = program(tmp_path, f"{leaves}\nsay({{'ok': True, 'signature': {SIGNATURE!r}}})")
    with pytest.raises(ModelError, match=told):
        convert(python, model)


def test_a_model_that_changes_meanwhile_is_told(model: Path, tmp_path: Path) -> None:
    from support.builder.nets import images

    from edgectl.builder.ingest.samples import Sample

    monitor = BuildMonitor(Budget(3600))
    with converted(model, ConvertOptions(converting(tmp_path)), monitor) as source:
        model.write_bytes(TFLITE + b"!")
        with pytest.raises(ModelError, match="changed while it was converted"):
            source.confirm([Sample(f) for f in images(2)], monitor)


@pytest.mark.parametrize(
    ("python", "told"),
    [("no/such/python", "there is no Python"), ("net.tflite", "cannot be run")],
)
def test_an_interpreter_that_is_none_is_told(python: str, told: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told) as e:
        convert(tmp_path / python, model)
    assert "--convert-python" in (e.value.hint or "")


def test_what_is_not_installed_is_named_with_the_command_that_brings_it(model: Path, tmp_path: Path) -> None:
    does = "say({'ok': False, 'kind': 'needs', 'error': 'tf2onnx: No module named tf2onnx', 'hint': 'pip install it'})"
    with pytest.raises(UsageError, match="needs what is not installed: tf2onnx") as e:
        convert(program(tmp_path, does), model)
    assert e.value.hint == (
        "pip install it; or give --convert-python the interpreter of an environment that has it"
    )


def test_it_starts_in_its_own_folder_and_without_what_lies_beside_the_model(
    folder: Path, tmp_path: Path
) -> None:
    said = run(
        program(tmp_path, "say({'ok': True, 'cwd': os.getcwd(), 'temporary': os.environ['TMPDIR']})"), folder
    )
    assert said["cwd"] == str(folder)
    assert Path(str(said["temporary"])).is_relative_to(folder)
    assert Path.cwd() != folder
    assert os.environ.get("TMPDIR") != said["temporary"]


@pytest.mark.parametrize(
    ("granted", "told"),
    [
        (("network", "files"), None),
        (("files",), "from the network:"),
        ((), "from the network and files outside of its folder:"),
    ],
)
def test_what_the_kernel_did_not_grant_is_noted_and_reported(
    granted: tuple[str, ...], told: str | None, model: Path, tmp_path: Path
) -> None:
    monitor = BuildMonitor(Budget(3600))
    with converted(model, ConvertOptions(converting(tmp_path, confined=granted)), monitor) as source:
        assert source.conversion is not None
        report = source.conversion.as_report()
    if told is None:
        assert "unconfined" not in report
        assert monitor.notes == []
    else:
        assert report["unconfined"] == [b for b in ("network", "files") if b not in granted]
        assert told in monitor.notes[0]


def test_of_the_environment_it_gets_no_tokens(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECTL_TOKEN", "secret")
    monkeypatch.setenv("LC_TIME", "C")
    said = run(program(tmp_path, "say({'ok': True, 'environment': dict(os.environ)})"), folder)
    environment = said["environment"]
    assert isinstance(environment, dict)
    assert "EDGECTL_TOKEN" not in environment
    assert environment["LC_TIME"] == "C"
    assert environment["PATH"] == os.environ["PATH"]
