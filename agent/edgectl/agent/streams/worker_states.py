"""The life of a stream and its worker, as a table: what happens in a state leads to the next one. Nothing here
does IO.

``python -m edgectl.agent.streams.worker_states`` prints the page ``docs/worker-states.md``.

What a state holds besides its name (the time without progress, the back-off, the engines of the parts) are
values: :mod:`edgectl.agent.streams.worker_life`. The thread that executes the table is
:mod:`edgectl.agent.streams.supervised_stream`; each stream has its own, also where several share a worker process
(:mod:`edgectl.agent.streams.worker_process`).
"""

from __future__ import annotations

import sys
from enum import Enum

from edgectl.core.errors import EdgectlError
from edgectl.core.state_diagram import state_diagram

__all__ = [
    "ACTION",
    "IN_WORKER",
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
    """It is in no worker: a slot has no engine yet."""
    LAUNCHING = "launching"
    """Every part has an engine, and the stream is in no worker yet."""
    LOADING = "loading"
    """The worker opens its source and engines."""
    RUNNING = "running"
    ENDING = "ending"
    """It failed, or its worker did. It is stopped; a back-off follows."""
    REPLACING = "replacing"
    """It is stopped to be started again, without a back-off."""
    CLOSING = "closing"
    """It is stopped for good."""
    BACKING_OFF = "backing_off"
    """It is in no worker until the back-off is over."""
    CLOSED = "closed"


class WorkerEvent(str, Enum):
    NO_ENGINES = "no_engines"
    """A slot is empty, or the journal cannot say what is in it."""
    ENGINES = "engines"
    """Every part has an engine."""
    LAUNCHED = "launched"
    """The worker, whose process is started if there is none, was sent `start`."""
    NOT_LAUNCHED = "not_launched"
    """The machine has no memory or no process left."""
    READY = "ready"
    """The worker says that its engines ran once."""
    NO_PROGRESS = "no_progress"
    """It was not ready in time, or no frame was processed for too long."""
    ENDED = "ended"
    """The worker says that the stream is over, or it exited or crashed."""
    VIOLATION = "violation"
    """The worker broke the protocol, or runs another engine than it was told to."""
    EXITED = "exited"
    """The stream is out of the worker: that said so, or its process is gone and was waited for."""
    BACK_OFF_OVER = "back_off_over"
    """Its time has passed, or somebody wants another engine."""
    RESTART = "restart"
    """The agent wants it started again with the engines that are on record now, or its worker is replaced."""
    CLOSE = "close"
    """The agent ends."""


_S, _E = WorkerState, WorkerEvent

WORKER_TABLE: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (_S.WAITING, _E.NO_ENGINES): _S.WAITING,
    (_S.WAITING, _E.ENGINES): _S.LAUNCHING,
    (_S.WAITING, _E.RESTART): _S.WAITING,
    (_S.WAITING, _E.CLOSE): _S.CLOSED,
    # The start is counted on disk before the worker hears of it.
    (_S.LAUNCHING, _E.LAUNCHED): _S.LOADING,
    (_S.LAUNCHING, _E.NOT_LAUNCHED): _S.BACKING_OFF,
    # What was read of the slots may be old by now.
    (_S.LAUNCHING, _E.RESTART): _S.WAITING,
    (_S.LAUNCHING, _E.CLOSE): _S.CLOSED,
    (_S.LOADING, _E.READY): _S.RUNNING,
    **{
        (state, failure): _S.ENDING
        for state in (_S.LOADING, _S.RUNNING)
        for failure in (_E.NO_PROGRESS, _E.ENDED, _E.VIOLATION)
    },
    # From here on every way to a new start leads through EXITED: a stream never runs twice.
    **{(state, _E.RESTART): _S.REPLACING for state in (_S.LOADING, _S.RUNNING, _S.ENDING, _S.REPLACING)},
    **{(state, _E.CLOSE): _S.CLOSING for state in (_S.LOADING, _S.RUNNING, _S.ENDING, _S.REPLACING)},
    (_S.ENDING, _E.EXITED): _S.BACKING_OFF,
    (_S.REPLACING, _E.EXITED): _S.WAITING,
    (_S.CLOSING, _E.EXITED): _S.CLOSED,
    (_S.BACKING_OFF, _E.BACK_OFF_OVER): _S.WAITING,
    (_S.BACKING_OFF, _E.RESTART): _S.WAITING,
    (_S.BACKING_OFF, _E.CLOSE): _S.CLOSED,
}

IN_WORKER = frozenset({_S.LOADING, _S.RUNNING, _S.ENDING, _S.REPLACING, _S.CLOSING})

ACTION: dict[WorkerState, str] = {
    _S.WAITING: "look for the engines of all slots, every second",
    _S.LAUNCHING: "count the start on disk, start the worker if there is none, send it `start`",
    _S.LOADING: "read what is said of it, watch the clock",
    _S.RUNNING: "read what is said of it, watch its progress",
    _S.ENDING: "send `stop`, wait for `ended`; a worker that does not answer is killed",
    _S.REPLACING: "the same",
    _S.CLOSING: "the same",
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
            f"{event.value} cannot happen to a stream that is {state.value}"
        ) from None


def worker_page() -> str:
    """The text of ``docs/worker-states.md``."""
    rows = [
        f"| `{s.value}` | {'yes' if s in IN_WORKER else ''} | {ACTION[s]} | `{SHOWN[s]}` |"
        for s in WorkerState
    ]
    return "\n".join(
        [
            "# The states of a stream and its worker",
            "",
            "Generated from `edgectl.agent.streams.worker_states` by",
            "`python -m edgectl.agent.streams.worker_states > docs/worker-states.md`; a test keeps it current.",
            "",
            "Streams that use the same slots share a worker, and each goes through this table for itself. The process",
            "starts with the first stream that enters it and ends with the last one that leaves it.",
            "",
            "```mermaid",
            state_diagram(WORKER_TABLE, WorkerState.WAITING, WorkerState.CLOSED),
            "```",
            "",
            "| state | in a worker | what the agent does | telemetry says |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(worker_page())
