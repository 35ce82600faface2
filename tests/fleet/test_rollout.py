"""The planner, driven step by step and by a simulated fleet."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.errors import RolloutError
from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import DesiredSlot, Failure, ReportedSlot
from edgectl.fleet.rollout import (
    ACTIVE,
    DeviceView,
    Evidence,
    Outcome,
    Progress,
    RolloutSpec,
    RolloutState,
    SetSlot,
    order,
    pause,
    plan,
    resume,
    stop,
)

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
BEFORE = DesiredSlot(release="m@1", digest=OLD)
SPEC = RolloutSpec(id="r", release="m@2", digest=NEW, slot="gate", canary=2, soak_s=10, deadline_s=1000)


class Sim:
    """Devices that do what they are told, or what ``fate`` says."""

    def __init__(self, n: int, spec: RolloutSpec = SPEC) -> None:
        self.spec = spec
        self.now = 1000.0
        self.progress = Progress()
        self.views = {f"d{i}": self.view(f"d{i}") for i in range(n)}
        self.log: list[SetSlot] = []

    def view(self, name: str) -> DeviceView:
        reported = ReportedSlot(state=State.COMMITTED, gen=1, release="m@1", digest=OLD, active=OLD)
        return DeviceView(name, True, self.now, frozenset({"gate"}), {"site": "a"}, {"gate": BEFORE}, {"gate": reported}, gen=1)

    def step(self, evidence: Evidence | None = None, dt: float = 1.0) -> list[SetSlot]:
        self.now += dt
        self.progress, actions = plan(self.spec, self.progress, self.views, self.now, evidence)
        for a in actions:
            v = self.views[a.device]
            desired = {} if a.desired is None else {"gate": a.desired}
            self.views[a.device] = replace(v, desired=desired, gen=v.gen + 1)
        self.log += actions
        return actions

    def report(self, name: str, state: State, digest: str = NEW, error: str | None = None, *, retryable: bool = False) -> None:
        v = self.views[name]
        wish = v.desired["gate"]
        active = digest if state in (State.COMMITTED, State.PROBATION) else OLD
        failure = Failure(code="health", detail=error, retryable=retryable) if error else None
        r = ReportedSlot(state=state, gen=v.gen, release=wish.release, digest=wish.digest, active=active, error=failure)
        self.views[name] = replace(v, reported={"gate": r}, seen_s=self.now)

    @property
    def admitted(self) -> set[str]:
        return {n for n, m in self.progress.members.items() if m.admitted_s is not None}


def test_canary_first_then_soak_then_the_rest_then_done() -> None:
    sim = Sim(6)
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
    sim = Sim(6)
    a, b = (x.device for x in sim.step())
    sim.report(a, State.COMMITTED)
    sim.report(b, State.ROLLED_BACK, error="too slow")
    actions = sim.step()
    assert sim.progress.state is RolloutState.ROLLING_BACK
    assert f"{b}: rolled_back: too slow" in (sim.progress.reason or "")
    assert {(x.device, x.desired) for x in actions} == {(a, BEFORE), (b, BEFORE)}
    sim.step()
    assert sim.progress.state is RolloutState.ROLLING_BACK, "they are not back yet"
    for name in (a, b):
        sim.report(name, State.COMMITTED, OLD)
    sim.step()
    assert sim.progress.state is RolloutState.STOPPED
    assert {m.outcome for m in sim.progress.members.values() if m.admitted_s} == {Outcome.RESTORED}
    assert len(sim.admitted) == 2


def test_report_of_the_release_before_is_not_taken_for_success() -> None:
    sim = Sim(1, SPEC.model_copy(update={"canary": 1}))
    sim.step()
    sim.step()
    assert sim.progress.members["d0"].outcome is Outcome.ADMITTED, "COMMITTED speaks of the old digest"


def test_device_that_goes_dark_after_activation_is_a_failure() -> None:
    sim = Sim(2)
    a, b = (x.device for x in sim.step())
    sim.report(a, State.COMMITTED)
    sim.report(b, State.ACTIVATING)
    sim.views[b] = replace(sim.views[b], online=False)
    sim.step(dt=SPEC.lost_s - 1)
    assert sim.progress.state is RolloutState.RUNNING
    sim.step(dt=2)
    assert "lost after activation" in (sim.progress.reason or "")


def test_device_that_is_offline_is_not_waited_for_and_judged_when_it_returns() -> None:
    sim = Sim(2)
    a, b = (x.device for x in sim.step())
    sim.views[b] = replace(sim.views[b], online=False)
    sim.report(a, State.COMMITTED)
    sim.step(dt=SPEC.away_s + 1)
    assert sim.progress.members[b].outcome is Outcome.AWAY
    sim.step()
    assert sim.progress.state is RolloutState.DONE


def test_rollout_whose_canaries_are_all_away_does_not_go_on() -> None:
    sim = Sim(4)
    for x in sim.step():
        sim.views[x.device] = replace(sim.views[x.device], online=False)
    for _ in range(5):
        sim.step(dt=SPEC.away_s)
    assert len(sim.admitted) == 2
    assert sim.progress.state is RolloutState.RUNNING


def test_deadline_fails_a_device_that_hangs() -> None:
    sim = Sim(2)
    for x in sim.step():
        sim.report(x.device, State.FETCHING)
    sim.step(dt=SPEC.deadline_s + 1)
    assert "not committed within" in (sim.progress.reason or "")


def test_pause_admits_nobody_and_resume_goes_on() -> None:
    sim = Sim(5)
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


def test_abort_restores_in_reverse_order_and_a_first_release_has_nothing_to_go_back_to() -> None:
    sim = Sim(3, SPEC.model_copy(update={"canary": 3}))
    sim.views["d1"] = replace(sim.views["d1"], desired={}, reported={})
    sim.step()
    sim.progress, actions = stop(sim.spec, sim.progress, "aborted")
    assert {a.device: a.desired for a in actions} == {"d0": BEFORE, "d1": None, "d2": BEFORE}
    with pytest.raises(RolloutError):
        stop(sim.spec, sim.progress, "again")


def test_late_joiner_enters_the_wave_that_runs() -> None:
    sim = Sim(3)
    for x in sim.step():
        sim.report(x.device, State.COMMITTED)
    sim.step()
    sim.step(dt=11)
    sim.step()
    sim.views["late"] = sim.view("late")
    sim.step()
    assert "late" in sim.admitted


def test_only_matching_devices_are_touched() -> None:
    sim = Sim(4, SPEC.model_copy(update={"labels": {"site": "a"}, "devices": ("d0", "d1", "d2"), "canary": 9}))
    sim.views["d1"] = replace(sim.views["d1"], labels={"site": "b"})
    sim.views["d2"] = replace(sim.views["d2"], slots=frozenset({"other"}))
    assert {a.device for a in sim.step()} == {"d0"}


def latency(ms: float) -> Histogram:
    h = Histogram()
    for _ in range(300):
        h.record(ms * 1000)
    return h


def test_latency_over_the_fleet_is_a_gate() -> None:
    sim = Sim(4)
    sim.step()
    sim.step(Evidence(latency(5), latency(7)))
    assert sim.progress.state is RolloutState.RUNNING
    sim.step(Evidence(latency(5), latency(9)))
    assert "p95 latency rose from" in (sim.progress.reason or "")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.floats(0, 0.5), st.integers(0, 2**32))
def test_any_fleet_comes_to_an_end_and_never_goes_past_a_failed_canary(n: int, canary: int, bad: float, seed: int) -> None:
    chance = random.Random(seed)
    sim = Sim(n, SPEC.model_copy(update={"canary": canary, "soak_s": 0}))
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
        assert all(v.desired["gate"] == BEFORE for v in sim.views.values())


def test_a_device_without_room_is_asked_again_later_and_later_and_then_counts_as_failed() -> None:
    spec = SPEC.model_copy(update={"retries": 2, "retry_after_s": 100.0, "max_canary_failures": 1})
    sim = Sim(3, spec)
    first, other = sorted(a.device for a in sim.step())
    sim.report(other, State.COMMITTED)
    sim.report(first, State.FAILED, error="the disk is full", retryable=True)
    for attempt, wait_s in ((2, 100), (3, 200)):
        assert sim.step() == []
        assert sim.progress.members[first].outcome is Outcome.RETRYING
        assert sim.step(dt=wait_s - 2) == [], "the wave waits for it"
        [again] = sim.step(dt=3)
        assert (again.device, again.desired and again.desired.attempt) == (first, attempt), "an end that was reported stays one"
        sim.step()
        assert sim.progress.members[first].outcome is Outcome.ADMITTED, "what it said before is about the attempt before"
        sim.report(first, State.FAILED, error="the disk is full", retryable=True)
    sim.step()
    assert sim.progress.members[first].outcome is Outcome.FAILED
    assert sim.progress.state is RolloutState.RUNNING


@pytest.mark.parametrize(("state", "retryable"), [(State.FAILED, False), (State.ROLLED_BACK, True), (State.REJECTED, True)])
def test_what_speaks_against_the_release_is_not_tried_again(state: State, retryable: bool) -> None:
    sim = Sim(2)
    [a, _] = sim.step()
    sim.report(a.device, state, error="it disagrees", retryable=retryable)
    sim.step()
    assert sim.progress.members[a.device].outcome is Outcome.FAILED


def test_who_was_away_when_the_rollout_was_done_is_looked_after_when_it_is_back() -> None:
    sim = Sim(4, SPEC.model_copy(update={"soak_s": 0}))
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
    assert sim.progress.members[away].outcome is Outcome.AWAY
    assert sim.progress.unfinished
    sim.views[away] = replace(sim.views[away], online=True)
    sim.report(away, State.FAILED, error="no time", retryable=True)
    sim.step()
    assert sim.progress.members[away].outcome is Outcome.RETRYING
    [again] = sim.step(dt=301)
    assert again.device == away
    sim.report(away, State.COMMITTED)
    sim.step()
    assert sim.progress.members[away].outcome is Outcome.COMMITTED
    assert not sim.progress.unfinished


def test_a_straggler_whose_slot_another_release_took_is_let_go() -> None:
    sim = Sim(2, SPEC.model_copy(update={"canary": 1, "soak_s": 0}))
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
    assert sim.progress.members[away].outcome is Outcome.SUPERSEDED
    assert not sim.progress.unfinished


def test_device_that_cannot_go_back_does_not_keep_the_slot_busy_for_ever() -> None:
    """What it had before was withdrawn: it says so, and goes on with what it has."""
    sim = Sim(2, SPEC.model_copy(update={"canary": 2}))
    sim.step()
    stopped, actions = stop(SPEC, sim.progress, "aborted by the operator")
    assert len(actions) == 2
    for name, v in sim.views.items():
        back = ReportedSlot(state=State.COMMITTED, gen=3, release="m@1", digest=OLD, active=OLD)
        if name == "d1":
            why = Failure(code="trust", detail="signed metadata does not name release m@1")
            back = ReportedSlot(state=State.REJECTED, gen=2, release="m@1", digest=OLD, active=NEW, error=why)
        sim.views[name] = replace(v, gen=3, reported={"gate": back})
    going, _ = plan(SPEC, stopped, sim.views, sim.now)
    assert going.state is RolloutState.ROLLING_BACK, "that was its word on an earlier document"
    sim.views["d1"] = replace(sim.views["d1"], gen=2)
    over, _ = plan(SPEC, going, sim.views, sim.now)
    assert over.state is RolloutState.STOPPED
    assert over.members["d0"].outcome is Outcome.RESTORED
    assert over.members["d1"].outcome is Outcome.STRANDED
    assert over.reason == (
        "aborted by the operator; 1 could not take back what was before (d1: rejected: signed metadata does not name release m@1)"
    )
