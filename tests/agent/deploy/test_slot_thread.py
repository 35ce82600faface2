"""Wishes and orders reach a slot at any moment, and it goes on after a restart where it was; with doubles
for what it calls."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from support.deployer import POLICY, World
from support.fleet import wait_until

from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Deployment, Slot
from edgectl.core.errors import EngineError
from edgectl.core.files import digest_of
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import DesiredSlot
from edgectl.pipelines.host.protocol import EngineRef


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("where", ["fetching", "staged"])
def test_release_that_the_fleet_takes_back_is_not_activated_where_it_was_the_first(
    world: World, where: str, restarted: bool
) -> None:
    """A rollout that stops gives each device what it had: this one had nothing, so its slot is gone from
    the document."""
    if where == "fetching":
        world.hold["fetch"] = threading.Event()
    world.frozen = True
    world.start()
    world.want("1", 1)
    wait_until(
        lambda: (
            world.deployer.report().state.value == where and (where == "staged" or "fetch" in world.calls)
        ),
        where,
        20,
    )
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


def test_release_that_is_wanted_again_comes_and_one_that_serves_stays_when_nothing_is_wanted(
    world: World,
) -> None:
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


def test_newer_desired_state_preempts_a_download(world: World) -> None:
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


def test_desired_state_for_what_serves_already_is_no_deployment(world: World) -> None:
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


def test_operators_hold_outlasts_a_newer_desired_state(world: World) -> None:
    assert world.deployer.order("hold"), "also while nothing is under way"
    world.start()
    for gen, version in ((1, "1"), (2, "2")):
        world.want(version, gen)
        wait_until(
            lambda gen=gen: world.deployer.report().gen == gen and world.deployer.report().stage == "held",
            "held",
        )
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


_FORWARD = [
    s for s in State if s not in TERMINAL and s not in (State.IDLE, State.ROLLING_BACK, State.CLEARING)
]


@pytest.mark.parametrize("state", _FORWARD)
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
        world.journal.save_slot(
            "gate", slot, Deployment("gate", 2, State.ROLLING_BACK, wish, world.installed("2"))
        )
        world.boot()
        world.start()
        assert world.ends(2) is State.ROLLED_BACK
        assert world.active == "gate-detector@1"
        world.stop()


@pytest.mark.parametrize("switched", [False, True])
def test_state_of_a_newer_agent_goes_back_to_what_served_and_costs_the_journal_nothing(
    world: World, switched: bool
) -> None:
    wish = DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=POLICY)
    old, new = world.installed("1"), world.installed("2")
    world.store_blobs("1", "2")
    world.journal.save_slot(
        "gate", Slot(new, old) if switched else Slot(old), Deployment("gate", 2, State.SHADOW, wish, new)
    )
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
    [
        (State.WARMING, 2, State.FAILED),
        (State.ACTIVATING, 3, State.ROLLED_BACK),
        (State.PROBATION, 3, State.ROLLED_BACK),
    ],
)
def test_state_that_was_interrupted_too_often_is_given_up(
    world: World, state: State, tries: int, end: State
) -> None:
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
