"""What the agent knows of one stream in its worker, as a value, and the rules over it. Nothing here does IO; the
time (seconds of a monotonic clock) and the random number are arguments.

A stream is judged by progress (frames that are processed or left out by choice), not by being alive. Example::

    life = WorkerLife()
    life = advance(life, WorkerEvent.ENGINES, now_s, timing)
    life = advance(life, WorkerEvent.LAUNCHED, now_s, timing)
    life = receive(life, Ready(stream="gate", seconds=1.5), now_s, timing)      # RUNNING
    if (failure := overdue(life, now_s + 60, timing, stall_s=30)) is not None:
        life = advance(life, WorkerEvent.NO_PROGRESS, now_s + 60, timing, fault=failure)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgectl.agent.streams.part_engines import PartEngines
from edgectl.agent.streams.worker_states import (
    ImpossibleWorkerEvent,
    WorkerEvent,
    WorkerState,
    next_state,
)
from edgectl.core.errors import ProtocolError
from edgectl.core.wire import Failure, Frames
from edgectl.pipelines.host.protocol import EngineRef, Fault, FromWorker, Ready, Stats, SwapFailed, Swapped

__all__ = [
    "NEIGHBOUR",
    "Timing",
    "WorkerLife",
    "advance",
    "back_off_s",
    "blames_engine",
    "frames_done",
    "is_crash_loop",
    "is_forgiven",
    "is_outside",
    "left_with",
    "overdue",
    "receive",
]

NEIGHBOUR = "neighbour"
"""Code of the end that another stream of the worker has brought about: this one starts again at once."""

_OUTSIDE = frozenset({"config", "source", "link", "storage", "sink_stuck", NEIGHBOUR})
"""Codes of faults that no engine is to blame for: the stream is started again, and the start is not counted."""
_LEFT_OUT = ("gated", "degraded", "paused")
"""Causes of frames that are not looked at because nothing moves, because there is too much to do, or because
somebody switched detection off: nothing is wrong with the stream."""


@dataclass(frozen=True)
class Timing:
    """Seconds, and the number of starts without progress that make a crash loop."""

    start_s: float = 120.0
    stop_s: float = 5.0
    steady_s: float = 30.0
    """Progress for this long clears the crash count."""
    disagrees_s: float = 5.0
    """A worker whose statistics name another engine than it was told, for this long, is started again."""
    stuck_s: float = 10.0
    """An engine that is in one call for so long, besides what its calls usually take, hangs."""
    backoff_s: tuple[float, float] = (1.0, 60.0)
    crashes: int = 3


@dataclass(frozen=True)
class WorkerLife:
    state: WorkerState = WorkerState.WAITING
    reason: str | None = None
    """Why it is not running, for people."""
    fault: Failure | None = None
    """What ended it, or is about to."""
    last_end: str | None = None
    """How it ended the time before, for people."""
    launched: Mapping[str, EngineRef] = field(default_factory=dict)
    """Part → engine that it was last started with: whose fault ``fault`` may be."""
    parts: PartEngines = field(default_factory=PartEngines)
    attempt: int = 0
    """Ends in a row without steady progress."""
    retry_s: float = 0.0
    """When the back-off is over; sooner where another engine is asked for."""
    progress_s: float = 0.0
    """When it was started, got ready, or last processed a frame or left one out by choice, whichever was last."""
    ready_s: float = 0.0
    processed: int = -1
    """Frames that were processed or left out by choice, as it last said."""
    steady: bool = False
    """It made progress for :attr:`Timing.steady_s`."""
    disagrees_s: float | None = None
    """Since when its statistics name another engine than it was told to run."""
    stuck: tuple[str, ...] = ()
    """Which of its calls do not come back, as it last said."""
    engine_stuck_s: float | None = None
    """Since when its engine is among them."""


def advance(
    life: WorkerLife,
    event: WorkerEvent,
    now_s: float,
    timing: Timing,
    *,
    engines: Mapping[str, EngineRef] | None = None,
    fault: Failure | None = None,
    reason: str | None = None,
    jitter: float = 0.5,
) -> WorkerLife:
    """Take one event. ``engines`` comes with ENGINES, ``fault`` with what failed; ``jitter`` (0 to 1) spreads
    the back-off. Raises :class:`ImpossibleWorkerEvent`."""
    state = next_state(life.state, event)
    new = replace(life, state=state, reason=reason, fault=fault or life.fault)
    if event is WorkerEvent.NO_ENGINES:
        return replace(new, attempt=0)
    if event is WorkerEvent.ENGINES:
        return replace(new, launched=dict(engines or {}), fault=None, steady=False)
    if event is WorkerEvent.LAUNCHED:
        return replace(new, progress_s=now_s, processed=-1, disagrees_s=None, stuck=(), engine_stuck_s=None)
    if event is WorkerEvent.READY:
        return replace(new, progress_s=now_s, ready_s=now_s, parts=PartEngines(serving=dict(life.launched)))
    if state in (WorkerState.ENDING, WorkerState.REPLACING, WorkerState.CLOSING):
        # nothing serves any more, and nobody answers; who asked for a swap may not have read why it was refused
        return replace(new, parts=PartEngines(refused=life.parts.refused))
    if state is WorkerState.BACKING_OFF:
        why = new.fault.detail if new.fault else "the stream ended"
        if new.fault is not None and new.fault.code == NEIGHBOUR:
            return replace(new, retry_s=now_s, reason=why, last_end=why)
        attempt = 0 if life.steady else life.attempt + 1
        return replace(
            new,
            attempt=attempt,
            retry_s=now_s + back_off_s(attempt, timing, jitter),
            reason=why,
            last_end=why,
        )
    if event is WorkerEvent.EXITED:
        return replace(new, attempt=0)
    return new


def receive(life: WorkerLife, message: FromWorker, now_s: float, timing: Timing) -> WorkerLife:
    """Take what the worker says of itself. Raises :class:`ProtocolError`."""
    if isinstance(message, Ready):
        try:
            return advance(life, WorkerEvent.READY, now_s, timing)
        except ImpossibleWorkerEvent:
            raise ProtocolError("the worker says that it is ready, and was already") from None
    if isinstance(message, Swapped | SwapFailed):
        return replace(life, parts=life.parts.answered(message))
    if isinstance(message, Fault):
        return replace(life, fault=message.error)
    if isinstance(message, Stats):
        return _observe(life, message, now_s, timing)
    return life


def _observe(life: WorkerLife, message: Stats, now_s: float, timing: Timing) -> WorkerLife:
    """Note progress. What a worker says it runs is shown on screens and judged by gates: it has to be what is
    on record."""
    stats = message.stats
    processed = frames_done(stats.frames)
    if processed > life.processed:
        # counted from there: an engine that takes minutes to load has not yet shown that it stays alive
        steady = life.state is WorkerState.RUNNING and now_s - life.ready_s > timing.steady_s
        life = replace(life, processed=processed, progress_s=now_s, steady=life.steady or steady)
    if stats.state == "outage" and "source" not in message.stuck:
        # it waits for its camera, which a new start would not bring back
        life = replace(life, progress_s=now_s)
    since = _since(life.engine_stuck_s, now_s, "engine" in message.stuck)
    life = replace(life, stuck=message.stuck, engine_stuck_s=since)
    wrong = life.parts.contradicted(stats.slots)
    since = _since(life.disagrees_s, now_s, bool(wrong))
    if since is not None and now_s - since > timing.disagrees_s:
        raise ProtocolError(f"the worker runs another engine of {', '.join(wrong)} than it was told")
    return replace(life, disagrees_s=since)


def frames_done(frames: Frames) -> int:
    """Processed, or left out by choice."""
    return frames.processed + sum(frames.dropped.get(cause, 0) for cause in _LEFT_OUT)


def _since(before_s: float | None, now_s: float, is_so: bool) -> float | None:
    """Since when something is so, that may have been so before."""
    return None if not is_so else now_s if before_s is None else before_s


def overdue(life: WorkerLife, now_s: float, timing: Timing, stall_s: float) -> Failure | None:
    """Why its time is over: it is not ready, its engine hangs, or it has processed no frame for ``stall_s``."""
    running = life.state is WorkerState.RUNNING
    since = life.engine_stuck_s
    if running and since is not None and now_s - since > timing.stuck_s:
        return _stuck(life.stuck)
    limit = stall_s if running else timing.start_s
    if now_s - life.progress_s <= limit:
        return None
    what = f"no frame was processed for {limit:.0f} s" if running else f"not ready after {limit:.0f} s"
    if running and "source" in life.stuck:
        return _stuck(("source",))
    return Failure(code="stalled", detail=what, retryable=True)


def left_with(life: WorkerLife, stuck: Sequence[str], fault: Failure | None) -> WorkerLife:
    """It came out of the worker, which could not stop what is ``stuck``, or ended with ``fault`` itself."""
    if not stuck:
        return replace(life, fault=life.fault or fault)
    return replace(life, fault=_stuck(stuck))


def _stuck(what: Sequence[str]) -> Failure:
    """Calls that do not come back. The engine is named first: it may be what the others wait for."""
    names = sorted(what, key=lambda name: name != "engine")
    code = "source" if names == ["source"] else f"{names[0].split(':')[0]}_stuck"
    return Failure(
        code=code, detail=f"a call of its {' and '.join(names)} does not come back", retryable=True
    )


def back_off_s(attempt: int, timing: Timing, jitter: float) -> float:
    """Seconds until the next start: doubled with each attempt up to a limit, spread by ``jitter`` (0 to 1)."""
    low, high = timing.backoff_s
    shortest, longest = low / 2, min(high, low * 2.0 ** min(attempt, 60))
    return shortest + jitter * (longest - shortest)


def is_crash_loop(starts: int, timing: Timing) -> bool:
    """``starts`` in a row, this one counted, without steady progress."""
    return starts > timing.crashes


def is_forgiven(life: WorkerLife) -> bool:
    """This end does not count against its engines: it was steady, we wanted the end, or the fault came from
    outside."""
    wanted = life.state in (WorkerState.REPLACING, WorkerState.CLOSING)
    return life.steady or wanted or (life.fault is not None and not blames_engine(life.fault))


def blames_engine(fault: Failure) -> bool:
    return fault.code not in _OUTSIDE


def is_outside(fault: Failure | None) -> bool:
    """Neither an engine nor a configuration is to blame for it."""
    return fault is None or (fault.code in _OUTSIDE and fault.code != "config")
