"""The life of a worker process, as a table: what happens in a state leads to the next one. Nothing here does IO.

``python -m edgectl.agent.streams.worker_states`` prints the page ``docs/worker-states.md``.

What a state holds besides its name (the time without progress, the back-off, the engines of the parts) are
values: :mod:`edgectl.agent.streams.worker_life`. The thread that executes the table is
:mod:`edgectl.agent.streams.worker_process`.
"""

from __future__ import annotations

import sys
from enum import Enum

from edgectl.core.errors import EdgectlError
from edgectl.core.state_diagram import state_diagram

__all__ = [
    "ACTION",
    "HAS_PROCESS",
    "SHOWN",
    "WORKER_TABLE",
    "ImpossibleWorkerEvent",
    "WorkerEvent",
    "WorkerState",
    "next_state",
    "worker_page",
]


class WorkerState(str, Enum):
    WAITING = "waiting"
    """There is no process: a slot has no engine yet."""
    LAUNCHING = "launching"
    """Every part has an engine, and there is no process yet."""
    LOADING = "loading"
    """The process opens its source and engines."""
    RUNNING = "running"
    ENDING = "ending"
    """The process failed. It is asked to go, then killed; a back-off follows."""
    REPLACING = "replacing"
    """The process is to make room for a new one, without a back-off."""
    CLOSING = "closing"
    """The process is to stop for good."""
    BACKING_OFF = "backing_off"
    """There is no process until the back-off is over."""
    CLOSED = "closed"


class WorkerEvent(str, Enum):
    NO_ENGINES = "no_engines"
    """A slot is empty, or the journal cannot say what is in it."""
    ENGINES = "engines"
    """Every part has an engine."""
    LAUNCHED = "launched"
    NOT_LAUNCHED = "not_launched"
    """The machine has no memory or no process left."""
    READY = "ready"
    """The worker says that its engines ran once."""
    NO_PROGRESS = "no_progress"
    """It was not ready in time, or no frame was processed for too long."""
    OUTPUT_CLOSED = "output_closed"
    """It exited or crashed."""
    VIOLATION = "violation"
    """It broke the protocol, or runs another engine than it was told to."""
    EXITED = "exited"
    """The process is gone and was waited for."""
    BACK_OFF_OVER = "back_off_over"
    """Its time has passed, or somebody wants another engine."""
    RESTART = "restart"
    """The agent wants a new process with the engines that are on record now."""
    CLOSE = "close"
    """The agent ends."""


_S, _E = WorkerState, WorkerEvent

WORKER_TABLE: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (_S.WAITING, _E.NO_ENGINES): _S.WAITING,
    (_S.WAITING, _E.ENGINES): _S.LAUNCHING,
    (_S.WAITING, _E.RESTART): _S.WAITING,
    (_S.WAITING, _E.CLOSE): _S.CLOSED,
    # The start is counted on disk before the process exists.
    (_S.LAUNCHING, _E.LAUNCHED): _S.LOADING,
    (_S.LAUNCHING, _E.NOT_LAUNCHED): _S.BACKING_OFF,
    # What was read of the slots may be old by now.
    (_S.LAUNCHING, _E.RESTART): _S.WAITING,
    (_S.LAUNCHING, _E.CLOSE): _S.CLOSED,
    (_S.LOADING, _E.READY): _S.RUNNING,
    **{
        (state, failure): _S.ENDING
        for state in (_S.LOADING, _S.RUNNING)
        for failure in (_E.NO_PROGRESS, _E.OUTPUT_CLOSED, _E.VIOLATION)
    },
    # From here on every way to a new process leads through EXITED: there are never two.
    **{(state, _E.RESTART): _S.REPLACING for state in (_S.LOADING, _S.RUNNING, _S.ENDING, _S.REPLACING)},
    **{(state, _E.CLOSE): _S.CLOSING for state in (_S.LOADING, _S.RUNNING, _S.ENDING, _S.REPLACING)},
    (_S.ENDING, _E.EXITED): _S.BACKING_OFF,
    (_S.REPLACING, _E.EXITED): _S.WAITING,
    (_S.CLOSING, _E.EXITED): _S.CLOSED,
    (_S.BACKING_OFF, _E.BACK_OFF_OVER): _S.WAITING,
    (_S.BACKING_OFF, _E.RESTART): _S.WAITING,
    (_S.BACKING_OFF, _E.CLOSE): _S.CLOSED,
}

HAS_PROCESS = frozenset({_S.LOADING, _S.RUNNING, _S.ENDING, _S.REPLACING, _S.CLOSING})

ACTION: dict[WorkerState, str] = {
    _S.WAITING: "look for the engines of all slots, every second",
    _S.LAUNCHING: "count the start on disk, start a process, send it `start`",
    _S.LOADING: "read its messages, watch the clock",
    _S.RUNNING: "read its messages, watch its progress",
    _S.ENDING: "close its input, wait a second, kill it",
    _S.REPLACING: "send `stop`, wait, kill it",
    _S.CLOSING: "send `stop`, wait, kill it",
    _S.BACKING_OFF: "wait",
    _S.CLOSED: "–",
}
"""What the thread does in a state, for people."""

SHOWN: dict[WorkerState, str] = {
    _S.WAITING: "waiting",
    _S.LAUNCHING: "starting",
    _S.LOADING: "starting",
    _S.RUNNING: "running",
    _S.ENDING: "restarting",
    _S.REPLACING: "restarting",
    _S.CLOSING: "stopping",
    _S.BACKING_OFF: "restarting",
    _S.CLOSED: "stopped",
}
"""How telemetry names a stream that is in this state."""


class ImpossibleWorkerEvent(EdgectlError):
    """An event that the table does not know in this state: a defect of ours, or a worker that breaks the
    protocol."""


def next_state(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """Raises :class:`ImpossibleWorkerEvent`."""
    try:
        return WORKER_TABLE[state, event]
    except KeyError:
        raise ImpossibleWorkerEvent(
            f"{event.value} cannot happen to a worker that is {state.value}"
        ) from None


def worker_page() -> str:
    """The text of ``docs/worker-states.md``."""
    rows = [
        f"| `{s.value}` | {'yes' if s in HAS_PROCESS else ''} | {ACTION[s]} | `{SHOWN[s]}` |"
        for s in WorkerState
    ]
    return "\n".join(
        [
            "# The states of a worker process",
            "",
            "Generated from `edgectl.agent.streams.worker_states` by",
            "`python -m edgectl.agent.streams.worker_states > docs/worker-states.md`; a test keeps it current.",
            "",
            "```mermaid",
            state_diagram(WORKER_TABLE, WorkerState.WAITING, WorkerState.CLOSED),
            "```",
            "",
            "| state | process | what the agent does | telemetry says |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(worker_page())
