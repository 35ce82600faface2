"""What an operator may ask of a rollout in each state of it, and how devices go back to what they had."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.simulated_fleet import BACK, BEFORE, NEW, OLD, SPEC, SimulatedFleet

from edgectl.core.errors import RolloutError
from edgectl.core.states import State
from edgectl.core.wire import ClearSlot, DesiredSlot, Failure, Policy, ReportedSlot, ShadowGate
from edgectl.fleet.rollouts.planner import (
    DeviceOutcome,
    RolloutState,
    desired_back,
    order,
    pause,
)


def test_skipped_device_is_left_out_and_gets_back_what_it_had() -> None:
    sim = SimulatedFleet(3, SPEC.model_copy(update={"canary": 1, "soak_s": 0}))
    first, second, third = order(sim.views, "m@2")
    sim.step()
    assert [(x.device, x.desired) for x in sim.skip(first)] == [(first, BACK)]
    assert sim.skip(first) == [], "twice is once"
    assert [x.device for x in sim.step()] == [second]
    assert sim.skip(third) == []
    sim.report(second, State.COMMITTED)
    with pytest.raises(RolloutError, match="not in rollout r"):
        sim.skip("nobody")
    sim.step()
    assert sim.progress.state is RolloutState.DONE
    assert (sim.outcome(first), sim.outcome(third)) == (DeviceOutcome.SKIPPED, DeviceOutcome.SKIPPED)
    with pytest.raises(RolloutError, match="nobody can be skipped any more"):
        sim.skip(second)


def test_first_release_of_an_empty_slot_is_taken_out_again_and_the_rollout_is_aborted_then() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"canary": 1}))
    sim.views["d0"] = replace(sim.views["d0"], desired={}, reported={})
    sim.step()
    sim.report("d0", State.PROBATION)
    assert [x.desired for x in sim.abort()] == [ClearSlot(number=1)]
    assert sim.abort() == [], "a second time changes nothing"
    sim.step()
    assert sim.progress.state is RolloutState.ROLLING_BACK, "it is on trial still"
    sim.empties("d0")
    sim.step()
    assert (sim.progress.state, sim.outcome("d0")) == (RolloutState.ABORTED, DeviceOutcome.RESTORED)
    assert not sim.progress.unfinished


def test_abort_of_what_is_over_names_the_way_back() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"canary": 1, "soak_s": 0.0}))
    sim.step()
    sim.report("d0", State.COMMITTED)
    sim.step()
    with pytest.raises(RolloutError, match="rollout r is done") as e:
        sim.abort()
    assert "edgectl rollout rollback r" in str(e.value.hint)


@pytest.mark.parametrize("paused", [False, True])
def test_rollback_of_what_is_under_way_is_an_abort(paused: bool) -> None:
    sim = SimulatedFleet(2)
    sim.step()
    sim.progress = pause(sim.progress) if paused else sim.progress
    assert len(sim.rollback()) == 2
    assert sim.rollback() == []
    for name in sim.views:
        sim.report(name, State.COMMITTED, OLD)
    sim.step()
    assert sim.progress.state is RolloutState.ABORTED


def done(sim: SimulatedFleet) -> None:
    for _ in range(6):
        sim.step(dt=SPEC.soak_s + 1)
        for name in sim.admitted:
            if sim.views[name].online:
                sim.report(name, State.COMMITTED, sim.views[name].desired["gate"].digest)
    assert sim.progress.state is RolloutState.DONE


def test_rollout_that_is_done_can_be_taken_back_device_by_device() -> None:
    sim = SimulatedFleet(4)
    sim.views["d1"] = replace(sim.views["d1"], desired={}, reported={})
    done(sim)
    newer = DesiredSlot(release="m@3", digest="sha256:" + "c" * 64)
    sim.views["d2"] = replace(sim.views["d2"], desired={"gate": newer})
    assert {x.device: x.desired for x in sim.rollback()} == {
        "d0": BACK,
        "d1": ClearSlot(number=1),
        "d3": BACK,
    }
    sim.step()
    for name in ("d0", "d3"):
        sim.report(name, State.COMMITTED, OLD)
    sim.empties("d1")
    sim.step()
    assert sim.progress.state is RolloutState.ROLLED_BACK
    assert sim.outcome("d2") is DeviceOutcome.SUPERSEDED
    assert sim.progress.members["d2"].detail == "another rollout gave it m@3"
    assert {sim.outcome(n) for n in ("d0", "d1", "d3")} == {DeviceOutcome.RESTORED}
    assert sim.rollback() == [], "once more changes nothing"
    assert sim.progress.state is RolloutState.ROLLED_BACK


def test_device_that_is_away_holds_no_way_back_up_and_is_told_of_when_it_is_back() -> None:
    sim = SimulatedFleet(2)
    done(sim)
    sim.off("d1")
    sim.now += 1000
    sim.rollback()
    sim.report("d0", State.COMMITTED, OLD)
    sim.step()
    assert (sim.progress.state, sim.outcome("d1")) == (RolloutState.ROLLED_BACK, DeviceOutcome.AWAY)
    assert sim.progress.note == "d1: away, goes back when it is back"
    assert sim.progress.unfinished
    sim.on("d1")
    sim.report("d1", State.COMMITTED, OLD)
    sim.step()
    assert sim.outcome("d1") is DeviceOutcome.RESTORED
    assert (sim.progress.note, sim.progress.unfinished) == (None, False)


def test_device_that_is_there_and_does_not_go_back_holds_the_slot_for_its_time_only() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"canary": 1, "back_s": 100.0}))
    sim.step()
    sim.abort()
    sim.step()
    sim.views["d0"] = replace(
        sim.views["d0"],
        reported={"gate": ReportedSlot(state=State.STAGED, gen=3, digest=OLD, active=NEW, stage="frozen")},
    )
    sim.step(dt=99)
    assert (sim.progress.state, sim.progress.members["d0"].detail) == (
        RolloutState.ROLLING_BACK,
        "staged, frozen",
    )
    sim.step(dt=2)
    assert (sim.progress.state, sim.outcome("d0")) == (RolloutState.ABORTED, DeviceOutcome.LATE)
    assert sim.progress.members["d0"].detail == "not back within 100 s: staged, frozen"
    sim.report("d0", State.COMMITTED, OLD)
    sim.step()
    assert sim.outcome("d0") is DeviceOutcome.RESTORED


def test_release_that_waits_for_an_operators_signature_never_went_out_and_nothing_is_waited_for() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"canary": 1}))
    sim.step()
    sim.views["d0"] = replace(sim.views["d0"], unsigned=True)
    sim.step()
    assert sim.progress.note == "d0: waits for a signature: `edgectl rollout approve --key KEY`"
    sim.abort()
    sim.step()
    assert (sim.progress.state, sim.outcome("d0")) == (RolloutState.ABORTED, DeviceOutcome.RESTORED)


def test_way_back_that_waits_for_an_operators_signature_says_so() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"canary": 1}))
    sim.step()
    sim.report("d0", State.COMMITTED)
    sim.abort()
    sim.views["d0"] = replace(sim.views["d0"], unsigned=True)
    sim.step()
    assert (sim.progress.state, sim.outcome("d0")) == (RolloutState.ROLLING_BACK, DeviceOutcome.RETURNING)
    assert sim.progress.members["d0"].detail == "waits for `edgectl rollout approve`"


def test_engine_from_before_is_not_judged_by_the_one_that_is_taken_back() -> None:
    strict = Policy(shadow=ShadowGate(), windows=("sun 01:00-02:00",), max_latency_ratio=1.1)
    back = desired_back(BEFORE.model_copy(update={"policy": strict, "expires_s": 1.0}))
    assert isinstance(back, DesiredSlot)
    assert (back.policy.shadow, back.policy.windows, back.policy.max_latency_ratio) == (None, (), None)
    assert (back.digest, back.attempt, back.expires_s) == (OLD, 1, None)


def test_desired_state_that_the_device_gave_up_is_no_way_back_but_what_it_runs_is() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"canary": 1}))
    bad = DesiredSlot(release="m@bad", digest="sha256:" + "d" * 64)
    gave_up = ReportedSlot(
        state=State.ROLLED_BACK,
        gen=1,
        release=bad.release,
        digest=bad.digest,
        active=OLD,
        active_release="m@1",
    )
    sim.views["d0"] = replace(sim.views["d0"], desired={"gate": bad}, reported={"gate": gave_up})
    sim.step()
    before = sim.progress.members["d0"].before
    assert before is not None
    assert (before.release, before.digest) == ("m@1", OLD)


def test_stranded_device_is_asked_once_more_by_another_rollback() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"canary": 1}))
    sim.step()
    sim.abort()
    why = Failure(code="storage", detail="the disk is full")
    sim.views["d0"] = replace(
        sim.views["d0"],
        reported={
            "gate": ReportedSlot(state=State.FAILED, gen=3, release="m@1", digest=OLD, active=NEW, error=why)
        },
    )
    sim.step()
    assert (sim.progress.state, sim.outcome("d0")) == (RolloutState.ABORTED, DeviceOutcome.STRANDED)
    [again] = sim.rollback()
    assert isinstance(again.desired, DesiredSlot)
    assert (again.desired.digest, again.desired.attempt) == (OLD, 2)
    sim.report("d0", State.COMMITTED, OLD)
    sim.step()
    assert (sim.progress.state, sim.outcome("d0")) == (RolloutState.ROLLED_BACK, DeviceOutcome.RESTORED)
