"""A plan that one device compiled, on another: adopted for the same key once it is proven, and refused
otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engines.conftest import MakeVariant

from edgectl.core.errors import EdgectlError, EngineError, GoldenError, IntegrityError
from edgectl.core.files import digest_of
from edgectl.core.plan import PLAN_FILE, PLAN_JSON, SharedPlan, plan_path
from edgectl.engines.finalise import finalise as module
from edgectl.engines.finalise.finalise import adopt_plan, finalise, missing_plan
from edgectl.engines.finalise.shared_plan import hand_out, missing

Configure = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What this device is, without asking a child each time; :func:`finalise._identity` itself is tested
    beside the finaliser."""
    identity: dict[str, str | None] = {
        "tensorrt": "10.3.0.30",
        "sm": "8.7",
        "multiprocessors": "8",
        "driver": "12060",
        "l4t": None,
    }
    monkeypatch.setattr(module, "_identity", lambda: dict(identity))
    return identity


def test_a_plan_is_adopted_for_its_very_key_once_it_is_proven_and_leaves_no_trace_otherwise(
    make_variant: MakeVariant, trt_double: Configure, machine: dict[str, str | None], tmp_path: Path
) -> None:
    variant, cache = make_variant(runtime="tensorrt"), tmp_path / "cache"
    made = finalise(variant, tmp_path / "canary", level=4)
    plan = hand_out(made.path, made.key, 4, tmp_path / "handed")
    assert SharedPlan.model_validate_json((tmp_path / "handed" / PLAN_JSON).read_bytes()) == plan
    file = tmp_path / "handed" / PLAN_FILE

    def refused(error: type[EdgectlError], told: SharedPlan = plan, **faults: object) -> None:
        trt_double(build=1, **faults)  # a compile would fail, too
        with pytest.raises(error):
            adopt_plan(variant, cache, file, told)
        assert missing_plan(variant, cache)
        assert not [p for p in cache.glob("*") if not p.name.startswith(".lock-")]

    refused(EngineError, deserialize=1)
    refused(GoldenError, wrong=1)
    refused(IntegrityError, plan.model_copy(update={"digest": digest_of(b"signed")}))
    for name in plan.key:
        refused(EngineError, plan.model_copy(update={"key": {**plan.key, name: "other"}}))
    machine["multiprocessors"] = "16"
    refused(EngineError)
    machine["multiprocessors"] = "8"
    trt_double(build=1)
    assert missing_plan(variant, cache) == plan.key
    adopt_plan(variant, cache, file, plan)
    assert missing_plan(variant, cache) is None
    found = finalise(variant, cache)
    assert (found.made, found.level, found.path.read_bytes()) == (False, 4, file.read_bytes())
    file.unlink()
    adopt_plan(variant, cache, file, plan)  # one is there: it is not looked at


def test_every_part_of_the_key_makes_another_target() -> None:
    key = {"tensorrt": "10.3.0.30", "sm": "8.7", "l4t": None, "dla": 0}
    paths = {
        plan_path(key),
        *(plan_path({**key, name: "other"}) for name in key),
        plan_path({**key, "module": None}),
    }
    assert len(paths) == 2 + len(key)


def test_other_runtimes_miss_no_plan(make_variant: MakeVariant, tmp_path: Path) -> None:
    variant = make_variant()
    assert missing(variant.blobs, variant.digest, tmp_path / "cache") is None
