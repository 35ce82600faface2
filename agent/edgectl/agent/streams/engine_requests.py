"""Requests to a stream: take another engine, or compare one. Each waits for the worker's answer.

Called by the threads of the slots; each holds the stream's ``changed`` while it looks, and waits on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from edgectl.agent.streams.supervised_stream import SupervisedStream
from edgectl.agent.streams.worker_life import blames_engine
from edgectl.agent.streams.worker_process import ProcessSeat
from edgectl.agent.streams.worker_states import WorkerState
from edgectl.core.errors import EngineError
from edgectl.core.wire import Failure, ShadowGate
from edgectl.pipelines.host.protocol import Commit, EngineRef, Shadowed, ShadowFailed, ShadowMessage

__all__ = ["Interrupted", "commit_engine", "compare_engine", "give_back", "reopen_engine", "take_engine"]

_LOOK_S = 0.2
"""Between two looks at the deadline."""


class Interrupted(EngineError):
    """A stream could not go on with an engine for a reason that the engine is not to blame for: its camera
    is gone, the disk is full."""


def take_engine(
    stream: SupervisedStream, part: str, ref: EngineRef, deadline: float, cancelled: Callable[[], bool]
) -> None:
    """Wait until the worker runs ``ref`` for ``part``: it swaps, goes back, or starts with it. Raises
    :class:`EngineError`."""
    asked: ProcessSeat | None = None
    with stream.changed:
        _refusal(stream, part)
        stream.life = replace(stream.life, fault=None)
        is_hurried = False
        while (life := stream.life).parts.serving.get(part) != ref:
            is_running = life.state is WorkerState.RUNNING
            if is_running and asked is not stream.place and part not in life.parts.asked:
                asked = stream.place
                parts, message = life.parts.switch(stream.stream, part, ref)
                stream.life = replace(life, parts=parts)
                stream.send(message)
                continue
            if life.state is WorkerState.BACKING_OFF and not is_hurried:
                # after a crash of the engine before, mostly: once, or a worker would crash without a pause
                is_hurried = True
                stream.life = replace(life, retry_s=0.0)
                stream.changed.notify_all()
            failure = _refusal(stream, part)
            if life.fault is not None and blames_engine(life.fault) and life.launched.get(part) == ref:
                failure = failure or life.fault
            if failure is not None:
                raise EngineError(
                    f"{stream.stream} did not take the engine: {failure.detail or failure.code}"
                )
            if cancelled() or time.monotonic() > deadline:
                why = life.fault.detail if life.fault else life.last_end or stream.state[0]
                raise EngineError(f"{stream.stream} did not take the engine in time: {why}")
            stream.changed.wait(_LOOK_S)


def give_back(stream: SupervisedStream, part: str, before: EngineRef) -> None:
    """Go back to the engine that ran before, if that is still warm."""
    with stream.changed:
        life = stream.life
        if life.state is WorkerState.RUNNING and life.parts.standby.get(part) == before:
            parts, message = life.parts.switch(stream.stream, part, before)
            stream.life = replace(life, parts=parts)
            stream.send(message)


def reopen_engine(stream: SupervisedStream, part: str, ref: EngineRef, edition: int, deadline: float) -> None:
    """Have a worker that runs ``ref`` open it anew, because its file became a better one, for the ``edition``-th
    time. Does nothing if it does not run it. Raises :class:`EngineError`; what ran goes on."""
    with stream.changed:
        parts = stream.life.parts
        if parts.serving.get(part) != ref or part in parts.asked:
            return  # it starts, or is about to run something else
        parts, swap = parts.swap(stream.stream, part, ref, edition)
        stream.life = replace(stream.life, parts=parts)
        stream.send(swap)
        while part in stream.life.parts.asked and time.monotonic() < deadline:
            stream.changed.wait(_LOOK_S)
        if (failure := _refusal(stream, part)) is not None:
            why = failure.detail or failure.code
        elif part in stream.life.parts.asked:
            why = "no answer in time"
        elif part not in stream.life.parts.serving:
            why = "it ended"
        else:
            why = ""
        if why:
            raise EngineError(f"{stream.stream} did not open the better engine: {why}")
    commit_engine(stream, part)


def commit_engine(stream: SupervisedStream, part: str) -> None:
    """The engine before may be unloaded; to go back to it is a switch like any other from then on."""
    # forgotten first: a worker that has unloaded it has nothing to revert to
    with stream.changed:
        stream.life = replace(stream.life, parts=stream.life.parts.committed(part))
    stream.send(Commit(stream=stream.stream, part=part))


def compare_engine(
    stream: SupervisedStream,
    part: str,
    ref: EngineRef,
    gate: ShadowGate,
    deadline: float,
    cancelled: Callable[[], bool],
) -> Shadowed:
    """Have the worker run ``ref`` beside the engine that serves. Raises :class:`EngineError` if it cannot or
    ends, :class:`Interrupted` if that is nothing that an engine does."""
    with stream.changed:
        while part not in stream.life.parts.serving:
            _wait(stream, deadline, cancelled, "has no engine to compare with")
        answers, place = stream.shadow_answers, stream.place
        answers.pop(part, None)
        stream.send(
            ShadowMessage(
                stream=stream.stream, part=part, engine=ref, percent=gate.percent, frames=gate.frames
            )
        )
        while (answer := answers.pop(part, None)) is None or answer.manifest != ref.manifest:
            if stream.place is not place:
                raise _ended(stream, "ended while it ran the new engine beside the old one")
            _wait(stream, deadline, cancelled, f"has not seen {gate.frames} frames with both engines")
    if isinstance(answer, ShadowFailed):
        why = answer.error.detail or answer.error.code
        raise EngineError(f"{stream.stream} could not compare the engines: {why}")
    return answer


def _refusal(stream: SupervisedStream, part: str) -> Failure | None:
    """Why the last swap of a part failed, once."""
    parts, failure = stream.life.parts.heard(part)
    stream.life = replace(stream.life, parts=parts)
    return failure


def _wait(stream: SupervisedStream, deadline: float, cancelled: Callable[[], bool], what: str) -> None:
    if cancelled() or time.monotonic() > deadline:
        raise _ended(stream, what)
    stream.changed.wait(_LOOK_S)


def _ended(stream: SupervisedStream, what: str) -> EngineError:
    fault = stream.life.fault
    outside = fault is not None and not blames_engine(fault)
    return (Interrupted if outside else EngineError)(f"{stream.stream} {what}")
