"""The table of a worker's life."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.agent.streams.worker_states import (
    ACTION,
    IN_WORKER,
    SHOWN,
    WORKER_TABLE,
    ImpossibleWorkerEvent,
    WorkerEvent,
    WorkerState,
    next_state,
    worker_page,
)

ROOT = Path(__file__).resolve().parents[3]


def test_page_in_docs_is_current() -> None:
    written = (ROOT / "docs" / "worker-states.md").read_text()
    assert written == worker_page(), (
        "run: python -m edgectl.agent.streams.worker_states > docs/worker-states.md"
    )


def test_a_stream_comes_into_a_worker_with_its_launch_and_goes_with_its_exit_and_in_no_other_way() -> None:
    comes = {(s, e) for (s, e), to in WORKER_TABLE.items() if s not in IN_WORKER and to in IN_WORKER}
    assert comes == {(WorkerState.LAUNCHING, WorkerEvent.LAUNCHED)}
    goes = {(s, e) for (s, e), to in WORKER_TABLE.items() if s in IN_WORKER and to not in IN_WORKER}
    ending = (WorkerState.ENDING, WorkerState.REPLACING, WorkerState.CLOSING)
    assert goes == {(s, WorkerEvent.EXITED) for s in ending}


def test_error_kill_and_hang_end_a_stream_that_loads_or_runs() -> None:
    for state in (WorkerState.LOADING, WorkerState.RUNNING):
        for event in (WorkerEvent.VIOLATION, WorkerEvent.ENDED, WorkerEvent.NO_PROGRESS):
            assert WORKER_TABLE[state, event] is WorkerState.ENDING


def test_every_state_but_the_last_lets_the_agent_close_and_ask_for_a_restart() -> None:
    for state in WorkerState:
        if state not in (WorkerState.CLOSED, WorkerState.CLOSING):
            assert WORKER_TABLE[state, WorkerEvent.CLOSE] in (WorkerState.CLOSED, WorkerState.CLOSING)
            assert WORKER_TABLE[state, WorkerEvent.RESTART] in (WorkerState.WAITING, WorkerState.REPLACING)
    assert not [s for s, _ in WORKER_TABLE if s is WorkerState.CLOSED]


def test_every_state_is_reached_has_an_action_and_a_word_for_telemetry() -> None:
    assert {WorkerState.WAITING, *WORKER_TABLE.values()} == set(WorkerState)
    assert set(ACTION) == set(SHOWN) == set(WorkerState)


def test_an_event_that_cannot_happen_is_a_named_defect() -> None:
    with pytest.raises(ImpossibleWorkerEvent, match="launched cannot happen to a stream that is running"):
        next_state(WorkerState.RUNNING, WorkerEvent.LAUNCHED)
