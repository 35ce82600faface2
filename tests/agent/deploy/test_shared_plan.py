"""The step before the warm-up: whatever becomes of a shared plan, the device ends with one that is proven,
or none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.engines.conftest import MakeVariant, make_variant, trt_double  # noqa: F401  (fixtures)

from edgectl.agent.deploy.shared_plan import take_shared_plan
from edgectl.agent.state.store import Store
from edgectl.agent.transfer.download import Cancelled, FetchProgress
from edgectl.agent.trust.store import StaleTrust
from edgectl.core.bundle import Descriptor, Variant
from edgectl.core.errors import EdgectlError, GoldenError, IntegrityError, StorageError
from edgectl.core.files import digest_of
from edgectl.core.plan import PlanKey, SharedPlan
from edgectl.core.wire import Failure
from edgectl.engines.finalise.finalise import finalise

Configure = Callable[..., None]


@dataclass
class World:
    """The device, and what the fleet has for it."""

    folder: Path
    variant: Variant
    data: bytes = b""
    signed: SharedPlan | None = None
    asked: list[PlanKey] = field(default_factory=list)
    error: EdgectlError | None = None
    now_s: float = 0.0
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "store", reserve=0)
        for blob in self.variant.blobs.iterdir():
            self.store.path(f"sha256:{blob.name}").write_bytes(blob.read_bytes())
        self.cache = self.folder / "engines"
        self.disk = threading.Lock()

    def take(self) -> object:
        context = SimpleNamespace(
            store=self.store,
            engine_cache=self.cache,
            trust=self,
            fetcher=self,
            disk=self.disk,
            clock=lambda: self.now_s,
        )
        return take_shared_plan(context, self.variant.digest, lambda: self.cancelled, lambda _: None)  # type: ignore[arg-type]

    def plan(self, key: PlanKey) -> SharedPlan | None:
        self.asked.append(key)
        if isinstance(self.error, StaleTrust):
            raise self.error
        return self.signed if self.signed is not None and self.signed.key == key else None

    def fetch_blob(
        self, blob: Descriptor, cancelled: Callable[[], bool], progress: Callable[[FetchProgress], None]
    ) -> None:
        assert self.disk.locked(), "nobody may tidy the plan away meanwhile"
        if self.error is not None:
            raise self.error
        if not self.data:  # nobody sends it
            self.now_s += 3600.0
        if cancelled():
            raise Cancelled
        self.store.put(blob.digest, self.data)


KEY: PlanKey = {"tensorrt": "10.3.0.30", "golden": "sha256:" + "e" * 64}


def test_a_signed_plan_for_this_key_spares_the_compile(
    make_variant: MakeVariant,
    trt_double: Configure,
    tmp_path: Path,
) -> None:
    variant = make_variant(runtime="tensorrt")
    world = World(tmp_path / "device", variant)
    made = finalise(variant, tmp_path / "canary")
    world.data = made.path.read_bytes()
    world.signed = SharedPlan(key=made.key, digest=digest_of(world.data), size=len(world.data), level=3)
    trt_double(build=1)  # a compile would fail
    assert world.take() is None
    found = finalise(variant, world.cache)
    assert (found.made, found.path.read_bytes(), world.asked) == (False, world.data, [made.key])


@pytest.fixture
def world(make_variant: MakeVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A device that lacks the plan of ``KEY``, with a fleet that has one; nothing is to be adopted unless
    a test says so."""
    world = World(tmp_path / "device", make_variant(runtime="tensorrt"), b"plan")
    world.signed = SharedPlan(key=KEY, digest=digest_of(b"plan"), size=4, level=3)
    monkeypatch.setattr("edgectl.agent.deploy.shared_plan.missing", lambda *_: KEY)
    monkeypatch.setattr("edgectl.agent.deploy.shared_plan.adopt", lambda *_: pytest.fail("adopted"))
    return world


def test_a_plan_that_is_there_or_not_signed_for_this_key_is_not_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.error = IntegrityError("fetched")
    world.signed = SharedPlan(
        key={**KEY, "tensorrt": "10.7.0.23"}, digest=digest_of(b"plan"), size=4, level=3
    )
    assert world.take() is None
    assert world.asked == [KEY]
    monkeypatch.setattr("edgectl.agent.deploy.shared_plan.missing", lambda *_: None)
    assert world.take() is None
    assert world.asked == [KEY], "the cache has it: nobody is asked"


def test_a_plan_that_is_refused_is_noted_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adopt(blobs: Path, manifest: str, cache: Path, file: Path, plan: SharedPlan) -> None:
        assert file.read_bytes() == b"plan"
        raise GoldenError("output y differs from golden")

    monkeypatch.setattr("edgectl.agent.deploy.shared_plan.adopt", adopt)
    assert world.take() == Failure(code="golden", detail="output y differs from golden", retryable=True)
    assert not world.disk.locked()


@pytest.mark.parametrize(
    "error", [StaleTrust("expired"), IntegrityError("not at the controller"), StorageError("disk full")]
)
def test_without_a_plan_in_reach_the_device_goes_on(world: World, error: EdgectlError) -> None:
    world.error = error
    note = world.take()
    assert isinstance(note, Failure)
    assert note.detail == error.message
    assert not world.disk.locked()


def test_a_plan_that_does_not_come_is_not_waited_for_and_a_newer_desired_state_ends_it(world: World) -> None:
    world.data = b""
    note = world.take()
    assert isinstance(note, Failure)
    assert "in time" in note.detail
    world.cancelled = True
    with pytest.raises(Cancelled):
        world.take()
    assert not world.disk.locked()
    with world.disk, pytest.raises(Cancelled):
        world.take()  # another slot is fetching
