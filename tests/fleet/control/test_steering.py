"""What is wanted of devices while they leave the fleet, and come back, in the middle of a rollout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.controller import DIGEST, T, World

from edgectl.core.errors import RolloutError, UsageError
from edgectl.core.states import State
from edgectl.core.wire import Conn, Failure, Frames, Reported, ReportedSlot, StreamStats, Telemetry
from edgectl.fleet.rollouts.gates import GateVerdict, recompute
from edgectl.fleet.rollouts.groups import DeviceGroup
from edgectl.fleet.rollouts.planner import DeviceOutcome, Member, RolloutRequest, RolloutState
from edgectl.fleet.rollouts.takeback import advance, needs
from edgectl.fleet.rollouts.values import RolloutSpec, Wave
from edgectl.fleet.store.inventory import Release


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, monkeypatch)
    yield world
    world.controller.inventory.close()


def _says(world: World, device: str, seq: int, version: str | None, state: State, epoch: int = 1) -> None:
    """The device reports what became of ``version`` in the slot, by the document that the broker keeps for
    it."""
    told = world.told(device)
    gen = told.gen if told else 0
    digest, release = (DIGEST[version], f"gate@{version}") if version else (None, None)
    active = digest if state is State.COMMITTED else None
    slot = ReportedSlot(
        state=state, gen=gen, digest=digest, release=release, active=active, active_release=active and release
    )
    world.hears(T.reported(device), Reported(epoch=epoch, seq=seq, gen=gen, slots={"gate": slot}))


def _member(world: World, rollout: str, device: str) -> Member:
    return world.controller.rollout(rollout)[1].members[device]


def _state(world: World, rollout: str) -> RolloutState:
    return world.controller.rollout(rollout)[1].state


@pytest.mark.parametrize("leaves", ["remove", "revoke"])
@pytest.mark.parametrize("outcome", [State.COMMITTED, State.FAILED])
def test_device_that_left_after_its_verdict_is_asked_for_nothing_when_the_release_is_taken_back(
    world: World, leaves: str, outcome: State
) -> None:
    world.born("d0")
    world.born("d1")
    rollout = world.rollout("1", "d0", "d1")
    world.tick()
    _says(world, "d0", 1, "1", State.COMMITTED)
    _says(world, "d1", 1, "1", State.FETCHING)
    world.tick()
    # the gate takes the release back in this very step
    if outcome is State.FAILED:
        getattr(world.controller, leaves)("d0")
        _says(world, "d1", 2, "1", State.FAILED)
    else:
        getattr(world.controller, leaves)("d0")
        world.controller.change_rollout(rollout, "abort")
    world.tick()
    _says(world, "d1", 3, None, State.CLEARED)
    world.tick()
    assert _state(world, rollout) is (
        RolloutState.STOPPED if outcome is State.FAILED else RolloutState.ABORTED
    )
    assert (_member(world, rollout, "d0").outcome, _member(world, rollout, "d1").outcome) == (
        DeviceOutcome.COMMITTED,
        DeviceOutcome.RESTORED,
    )


def test_device_that_failed_and_was_removed_can_be_skipped(world: World) -> None:
    world.born("d0")
    world.born("d1")
    rollout = world.rollout("1", "d0", "d1")
    world.tick()
    with world.controller._devices.lock:
        spec, progress = world.controller.rollout(rollout)
        members = {
            **progress.members,
            "d0": progress.members["d0"].model_copy(update={"outcome": DeviceOutcome.FAILED}),
        }
        world.controller.inventory.save_rollout(spec, progress.model_copy(update={"members": members}))
    world.controller.remove("d0")
    world.controller.skip_device(rollout, "d0")


def test_device_that_is_enrolled_again_is_a_new_one_for_the_rollout_that_runs(world: World) -> None:
    world.born("d0")
    world.born("d1")
    rollout = world.rollout("1")
    world.tick()
    _says(world, "d0", 1, "1", State.COMMITTED)
    world.tick()
    world.controller.remove("d0")
    world.tick()
    world.controller.enroll("d0")
    world.born("d0")
    _says(world, "d0", 1, None, State.IDLE)
    world.tick()
    assert _member(world, rollout, "d0").outcome in (DeviceOutcome.WAITING, DeviceOutcome.ADMITTED)
    _says(world, "d1", 1, "1", State.COMMITTED)
    for _ in range(3):
        world.tick()
    told = world.told("d0")
    assert told is not None
    assert told.slots["gate"].digest == DIGEST["1"]


def test_rollback_expects_nothing_of_a_device_that_was_enrolled_again(world: World) -> None:
    world.born("d0")
    world.born("d1")
    rollout = world.rollout("1", "d0", "d1")
    world.tick()
    for device in ("d0", "d1"):
        _says(world, device, 1, "1", State.COMMITTED)
    world.tick()
    world.tick()
    assert _state(world, rollout) is RolloutState.DONE
    world.controller.remove("d0")
    world.tick()
    world.controller.enroll("d0")
    world.born("d0")
    _says(world, "d0", 1, None, State.IDLE)
    world.controller.change_rollout(rollout, "rollback")
    world.tick()
    _says(world, "d1", 2, None, State.CLEARED)
    world.tick()
    assert _state(world, rollout) is RolloutState.ROLLED_BACK
    told = world.told("d0")
    assert told is None or told.slots == {} == told.clear


def test_removal_that_the_broker_has_yet_to_take_deletes_nothing_that_was_wanted_since(world: World) -> None:
    world.born("d0")
    world.rollout("1", "d0")
    world.tick()
    _says(world, "d0", 1, "1", State.COMMITTED)
    world.tick()
    world.wire.is_up = False
    world.controller.remove("d0")
    world.controller.enroll("d0")
    world.born("d0")
    _says(world, "d0", 1, None, State.IDLE)
    world.rollout("2", "d0")
    world.tick()
    world.wire.is_up = True
    world.controller._on_up()
    world.tick()
    told = world.told("d0") if world.wire.retained[T.desired("d0")] else None
    assert told is not None
    assert told.slots["gate"].digest == DIGEST["2"]


def test_device_that_has_seen_a_higher_generation_is_told_again_above_it(world: World) -> None:
    """It was removed and enrolled again without a restart, or the database was lost: what it saw is known
    only once it refuses."""
    world.born("d0")
    rollout = world.rollout("1", "d0")
    world.tick()
    assert (told := world.told("d0")) is not None
    slot = ReportedSlot(state=State.IDLE, gen=7)
    world.hears(
        T.reported("d0"), Reported(epoch=1, seq=1, gen=7, slots={"gate": slot}, error=Failure(code="desired"))
    )
    world.tick()
    assert (told := world.told("d0")) is not None
    assert told.gen > 7
    assert told.slots["gate"].digest == DIGEST["1"]
    _says(world, "d0", 2, "1", State.COMMITTED)
    world.tick()
    world.tick()
    assert _state(world, rollout) is RolloutState.DONE


def test_removed_device_that_goes_on_speaking_after_it_was_enrolled_again_is_there(world: World) -> None:
    world.hears(T.conn("d0"), Conn(epoch=3, online=True, slots=("gate",), instance="i", heartbeat_s=30))
    world.controller.remove("d0")
    world.tick()
    world.controller.enroll("d0")
    world.hears(T.conn("d0"), Conn(epoch=3, online=True, slots=("gate",), instance="i", heartbeat_s=30))
    world.tick()
    assert [bool(d.conn and d.conn.online) for d in world.controller.devices()] == [True]


def test_enrolled_again_with_an_empty_disk_a_device_is_believed_although_it_counts_from_one(
    world: World,
) -> None:
    """An agent of an older build does not say which start it is: its first start on another disk looks
    like the one that was revoked."""
    world.born("d0")
    _says(world, "d0", 9, None, State.IDLE)
    world.controller.revoke("d0")
    world.controller.enroll("d0")
    world.born("d0")
    rollout = world.rollout("1", "d0")
    world.tick()
    _says(world, "d0", 1, "1", State.COMMITTED)
    world.tick()
    world.tick()
    assert _state(world, rollout) is RolloutState.DONE


def test_device_that_is_enrolled_again_without_a_restart_gets_back_what_it_had(world: World) -> None:
    """It says that it is there, and nothing new: what it said before it was removed is so until it says
    something else."""
    world.born("d0")
    world.rollout("1", "d0")
    world.tick()
    _says(world, "d0", 1, "1", State.COMMITTED)
    world.tick()
    world.tick()
    seen = world.told("d0")
    world.controller.remove("d0")
    world.tick()
    world.controller.enroll("d0")
    world.born("d0")
    rollout = world.rollout("2", "d0")
    world.tick()
    told = world.told("d0")
    assert seen is not None
    assert told is not None
    assert told.gen > seen.gen, "an older one would be refused"
    world.controller.change_rollout(rollout, "abort")
    world.tick()
    told = world.told("d0")
    assert told is not None
    assert told.slots["gate"].digest == DIGEST["1"]


@pytest.mark.parametrize("online", [True, False])
def test_release_that_a_device_is_still_to_go_back_to_is_needed(world: World, online: bool) -> None:
    """Also when it is away: without it, it could not go back when it comes."""
    world.born("d0")
    world.rollout("1", "d0")
    world.tick()
    _says(world, "d0", 1, "1", State.COMMITTED)
    world.tick()
    world.tick()
    rollout = world.rollout("2", "d0")
    world.tick()
    if not online:
        world.hears(T.conn("d0"), Conn(epoch=1, online=False))
    world.controller.change_rollout(rollout, "abort")
    world.controller.tick(world.controller._time() + (3600 if not online else 0))
    assert _member(world, rollout, "d0").outcome is (
        DeviceOutcome.RETURNING if online else DeviceOutcome.AWAY
    )
    spec, progress = world.controller.rollout(rollout)
    assert "takes d0 back to it" in (needs(spec, progress, "gate@1") or "")
    assert needs(spec, progress, "gate@2") is None


def test_way_back_that_an_older_controller_began_goes_on_to_an_empty_slot(world: World) -> None:
    """That one took the wish away, which leaves the engine running, and kept no word on how the rollout
    ends."""
    world.born("d0")
    rollout = world.rollout("1", "d0")
    world.tick()
    _says(world, "d0", 1, "1", State.COMMITTED)
    inventory, devices = world.controller.inventory, world.controller._devices
    spec, progress = world.controller.rollout(rollout)
    old = devices["d0"].desired.model_copy(update={"slots": {}, "gen": devices["d0"].desired.gen + 1})
    devices["d0"].desired = old
    inventory.save_device(devices["d0"])
    inventory.save_rollout(
        spec, progress.model_copy(update={"state": RolloutState.ROLLING_BACK, "reason": "a gate"})
    )
    inventory.close()
    world.boot()
    world.born("d0", epoch=2)
    world.controller._on_up()
    for _ in range(2):
        world.tick()
    told = world.told("d0")
    assert told is not None
    assert "gate" in told.clear
    assert _member(world, rollout, "d0").outcome is DeviceOutcome.RETURNING
    _says(world, "d0", 1, None, State.CLEARED, epoch=2)
    world.tick()
    assert (_state(world, rollout), _member(world, rollout, "d0").outcome) == (
        RolloutState.STOPPED,
        DeviceOutcome.RESTORED,
    )


def test_rollout_that_supersedes_another_ends_it_and_takes_nothing_back(world: World) -> None:
    world.born("d0")
    first = world.rollout("1", "d0")
    world.tick()
    with pytest.raises(RolloutError, match="is still running in slot gate"):
        world.rollout("2", "d0")
    world.controller.inventory.save_release(Release("gate@2", DIGEST["2"], (), world.now))
    second = world.controller.start_rollout(
        RolloutRequest(release="gate@2", slot="gate", devices=("d0",), supersede=True)
    ).id
    assert _state(world, first) is RolloutState.ABORTED
    assert world.controller.rollout(first)[1].reason == "superseded by gate@2"
    world.tick()
    told = world.told("d0")
    assert told is not None
    assert told.slots["gate"].release == "gate@2"
    world.tick()
    assert _member(world, first, "d0").outcome is DeviceOutcome.SUPERSEDED
    assert _member(world, second, "d0").before is None, "what was cut short is no way back"


def test_release_that_is_being_taken_back_is_not_superseded(world: World) -> None:
    world.born("d0")
    first = world.rollout("1", "d0")
    world.tick()
    world.controller.change_rollout(first, "abort")
    with pytest.raises(RolloutError, match="is still rolling_back"):
        world.controller.start_rollout(RolloutRequest(release="gate@1", slot="gate", supersede=True))


def test_operator_halts_and_approves_and_both_acts_are_kept(world: World) -> None:
    world.born("d0")
    world.born("d1")
    world.controller.inventory.save_release(Release("gate@1", DIGEST["1"], (), world.now))
    rollout = world.controller.start_rollout(
        RolloutRequest(release="gate@1", slot="gate", waves=(Wave(share=1.0, approval=True),))
    ).id
    world.tick()
    world.controller.change_rollout(rollout, "approve")
    assert world.controller.rollout(rollout)[1].approved == 1
    world.controller.change_rollout(rollout, "halt")
    assert _state(world, rollout) is RolloutState.ABORTED
    world.tick()
    asked = [d for d in ("d0", "d1") if world.told(d) and world.told(d).slots]  # type: ignore[union-attr]
    assert len(asked) == 1, "who has begun is left alone"
    acts = [e.text for e in world.controller.inventory.events(about=rollout, acts=True)]
    assert "approve by the operator" in acts
    assert "halt by the operator" in acts


def test_selection_goes_by_what_was_probed(world: World) -> None:
    for name, sm in (("d0", "8.7"), ("d1", "7.2")):
        conn = Conn(epoch=1, online=True, slots=("gate",), facts=(f"sm:{sm}",), profile="jetson-orin")
        world.hears(T.conn(name), conn)
    world.controller.inventory.save_release(Release("gate@1", DIGEST["1"], (), world.now))
    rollout = world.controller.start_rollout(
        RolloutRequest(release="gate@1", slot="gate", select="fact.sm >= 8 and profile = jetson-orin")
    ).id
    world.tick()
    assert world.controller.rollout(rollout)[1].members.keys() == {"d0"}


def _sends(world: World, device: str, seq: int, version: str, errors: int = 0) -> None:
    """A window of 10 s, with so many failures since the start."""
    s = StreamStats(
        kind="surveillance",
        slots={"gate": DIGEST[version]},
        frames=Frames(captured=100 * seq, processed=100 * seq - errors),
        errors=errors,
    )
    t = Telemetry(epoch=1, seq=seq, window_s=10.0, streams={"yard": s})
    world.hears(T.telemetry(device), t)


def test_telemetry_of_a_canary_stops_a_release_that_it_had_committed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.controller._devices, "_now", lambda: world.now)
    for device in ("d0", "d1"):
        world.born(device)
    world.rollout("1", "d0", "d1")
    world.tick()
    for device in ("d0", "d1"):
        _says(world, device, 1, "1", State.COMMITTED)
    world.tick()
    world.controller.inventory.save_release(Release("gate@2", DIGEST["2"], (), world.now))
    request = RolloutRequest(release="gate@2", slot="gate", canary=1, soak_s=3600.0, waves=(Wave(share=1.0),))
    rollout = world.controller.start_rollout(request).id
    world.tick()
    progress = world.controller.rollout(rollout)[1]
    (first,) = [n for n, m in progress.members.items() if m.admitted_s is not None]
    _says(world, first, 2, "2", State.COMMITTED)
    for seq in range(1, 5):
        world.now += 10
        _sends(world, first, seq, "2", errors=60 * seq)
        world.tick()
    progress = world.controller.rollout(rollout)[1]
    assert progress.state is RolloutState.ROLLING_BACK
    assert progress.reason == f"errors on {first}: 60.00%, 1.00% may"
    assert [m.outcome for m in progress.members.values()] == [DeviceOutcome.RETURNING, DeviceOutcome.WAITING]
    errors = next(d for d in progress.decisions if d.gate == "errors")
    assert recompute(errors) is errors.verdict is GateVerdict.WORSE
    told = [e.text for e in world.controller.inventory.events(about=rollout)]
    assert f"gate errors, unknown profile, from gate@1: worse: {progress.reason}" in told


def test_rollout_that_a_defect_stops_keeps_no_other_from_going_on(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.hears(T.conn("d0"), Conn(epoch=1, online=True, slots=("gate", "door")))
    broken = world.rollout("1")
    release = Release("door@2", DIGEST["2"], (), world.now)
    world.controller.inventory.save_release(release)
    other = world.controller.start_rollout(RolloutRequest(release="door@2", slot="door", canary=9)).id

    def defect(spec: RolloutSpec, *rest: Any) -> Any:
        if spec.id == broken:
            raise ValueError("a defect")
        return advance(spec, *rest)

    with monkeypatch.context() as m:
        m.setattr("edgectl.fleet.control.steering.advance", defect)
        world.tick()
        world.tick()
    assert "d0" not in world.controller.rollout(broken)[1].members
    assert _member(world, other, "d0").outcome is DeviceOutcome.ADMITTED
    assert [r.message for r in caplog.records if "stands still" in r.message] == [
        f"rollout {broken} stands still: a defect of the controller"
    ]
    world.tick()
    assert _member(world, broken, "d0").outcome is DeviceOutcome.ADMITTED


def _by_group(world: World, query: str) -> str:
    release = Release("gate@1", DIGEST["1"], (), world.now)
    world.controller.inventory.save_release(release)
    request = RolloutRequest(release=release.release, slot="gate", select=query)
    return world.controller.start_rollout(request).id


def test_rollout_by_a_group_takes_whoever_joins_it(world: World) -> None:
    for device in ("d0", "d1", "d2"):
        world.born(device)
    assert world.controller.set_group(DeviceGroup(name="beta", devices=frozenset({"d0"}))) == ["d0"]
    rollout = _by_group(world, "group = beta")
    world.tick()
    assert set(world.controller.rollout(rollout)[1].members) == {"d0"}
    assert world.controller.set_group(DeviceGroup(name="beta", select="name in (d0, d2)")) == ["d0", "d2"]
    world.tick()
    assert set(world.controller.rollout(rollout)[1].members) == {"d0", "d2"}


def test_group_of_a_rollout_under_way_is_not_removed(world: World) -> None:
    world.born("d0")
    world.controller.set_group(DeviceGroup(name="beta", select="slot = gate"))
    rollout = _by_group(world, "group = beta")
    with pytest.raises(RolloutError, match=f"rollout {rollout} selects by group beta"):
        world.controller.drop_group("beta")
    world.controller.change_rollout(rollout, "abort")
    world.controller.drop_group("beta")
    assert world.controller.groups() == {}
    assert [e.text for e in world.controller.inventory.events(50, about="beta")][-1].startswith("removed")


def test_rollout_by_a_group_that_there_is_not_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="there is no group betta"):
        _by_group(world, "group = betta")


def test_groups_are_there_after_a_restart(world: World) -> None:
    world.born("d0")
    world.controller.set_group(DeviceGroup(name="beta", select="slot = gate"))
    again = world.boot()
    assert again.group_members() == {"beta": ["d0"]}
    with pytest.raises(UsageError, match="there is no group other"):
        again.drop_group("other")
