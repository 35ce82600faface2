"""A job as a device measures it: what runs is measured by the code of a build, what does not costs nobody else."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from pydantic import ValidationError
from tests.engines.conftest import MakeVariant, small_model

from edgectl.core.bundle import Variant
from edgectl.core.errors import BundleError, BusyError, EngineError, IntegrityError
from edgectl.core.files import hex_of
from edgectl.core.measured import Context
from edgectl.core.tensors import write_npz
from edgectl.core.transfer import describe
from edgectl.engines.child import run_child
from edgectl.engines.finalise import guarded
from edgectl.engines.measure import job_child
from edgectl.engines.measure.called import read_feeds
from edgectl.engines.measure.job import Contender, MeasureJob
from edgectl.engines.measure.job_child import measure_job, no_time_for_more
from edgectl.engines.timing import interleave

X = np.random.default_rng(0).standard_normal((2, 1, 3, 8, 8)).astype(np.float32)
FEEDS = write_npz({"0/x": X[0], "1/x": X[1]})
CHILD = "edgectl.engines.measure.job_child"


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    folder = tmp_path / "blobs"
    folder.mkdir(exist_ok=True)
    return folder


def put(blobs: Path, *files: bytes) -> None:
    for data in files:
        (blobs / hex_of(describe(data).digest)).write_bytes(data)


def rounds(**models: bytes) -> MeasureJob:
    contenders = tuple(Contender(name=n, model=describe(m)) for n, m in models.items())
    return MeasureJob(
        kind="rounds",
        contenders=contenders,
        feeds=describe(FEEDS),
        seconds=0.3,
        fewest=5,
        most=5,
        timeout_s=60,
    )


def variants(*made: Variant) -> MeasureJob:
    contenders = []
    for v in made:
        manifest = describe((v.blobs / hex_of(v.digest)).read_bytes())
        contenders.append(Contender(name=v.config.variant, manifest=manifest, blobs=tuple(v.descriptors())))
    return MeasureJob(kind="processes", contenders=tuple(contenders), seconds=0.05, runs=2, timeout_s=600)


def test_rounds_are_paired_and_a_model_that_does_not_open_is_told(blobs: Path, tmp_path: Path) -> None:
    put(blobs, small_model(), small_model(1), b"no model", FEEDS)
    found = measure_job(rounds(a=small_model(), b=small_model(1), broken=b"no model"), blobs, tmp_path)
    assert {n: len(r.ms) for n, r in found.rounds.items()} == {"a": 5, "b": 5}
    assert all(r.runtime.startswith("onnxruntime") for r in found.rounds.values())
    assert list(found.failed) == ["broken"]
    assert found.conditions.load >= 0


def test_file_that_is_not_what_the_job_names_stops_it_before_anything_opens(
    blobs: Path, tmp_path: Path
) -> None:
    put(blobs, small_model(), FEEDS)
    (blobs / hex_of(describe(small_model()).digest)).write_bytes(small_model(1))
    with pytest.raises(IntegrityError, match="not here whole"):
        measure_job(rounds(a=small_model()), blobs, tmp_path)


@pytest.mark.slow
def test_variants_are_checked_against_golden_and_measured_in_every_context(
    make_variant: MakeVariant, tmp_path: Path
) -> None:
    good = make_variant(variant="good")
    wrong = make_variant(variant="wrong", shift=1.0)
    checked = variants(good, wrong).model_copy(update={"kind": "check"})
    only = measure_job(checked, good.blobs, tmp_path / "cache")
    assert (list(only.golden), list(only.failed), only.processes) == (["good"], ["wrong"], {})
    found = measure_job(variants(good, wrong), good.blobs, tmp_path / "cache")
    assert list(found.processes) == ["good"]
    assert all(len(found.processes["good"].of(c)) for c in Context)
    assert found.golden["good"].worst_cosine > 0.999
    assert "wrong" in found.failed
    assert "at least 0.999" in found.failed["wrong"]


def test_variant_that_its_runtime_dies_of_is_told_and_the_others_are_checked(
    make_variant: MakeVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(guarded, "_MODULE", "support.dying_runtime")
    monkeypatch.setattr(guarded, "_GUARDED", ("onnxruntime",))
    model = onnx.load_from_string(small_model())
    model.doc_string = "it dies of this one"
    deadly = make_variant(variant="deadly", model=model.SerializeToString())
    job = variants(deadly, make_variant(variant="good")).model_copy(update={"kind": "check"})
    found = measure_job(job, deadly.blobs, tmp_path / "cache")
    assert list(found.golden) == ["good"]
    assert list(found.failed) == ["deadly"]
    assert "opening it in onnxruntime died by SIGSEGV" in found.failed["deadly"]


@pytest.mark.slow
def test_tensorrt_is_compiled_by_the_finaliser_and_the_plan_is_what_is_measured(
    make_variant: MakeVariant, trt_double: Callable[..., None], tmp_path: Path
) -> None:
    """In a process of its own, where the double is on the path, as on a device."""
    variant = make_variant(variant="tensorrt-int8", runtime="tensorrt")
    job = variants(variant)
    (tmp_path / "job.json").write_bytes(job.model_dump_json().encode())
    arguments = [variant.blobs, tmp_path / "job.json", tmp_path / "result.json", tmp_path / "cache", "inf"]
    run_child(CHILD, [str(a) for a in arguments], timeout_s=300, what="measuring")
    found = json.loads((tmp_path / "result.json").read_bytes())
    assert found["golden"]["tensorrt-int8"]["kind"] == "plan"
    assert "failed" not in found or not found["failed"]
    assert found["processes"]["tensorrt-int8"]["ms"]
    assert list((tmp_path / "cache").glob("*.plan"))
    trt_double(build=1)  # a compiler that refuses
    (tmp_path / "result.json").unlink()
    arguments[3] = tmp_path / "another"
    run_child(CHILD, [str(a) for a in arguments], timeout_s=300, what="measuring")
    found = json.loads((tmp_path / "result.json").read_bytes())
    assert "compiling the TensorRT plan" in found["failed"]["tensorrt-int8"]
    assert not found["processes"]


@pytest.mark.parametrize(
    "arrays",
    [{}, {"x": X[0]}, {"0/": X[0]}, {"1/x": X[0]}, {"0/x": X[0], "999999/x": X[1]}, {"00/x": X[0]}],
    ids=lambda arrays: " ".join(arrays) or "none",
)
def test_feeds_with_a_gap_or_another_name_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "feeds.npz"
    path.write_bytes(write_npz(arrays))
    with pytest.raises(BundleError, match=r"feeds\.npz has"):
        read_feeds(path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"contenders": ()}, "contenders come with everything but quiet"),
        ({"kind": "quiet"}, "contenders come with everything but quiet"),
        ({"feeds": None}, "a model needs feeds"),
        ({"kind": "check"}, "only variants have golden"),
        ({"seconds": 1e9}, "seconds"),
        ({"runs": 1000}, "runs"),
        ({"twice": True}, "twice"),
    ],
)
def test_job_that_is_none_is_refused(changed: dict[str, object], words: str) -> None:
    whole = json.loads(rounds(a=small_model()).model_dump_json())
    with pytest.raises(ValidationError, match=words):
        MeasureJob.model_validate({**whole, **changed})
    two = whole["contenders"] * 2
    with pytest.raises(ValidationError, match="two contenders have one name"):
        MeasureJob.model_validate({**whole, "contenders": two})


WRITES = """
import os, sys, time
from pathlib import Path
from edgectl.engines.measure import job_child, processes
def one_run(arguments, *rest):
    Path(sys.argv[3]).with_name("model").write_text(next(iter(arguments.values()))[0])
    time.sleep(600)
processes._one_run = one_run
sys.exit(job_child.answer(lambda: job_child._main(*map(Path, sys.argv[1:5]), float(sys.argv[5]))))
"""


def test_job_that_is_killed_leaves_its_files_only_where_its_device_removes_them(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "writes.py").write_text(WRITES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    put(blobs, small_model(), FEEDS)
    folder = tmp_path / "measure"
    folder.mkdir()
    (folder / "scratch" / "of-a-job-before").mkdir(parents=True)
    job = rounds(a=small_model()).model_copy(update={"kind": "processes"})
    (folder / "job.json").write_bytes(job.model_dump_json().encode())
    model = folder / "model"

    def stop() -> BusyError | None:
        return BusyError("a deployment began") if model.exists() and model.read_text() else None

    arguments = [blobs, folder / "job.json", folder / "result.json", folder / "engines", "inf"]
    with pytest.raises(BusyError):
        run_child("writes", [str(a) for a in arguments], timeout_s=300, what="measuring", stop=stop)
    left = Path(model.read_text())
    assert left.is_file()
    assert folder in left.parents
    assert not (folder / "scratch" / "of-a-job-before").exists()


SLEEPS = """
import os, subprocess, sys, time
from edgectl.engines.child import answer
def work():
    child = subprocess.Popen([sys.executable, "-c", "import time; x = bytearray(%d << 20); time.sleep(600)"])
    open(sys.argv[1], "w").write(str(child.pid))
    time.sleep(600)
    return {}
sys.exit(answer(work))
"""


def test_child_stops_when_it_is_told_to_and_the_memory_of_its_children_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleepschild.py").write_text(SLEEPS % 300)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    pid = tmp_path / "pid"

    def stop() -> BusyError | None:
        return BusyError("a deployment began") if pid.exists() and pid.read_text() else None

    with pytest.raises(BusyError, match="a deployment began"):
        run_child("sleepschild", [str(pid)], timeout_s=300, what="measuring", stop=stop)
    with pytest.raises(EngineError, match="more than 200 MiB, and was stopped"):
        run_child("sleepschild", [str(pid)], timeout_s=300, what="measuring", memory_mb=200)


def test_job_whose_time_runs_out_tells_what_it_measured_by_then(blobs: Path, tmp_path: Path) -> None:
    put(blobs, small_model(), small_model(1), FEEDS)
    job = rounds(a=small_model(), b=small_model(1))
    over = time.monotonic() - 1
    found = measure_job(job.model_copy(update={"fewest": 1000, "most": 10_000}), blobs, tmp_path, over)
    assert {n: len(r.ms) for n, r in found.rounds.items()} == {"a": 3, "b": 3}
    fresh = job.model_copy(update={"kind": "processes", "runs": 20, "seconds": 0.01})
    found = measure_job(fresh, blobs, tmp_path, over)
    assert {n: len(t.cold_s) for n, t in found.processes.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(("seconds", "measured"), [(1.0, 6), (0.0, 20)])
def test_rounds_of_a_slow_device_are_few_unless_as_many_as_the_finalists_had_are_asked_for(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, measured: int
) -> None:
    """A second a call, by a clock that moves when it is read."""
    readings = itertools.count(step=1_000_000_000)
    monkeypatch.setattr(job_child, "interleave", partial(interleave, clock=lambda: next(readings)))
    put(blobs, small_model(), FEEDS)
    job = rounds(a=small_model()).model_copy(update={"seconds": seconds, "fewest": 20, "most": 200})
    assert len(measure_job(job, blobs, tmp_path).rounds["a"].ms) == measured


@pytest.mark.parametrize(("until_s", "fit"), [(50.0, 4), (100.0, 8), (1000.0, 89), (math.inf, 1000)])
def test_what_would_not_be_done_in_time_is_not_begun(until_s: float, fit: int) -> None:
    """Things of 10 s each, the first two of them done; nine tenths of the time are for them."""
    now = 0.0
    enough = no_time_for_more(until_s, done=2, clock=lambda: now)
    done = 2
    while done < 1000:
        now = 10.0 * done
        if enough():
            break
        done += 1
    assert done == fit
