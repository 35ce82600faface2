"""The finaliser against a TensorRT double that fails in every documented way, and the CPU branch for real."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.engines.conftest import MakeVariant, small_model

from edgectl.core.bundle import LAYER_ENGINE
from edgectl.core.errors import EngineError, GoldenError, ProfileError, StorageError
from edgectl.device_profiles.schema import TensorRtSpec
from edgectl.engines import finalise as module
from edgectl.engines.finalise import finalise
from edgectl.engines.golden import check_golden
from edgectl.engines.open import open_engine

Configure = Callable[..., None]


def left(cache: Path) -> list[str]:
    """What a failed finalise left behind, beside the lock and the timing cache (which is good whatever became of the plan)."""
    return (
        sorted(p.name for p in cache.iterdir() if p.name != ".lock" and not p.name.startswith("timings-"))
        if cache.exists()
        else []
    )


def record_of(plan: Path) -> Path:
    """``<model>-<key>-<level>.plan`` → ``<model>-<key>.json``."""
    return plan.with_name(plan.stem.rpartition("-")[0] + ".json")


@pytest.mark.parametrize("version", ["8.6.2", "10.3.0.30", "10.13.3.9", "11.4.0.106"])
def test_each_generation_compiles_a_checked_plan_and_then_hits_its_cache(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, version: str
) -> None:
    trt_double(version=version)
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    plan = finalise(variant, cache).path
    assert plan.read_bytes().startswith(f"PLAN {version}".encode())
    record = json.loads(record_of(plan).read_bytes())
    assert {"tensorrt": version, "sm": "8.7", "driver": "12060", "device": "Orin"}.items() <= record["key"].items()
    before = plan.stat().st_mtime_ns
    trt_double(version=version, build=1)  # a second compile would fail
    assert finalise(variant, cache).path == plan
    assert plan.stat().st_mtime_ns == before


def test_another_version_driver_or_model_is_a_miss_and_the_stale_plan_goes(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    old = finalise(variant, cache).path
    trt_double(version="10.7.0.23")
    new = finalise(variant, cache).path
    assert new != old
    assert not old.exists()
    assert new.read_bytes().startswith(b"PLAN 10.7.0.23")


@pytest.mark.parametrize("damage", ["flip", "truncate", "no record", "other key"])
def test_a_damaged_cache_is_never_used(make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, damage: str) -> None:
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    plan = finalise(variant, cache).path
    good, record = plan.read_bytes(), record_of(plan)
    if damage == "flip":
        plan.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "truncate":
        plan.write_bytes(good[:100])
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text(json.dumps({**json.loads(record.read_text()), "key": {"sm": "7.2"}}))
    assert finalise(variant, cache).path.read_bytes() == good


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"parse": 1}, "no importer for Frobnicate"),
        ({"build": 1}, "cannot build"),
        ({"crash": 1}, "SIGSEGV"),
        ({"deserialize": 1}, "does not accept the plan"),
        ({"corrupt": 1}, "does not accept the plan"),
        ({"context": 1}, "execution context"),
        ({"execute": 1}, "refused to run"),
        ({"wrong": 1}, "cosine"),
        ({"version": "7.1.3"}, "not supported"),
    ],
)
def test_a_failure_is_one_error_and_leaves_no_plan(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, faults: dict[str, object], says: str
) -> None:
    trt_double(**faults)
    cache = tmp_path / "cache"
    with pytest.raises(EngineError) as e:
        finalise(make_variant(runtime="tensorrt"), cache, limits=TensorRtSpec(min="7", max="12"))
    assert says in e.value.message
    assert left(cache) == []


def test_a_hanging_compiler_is_stopped(make_variant: MakeVariant, trt_double: Configure, tmp_path: Path) -> None:
    trt_double(hang=1)
    with pytest.raises(EngineError, match="more than 3 s"):
        finalise(make_variant(runtime="tensorrt"), tmp_path / "cache", timeout_s=3.0)
    assert left(tmp_path / "cache") == []


def test_without_tensorrt_the_error_says_so(make_variant: MakeVariant, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="tensorrt"):
        finalise(make_variant(runtime="tensorrt"), tmp_path / "cache")


def test_a_kill_in_the_middle_of_a_compile_leaves_a_cache_that_works(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    trt_double(hang=1)
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    code = (
        "import sys; from pathlib import Path; from edgectl.core.bundle import Variant; from edgectl.engines.finalise import finalise\n"
        "finalise(Variant.open(Path(sys.argv[1]), sys.argv[2]), Path(sys.argv[3]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(variant.blobs), variant.digest, str(cache)], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(cache.glob(".compile-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert list(cache.glob(".compile-*"))
    trt_double()
    plan = finalise(variant, cache).path
    assert plan.is_file()
    assert not list(cache.glob(".compile-*"))


def test_the_engine_over_a_plan_computes_and_frees_its_memory(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "double"))
    variant = make_variant(runtime="tensorrt")
    engine = open_engine(variant, cache=tmp_path / "cache")
    import pycuda.driver as driver

    assert check_golden(engine, variant).outputs["y"].cosine > 0.9999
    with pytest.raises(EngineError, match="takes float32"):
        engine.run({"x": np.zeros((1, 3, 4, 4), np.float32)})
    assert len(driver.ALLOCATED) == 2
    engine.close()
    engine.close()
    assert driver.ALLOCATED == {}
    assert driver._Context.depth == 0
    for name in ("tensorrt", "pycuda", "pycuda.driver", "edgectl.engines.tensorrt"):
        sys.modules.pop(name, None)


def test_a_tensorrt_variant_needs_a_cache(make_variant: MakeVariant) -> None:
    with pytest.raises(EngineError, match="compiled on the device"):
        open_engine(make_variant(runtime="tensorrt"))


def test_the_cpu_branch_decides_once_and_the_engine_passes_golden(make_variant: MakeVariant, tmp_path: Path) -> None:
    variant, cache = make_variant(), tmp_path / "cache"
    first = finalise(variant, cache).path
    records = list(cache.glob("*.json"))
    assert len(records) == 1
    stamp = records[0].stat().st_mtime_ns
    assert finalise(variant, cache).path == first
    assert records[0].stat().st_mtime_ns == stamp
    check_golden(open_engine(variant, cache=cache), variant)


def test_an_optimised_file_that_computes_something_else_is_not_kept(
    make_variant: MakeVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(engine: object, variant: object) -> None:
        raise GoldenError("something else")

    monkeypatch.setattr(module, "check_golden", wrong)
    variant = make_variant()
    assert finalise(variant, tmp_path / "cache").path == variant.need(LAYER_ENGINE)


def test_a_cache_that_cannot_be_written_is_a_storage_error(make_variant: MakeVariant, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        finalise(make_variant(), tmp_path / "file" / "cache")


def test_two_models_do_not_share_a_plan(make_variant: MakeVariant, trt_double: Configure, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    a = finalise(make_variant(runtime="tensorrt"), cache).path
    b = finalise(make_variant(runtime="tensorrt", model=small_model(7)), cache).path
    assert a != b
    assert a.is_file()
    assert b.is_file()


def test_a_plan_is_quick_first_and_rebuilt_when_a_higher_level_is_asked_for(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    quick = finalise(variant, cache)
    assert (quick.kind, quick.made, quick.level) == ("plan", True, 3)
    better = finalise(variant, cache, level=5)
    assert (better.made, better.level) == (True, 5)
    assert better.p50_ms is not None
    assert list(cache.glob("*.plan")) == [better.path]  # the slower of the two is gone
    for wanted in (None, 3, 5):
        again = finalise(variant, cache, level=wanted)
        assert (again.path, again.made, again.level) == (better.path, False, 5)


@pytest.mark.parametrize("faults", [{"build": 1}, {"corrupt": 1}])
def test_a_rebuild_that_fails_leaves_the_quick_plan(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, faults: dict[str, object]
) -> None:
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    quick = finalise(variant, cache)
    trt_double(**faults)
    with pytest.raises(EngineError):
        finalise(variant, cache, level=5)
    again = finalise(variant, cache)
    assert (again.path, again.made, again.level) == (quick.path, False, 3)


@pytest.mark.parametrize("version", ["8.5.3", "10.16.1.2"])
def test_a_version_outside_the_profile_is_refused_before_anything_is_compiled(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, version: str
) -> None:
    trt_double(version=version)
    limits = TensorRtSpec(min="8.6", max="10.15")
    with pytest.raises(ProfileError, match=r"outside the range 8\.6 to 10\.15"):
        finalise(make_variant(runtime="tensorrt"), tmp_path / "cache", limits=limits)
    assert not (tmp_path / "cache").exists()


def test_the_limits_reach_the_compiler(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, seen = make_variant(runtime="tensorrt"), []
    real = module.run_child

    def spy(name, arguments, *, timeout_s, what):
        seen.append((name, list(arguments), timeout_s))
        return real(name, arguments, timeout_s=timeout_s, what=what)

    monkeypatch.setattr(module, "run_child", spy)
    finalise(variant, tmp_path / "cache", limits=TensorRtSpec(min="8.6", max="11.4", workspace_mb=512, build_minutes=2))
    [(arguments, timeout_s)] = [(a, t) for name, a, t in seen if name.endswith("trt_compile") and "--onnx" in a]
    assert arguments[arguments.index("--workspace-mb") + 1] == "512"
    assert timeout_s == 120.0
