"""The deployer executes the table: every state against errors, newer wishes and restarts, with doubles for what it calls."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support_bundle import make_bundle
from support_fleet import wait_until

from edgectl.agent.context import Context
from edgectl.agent.deployer import SlotDeployer
from edgectl.agent.fetch import Cancelled, Fetched, Progress
from edgectl.agent.journal import Deployment, Installed, Journal, Slot
from edgectl.agent.leases import Leases
from edgectl.agent.pipeline import Interrupted
from edgectl.agent.probation import LiveBook
from edgectl.agent.store import Store
from edgectl.agent.trust import StaleTrust
from edgectl.core.bundle import LAYER_ENGINE, MEDIA_INDEX, Bundle, Descriptor, Role
from edgectl.core.errors import BundleError, EdgectlError, EngineError, IntegrityError, StorageError, TrustError
from edgectl.core.files import digest_of, hex_of
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import DesiredSlot, Failure, Frames, Policy, ShadowGate, StreamStats
from edgectl.pipelines.worker_protocol import EngineRef, Shadowed, Stats

POLICY = Policy(probation_s=0.2, min_inferences=1, percentile=50, max_latency_ratio=None)


@dataclass
class Warm:
    ok: bool = True
    p50_ms: float | None = 1.0
    error: str | None = None
    code: str | None = None


@dataclass
class World:
    """Everything the deployer talks to. ``fail[state]`` is raised there; ``hold[state]`` blocks there until it is set."""

    folder: Path
    fail: dict[str, EdgectlError] = field(default_factory=dict)
    hold: dict[str, threading.Event] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    serving: Installed | EngineRef | None = None
    healthy: bool = True
    frozen: bool = False
    roles: dict[str, Role] = field(default_factory=dict)
    made_room: threading.Event = field(default_factory=threading.Event)
    warm: Warm = field(default_factory=Warm)
    shadowed: list[Shadowed] = field(default_factory=list)
    seen: list[State] = field(default_factory=list)
    told: Deployment | None = None
    """What the record said when the deployer last told of a change: the record itself is written a moment before."""

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "store", reserve=0)
        self.bundles = {v: Bundle(make_bundle(self.folder / v, version=v, size=3000)) for v in ("1", "2", "3")}
        self.journal = Journal(self.folder / "j.db")
        self.live = LiveBook()
        self.deployer = self.boot()

    def boot(self) -> SlotDeployer:
        context = Context(
            journal=self.journal, store=self.store, trust=self, fetcher=self, warm_up=self.warm_up, pipelines=self, live=self.live,  # type: ignore[arg-type]
            frozen=lambda: self.frozen, changed=self.changed, disk=threading.Lock(), roles=self.roles, leases=Leases(self.journal),
            engine_cache=self.folder / "engines", make_room=self.made_room.set,
        )  # fmt: skip
        self.deployer = SlotDeployer("gate", context)
        return self.deployer

    def changed(self) -> None:
        state = self.deployer.report().state
        if not self.seen or self.seen[-1] is not state:
            self.seen.append(state)
        self.told = self.journal.deployment("gate")

    def enter(self, what: str) -> None:
        self.calls.append(what)
        if what in self.hold:
            assert self.hold[what].wait(20)
        if what in self.fail:
            raise self.fail[what]

    # trust, fetcher, warm-up, pipelines

    def check(self, release: str, digest: str) -> Descriptor:
        self.enter("check")
        return Descriptor(mediaType=MEDIA_INDEX, digest=digest, size=1)

    def fetch(
        self,
        release: str,
        index: Descriptor,
        cancelled: Callable[[], bool],
        progress: Callable[[Progress], None],
        role: Role | None = None,
    ) -> Fetched:
        self.calls.append("fetch")
        while "fetch" in self.hold and not self.hold["fetch"].is_set():
            if cancelled():
                raise Cancelled
            self.hold["fetch"].wait(0.02)
        if "fetch" in self.fail:
            raise self.fail["fetch"]
        bundle = next(b for b in self.bundles.values() if b.digest == index.digest)
        v = bundle.variants[0]
        for digest in (v.digest, *(d.digest for d in v.descriptors())):
            self.store.put(digest, (bundle.blobs / hex_of(digest)).read_bytes())
        i = Installed(release=release, bundle=bundle.digest, manifest=v.digest, role=role)
        return Fetched(i, i, ())

    def warm_up(self, blobs: Path, manifest: str, *, runs: int, timeout_s: float, cache: Path | None) -> Warm:
        self.enter("warm")
        return self.warm

    def ensure(self, slot: str, ref: EngineRef | None, timeout_s: float, cancelled: Callable[[], bool]) -> None:
        self.enter(f"ensure {ref.release if ref else None}")
        self.serving = ref

    def commit(self, slot: str) -> None:
        self.calls.append("commit")

    def restart(self, slot: str) -> None:
        self.calls.append("restart")

    def idle(self, slot: str) -> bool:
        if self.serving is not None and isinstance(self.serving, EngineRef):
            s = StreamStats(kind="surveillance", slots={"detector": self.serving.bundle}, frames=Frames(processed=1))
            self.live.record("yard", Stats(window_s=1, stats=s, rss_mb=1, cpu_s=1), {"detector": "gate"})
        return self.healthy

    def shadow(
        self, slot: str, ref: EngineRef, gate: ShadowGate, timeout_s: float, cancelled: Callable[[], bool]
    ) -> list[Shadowed]:
        self.enter("shadow")
        return self.shadowed

    def store_blobs(self, *versions: str) -> None:
        for v in versions:
            self.fetch(v, Descriptor(mediaType="x", digest=self.bundles[v].digest, size=1), lambda: False, lambda _: None)

    def start(self) -> None:
        self.deployer.thread.start()

    def stop(self) -> None:
        self.deployer.stop()
        for event in self.hold.values():
            event.set()
        if self.deployer.thread.ident is not None:
            self.deployer.thread.join(20)
            assert not self.deployer.thread.is_alive()

    def want(self, version: str, gen: int, attempt: int = 1) -> None:
        wish = DesiredSlot(
            release=f"gate-detector@{version}", digest=self.bundles[version].digest, attempt=attempt, policy=POLICY
        )
        self.deployer.want(gen, wish, False)

    def ends(self, gen: int) -> State:
        def ended() -> State | None:
            d = self.told
            return d.state if d is not None and d.gen >= gen and d.state in TERMINAL else None

        state: State = wait_until(ended, f"generation {gen} comes to an end", 20)
        return state

    @property
    def active(self) -> str | None:
        i = self.journal.slot("gate").active
        return i.release if i else None

    def installed(self, version: str) -> Installed:
        b = self.bundles[version]
        return Installed(release=f"gate-detector@{version}", bundle=b.digest, manifest=b.variants[0].digest)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.stop()
    world.journal.close()


def test_straight_line_to_committed_and_an_update_after_it(world: World) -> None:
    world.start()
    world.want("1", 1)
    assert world.ends(1) is State.COMMITTED
    states = ["notified", "fetching", "verifying", "staged", "warming", "activating", "probation", "committed"]
    assert [s.value for s in world.seen] == states
    world.want("2", 2)
    assert world.ends(2) is State.COMMITTED
    assert world.journal.slot("gate") == Slot(world.installed("2"), world.installed("1"), world.installed("2"))
    world.want("1", 3)
    assert world.ends(3) is State.COMMITTED
    assert world.active == "gate-detector@1"


def test_finalised_engines_go_with_the_last_release_that_needs_them(world: World) -> None:
    cache = world.folder / "engines"
    cache.mkdir()
    engine = next(d for d in world.bundles["1"].variants[0].descriptors() if d.mediaType == LAYER_ENGINE)
    mine, old = cache / f"{hex_of(engine.digest)[:16]}-00.plan", cache / "0123456789abcdef-00.plan"
    for plan in (mine, old):
        plan.write_bytes(b"plan")
    world.start()
    world.want("1", 1)
    assert world.ends(1) is State.COMMITTED
    wait_until(lambda: not old.exists(), "the plan of a model that is gone is removed", 20)
    assert mine.exists()


@pytest.mark.parametrize("switch", [False, True])
def test_a_shared_plan_is_asked_for_where_the_policy_says_so_and_its_refusal_fails_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, switch: bool
) -> None:
    refusal = Failure(code="engine", detail="the shared plan does not open", retryable=True)
    seen = []

    def take(*_: object) -> Failure:
        world.calls.append("take")
        return refusal

    def changed() -> None:
        seen.append(world.deployer.report().error)

    monkeypatch.setattr("edgectl.agent.deployer.take_shared_plan", take)
    monkeypatch.setattr(world, "changed", lambda real=world.changed: (changed(), real()))
    world.boot()
    world.start()
    policy = POLICY.model_copy(update={"shared_plans": switch})
    wish = DesiredSlot(release="gate-detector@1", digest=world.bundles["1"].digest, policy=policy)
    world.deployer.want(1, wish, False)
    assert world.ends(1) is State.COMMITTED
    assert [c for c in world.calls if c in ("take", "warm")] == (["take", "warm"] if switch else ["warm"])
    assert (refusal in seen) == switch


def test_another_role_in_the_configuration_deploys_the_release_again(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.stop()
    world.roles["gate"] = "low-power"
    world.seen.clear()
    world.calls.clear()
    world.boot()
    world.start()
    world.want("1", 1)  # the retained document, as it was
    wait_until(lambda: State.COMMITTED in world.seen and "fetch" in world.calls, "the low-power variant is committed", 20)
    assert world.journal.slot("gate").active == world.installed("1").model_copy(update={"role": "low-power"})
    fetched = world.calls.count("fetch")
    world.want("1", 2)
    wait_until(lambda: world.told is not None and world.told.gen == 2, "the newer document is taken note of", 20)
    assert world.calls.count("fetch") == fetched == 1


@pytest.mark.parametrize(
    ("where", "error", "end"),
    [
        ("fetch", IntegrityError("corrupt"), State.FAILED),
        ("fetch", StorageError("disk full"), State.FAILED),
        ("fetch", BundleError("no variant"), State.REJECTED),
        ("warm", EngineError("golden"), State.FAILED),
        ("warm", BundleError("needs tensorrt"), State.REJECTED),
        ("ensure gate-detector@2", EngineError("swap"), State.ROLLED_BACK),
    ],
)
def test_error_in_a_state_ends_where_the_table_says_and_the_old_engine_stays(
    world: World, where: str, error: EdgectlError, end: State
) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail[where] = error
    world.want("2", 2)
    assert world.ends(2) is end
    assert world.active == "gate-detector@1"
    report = world.deployer.report()
    assert report.error is not None
    assert report.error.detail == error.message
    assert report.error.retryable is isinstance(error, IntegrityError | StorageError), (
        "bytes and disks are not the release's fault"
    )
    del world.fail[where]
    world.want("3", 3)
    assert world.ends(3) is State.COMMITTED, "an update after a failure works"


@pytest.mark.parametrize(
    ("where", "end"),
    [
        ("check", "rejected"),
        ("fetch", "rejected"),
        ("warm", "failed"),
        ("shadow", "failed"),
        ("ensure gate-detector@2", "rolled_back"),
    ],
)
def test_defect_of_the_agent_costs_a_release_and_not_the_device(world: World, where: str, end: str) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail[where] = KeyError("nobody thought of it")  # type: ignore[assignment]
    world.healthy = where != "shadow"  # there is a stream to compare on
    policy = POLICY.model_copy(update={"shadow": ShadowGate()}) if where == "shadow" else POLICY
    world.deployer.want(2, DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=policy), False)
    assert world.ends(2).value == end
    report = world.deployer.report()
    assert report.error is not None
    assert report.error.code == "defect"
    assert "KeyError: 'nobody thought of it'" in report.error.detail
    assert world.active == "gate-detector@1"
    del world.fail[where]
    world.healthy = True
    world.want("3", 3)
    assert world.ends(3) is State.COMMITTED


def test_lost_way_back_is_degraded(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail["ensure gate-detector@2"] = EngineError("swap")
    world.fail["ensure gate-detector@1"] = EngineError("the camera exploded")
    world.want("2", 2)
    assert world.ends(2) is State.DEGRADED


def test_unsigned_is_rejected_after_a_moment_of_grace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgectl.agent.deployer._TRUST_GRACE_S", 0.1)
    world.fail["check"] = TrustError("not named")
    world.start()
    world.want("1", 1)
    assert world.ends(1) is State.REJECTED
    assert "fetch" not in world.calls


@pytest.mark.parametrize("error", [StaleTrust("expired"), StorageError("signed metadata cannot be verified: no space left")])
def test_stale_metadata_defers_until_it_is_fresh(world: World, error: EdgectlError) -> None:
    world.fail["check"] = error
    world.start()
    world.want("1", 1)
    wait_until(lambda: State.DEFERRED in world.seen, "deferred")
    assert world.active is None
    del world.fail["check"]
    world.deployer.nudge()
    assert world.ends(1) is State.COMMITTED


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (StaleTrust("expired"), State.DEFERRED),
        (StorageError("no space left for a moment"), State.DEFERRED),
        (TrustError("withdrawn"), State.REJECTED),
    ],
)
def test_device_that_comes_back_in_the_middle_of_a_download_asks_the_metadata_first(
    world: World, error: EdgectlError, end: State
) -> None:
    wish = DesiredSlot(release="gate-detector@1", digest=world.bundles["1"].digest, policy=POLICY)
    world.journal.save(Deployment("gate", 1, State.FETCHING, wish))
    world.fail["check"] = error
    world.boot()
    world.start()
    wait_until(lambda: end in world.seen, end.value, 20)
    assert "fetch" not in world.calls
    if end is State.DEFERRED:  # and goes on by itself once there are newer ones
        del world.fail["check"]
        world.deployer.nudge()
        assert world.ends(1) is State.COMMITTED


@pytest.mark.parametrize("where", ["shadow", "ensure gate-detector@2"])
@pytest.mark.parametrize("ended_by", ["newer wish", "operator"])
def test_release_is_not_blamed_for_what_ended_its_trial_from_outside(world: World, where: str, ended_by: str) -> None:
    """The pipelines give up as they were told to, and say so with an error of theirs."""
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.hold[where], world.fail[where] = threading.Event(), EngineError("yard has not seen 100 frames with both engines")
    policy = POLICY.model_copy(update={"shadow": ShadowGate()}) if where == "shadow" else POLICY
    world.healthy = where != "shadow"
    wish = DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=policy)
    world.deployer.want(2, wish, False)
    wait_until(lambda: where in world.calls, "the trial", 20)
    if ended_by == "operator":
        assert world.deployer.order("cancel")
    world.healthy = True
    world.want("3", 3) if ended_by == "newer wish" else None
    world.hold.pop(where).set()
    end = State.CANCELED if where == "shadow" else State.ROLLED_BACK
    wait_until(lambda: end in world.seen, end.value, 20)
    assert world.ends(2 if ended_by == "operator" else 3) is (end if ended_by == "operator" else State.COMMITTED)
    if where == "shadow" or ended_by == "newer wish":
        assert world.journal.bad(wish.digest, 1) is None


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("where", ["fetching", "staged"])
def test_release_that_the_fleet_takes_back_is_not_activated_where_it_was_the_first(
    world: World, where: str, restarted: bool
) -> None:
    """A rollout that stops gives each device what it had: this one had nothing, so its slot is gone from the document."""
    if where == "fetching":
        world.hold["fetch"] = threading.Event()
    world.frozen = True
    world.start()
    world.want("1", 1)
    wait_until(lambda: world.deployer.report().state.value == where and (where == "staged" or "fetch" in world.calls), where, 20)
    if restarted:
        world.stop()
        world.hold.clear()
        world.boot()
    world.deployer.want_nothing(2)
    if restarted:
        world.start()
    assert wait_until(lambda: world.deployer.report().state is State.CANCELED, "canceled", 20)
    world.frozen = False
    world.hold.clear()
    world.want("1", 1)  # late
    world.want("2", 3)
    assert world.ends(3) is State.COMMITTED
    assert "ensure gate-detector@1" not in world.calls


def test_release_that_is_wanted_again_comes_and_one_that_serves_stays_when_nothing_is_wanted(world: World) -> None:
    world.frozen = True
    world.start()
    world.want("1", 1)
    wait_until(lambda: world.deployer.report().state is State.STAGED, "staged", 20)
    world.deployer.want_nothing(2)
    wait_until(lambda: world.deployer.report().state is State.CANCELED, "canceled", 20)
    world.frozen = False
    world.want("1", 3)
    assert world.ends(3) is State.COMMITTED
    world.deployer.want_nothing(4)
    world.want("1", 5)
    wait_until(lambda: world.journal.deployment("gate").gen == 5, "the newer document is noted", 20)  # type: ignore[union-attr]
    assert world.seen.count(State.COMMITTED) == 1
    assert world.active == "gate-detector@1"


def test_newer_wish_preempts_a_download(world: World) -> None:
    world.hold["fetch"] = threading.Event()
    world.start()
    world.want("1", 1)
    wait_until(lambda: "fetch" in world.calls, "fetching")
    world.want("2", 2)
    wait_until(lambda: world.calls.count("fetch") == 2, "the second download begins")
    world.hold["fetch"].set()
    assert world.ends(2) is State.COMMITTED
    assert world.active == "gate-detector@2"
    assert "ensure gate-detector@1" not in world.calls


def test_wish_for_what_serves_already_is_no_deployment(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail["ensure gate-detector@2"] = EngineError("swap")
    world.want("2", 2)
    assert world.ends(2) is State.ROLLED_BACK
    fetched = world.calls.count("fetch")
    world.want("1", 3)
    assert world.ends(3) is State.COMMITTED
    assert world.calls.count("fetch") == fetched


def test_given_up_digest_is_blocked_until_the_attempt_is_raised(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail["warm"] = EngineError("golden")
    world.want("2", 2)
    world.ends(2)
    del world.fail["warm"]
    world.want("1", 3)
    world.ends(3)
    world.want("2", 4)
    assert world.ends(4) is State.REJECTED
    world.want("2", 5, attempt=2)
    assert world.ends(5) is State.COMMITTED


def test_older_generation_is_ignored(world: World) -> None:
    world.start()
    world.want("2", 5)
    world.ends(5)
    world.want("1", 4)
    world.want("2", 6)
    wait_until(lambda: world.journal.deployment("gate").gen == 6, "the newer document is noted")  # type: ignore[union-attr]
    assert world.active == "gate-detector@2"


def test_freeze_and_hold_stop_before_activation(world: World) -> None:
    world.frozen = True
    world.start()
    world.want("1", 1)
    wait_until(lambda: world.deployer.report().stage == "frozen", "frozen")
    assert world.deployer.order("hold")
    world.frozen = False
    world.deployer.nudge()
    wait_until(lambda: world.deployer.report().stage == "held", "held")
    assert "warm" not in world.calls
    assert world.deployer.order("release")
    assert world.ends(1) is State.COMMITTED


def test_operators_hold_outlasts_a_newer_wish(world: World) -> None:
    assert world.deployer.order("hold"), "also while nothing is under way"
    world.start()
    for gen, version in ((1, "1"), (2, "2")):
        world.want(version, gen)
        wait_until(lambda gen=gen: world.deployer.report().gen == gen and world.deployer.report().stage == "held", "held")
    assert world.active is None
    assert world.deployer.order("release")
    assert world.ends(2) is State.COMMITTED


def test_operator_takes_it_back_in_probation_only(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    assert not world.deployer.order("rollback")
    world.healthy = False
    world.want("2", 2)
    wait_until(lambda: world.deployer.report().state is State.PROBATION, "probation")
    assert world.deployer.order("rollback")
    assert world.ends(2) is State.ROLLED_BACK
    assert world.active == "gate-detector@1"


def test_way_back_finds_room_on_a_full_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.healthy = False
    world.want("2", 2)
    wait_until(lambda: world.deployer.report().state is State.PROBATION, "probation", 20)
    real = world.journal._commit

    def full(statements: list[tuple[str, tuple[object, ...]]]) -> None:
        if not world.made_room.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        real(statements)

    monkeypatch.setattr(world.journal, "_commit", full)
    assert world.deployer.order("rollback"), "once: it counts, although it cannot be written down yet"
    wait_until(world.made_room.is_set, "somebody gives way", 20)
    world.deployer.nudge()
    assert world.ends(2) is State.ROLLED_BACK
    assert world.active == "gate-detector@1"


def test_crash_loop_of_a_committed_engine_brings_the_previous_one_back(world: World) -> None:
    world.start()
    for gen, version in ((1, "1"), (2, "2")):
        world.want(version, gen)
        world.ends(gen)
    world.deployer.crash_loop()
    assert wait_until(lambda: world.deployer.report().state is State.DEGRADED, "degraded")
    assert world.active == "gate-detector@1"

    def serves_the_first() -> bool:  # the record says so first, the worker follows
        return isinstance(world.serving, EngineRef) and world.serving.release == "gate-detector@1"

    wait_until(serves_the_first, "the engine from before serves")


@pytest.mark.parametrize("state", [s for s in State if s not in TERMINAL and s not in (State.IDLE, State.ROLLING_BACK)])
def test_power_cut_in_any_state_ends_committed(world: World, state: State) -> None:
    """What is on disk in that state; then a fresh start."""
    wish = DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=POLICY)
    old, new = world.installed("1"), world.installed("2")
    world.store_blobs("1", "2")
    fetched = state not in (State.NOTIFIED, State.DEFERRED, State.FETCHING)
    d = Deployment("gate", 2, state, wish, new if fetched else None, None)
    switched = state is State.PROBATION
    world.journal.save_slot("gate", Slot(new, old) if switched else Slot(old), d)
    world.boot()
    world.start()
    assert world.ends(2) is State.COMMITTED
    assert world.journal.slot("gate").active == new
    assert world.journal.slot("gate").previous == old


def test_power_cut_while_going_back_goes_back(world: World) -> None:
    wish = DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=POLICY)
    world.store_blobs("1", "2")
    for already in (False, True):
        slot = Slot(world.installed("1")) if already else Slot(world.installed("2"), world.installed("1"))
        world.journal.save_slot("gate", slot, Deployment("gate", 2, State.ROLLING_BACK, wish, world.installed("2")))
        world.boot()
        world.start()
        assert world.ends(2) is State.ROLLED_BACK
        assert world.active == "gate-detector@1"
        world.stop()


@pytest.mark.parametrize("switched", [False, True])
def test_state_of_a_newer_agent_goes_back_to_what_served_and_costs_the_journal_nothing(world: World, switched: bool) -> None:
    wish = DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=POLICY)
    old, new = world.installed("1"), world.installed("2")
    world.store_blobs("1", "2")
    world.journal.save_slot("gate", Slot(new, old) if switched else Slot(old), Deployment("gate", 2, State.SHADOW, wish, new))
    world.journal.raise_floor("floor:root", 7)
    world.journal._db.execute("UPDATE deployments SET state = 'dreaming'")
    world.journal.close()
    world.journal = Journal(world.folder / "j.db")
    assert world.journal.notice is None
    assert world.journal.value("floor:root") == 7
    assert world.journal.kept() == {old, new}
    world.boot()
    world.start()
    assert world.ends(2) is State.ROLLED_BACK
    assert world.active == "gate-detector@1"
    report = world.deployer.report()
    assert report.error is not None
    assert "no state 'dreaming'" in report.error.detail
    assert world.journal.bad(wish.digest, 1) is None, "no release is to blame"


@pytest.mark.parametrize(
    ("state", "tries", "end"),
    [(State.WARMING, 2, State.FAILED), (State.ACTIVATING, 3, State.ROLLED_BACK), (State.PROBATION, 3, State.ROLLED_BACK)],
)
def test_state_that_was_interrupted_too_often_is_given_up(world: World, state: State, tries: int, end: State) -> None:
    wish = DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=POLICY)
    old, new = world.installed("1"), world.installed("2")
    world.store_blobs("1", "2")
    slot = Slot(old) if state is State.WARMING else Slot(new, old)
    world.journal.save_slot("gate", slot, Deployment("gate", 2, state, wish, new, tries=tries))
    world.boot()
    world.start()
    assert world.ends(2) is end
    assert world.active == "gate-detector@1"


def test_engine_that_has_rotted_behind_the_active_one_keeps_nothing_else_on_the_disk(world: World) -> None:
    world.start()
    for gen, version in ((1, "1"), (2, "2")):
        world.want(version, gen)
        world.ends(gen)
    world.store.path(world.installed("2").manifest).write_bytes(b"rotten")
    unneeded = world.store.path(digest_of(b"left over"))
    unneeded.write_bytes(b"left over")
    world.want("3", 3)
    assert world.ends(3) is State.COMMITTED
    wait_until(lambda: not unneeded.exists(), "it is tidied away")


def test_camera_that_goes_away_while_engines_are_compared_speaks_against_neither(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail["shadow"] = Interrupted("yard ended while it ran the new engine beside the old one")
    world.healthy = False  # there is a stream to compare on
    policy = POLICY.model_copy(update={"shadow": ShadowGate()})
    world.deployer.want(2, DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=policy), False)
    wait_until(lambda: world.calls.count("shadow") >= 2, "it is compared again", 20)
    assert State.DEFERRED in world.seen
    del world.fail["shadow"]
    world.healthy = True
    assert world.ends(2) is State.COMMITTED


def test_warm_up_without_room_is_no_fault_of_the_engine(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.warm = Warm(ok=False, code="storage", error="the disk is full while writing the plan")
    world.want("2", 2)
    assert world.ends(2) is State.FAILED
    report = world.deployer.report()
    assert report.error is not None
    assert report.error.retryable
    world.warm = Warm()
    world.want("2", 3, attempt=2)
    assert world.ends(3) is State.COMMITTED


def test_what_came_of_a_release_that_took_too_long_is_kept_for_the_next_try(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    part = world.store.blobs / ("0" * 64)
    for gen, error, left in ((2, TimeoutError(), True), (3, StorageError("disk full"), False)):
        part.write_bytes(b"half of it")
        world.fail["fetch"] = error  # type: ignore[assignment]
        world.want("2", gen, attempt=gen)
        assert world.ends(gen) is State.FAILED
        wait_until(lambda left=left: part.exists() is left, "room is made where it is needed", 20)
