"""The finaliser against a TensorRT double that fails in every documented way, and the CPU branch for real."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engines.conftest import MakeVariant, small_model

from edgectl.core.bundle import LAYER_ENGINE, LAYER_RANGES, Descriptor, Recipe, Variant
from edgectl.core.errors import EngineError, GoldenError, ProfileError, StorageError
from edgectl.core.files import digest_of, hex_of
from edgectl.device_profiles.schema import TensorRtSpec
from edgectl.engines.finalise import finalise as module
from edgectl.engines.finalise.entry import alone
from edgectl.engines.finalise.finalise import finalise
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine

Configure = Callable[..., None]


def left(cache: Path) -> list[str]:
    """What a failed finalise left behind, beside the lock and the timing cache (which is good whatever
    became of the plan)."""
    return (
        sorted(p.name for p in cache.iterdir() if not p.name.startswith((".lock-", "timings-")))
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
    assert {"tensorrt": version, "sm": "8.7", "driver": "12060", "device": "Orin"}.items() <= record[
        "key"
    ].items()
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
def test_a_damaged_cache_is_never_used(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, damage: str
) -> None:
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


def test_a_hanging_compiler_is_stopped(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
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
        "import sys; from pathlib import Path; from edgectl.core.bundle import Variant; from edgectl.engines.finalise.finalise import finalise\n"
        "finalise(Variant.open(Path(sys.argv[1]), sys.argv[2]), Path(sys.argv[3]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(variant.blobs), variant.digest, str(cache)], start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(cache.glob(".making-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert list(cache.glob(".making-*"))
    trt_double()
    plan = finalise(variant, cache).path
    assert plan.is_file()
    assert not list(cache.glob(".making-*"))


def test_a_tensorrt_variant_needs_a_cache(make_variant: MakeVariant) -> None:
    with pytest.raises(EngineError, match="compiled on the device"):
        open_engine(make_variant(runtime="tensorrt"))


def test_the_cpu_branch_decides_once_and_the_engine_passes_golden(
    make_variant: MakeVariant, tmp_path: Path
) -> None:
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


def test_two_models_do_not_share_a_plan(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
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


def test_a_running_stream_opens_its_engine_while_a_better_one_is_in_the_making(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    quick = finalise(variant, cache).path
    with alone(cache, variant.need(LAYER_ENGINE)):
        assert finalise(variant, cache).path == quick


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

    def spy(name, arguments, **limits):
        seen.append((name, list(arguments), limits))
        return real(name, arguments, **limits)

    monkeypatch.setattr(module, "run_child", spy)
    limits = TensorRtSpec(min="8.6", max="11.4", workspace_mb=512, build_minutes=2, memory_mb=3000)
    finalise(variant, tmp_path / "cache", limits=limits)
    [(arguments, given)] = [(a, g) for name, a, g in seen if name.endswith("trt_compile") and "--onnx" in a]
    assert arguments[arguments.index("--workspace-mb") + 1] == "512"
    assert (given["timeout_s"], given["memory_mb"]) == (120.0, 3000)


def test_a_compiler_that_takes_too_much_memory_is_stopped(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    trt_double(memory=700)
    with pytest.raises(EngineError, match="more than 400 MiB, and was stopped"):
        finalise(
            make_variant(runtime="tensorrt"),
            tmp_path / "cache",
            limits=TensorRtSpec(min="8.6", max="11.4", memory_mb=400),
        )
    assert left(tmp_path / "cache") == []


def test_the_saved_plan_is_looked_into_and_what_did_not_fuse_is_said(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    variant = make_variant(runtime="tensorrt", recipe=Recipe(family="trt-gpu", precision="int8"))
    good = finalise(variant, tmp_path / "good")
    assert good.layers is not None
    assert (good.layers.total, good.layers.int8, good.layers.reformats, good.notes) == (4, 3, 1, ())
    again = finalise(variant, tmp_path / "good")
    assert (again.made, again.layers) == (False, good.layers)
    trt_double(unfused=1)
    bad = finalise(variant, tmp_path / "bad")
    assert "no layer of the plan computes in int8" in bad.notes[0]


@pytest.mark.parametrize("said", ["not json", "{}"])
def test_an_inspector_that_says_nothing_useful_is_an_error(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, said: str
) -> None:
    trt_double(inspector=said)
    with pytest.raises(EngineError, match="engine inspector"):
        finalise(make_variant(runtime="tensorrt"), tmp_path / "cache")


def dla_variant(make_variant: MakeVariant, tmp_path: Path, *, implicit: bool) -> Variant:
    """For DLA: with a ranges layer for implicit quantization, without one for explicit Q/DQ."""
    variant = make_variant(runtime="tensorrt", recipe=Recipe(family="trt-dla", precision="int8"))
    if not implicit:
        return variant
    content = json.dumps({"x": 3.0, "c": 9.0, "y": 9.0, "nowhere": 1.0}).encode()
    digest = digest_of(content)
    (variant.blobs / hex_of(digest)).write_bytes(content)
    layer = Descriptor(mediaType=LAYER_RANGES, digest=digest, size=len(content))
    manifest = variant.manifest.model_copy(update={"layers": (*variant.manifest.layers, layer)}).encode()
    (variant.blobs / hex_of(digest_of(manifest))).write_bytes(manifest)
    return Variant.open(variant.blobs, digest_of(manifest))


@pytest.mark.parametrize(
    ("version", "implicit"), [("8.6.2", True), ("10.3.0.30", True), ("11.4.1.12", False)]
)
def test_dla_is_compiled_in_the_form_that_its_tensorrt_takes(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, version: str, implicit: bool
) -> None:
    trt_double(version=version)
    made = finalise(dla_variant(make_variant, tmp_path, implicit=implicit), tmp_path / "cache")
    assert made.layers is not None
    assert (made.layers.dla, made.notes, made.key["dla"]) == (1, (), 0)
    notes = json.loads(made.path.read_bytes().split(b"\n")[1])
    assert notes["ranges"] == ({"x": 3.0, "c": 9.0, "y": 9.0} if implicit else {})


@pytest.mark.parametrize(
    ("faults", "implicit", "says"),
    [
        ({"version": "10.3.0.30"}, False, "does not compile explicit int8 for DLA"),
        ({"version": "10.9.0.34"}, True, "does not compile implicit int8 for DLA"),
        ({"version": "11.4.0.106"}, False, "does not compile explicit int8 for DLA"),
        ({"version": "11.4.1.12"}, True, "has no implicit quantization"),
        ({"version": "8.6.2", "dla_cores": 0}, True, "has 0 DLA cores"),
    ],
)
def test_dla_where_there_is_none_is_one_error_and_leaves_no_plan(
    make_variant: MakeVariant,
    trt_double: Configure,
    tmp_path: Path,
    faults: dict[str, object],
    implicit: bool,
    says: str,
) -> None:
    trt_double(**faults)
    with pytest.raises(EngineError) as e:
        finalise(dla_variant(make_variant, tmp_path, implicit=implicit), tmp_path / "cache")
    assert says in e.value.message
    assert left(tmp_path / "cache") == []


def test_a_dla_that_falls_back_silently_is_said(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path
) -> None:
    trt_double(version="8.6.2", dla_falls_back=1)
    made = finalise(dla_variant(make_variant, tmp_path, implicit=True), tmp_path / "cache")
    assert made.notes == ("nothing of the plan runs on the DLA: everything fell back to the GPU",)


@pytest.mark.parametrize(("passes", "sparse"), [((), False), (("2:4",), True)])
def test_sparse_kernels_are_allowed_for_weights_that_are_pruned_so(
    make_variant: MakeVariant, trt_double: Configure, tmp_path: Path, passes: tuple[str, ...], sparse: bool
) -> None:
    trt_double(sparse=1)  # fails a build that allows them
    variant = make_variant(runtime="tensorrt", recipe=Recipe(family="float", passes=passes))
    if sparse:
        with pytest.raises(EngineError, match="cannot build"):
            finalise(variant, tmp_path / "cache")
    else:
        assert finalise(variant, tmp_path / "cache").made
