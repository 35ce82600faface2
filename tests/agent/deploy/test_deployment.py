"""The deployment table: walked at random, it never leaves itself and always comes to an end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgectl.agent.deploy.deployment import (
    BEFORE_ACTIVATION,
    DEADLINE_S,
    RESUME,
    TABLE,
    TRIES,
    WORKING,
    DeploymentEvent,
    IllegalTransition,
    page,
    resume,
    step,
)
from edgectl.core.states import TERMINAL, State

ROOT = Path(__file__).resolve().parents[3]


def test_page_in_docs_is_current() -> None:
    written = (ROOT / "docs" / "deployment-states.md").read_text()
    assert written == page(), "run: python -m edgectl.agent.deploy.deployment > docs/deployment-states.md"


def test_every_state_with_an_action_has_a_deadline_and_a_way_out_on_it() -> None:
    for state in State:
        if state in TERMINAL or state is State.IDLE:
            assert state not in WORKING
        else:
            assert DEADLINE_S[state] > 0
            assert (state, DeploymentEvent.TIMEOUT) in TABLE


def test_before_activation_a_deployment_is_dropped_and_afterwards_it_is_taken_back() -> None:
    for event in (DeploymentEvent.SUPERSEDED, DeploymentEvent.CANCELED):
        assert {TABLE[s, event] for s in BEFORE_ACTIVATION} == {State.CANCELED}
        assert {TABLE[s, event] for s in (State.ACTIVATING, State.PROBATION)} == {State.ROLLING_BACK}
    assert {TABLE[s, DeploymentEvent.EXPIRED] for s in BEFORE_ACTIVATION} == {State.EXPIRED}
    assert {s for s in State if s in WORKING} == {
        *BEFORE_ACTIVATION,
        State.ACTIVATING,
        State.PROBATION,
        State.ROLLING_BACK,
    }


def test_success_comes_from_probation_only() -> None:
    ways = {
        (s, e) for (s, e), to in TABLE.items() if to is State.COMMITTED and e is not DeploymentEvent.ALREADY
    }
    assert ways == {(State.PROBATION, DeploymentEvent.HEALTHY)}


def test_what_is_not_in_the_resume_table_rolls_back() -> None:
    assert State.ROLLING_BACK not in RESUME
    assert resume(State.ROLLING_BACK) is State.ROLLING_BACK
    assert all(resume(t) is t for t in TERMINAL)


def test_an_event_that_cannot_happen_is_a_named_defect() -> None:
    with pytest.raises(IllegalTransition, match="healthy cannot happen to a deployment that is fetching"):
        step(State.FETCHING, DeploymentEvent.HEALTHY)


class Walk(RuleBasedStateMachine):
    """Any legal events, power cuts anywhere, tries counted as the shell counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.IDLE
        self.tries: dict[State, int] = {}
        self.activated = False

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        possible = sorted(e for s, e in TABLE if s is self.state)
        event = data.draw(st.sampled_from(possible))
        before = self.state
        self.state = step(self.state, event)
        self.tries.pop(before, None)
        if self.state is State.NOTIFIED:
            self.tries, self.activated = {}, False
        self.activated = self.activated or self.state is State.ACTIVATING

    @rule()
    def power_is_cut(self) -> None:
        self.state = resume(self.state)
        if self.state in TRIES:
            self.tries[self.state] = self.tries.get(self.state, 0) + 1
            if self.tries[self.state] >= TRIES[self.state]:
                self.state = step(self.state, DeploymentEvent.TIMEOUT)

    @invariant()
    def the_old_engine_is_replaced_only_after_activation(self) -> None:
        if self.state in (State.PROBATION, State.ROLLING_BACK, State.ROLLED_BACK):
            assert self.activated

    @invariant()
    def an_end_is_within_reach_on_deadlines_alone(self) -> None:
        state = self.state
        for _ in range(len(State)):
            if state in TERMINAL or state is State.IDLE:
                return
            state = step(state, DeploymentEvent.TIMEOUT)
        raise AssertionError(f"{self.state} does not end")


Walk.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWalk = Walk.TestCase
