"""The planner, driven step by step and by a simulated fleet."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulated_fleet import BACK, BEFORE, NEW, OLD, SPEC, SimulatedFleet

from edgectl.core.errors import RolloutError
from edgectl.core.states import State
from edgectl.core.wire import ClearSlot, Failure, ReportedSlot
from edgectl.fleet.rollouts.gates import GateDecision, GateVerdict
from edgectl.fleet.rollouts.planner import (
    ACTIVE,
    BUSY,
    DeviceOutcome,
    GateEvidence,
    RolloutState,
    approve,
    halt,
    order,
    pause,
    resume,
)
from edgectl.fleet.rollouts.values import Wave


def test_canary_first_then_soak_then_the_rest_then_done() -> None:
    sim = SimulatedFleet(6)
    canaries = {a.device for a in sim.step()}
    assert canaries == set(order(sim.views, "m@2")[:2])
    assert sim.step() == [], "nothing is said twice"
    for name in canaries:
        sim.report(name, State.PROBATION)
    sim.step()
    assert sim.admitted == canaries, "probation is not success"
    for name in canaries:
        sim.report(name, State.COMMITTED)
    sim.step()
    sim.step(dt=5)
    assert sim.admitted == canaries, "the soak is not over"
    sim.step(dt=6)
    sim.step()
    assert sim.admitted == set(sim.views)
    for name in set(sim.views) - canaries:
        sim.report(name, State.COMMITTED)
    sim.step()
    assert sim.progress.state is RolloutState.DONE


def test_other_releases_have_other_canaries() -> None:
    devices = [f"d{i}" for i in range(50)]
    assert order(devices, "m@2") == order(reversed(devices), "m@2")
    assert order(devices, "m@2")[:3] != order(devices, "m@3")[:3]


def test_failed_canary_stops_the_rollout_and_what_was_comes_back() -> None:
    sim = SimulatedFleet(6)
    a, b = (x.device for x in sim.step())
    sim.report(a, State.COMMITTED)
    sim.report(b, State.ROLLED_BACK, error="too slow")
    actions = sim.step()
    assert sim.progress.state is RolloutState.ROLLING_BACK
    assert f"{b}: rolled_back: too slow" in (sim.progress.reason or "")
    assert {(x.device, x.desired) for x in actions} == {(a, BACK), (b, BACK)}
    sim.step()
    assert sim.progress.state is RolloutState.ROLLING_BACK, "they are not back yet"
    for name in (a, b):
        sim.report(name, State.COMMITTED, OLD)
    sim.step()
    assert sim.progress.state is RolloutState.STOPPED
    assert {m.outcome for m in sim.progress.members.values() if m.admitted_s} == {DeviceOutcome.RESTORED}
    assert len(sim.admitted) == 2


def test_report_of_the_release_before_is_not_taken_for_success() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"canary": 1}))
    sim.step()
    sim.step()
    assert sim.progress.members["d0"].outcome is DeviceOutcome.ADMITTED, "COMMITTED speaks of the old digest"


def test_canary_that_goes_dark_after_activation_has_not_failed_and_holds_the_others_up() -> None:
    sim = SimulatedFleet(4)
    a, b = (x.device for x in sim.step())
    sim.report(a, State.COMMITTED)
    sim.report(b, State.ACTIVATING)
    sim.off(b)
    sim.step(dt=SPEC.lost_s - 1)
    assert sim.outcome(b) is DeviceOutcome.ADMITTED
    sim.step(dt=2)
    assert (sim.progress.state, sim.outcome(b)) == (RolloutState.RUNNING, DeviceOutcome.LOST)
    assert sim.progress.note == (
        f"{b} went away in the middle of an activation; `edgectl rollout skip r {b}` goes on without"
    )
    for _ in range(5):
        sim.step(dt=SPEC.away_s)
    assert sim.admitted == {a, b}, "nobody else gets what may have been its end"
    sim.on(b)
    sim.report(b, State.COMMITTED)
    for _ in range(3):
        sim.step(dt=SPEC.soak_s + 1)
    assert sim.admitted == set(sim.views)


def test_lost_canary_that_does_not_come_back_stops_the_rollout_when_its_patience_ends() -> None:
    sim = SimulatedFleet(4, SPEC.model_copy(update={"idle_s": 5000.0}))
    a, b = (x.device for x in sim.step())
    sim.report(a, State.COMMITTED)
    sim.report(b, State.PROBATION)
    sim.off(b)
    sim.step(dt=SPEC.lost_s + 1)
    assert sim.step(dt=4900) == []
    actions = sim.step(dt=200)
    assert {x.device for x in actions} == {a, b}
    assert f"{b} went away in the middle of an activation" in (sim.progress.reason or "")
    sim.report(a, State.COMMITTED, OLD)
    sim.step()
    assert (sim.progress.state, sim.outcome(a), sim.outcome(b)) == (
        RolloutState.STOPPED,
        DeviceOutcome.RESTORED,
        DeviceOutcome.AWAY,
    )


def test_many_that_go_dark_after_activation_count_once_the_canary_is_through() -> None:
    sim = SimulatedFleet(20, SPEC.model_copy(update={"canary": 1, "soak_s": 0}))
    [first] = sim.step()
    sim.report(first.device, State.COMMITTED)
    for _ in range(2):
        sim.step()
    for name in sim.views:
        if name != first.device:
            sim.report(name, State.PROBATION)
            sim.off(name)
    sim.step(dt=SPEC.lost_s + 1)
    assert sim.progress.state is RolloutState.ROLLING_BACK
    assert "it went away in probation" in (sim.progress.reason or "")


def test_device_that_is_offline_is_not_waited_for_and_judged_when_it_returns() -> None:
    sim = SimulatedFleet(2)
    a, b = (x.device for x in sim.step())
    sim.off(b)
    sim.report(a, State.COMMITTED)
    sim.step(dt=SPEC.away_s + 1)
    assert sim.outcome(b) is DeviceOutcome.AWAY
    assert sim.progress.state is RolloutState.RUNNING, "it soaks, although there is no other wave"
    sim.step(dt=SPEC.soak_s + 1)
    assert sim.progress.state is RolloutState.DONE
    sim.step()
    assert sim.progress.note == f"{b}: away, takes it when it is back"


def test_canary_is_made_of_devices_that_are_there() -> None:
    sim = SimulatedFleet(2, SPEC.model_copy(update={"canary": 1, "soak_s": 0}))
    off, on = order(sim.views, "m@2")
    sim.off(off)
    assert [x.device for x in sim.step()] == [on]
    sim.report(on, State.COMMITTED)
    for _ in range(3):
        sim.step(dt=SPEC.away_s + 1)
    assert (sim.progress.state, sim.outcome(off)) == (RolloutState.DONE, DeviceOutcome.AWAY)


def test_device_that_is_off_when_its_turn_comes_is_not_waited_for_for_long() -> None:
    sim = SimulatedFleet(2, SPEC.model_copy(update={"canary": 1, "soak_s": 0}))
    off, on = order(sim.views, "m@2")
    sim.off(off)
    sim.step()
    sim.report(on, State.COMMITTED)
    for _ in range(2):
        sim.step()
    assert (sim.outcome(off), sim.progress.state) == (DeviceOutcome.ADMITTED, RolloutState.RUNNING)
    sim.step(dt=SPEC.lost_s)
    sim.step()
    assert (sim.outcome(off), sim.progress.state) == (DeviceOutcome.AWAY, RolloutState.DONE)


def test_canary_that_goes_away_before_it_activates_is_replaced() -> None:
    sim = SimulatedFleet(3, SPEC.model_copy(update={"canary": 1}))
    first, second, _ = order(sim.views, "m@2")
    assert [x.device for x in sim.step()] == [first]
    sim.report(first, State.FETCHING)
    sim.off(first)
    sim.step()
    assert sim.progress.note == f"{first}: away, waited for 600 s at most"
    sim.step(dt=SPEC.away_s)
    assert [x.device for x in sim.step()] == [second]
    sim.report(second, State.COMMITTED)
    sim.step()
    assert sim.progress.wave_done_s is not None


def test_rollout_with_nobody_there_says_so_and_gives_up_in_time() -> None:
    sim = SimulatedFleet(4, SPEC.model_copy(update={"idle_s": 1000.0}))
    for name in sim.views:
        sim.off(name)
    for _ in range(5):
        assert sim.step(dt=199) == []
    assert sim.progress.note == "nobody is there to be the canary: d0, d1, d2 and 1 more"
    sim.step(dt=300)
    assert sim.progress.state is RolloutState.STOPPED
    assert sim.progress.reason == (
        "nobody could show within 1000 s that the release works: nobody is there to be the canary: d0, d1, d2 and 1 more"
    )


def test_rollout_for_a_slot_that_nobody_has_gives_up_in_time() -> None:
    sim = SimulatedFleet(0, SPEC.model_copy(update={"idle_s": 1000.0}))
    sim.step()
    assert sim.progress.note == "nobody is there to be the canary: no device with slot gate is known"
    sim.step(dt=1001)
    assert sim.progress.state is RolloutState.STOPPED


def test_pause_is_no_idleness() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"idle_s": 1000.0}))
    sim.off("d0")
    sim.step()
    sim.progress = pause(sim.progress)
    sim.step(dt=5000)
    sim.progress = resume(sim.progress)
    sim.step()
    assert sim.progress.state is RolloutState.RUNNING


def test_device_that_was_named_and_was_never_there_gets_it_when_it_comes() -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"devices": ("d0", "new"), "canary": 1, "soak_s": 0}))
    sim.step()
    sim.report("d0", State.COMMITTED)
    sim.step()
    assert (sim.progress.state, sim.outcome("new")) == (RolloutState.DONE, DeviceOutcome.AWAY)
    assert sim.progress.unfinished
    sim.views["new"] = replace(sim.view("new"), desired={}, reported={})
    assert [x.device for x in sim.step()] == ["new"]
    sim.report("new", State.COMMITTED)
    sim.step()
    assert sim.outcome("new") is DeviceOutcome.COMMITTED
    assert not sim.progress.unfinished


@pytest.mark.parametrize("begun", [False, True])
def test_device_that_was_never_there_is_not_expected_once_the_release_is_taken_back(begun: bool) -> None:
    sim = SimulatedFleet(1, SPEC.model_copy(update={"devices": ("d0", "new"), "canary": 1}))
    if not begun:
        sim.off("d0")
    sim.step()
    sim.abort()
    if begun:
        sim.report("d0", State.COMMITTED, OLD)
    sim.step()
    assert sim.progress.state is RolloutState.ABORTED
    assert not sim.progress.unfinished
    sim.views["new"] = replace(sim.view("new"), desired={}, reported={})
    assert sim.step() == []


def test_canaries_that_all_fail_within_what_is_allowed_end_the_rollout_all_the_same() -> None:
    sim = SimulatedFleet(4, SPEC.model_copy(update={"max_canary_failures": 2}))
    for x in sim.step():
        sim.report(x.device, State.ROLLED_BACK, error="too slow")
    sim.step()
    assert sim.progress.state is RolloutState.ROLLING_BACK
    assert "no canary device committed it" in (sim.progress.reason or "")


def test_what_was_committed_and_does_not_survive_is_a_failure() -> None:
    sim = SimulatedFleet(4)
    a, b = (x.device for x in sim.step())
    sim.report(a, State.COMMITTED)
    sim.report(b, State.COMMITTED)
    sim.step()
    sim.report(a, State.DEGRADED, error="the engine that served did not survive")
    sim.step()
    assert f"{a}: degraded: the engine that served did not survive" in (sim.progress.reason or "")


@pytest.mark.parametrize("back", [False, True])
def test_device_that_left_the_fleet_is_not_expected_any_more(back: bool) -> None:
    sim = SimulatedFleet(2, SPEC.model_copy(update={"soak_s": 0}))
    a, b = (x.device for x in sim.step())
    sim.report(a, State.COMMITTED)
    if back:
        sim.abort()
        sim.report(a, State.COMMITTED, OLD)
    del sim.views[b]
    for _ in range(3):
        sim.step()
    assert (sim.progress.state, sim.outcome(b)) == (
        RolloutState.ABORTED if back else RolloutState.DONE,
        DeviceOutcome.SKIPPED,
    )
    assert sim.progress.members[b].detail == "it left the fleet"
    assert not sim.progress.unfinished


def test_deadline_fails_a_device_that_hangs() -> None:
    sim = SimulatedFleet(2)
    for x in sim.step():
        sim.report(x.device, State.FETCHING)
    sim.step(dt=SPEC.deadline_s + 1)
    assert "not committed within" in (sim.progress.reason or "")


def test_pause_admits_nobody_and_resume_goes_on() -> None:
    sim = SimulatedFleet(5)
    canaries = [x.device for x in sim.step()]
    sim.progress = pause(sim.progress)
    for name in canaries:
        sim.report(name, State.COMMITTED)
    for _ in range(3):
        assert sim.step(dt=20) == []
    assert sim.progress.state is RolloutState.PAUSED
    sim.progress = resume(sim.progress)
    for _ in range(4):
        sim.step(dt=20)
    assert len(sim.admitted) == 5
    with pytest.raises(RolloutError):
        resume(sim.progress)


def test_abort_restores_in_reverse_order_and_empties_what_was_empty() -> None:
    sim = SimulatedFleet(3, SPEC.model_copy(update={"canary": 3}))
    sim.views["d1"] = replace(sim.views["d1"], desired={}, reported={})
    sim.step()
    assert {a.device: a.desired for a in sim.abort()} == {"d0": BACK, "d1": ClearSlot(number=1), "d2": BACK}


def test_late_joiner_enters_the_wave_that_runs() -> None:
    sim = SimulatedFleet(3)
    for x in sim.step():
        sim.report(x.device, State.COMMITTED)
    sim.step()
    sim.step(dt=11)
    sim.step()
    sim.views["late"] = sim.view("late")
    sim.step()
    assert "late" in sim.admitted


def test_only_matching_devices_are_touched() -> None:
    sim = SimulatedFleet(
        4, SPEC.model_copy(update={"labels": {"site": "a"}, "devices": ("d0", "d1", "d2"), "canary": 9})
    )
    sim.views["d1"] = replace(sim.views["d1"], labels={"site": "b"})
    sim.views["d2"] = replace(sim.views["d2"], slots=frozenset({"other"}))
    assert {a.device for a in sim.step()} == {"d0"}


def gate_says(verdict: GateVerdict, gate: str = "latency p99") -> GateDecision:
    return GateDecision(
        gate=gate,
        kind="latency",
        bets="ranks",
        stratum="orin",
        at_s=1.0,
        allowed=0.0,
        alpha=0.01,
        verdict=verdict,
        reason=f"{gate} on d0: 30 ms after 20 ms",
    )


def test_gate_that_finds_the_release_worse_stops_the_rollout_and_its_record_stays() -> None:
    sim = SimulatedFleet(4)
    sim.step()
    unsure = (gate_says(GateVerdict.OPEN), gate_says(GateVerdict.CANNOT_JUDGE, "drops"))
    sim.step(GateEvidence(unsure))
    assert sim.progress.state is RolloutState.RUNNING
    assert sim.progress.decisions == unsure
    worse = (gate_says(GateVerdict.OPEN, "drops"), gate_says(GateVerdict.WORSE))
    sim.step(GateEvidence(worse))
    assert sim.progress.state is RolloutState.ROLLING_BACK
    assert sim.progress.reason == "latency p99 on d0: 30 ms after 20 ms"
    sim.step()
    assert sim.progress.decisions == worse


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.floats(0, 0.5), st.integers(0, 2**32))
def test_any_fleet_comes_to_an_end_and_never_goes_past_a_failed_canary(
    n: int, canary: int, bad: float, seed: int
) -> None:
    chance = random.Random(seed)
    sim = SimulatedFleet(n, SPEC.model_copy(update={"canary": canary, "soak_s": 0}))
    fate = {name: State.ROLLED_BACK if chance.random() < bad else State.COMMITTED for name in sim.views}
    for _ in range(200):
        sim.step()
        if sim.progress.state not in ACTIVE:
            break
        for name in list(sim.views):
            wish = sim.views[name].desired["gate"]
            if name in sim.admitted and chance.random() < 0.5:
                sim.report(name, fate[name] if wish.digest == NEW else State.COMMITTED, wish.digest)
    assert sim.progress.state in (RolloutState.DONE, RolloutState.STOPPED)
    canaries = order(sim.views, "m@2")[:canary]
    if any(fate[c] is State.ROLLED_BACK for c in canaries):
        assert sim.admitted == set(canaries)
        assert sim.progress.state is RolloutState.STOPPED
    if sim.progress.state is RolloutState.STOPPED:
        assert all(v.desired["gate"] in (BEFORE, BACK) for v in sim.views.values())


def test_a_device_without_room_is_asked_again_later_and_later_and_then_counts_as_failed() -> None:
    spec = SPEC.model_copy(update={"retries": 2, "retry_after_s": 100.0, "max_canary_failures": 1})
    sim = SimulatedFleet(3, spec)
    first, other = sorted(a.device for a in sim.step())
    sim.report(other, State.COMMITTED)
    sim.report(first, State.FAILED, error="the disk is full", retryable=True)
    for attempt, wait_s in ((2, 100), (3, 200)):
        assert sim.step() == []
        assert sim.progress.members[first].outcome is DeviceOutcome.RETRYING
        assert sim.step(dt=wait_s - 2) == [], "the wave waits for it"
        [again] = sim.step(dt=3)
        assert (again.device, again.desired and again.desired.attempt) == (first, attempt), (
            "an end that was reported stays one"
        )
        sim.step()
        assert sim.progress.members[first].outcome is DeviceOutcome.ADMITTED, (
            "what it said before is about the attempt before"
        )
        sim.report(first, State.FAILED, error="the disk is full", retryable=True)
    sim.step()
    assert sim.progress.members[first].outcome is DeviceOutcome.FAILED
    assert sim.progress.state is RolloutState.RUNNING


@pytest.mark.parametrize(
    ("state", "retryable"), [(State.FAILED, False), (State.ROLLED_BACK, True), (State.REJECTED, True)]
)
def test_what_speaks_against_the_release_is_not_tried_again(state: State, retryable: bool) -> None:
    sim = SimulatedFleet(2)
    [a, _] = sim.step()
    sim.report(a.device, state, error="it disagrees", retryable=retryable)
    sim.step()
    assert sim.outcome(a.device) is DeviceOutcome.RETURNING
    assert f"({a.device}: {state.value}: it disagrees)" in (sim.progress.reason or "")


def test_who_was_away_when_the_rollout_was_done_is_looked_after_when_it_is_back() -> None:
    sim = SimulatedFleet(4, SPEC.model_copy(update={"soak_s": 0}))
    sim.step()
    away = next(n for n in sim.views if n not in sim.admitted)
    for _ in range(6):
        for name, v in sim.views.items():
            if name in sim.admitted and name != away:
                sim.report(name, State.COMMITTED)
            elif name == away:
                sim.views[name] = replace(v, online=False)
        sim.step(dt=700)
    assert sim.progress.state is RolloutState.DONE
    assert sim.progress.members[away].outcome is DeviceOutcome.AWAY
    assert sim.progress.unfinished
    sim.views[away] = replace(sim.views[away], online=True)
    sim.report(away, State.FAILED, error="no time", retryable=True)
    sim.step()
    assert sim.progress.members[away].outcome is DeviceOutcome.RETRYING
    [again] = sim.step(dt=301)
    assert again.device == away
    sim.report(away, State.COMMITTED)
    sim.step()
    assert sim.progress.members[away].outcome is DeviceOutcome.COMMITTED
    assert not sim.progress.unfinished


def test_a_straggler_whose_slot_another_release_took_is_let_go() -> None:
    sim = SimulatedFleet(2, SPEC.model_copy(update={"canary": 1, "soak_s": 0}))
    [canary] = sim.step()
    sim.report(canary.device, State.COMMITTED)
    away = next(n for n in sim.views if n != canary.device)
    sim.views[away] = replace(sim.views[away], online=False, seen_s=0.0)
    for _ in range(4):
        sim.step(dt=700)
    assert sim.progress.state is RolloutState.DONE
    assert sim.progress.unfinished
    sim.views[away] = replace(sim.views[away], desired={"gate": BEFORE})
    assert sim.step() == []
    assert sim.progress.members[away].outcome is DeviceOutcome.SUPERSEDED
    assert not sim.progress.unfinished


def test_device_that_cannot_go_back_does_not_keep_the_slot_busy_for_ever() -> None:
    """What it had before was withdrawn: it says so, and goes on with what it has."""
    sim = SimulatedFleet(2, SPEC.model_copy(update={"canary": 2}))
    sim.step()
    assert len(sim.abort()) == 2
    for name, v in sim.views.items():
        back = ReportedSlot(state=State.COMMITTED, gen=3, release="m@1", digest=OLD, active=OLD)
        if name == "d1":
            why = Failure(code="trust", detail="signed metadata does not name release m@1")
            back = ReportedSlot(state=State.REJECTED, gen=2, release="m@1", digest=OLD, active=NEW, error=why)
        sim.views[name] = replace(v, gen=3, reported={"gate": back})
    sim.step()
    assert sim.progress.state is RolloutState.ROLLING_BACK, "that was its word on an earlier document"
    sim.views["d1"] = replace(sim.views["d1"], gen=2)
    sim.step()
    over = sim.progress
    assert over.state is RolloutState.ABORTED
    assert over.members["d0"].outcome is DeviceOutcome.RESTORED
    assert over.members["d1"].outcome is DeviceOutcome.STRANDED
    assert over.reason == (
        "aborted by the operator; 1 could not take back what was before (d1: rejected: signed metadata does not name release m@1)"
    )


def commit_all(sim: SimulatedFleet) -> None:
    for name, m in sim.progress.members.items():
        if m.outcome in BUSY:
            sim.report(name, State.COMMITTED)


THREE = SPEC.model_copy(
    update={"canary": 1, "soak_s": 0.0, "waves": (Wave(share=0.5), Wave(share=1.0, approval=True))}
)


def test_wave_that_needs_approval_waits_for_it_and_a_later_one_for_its_own() -> None:
    sim = SimulatedFleet(8, THREE)
    for _ in range(6):
        sim.step()
        commit_all(sim)
    assert sim.progress.wave == 1
    assert "wave 2 waits for approval: `edgectl rollout approve r`" in (sim.progress.note or "")
    assert len(sim.admitted) == 4
    sim.progress = approve(THREE, sim.progress)
    for _ in range(4):
        sim.step()
        commit_all(sim)
    assert sim.progress.state is RolloutState.DONE
    assert sim.admitted == set(sim.views)


def test_approval_is_for_the_next_wave_alone_and_once() -> None:
    sim = SimulatedFleet(8, THREE)
    sim.step()
    with pytest.raises(RolloutError, match="the next wave of rollout r waits for no approval"):
        approve(THREE, sim.progress)
    commit_all(sim)
    sim.step()
    sim.step()
    assert sim.progress.wave == 1
    sim.progress = approve(THREE, sim.progress)
    with pytest.raises(RolloutError, match="wave 2 of rollout r is approved already"):
        approve(THREE, sim.progress)
    for _ in range(8):
        sim.step()
        commit_all(sim)
    assert sim.progress.state is RolloutState.DONE
    with pytest.raises(RolloutError, match="that is done waits for no approval"):
        approve(THREE, sim.progress)


def test_nobody_is_asked_before_the_rollout_is_to_begin_and_waiting_is_not_idling() -> None:
    spec = SPEC.model_copy(update={"start_s": 5000.0, "idle_s": 100.0})
    sim = SimulatedFleet(4, spec)
    assert sim.step(dt=2000) == []
    assert sim.progress.note == "begins at 1970-01-01 01:23 UTC"
    sim.step(dt=1500)
    assert sim.progress.state is RolloutState.RUNNING
    assert sim.progress.began_s is None
    assert len(sim.step(dt=600)) == 2
    assert sim.progress.began_s == sim.now


def test_soak_begins_anew_behind_whoever_joins_while_it_lasts() -> None:
    waves = (Wave(share=0.5, soak_s=100.0), Wave(share=1.0))
    sim = SimulatedFleet(4, SPEC.model_copy(update={"canary": 1, "soak_s": 0.0, "waves": waves}))
    for _ in range(2):
        for name in [a.device for a in sim.step()]:
            sim.report(name, State.COMMITTED)
        sim.step()
    assert (sim.progress.wave, len(sim.admitted)) == (1, 2)
    sim.views["late"] = sim.view("late")
    sim.step(dt=90)
    sim.report("late", State.COMMITTED)
    sim.step()
    sim.step(dt=90)
    assert sim.progress.wave == 1, "it soaks for the newcomer, too"
    sim.step(dt=11)
    assert sim.progress.wave == 2


def test_soak_goes_by_inferences_of_the_release_since_the_wave_ended() -> None:
    spec = SPEC.model_copy(update={"canary": 1, "soak_s": 0.0, "soak_inferences": 500})
    sim = SimulatedFleet(3, spec)
    after = 300
    sim.step()
    commit_all(sim)
    sim.step(GateEvidence(inferences=after))
    after += 300
    sim.step(GateEvidence(inferences=after))
    assert "the canary soaks: 500 inferences of the release" in (sim.progress.note or "")
    assert len(sim.admitted) == 1, "300 since the canary had committed"
    after += 200
    sim.step(GateEvidence(inferences=after))
    sim.step(GateEvidence(inferences=after))
    assert sim.admitted == set(sim.views)


def test_wave_without_its_quorum_waits_and_says_how_many_it_lacks() -> None:
    spec = SPEC.model_copy(
        update={
            "canary": 1,
            "soak_s": 0.0,
            "quorum": 0.75,
            "waves": (Wave(count=4), Wave(share=1.0)),
            "lost_s": 5.0,
        }
    )
    sim = SimulatedFleet(10, spec)
    sim.step()
    commit_all(sim)
    sim.step()
    sim.step()
    away = sorted(n for n, m in sim.progress.members.items() if m.wave == 1)[:2]
    for name in away:
        sim.off(name)
    for _ in range(5):
        sim.step(dt=300)
        for name, m in sim.progress.members.items():
            if m.outcome in BUSY and name not in away:
                sim.report(name, State.COMMITTED)
    assert sim.progress.wave == 1
    assert "wave 1 waits for 1 more to commit it: 75% have to" in (sim.progress.note or "")
    sim.on(away[0])
    sim.step()
    sim.report(away[0], State.COMMITTED)
    sim.step()
    sim.step()
    assert sim.progress.wave == 2


def test_rollout_that_takes_too_long_asks_nobody_else_and_takes_nothing_back() -> None:
    sim = SimulatedFleet(8, THREE.model_copy(update={"total_s": 3600.0}))
    for _ in range(6):
        sim.step()
        commit_all(sim)
    assert sim.step(dt=3600) == []
    assert sim.progress.state is RolloutState.STOPPED
    assert sim.progress.reason == "it was to be over within 1h; devices keep what they have"
    assert not sim.progress.unfinished


@pytest.mark.parametrize("paused", [False, True])
def test_halt_takes_nothing_back_and_who_is_at_work_is_followed_to_its_end(paused: bool) -> None:
    sim = SimulatedFleet(6)
    first, second = sorted(a.device for a in sim.step())
    sim.report(first, State.COMMITTED)
    sim.step()
    if paused:
        sim.progress = pause(sim.progress)
    sim.progress = halt(sim.progress, "stopped by the operator")
    assert sim.progress.state is RolloutState.ABORTED
    assert sim.progress.unfinished
    assert sim.step() == []
    sim.report(second, State.FAILED, error="no space", retryable=True)
    assert sim.step() == []
    assert sim.outcome(second) is DeviceOutcome.FAILED, "it is not asked again"
    assert sim.outcome(first) is DeviceOutcome.COMMITTED
    assert not sim.progress.unfinished
    with pytest.raises(RolloutError, match="that is aborted cannot be stopped"):
        halt(sim.progress, "once more")
    assert {a.device for a in sim.rollback()} == {first, second}, "an operator can still take it back"


def test_release_that_was_cut_short_is_no_way_back() -> None:
    sim = SimulatedFleet(2, SPEC.model_copy(update={"ways_back": {"d0": None}}))
    sim.step()
    assert sim.progress.members["d0"].before is None, "its slot was empty before what was cut short"
    assert sim.progress.members["d1"].before == BEFORE


def test_quorum_is_asked_of_waves_before_another_and_its_lack_takes_nothing_back() -> None:
    spec = SPEC.model_copy(
        update={"canary": 1, "soak_s": 0.0, "quorum": 0.9, "lost_s": 5.0, "idle_s": 3600.0, "rollback": True}
    )
    sim = SimulatedFleet(10, spec)
    for _ in range(3):
        sim.step()
        commit_all(sim)
    for name in sorted(sim.admitted)[:3]:
        if sim.outcome(name) is not DeviceOutcome.COMMITTED:
            sim.off(name)
    for _ in range(4):
        sim.step(dt=700)
        commit_all(sim)
    assert sim.progress.state is RolloutState.DONE, "nothing comes after the last wave"
    early = spec.model_copy(update={"waves": (Wave(count=4), Wave(share=1.0))})
    sim = SimulatedFleet(10, early)
    sim.step()
    commit_all(sim)
    sim.step()
    sim.step()
    for name in [n for n, m in sim.progress.members.items() if m.wave == 1][:2]:
        sim.off(name)
    for _ in range(8):
        sim.step(dt=1000)
        for name, m in sim.progress.members.items():
            if m.outcome in BUSY and sim.views[name].online:
                sim.report(name, State.COMMITTED)
    assert sim.progress.state is RolloutState.STOPPED
    assert (sim.progress.reason or "").endswith("devices keep what they have")
    assert not any(m.outcome is DeviceOutcome.RESTORED for m in sim.progress.members.values())


def test_device_that_was_named_and_comes_late_enters_the_wave_under_way() -> None:
    names = tuple(f"d{i}" for i in range(8))
    spec = SPEC.model_copy(
        update={
            "canary": 1,
            "soak_s": 0.0,
            "devices": (*names, "late"),
            "waves": (Wave(count=3), Wave(share=1.0)),
        }
    )
    sim = SimulatedFleet(8, spec)
    while sim.progress.wave < 2:
        sim.step()
        commit_all(sim)
    sim.views["late"] = sim.view("late")
    sim.step()
    assert "late" in sim.admitted
    assert sim.progress.members["late"].wave == 2


def test_soak_counts_from_the_very_last_commit() -> None:
    spec = SPEC.model_copy(
        update={"canary": 1, "soak_s": 0.0, "waves": (Wave(count=2, soak_s=1000.0), Wave(share=1.0))}
    )
    sim = SimulatedFleet(6, spec)
    while sim.progress.wave < 1:
        sim.step()
        commit_all(sim)
    sim.step()
    commit_all(sim)
    sim.step(dt=900)
    sim.views["late"] = sim.view("late")
    sim.step()
    commit_all(sim)
    sim.step(dt=900)
    sim.step()
    assert sim.progress.wave == 1, "the one that came later soaks, too"
    sim.step(dt=1000)
    sim.step()
    assert sim.progress.wave == 2


def test_restart_of_the_controller_counts_inferences_anew() -> None:
    spec = SPEC.model_copy(update={"canary": 1, "soak_s": 0.0, "soak_inferences": 100})
    sim = SimulatedFleet(3, spec)
    sim.step()
    commit_all(sim)
    sim.step(GateEvidence(inferences=5000))
    sim.step(GateEvidence(inferences=60))
    assert len(sim.admitted) == 1
    sim.step(GateEvidence(inferences=101))
    sim.step(GateEvidence(inferences=101))
    assert sim.admitted == set(sim.views)


def test_release_that_makes_no_inferences_does_not_hold_its_slot_for_ever() -> None:
    spec = SPEC.model_copy(update={"canary": 1, "soak_s": 10.0, "soak_inferences": 100, "idle_s": 3600.0})
    sim = SimulatedFleet(3, spec)
    sim.step()
    commit_all(sim)
    sim.step()
    sim.step(dt=3700)
    assert sim.progress.state is RolloutState.STOPPED
    assert sim.progress.reason == (
        "the release made too few inferences within 1h after the canary; devices keep what they have"
    )


def test_paused_rollout_is_not_ended_by_its_deadline() -> None:
    sim = SimulatedFleet(8, SPEC.model_copy(update={"total_s": 100.0}))
    sim.step()
    sim.progress = pause(sim.progress)
    sim.step(dt=1000)
    assert sim.progress.state is RolloutState.PAUSED


def test_halt_gives_up_who_waits_for_another_try() -> None:
    sim = SimulatedFleet(4)
    first, second = sorted(a.device for a in sim.step())
    sim.report(first, State.FAILED, error="no space", retryable=True)
    sim.step()
    assert sim.outcome(first) is DeviceOutcome.RETRYING
    sim.progress = halt(sim.progress, "stopped by the operator")
    assert sim.outcome(first) is DeviceOutcome.FAILED
    assert sim.outcome(second) is DeviceOutcome.ADMITTED
