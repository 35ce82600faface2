"""The warm-up child for real: what it reports, and that nothing it does reaches the caller."""

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.fleet import wait_until
from tests.engines.conftest import MakeVariant

from edgectl.agent.deploy.deployment import DEADLINE_S
from edgectl.core.errors import EngineError, StorageError
from edgectl.core.files import hex_of
from edgectl.core.memory import MIB
from edgectl.core.states import State
from edgectl.engines.child import run_child
from edgectl.engines.finalise import open as finalising
from edgectl.engines.finalise import trial
from edgectl.engines.finalise.trial import warm_up


def test_a_good_variant_is_warmed_up(make_variant: MakeVariant, tmp_path: Path) -> None:
    variant = make_variant()
    report = warm_up(variant.blobs, variant.digest, runs=70, cache=tmp_path / "cache")
    assert report.ok, report.error
    assert report.p50_ms is not None
    assert report.p90_ms is not None
    assert report.p90_ms >= report.p50_ms > 0
    assert report.rss_mb is not None
    assert 10 < report.rss_mb < 1000
    assert report.memory is not None
    assert report.memory.resident_bytes is not None
    assert report.memory.process_bytes is not None
    assert report.memory.resident_bytes < 64 * MIB, "the process that it is in is not its own"
    assert report.memory.process_bytes > 10 * MIB


def test_what_the_compilation_takes_is_not_what_the_engine_adds(
    make_variant: MakeVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker opens what the warm-up leaves in the cache."""
    variant, done = make_variant(), []

    def first(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **options: Any) -> Any:
            done.append(name)
            return call(*given, **options)

        return called

    monkeypatch.setattr(finalising, "engine_file", first("made", finalising.engine_file))
    monkeypatch.setattr(trial, "give_back", first("given back", trial.give_back))
    monkeypatch.setattr(trial, "MemoryGrowth", first("measured", trial.MemoryGrowth))
    monkeypatch.setattr(finalising, "open_model", first("opened", finalising.open_model))
    arguments = [str(variant.blobs), variant.digest, "--cache", str(tmp_path / "cache"), "--runs", "1"]
    assert trial._main(arguments)["worst_cosine"] > 0.99
    assert [name for name in done if name != "opened"] == ["made", "given back", "measured"]
    assert done[-1] == "opened"


def test_the_childs_memory_is_its_own(make_variant: MakeVariant) -> None:
    variant = make_variant()
    small = warm_up(variant.blobs, variant.digest, runs=1).rss_mb
    ballast = bytearray(400 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    large = warm_up(variant.blobs, variant.digest, runs=1).rss_mb
    assert small is not None
    assert large is not None
    assert large < small + 200


def test_too_few_runs_give_no_p90(make_variant: MakeVariant) -> None:
    variant = make_variant()
    report = warm_up(variant.blobs, variant.digest, runs=1)
    assert report.p90_ms is None
    assert report.worst_cosine is not None
    assert report.worst_cosine > 0.999


def test_wrong_outputs_are_a_golden_failure(make_variant: MakeVariant) -> None:
    variant = make_variant(shift=1.0)
    report = warm_up(variant.blobs, variant.digest)
    assert (report.ok, report.code) == (False, "golden")
    assert "output y" in (report.error or "")
    assert report.p50_ms is None


def test_a_model_that_does_not_open_is_a_report(make_variant: MakeVariant) -> None:
    variant = make_variant(model=b"no model")
    report = warm_up(variant.blobs, variant.digest)
    assert not report.ok
    assert "cannot open" in (report.error or "")


def test_a_missing_blob_is_a_report(make_variant: MakeVariant) -> None:
    variant = make_variant()
    (variant.blobs / hex_of(variant.digest)).unlink()
    assert not warm_up(variant.blobs, variant.digest).ok


def test_a_hang_is_stopped(
    make_variant: MakeVariant, trt_double: Callable[..., None], tmp_path: Path
) -> None:
    trt_double(hang=1)
    variant = make_variant(runtime="tensorrt")
    cache = tmp_path / "cache"
    report = warm_up(variant.blobs, variant.digest, timeout_s=12.0, cache=cache)
    assert not report.ok
    assert "more than 12 s" in (report.error or "")
    assert list(cache.glob(".making-*")), "the compiler had begun"
    # Its own child, the compiler, goes with it, though it has a session of its own.
    wait_until(
        lambda: (
            not [
                p for p in psutil.process_iter(["cmdline"]) if str(cache) in " ".join(p.info["cmdline"] or [])
            ]
        ),
        "no compiler is left",
    )


def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (tmp_path / "childmodule.py").write_text(body)
    import os

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import os; os.kill(os.getpid(), 9)", "died by SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "died by SIGSEGV"),
        ("print('hello')", "no answer"),
        (
            "import sys; sys.stderr.write('out of memory'); sys.exit(3)",
            "ended with 3 and no answer: out of memory",
        ),
        ('print(\'{"ok": false, "error": "no"}\')', "failed: no"),
        ("print('[1]')", "failed"),
        ("import os; os.write(1, bytes([255, 254, 10]))", "no answer"),
    ],
)
def test_whatever_a_child_does_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    child(tmp_path, monkeypatch, body)
    with pytest.raises(EngineError) as e:
        run_child("childmodule", [], timeout_s=30, what="the work")
    assert e.value.message.startswith("the work")
    assert says in e.value.message


def test_a_library_that_prints_cannot_break_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import os, sys\nfrom edgectl.engines.child import answer\ndef work():\n os.write(1, b'noise')\n return {'x': 1}\nsys.exit(answer(work))"
    child(tmp_path, monkeypatch, body)
    assert run_child("childmodule", [], timeout_s=30, what="the work") == {"ok": True, "x": 1}


def test_a_machine_without_room_for_a_process_is_not_the_engines_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(StorageError, match="no process can be started"):
        run_child("childmodule", [], timeout_s=30, what="the work")


def test_by_hand_a_slow_device_has_as_much_time_to_warm_up_as_its_agent_gives_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def child(*_: object, timeout_s: float, **__: object) -> dict[str, Any]:
        asked.append(timeout_s)
        raise EngineError("it is not run here")

    monkeypatch.setattr(trial, "run_child", child)
    assert not warm_up(tmp_path, "sha256:0").ok
    assert asked == [DEADLINE_S[State.WARMING]]
