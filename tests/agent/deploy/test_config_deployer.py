"""One slot that holds configurations, with doubles around the deployer (the table itself: test_deployment)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from agent.deploy.test_memory import room, taking
from support.bundle import make_bundle
from support.deployer import Warm

from edgectl.agent.deploy.config_deployer import ConfigDeployer
from edgectl.agent.deploy.config_probation import ConfigHealthBook
from edgectl.agent.deploy.dependencies import DeployerDependencies
from edgectl.agent.deploy.leases import Leases
from edgectl.agent.deploy.memory_gate import MemoryGate
from edgectl.agent.deploy.probation import HealthBook
from edgectl.agent.deploy.set_slots import SetSlots
from edgectl.agent.deploy.start_check import check_slots
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Deployment, Installed, SetEngine, Slot
from edgectl.agent.state.store import Store
from edgectl.agent.streams.engine_requests import Interrupted
from edgectl.agent.trust.store import StaleTrust
from edgectl.core.bundle import MEDIA_INDEX, Bundle, Descriptor
from edgectl.core.bundle.config_release import ConfigBundle, ConfigRelease
from edgectl.core.errors import EdgectlError, StorageError, TrustError
from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import DesiredSlot, Frames, Policy, StreamStats
from edgectl.fleet.client.config_writer import write_config
from edgectl.pipelines.host.protocol import EngineRef, EventMessage, Stats

SLOT = "rules"


@dataclass
class World:
    """What the deployer talks to. ``fail[what]``: raised there, the last one for ever."""

    folder: Path
    fail: dict[str, list[EdgectlError | None]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    in_force: str = ""
    wrong: str | None = None
    """Why the configuration is not in force."""

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder / "j.db")
        self.store = Store(self.folder / "store", reserve=0)
        self.health = ConfigHealthBook({"yard": SLOT})
        context = DeployerDependencies(
            journal=self.journal,
            store=self.store,
            trust=self,  # type: ignore[arg-type]
            fetcher=self,  # type: ignore[arg-type]
            warm_up=None,  # type: ignore[arg-type]
            pipelines=self,  # type: ignore[arg-type]
            live=HealthBook(),
            frozen=lambda: False,
            changed=lambda: None,
            disk=threading.Lock(),
            leases=Leases(self.journal),
            wait=lambda condition, seconds: condition.wait(min(seconds, 0.01)),
        )
        self.context = context

    def install(self, version: str) -> Installed:
        place = self.folder / version
        place.mkdir()
        release = ConfigRelease(name="rules", version=version, kind="surveillance")
        digest = write_config(place, release, f"update_s: {version}\n".encode())
        bundle = ConfigBundle(place)
        for path in bundle.blobs.iterdir():
            self.store.put(f"sha256:{path.name}", path.read_bytes())
        return Installed(release=f"rules@{version}", bundle=digest, manifest=bundle.document.digest)

    def boot(self, state: State, new: Installed, before: Installed | None, *, active: bool) -> ConfigDeployer:
        """An agent that starts in the middle of a deployment."""
        wish = DesiredSlot(
            release=new.release, digest=new.bundle, policy=Policy(probation_s=0.1, min_inferences=10)
        )
        slot = Slot(active=new, previous=before) if active else Slot(active=before)
        self.journal.save_slot(SLOT, slot, Deployment(SLOT, 1, state, wish, installed=new))
        slots = SetSlots(self.journal, (SLOT,))
        self.deployer = ConfigDeployer(SLOT, self.context, self, self.health, slots)  # type: ignore[arg-type]
        return self.deployer

    def turns_until(self, *states: State) -> None:
        seen = [self.deployer.report().state]
        for _ in range(20):
            if seen[-1] in states:
                return
            self.deployer.turn()
            seen.append(self.deployer.report().state)
        raise AssertionError(f"it went through {seen}")

    def frames(self, processed: int) -> None:
        stats = StreamStats(kind="surveillance", frames=Frames(processed=processed))
        self.health.stats("yard", Stats(stream="yard", window_s=60.0, stats=stats, rss_mb=1.0, cpu_s=1.0))

    def enter(self, what: str) -> None:
        self.calls.append(what)
        errors = self.fail.get(what, [])
        error = errors.pop(0) if len(errors) > 1 else errors[0] if errors else None
        if error is not None:
            raise error

    # trust, fetcher, streams

    def check(self, *about: object) -> object:
        """Of the trust (release, digest), or of the streams (slot, ref, cancelled)."""
        if len(about) == 2:
            self.enter("signed")
            return Descriptor(mediaType=MEDIA_INDEX, digest=str(about[1]), size=1)
        self.enter("prepare")
        return "yard: changes update_s"

    def ensure(
        self, slot: str, ref: EngineRef | None, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None:
        self.enter("ensure")
        self.in_force = "agent.toml" if ref is None else ref.release

    def differs(self, slot: str, ref: EngineRef) -> str | None:
        return self.wrong

    def idle(self, slot: str) -> bool:
        return False

    def commit(self, slot: str) -> None:
        self.calls.append("commit")

    def restart(self, slot: str) -> None:
        self.calls.append("restart")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.journal.close()


def error_of(world: World) -> str:
    error = world.deployer.report().error
    return "" if error is None else error.detail


def test_release_that_was_withdrawn_meanwhile_is_not_put_into_force(world: World) -> None:
    old, new = world.install("1"), world.install("2")
    world.fail["signed"] = [TrustError("rules@2 is not signed any more")]
    world.boot(State.ACTIVATING, new, old, active=False)
    world.turns_until(State.REJECTED)
    assert "ensure" not in world.calls
    assert world.journal.slot(SLOT) == Slot(active=old)


def test_expired_metadata_keeps_it_waiting_before_anything_is_changed(world: World) -> None:
    old, new = world.install("1"), world.install("2")
    world.fail["signed"] = [StaleTrust("the metadata has expired")]
    world.boot(State.ACTIVATING, new, old, active=False)
    world.turns_until(State.DEFERRED)
    assert "ensure" not in world.calls


def test_stream_that_something_else_ended_while_it_prepared_it_has_it_tried_again(world: World) -> None:
    old, new = world.install("1"), world.install("2")
    world.fail["prepare"] = [Interrupted("yard was ended by something else while it prepared it"), None]
    world.boot(State.WARMING, new, old, active=False)
    world.turns_until(State.DEFERRED)
    assert world.journal.bad(new.bundle, 1) is None


def test_operator_takes_it_back_in_its_probation(world: World) -> None:
    old, new = world.install("1"), world.install("2")
    world.boot(State.PROBATION, new, old, active=True)
    assert world.deployer.order("rollback")
    world.turns_until(State.ROLLED_BACK)
    assert (world.in_force, error_of(world)) == ("rules@1", "rolled back by command")


def test_stream_that_does_not_start_with_it_ends_it_at_once(world: World) -> None:
    old, new = world.install("1"), world.install("2")
    world.wrong = "yard does not start with it: rules.0: there is no such setting"
    world.boot(State.PROBATION, new, old, active=True)
    world.turns_until(State.ROLLED_BACK)
    assert (world.in_force, error_of(world)) == ("rules@1", world.wrong)


def test_activation_that_is_repeated_compares_with_what_came_before_the_first(world: World) -> None:
    old, new = world.install("1"), world.install("2")
    for i in range(5):
        world.health.event("yard", EventMessage(stream="yard", event={"rule": "mid"}))
        world.frames(10 * i)
    world.fail["ensure"] = [StorageError("the disk takes nothing"), None]
    world.boot(State.ACTIVATING, new, old, active=False)
    world.turns_until(State.PROBATION)
    assert world.calls.count("ensure") == 2
    assert world.health.of(SLOT).before.events == 5


def test_configurations_to_go_back_to_that_are_damaged_leave_what_stands_in_agent_toml(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = world.install("1"), world.install("2")
    (world.store.blobs / old.manifest.partition(":")[2]).write_bytes(b"rot")
    world.wrong = "yard went back to the configuration before"
    world.boot(State.PROBATION, new, old, active=True)
    world.turns_until(State.ROLLED_BACK)
    assert (world.in_force, world.journal.slot(SLOT)) == ("agent.toml", Slot())
    assert "the configuration before is damaged" in caplog.text


def test_configuration_that_has_rotted_is_called_a_configuration(world: World) -> None:
    new = world.install("2")
    world.boot(State.COMMITTED, new, None, active=True)
    (world.store.blobs / new.manifest.partition(":")[2]).write_bytes(b"rot")
    check_slots(world.journal, world.store, (), (SLOT,))
    d = world.journal.deployment(SLOT)
    assert d is not None
    assert d.error is not None
    assert d.error.detail.startswith("the active configuration is damaged")
    assert d.error.detail.endswith("there is no other configuration, so the slot is empty")


def test_committed_configuration_that_a_stream_does_not_survive_is_called_a_configuration(
    world: World,
) -> None:
    old, new = world.install("1"), world.install("2")
    world.boot(State.COMMITTED, new, old, active=True)
    world.deployer.crash_loop()
    world.turns_until(State.DEGRADED)
    assert world.in_force == "rules@1"
    assert "the configuration that served did not survive" in error_of(world)
    assert "engine" not in error_of(world)


class OneProcess:
    """Who opens an engine that a set brings."""

    def processes(self, slot: str) -> tuple[int, int]:
        return 1, 0

    def opened_with(self, slot: str) -> list[str]:
        return []


def with_engines(world: World, installed: Installed, *peaks: int) -> Installed:
    """As a set of engines that take so many MiB."""
    parts = []
    for i, peak in enumerate(peaks):
        name = f"part{i}"
        bundle = Bundle(make_bundle(world.folder / name, name, size=3000, memory=taking(peak)))
        for path in bundle.blobs.iterdir():
            world.store.put(f"sha256:{path.name}", path.read_bytes())
        manifest = bundle.variants[0].digest
        engine = Installed(release=f"{name}@1", bundle=bundle.digest, manifest=manifest)
        parts.append(SetEngine(part=name, slot=name, engine=engine))
    return installed.model_copy(update={"parts": tuple(parts)})


@pytest.mark.parametrize(("second", "end"), [(120, State.ACTIVATING), (280, State.FAILED)])
def test_set_is_warmed_up_only_where_there_is_room_for_all_its_engines(
    world: World, second: int, end: State
) -> None:
    gate = MemoryGate(lambda gpu: room(450))
    warmed: list[str] = []

    def warm_up(blobs: Path, manifest: str, **_: object) -> Warm:
        warmed.append(manifest)
        return Warm()

    world.context = replace(world.context, memory=gate, warm_up=warm_up)
    world.processes_with = lambda slot, engine_slot: OneProcess()  # type: ignore[attr-defined]
    old, new = world.install("1"), with_engines(world, world.install("2"), 120, second)
    world.boot(State.WARMING, new, old, active=False)
    world.deployer.turn()
    assert world.deployer.report().state is end
    if end is State.ACTIVATING:
        assert warmed == [one.engine.manifest for one in new.parts]
        return
    assert warmed == []
    assert "rules@2 needs part1@1 in slot part1, which needs" in error_of(world)
    assert gate._promised == {}


def test_set_waits_for_what_is_under_way_in_the_slot_of_an_engine(world: World) -> None:
    old, new = world.install("1"), with_engines(world, world.install("2"), 1)
    engine = new.parts[0].engine
    wish = DesiredSlot(release=engine.release, digest=engine.bundle)
    world.journal.save(Deployment("part0", 1, State.PROBATION, wish, installed=engine))
    world.boot(State.ACTIVATING, new, old, active=False)
    world.turns_until(State.DEFERRED)
    assert "ensure" not in world.calls
    world.deployer.stop()  # it would wait
    world.deployer.turn()
    assert world.deployer.report().stage == "slot part0 is probation: the set waits for its end"


def test_part_that_was_withdrawn_meanwhile_keeps_the_set_out(world: World) -> None:
    old, new = world.install("1"), with_engines(world, world.install("2"), 1)
    world.processes_with = lambda slot, engine_slot: OneProcess()  # type: ignore[attr-defined]
    world.fail["signed"] = [None, TrustError("part0@1 is not signed any more")]
    world.boot(State.ACTIVATING, new, old, active=False)
    world.turns_until(State.REJECTED)
    assert "part0@1 is not signed any more" in error_of(world)
    assert world.journal.slot(SLOT) == Slot(active=old)


def test_set_with_other_variants_goes_back_to_the_same_set_with_those_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, fast = world.install("1"), with_engines(world, world.install("2"), 1)
    (world.folder / "alt").mkdir()
    bundle = Bundle(make_bundle(world.folder / "alt" / "part0", "part0", size=4000, memory=taking(1)))
    for path in bundle.blobs.iterdir():
        world.store.put(f"sha256:{path.name}", path.read_bytes())
    changed = {"manifest": bundle.variants[0].digest, "preference": "accurate"}
    part = fast.parts[0].model_copy(update={"engine": fast.parts[0].engine.model_copy(update=changed)})
    accurate = fast.model_copy(update={"parts": (part,)})
    world.processes_with = lambda slot, engine_slot: OneProcess()  # type: ignore[attr-defined]
    world.boot(State.ACTIVATING, accurate, fast, active=False)
    world.journal.save_slot(SLOT, Slot(active=fast, previous=first))
    monkeypatch.setattr(world.deployer, "_baseline", lambda slot, served: Histogram())
    world.turns_until(State.PROBATION)
    assert world.journal.slot(SLOT) == Slot(active=accurate, previous=fast)
    world.wrong = "yard runs bad"
    world.turns_until(State.ROLLED_BACK)
    assert world.journal.slot(SLOT).active == fast
