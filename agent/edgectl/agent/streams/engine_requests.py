"""Requests to the worker of a stream: take another engine, or compare one. Each waits for the answer.

Called by the threads of the slots; each holds the worker's ``changed`` while it looks, and waits on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from edgectl.agent.streams.worker_life import blames_engine
from edgectl.agent.streams.worker_pipe import WorkerPipe
from edgectl.agent.streams.worker_process import WorkerProcess
from edgectl.agent.streams.worker_states import WorkerState
from edgectl.core.errors import EngineError
from edgectl.core.wire import Failure, ShadowGate
from edgectl.pipelines.host.protocol import Commit, EngineRef, Shadowed, ShadowFailed, ShadowMessage

__all__ = ["Interrupted", "commit_engine", "compare_engine", "reopen_engine", "take_engine"]

_LOOK_S = 0.2
"""Between two looks at the deadline."""


class Interrupted(EngineError):
    """A stream could not go on with an engine for a reason that the engine is not to blame for: its camera
    is gone, the disk is full."""


def take_engine(
    worker: WorkerProcess, part: str, ref: EngineRef, deadline: float, cancelled: Callable[[], bool]
) -> None:
    """Wait until the worker runs ``ref`` for ``part``: it swaps, goes back, or starts with it. Raises
    :class:`EngineError`."""
    asked: WorkerPipe | None = None
    with worker.changed:
        _refusal(worker, part)
        worker.life = replace(worker.life, fault=None)
        is_hurried = False
        while (life := worker.life).parts.serving.get(part) != ref:
            is_running = life.state is WorkerState.RUNNING
            if is_running and asked is not worker.pipe and part not in life.parts.asked:
                asked = worker.pipe
                parts, message = life.parts.switch(part, ref)
                worker.life = replace(life, parts=parts)
                worker.send(message)
                continue
            if life.state is WorkerState.BACKING_OFF and not is_hurried:
                # after a crash of the engine before, mostly: once, or a worker would crash without a pause
                is_hurried = True
                worker.life = replace(life, retry_s=0.0)
                worker.changed.notify_all()
            failure = _refusal(worker, part)
            if life.fault is not None and blames_engine(life.fault) and life.launched.get(part) == ref:
                failure = failure or life.fault
            if failure is not None:
                raise EngineError(
                    f"{worker.stream} did not take the engine: {failure.detail or failure.code}"
                )
            if cancelled() or time.monotonic() > deadline:
                why = life.fault.detail if life.fault else life.last_end or worker.state[0]
                raise EngineError(f"{worker.stream} did not take the engine in time: {why}")
            worker.changed.wait(_LOOK_S)


def reopen_engine(worker: WorkerProcess, part: str, ref: EngineRef, deadline: float) -> None:
    """Have a worker that runs ``ref`` open it anew, because its file became a better one. Does nothing if it
    does not run it. Raises :class:`EngineError`; what ran goes on."""
    with worker.changed:
        parts = worker.life.parts
        if parts.serving.get(part) != ref or part in parts.asked:
            return  # it starts, or is about to run something else
        parts, swap = parts.swap(part, ref)
        worker.life = replace(worker.life, parts=parts)
        worker.send(swap)
        while part in worker.life.parts.asked and time.monotonic() < deadline:
            worker.changed.wait(_LOOK_S)
        if (failure := _refusal(worker, part)) is not None:
            why = failure.detail or failure.code
        elif part in worker.life.parts.asked:
            why = "no answer in time"
        elif part not in worker.life.parts.serving:
            why = "it ended"
        else:
            why = ""
        if why:
            raise EngineError(f"{worker.stream} did not open the better engine: {why}")
    commit_engine(worker, part)


def commit_engine(worker: WorkerProcess, part: str) -> None:
    """The engine before may be unloaded; to go back to it is a switch like any other from then on."""
    # forgotten first: a worker that has unloaded it has nothing to revert to
    with worker.changed:
        worker.life = replace(worker.life, parts=worker.life.parts.committed(part))
    worker.send(Commit(part=part))


def compare_engine(
    worker: WorkerProcess,
    part: str,
    ref: EngineRef,
    gate: ShadowGate,
    deadline: float,
    cancelled: Callable[[], bool],
) -> Shadowed:
    """Have the worker run ``ref`` beside the engine that serves. Raises :class:`EngineError` if it cannot or
    ends, :class:`Interrupted` if that is nothing that an engine does."""
    with worker.changed:
        while part not in worker.life.parts.serving:
            _wait(worker, deadline, cancelled, "has no engine to compare with")
        answers, pipe = worker.shadow_answers, worker.pipe
        answers.pop(part, None)
        worker.send(ShadowMessage(part=part, engine=ref, percent=gate.percent, frames=gate.frames))
        while (answer := answers.pop(part, None)) is None or answer.manifest != ref.manifest:
            if worker.pipe is not pipe:
                raise _ended(worker, "ended while it ran the new engine beside the old one")
            _wait(worker, deadline, cancelled, f"has not seen {gate.frames} frames with both engines")
    if isinstance(answer, ShadowFailed):
        why = answer.error.detail or answer.error.code
        raise EngineError(f"{worker.stream} could not compare the engines: {why}")
    return answer


def _refusal(worker: WorkerProcess, part: str) -> Failure | None:
    """Why the last swap of a part failed, once."""
    parts, failure = worker.life.parts.heard(part)
    worker.life = replace(worker.life, parts=parts)
    return failure


def _wait(worker: WorkerProcess, deadline: float, cancelled: Callable[[], bool], what: str) -> None:
    if cancelled() or time.monotonic() > deadline:
        raise _ended(worker, what)
    worker.changed.wait(_LOOK_S)


def _ended(worker: WorkerProcess, what: str) -> EngineError:
    fault = worker.life.fault
    outside = fault is not None and not blames_engine(fault)
    return (Interrupted if outside else EngineError)(f"{worker.stream} {what}")
