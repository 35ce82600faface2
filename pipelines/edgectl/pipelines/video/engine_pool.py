"""The engines of one process: each opened once, however many streams use it, with a thread of its own.

A stream joins an engine by its variant, takes a seat there, offers frames that are preprocessed and gets the raw
outputs back. The thread takes the frame whose turn is due first (:mod:`edgectl.pipelines.stream.turns`), with
others where the engine was built for a batch. A native call that does not come back cannot be interrupted by
a thread: :meth:`EnginePool.stuck` makes it visible, so that whoever watches the process can end it.

Left out: hot swap, which is an operation of one stream: it moves from one engine to another between two frames.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgectl.core.bundle import Variant
from edgectl.core.errors import EngineError
from edgectl.engines.base import Engine, Outputs
from edgectl.pipelines.stream.timeline import Timeline
from edgectl.pipelines.stream.turns import Seat, Turns

__all__ = [
    "EngineJob",
    "EnginePool",
    "EngineSeat",
    "EngineWork",
    "PooledEngine",
    "Ran",
    "StuckEngine",
]

_log = logging.getLogger(__name__)

_OPEN_LIMIT_S = 900.0
"""A plan may be compiled on the way."""
_RUN_LIMIT_S = 2.0
_RUN_LIMIT_RUNS = 10
"""A call is stuck after 2 s, or after ten times the longest of the last calls if that is more."""
_LAST_RUNS = 64
_CLOSE_S = 5.0
_IDLE_NS = 2_000_000_000
_IDLE_RATIO = 4
"""An engine was idle that had no call for 2 s, and for four times as long as the time before: the next call
meets cold caches and a slow clock. A stream that is slow by its nature is not idle."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a call gave one frame; where the detector sees several regions of it, what all their calls did."""

    outputs: Outputs
    """Batch axis 1."""
    started_ns: int
    ended_ns: int
    after_idle: bool = False
    """The first call after a pause: apart from the others in the figures."""
    more: tuple[Outputs, ...] = ()
    """Of the frame's other regions, in their order: like ``outputs``."""


class EngineJob(Protocol):
    """One frame on its way through an engine. All but ``gone`` are called by the engine's thread."""

    tensor: NDArray[Any]
    """Preprocessed, (1, …). It is not touched before ``ran``, ``failed`` or ``gone``."""
    more: Sequence[NDArray[Any]]
    """Other regions of the same frame, like ``tensor``: they run with it, in as few calls as the batch allows."""

    def wanted(self, now_ns: int) -> bool:
        """Whether it is still worth engine time. False: it has been booked as dropped."""
        ...

    def ran(self, result: Ran) -> None: ...

    def failed(self, e: Exception) -> None:
        """The call raised: an :class:`EngineError`, or a defect."""
        ...

    def gone(self) -> None:
        """It displaced, or was cancelled, before its turn came."""
        ...


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What an engine was asked for and did, by all of its streams, since it was opened."""

    engine: object
    """Which one: work of two engines is not compared."""
    offered: int
    """Frames, whether their turn came or not; each region of a frame counts as one."""
    ran: int
    """The same of those whose turn came."""
    busy_ns: int
    """In calls."""
    recent_ns: int = 0
    """What a frame took in the middle one of the last three calls."""

    def demand_since(self, before: EngineWork, seconds: float) -> float:
        """Engine seconds a second that the frames of the time since ``before`` ask for: above 1 they cannot all
        be done. 0 where ``before`` is another engine's."""
        if self.engine is not before.engine or seconds <= 0:
            return 0.0
        ran, busy_ns = self.ran - before.ran, self.busy_ns - before.busy_ns
        if ran == 0:
            # a call takes longer than all this time, or nothing was asked for
            ran, busy_ns = max(1, self.ran), self.busy_ns
        # the mean lags behind an engine that has become slower, and the last calls are only a few
        frame_ns = max(busy_ns / ran, self.recent_ns)
        return (self.offered - before.offered) * frame_ns / 1e9 / seconds


@dataclass(frozen=True)
class StuckEngine:
    """A native call that has not come back in time."""

    variant: str
    """Digest."""
    name: str
    """Of the model."""
    doing: str
    """``open`` or ``run``."""
    since_s: float
    """For how long, seconds."""
    vital: bool = True
    """Whether a stream stands still meanwhile."""


class PooledEngine:
    """An engine with one input that several streams share. Each :meth:`EnginePool.join` is answered by one
    :meth:`close`."""

    def __init__(self, pool: EnginePool, variant: Variant, engine: Engine, edition: int) -> None:
        """Takes the engine over. Raises :class:`EngineError` for one whose inputs are not one."""
        self.variant = variant
        self.edition = edition
        self.inputs = engine.inputs
        self.runtime = engine.runtime
        self.batch = _batch_of(engine, variant.config.batch)
        """Frames in one call, at most."""
        self.users = 0
        """Counted by the pool."""
        self.vital = False
        """Whether a stream stands still while this engine does. Set by who joins it."""
        self.timeline = pool.timeline
        self._pool = pool
        self._engine = engine
        self._padded = engine.inputs[0].shape[:1] not in ((-1,), (1,))
        self._buffer: NDArray[Any] | None = None
        self._turn = threading.Lock()
        self._sample: Outputs | None = None
        self._since_ns: int | None = None
        self._last_ns: deque[int] = deque(maxlen=_LAST_RUNS)
        self._ended_ns = time.monotonic_ns()
        self._gap_ns = 0
        self._after_idle = False
        self._ran = self._busy_ns = self._recent_ns = 0
        self._frame_ns: deque[int] = deque(maxlen=3)
        self.offered = 0
        """Frames that its seats were offered. Under :attr:`change`."""
        self.change = threading.Condition()
        self.turns: Turns[EngineJob] = Turns()
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- from any thread --

    def infer(self, tensors: Sequence[NDArray[Any]]) -> tuple[list[Outputs], int, int]:
        """Run once on up to ``batch`` tensors (1, …), when it is this caller's turn. Returns the outputs of
        each, and when the call began and ended, on the monotonic clock. Raises :class:`EngineError`."""
        with self._turn:
            feeds = {self.inputs[0].name: self._together(tensors)}
            self._since_ns = started = time.monotonic_ns()
            try:
                outputs = self._engine.run(feeds)
            finally:
                self._since_ns = None
                ended = time.monotonic_ns()
                self._note(started, ended, len(tensors))
        return self._apart(outputs, len(tensors)), started, ended

    def sample(self, tensor: NDArray[Any]) -> Outputs:
        """The outputs of a picture with nothing in it: the engine is run for them once, and once before to
        warm up. Raises :class:`EngineError`."""
        if self._sample is None:
            self.infer([tensor])
            self._sample = self.infer([tensor])[0][0]
        return self._sample

    def seat(self, size: int, waits: bool, ready: Callable[[], bool]) -> EngineSeat:
        """A place for ``size`` frames of one stream. ``waits``: :meth:`EngineSeat.offer` waits for room.
        ``ready``: whether the stream can take another result; :meth:`EngineSeat.wake` says that it may have
        changed."""
        seat = EngineSeat(self, Seat(size, ready), waits)
        with self.change:
            self.turns.seats.append(seat.waiting)
            if self._thread is None:
                name = f"engine-{self.variant.config.name}"
                self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._thread.start()
        return seat

    def close(self) -> None:
        """Leave. The last one that leaves closes the engine, once a call that is under way has come back."""
        self._pool.leave(self)

    def work(self) -> EngineWork:
        """Up to now."""
        return EngineWork(self, self.offered, self._ran, self._busy_ns, self._recent_ns)

    def stuck_s(self, now_ns: int) -> float | None:
        """For how long the present call has run, if that is too long; seconds."""
        since_ns = self._since_ns
        if since_ns is None:
            return None
        limit_s = max(_RUN_LIMIT_S, _RUN_LIMIT_RUNS * max(tuple(self._last_ns), default=0) / 1e9)
        ran_s = (now_ns - since_ns) / 1e9
        return ran_s if ran_s > limit_s else None

    def shut(self) -> None:
        """End the thread and close the engine itself. For the pool."""
        with self.change:
            self._closed = True
            self.change.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        if not self._turn.acquire(timeout=0 if self._since_ns else _CLOSE_S):
            _log.error("engine %s is stuck in a call and cannot be closed", self.variant.config.name)
            return
        try:
            self._engine.close()
        finally:
            self._turn.release()

    # -- engine thread --

    def _serve(self) -> None:
        thread = threading.current_thread().name
        while (jobs := self._next()) is not None:
            now = time.monotonic_ns()
            wanted = [job for job in jobs if job.wanted(now)]
            if not wanted:
                continue
            try:
                outputs, started, ended, after_idle = self._infer_all(
                    [tensor for job in wanted for tensor in (job.tensor, *job.more)]
                )
            except Exception as e:
                if not isinstance(e, EngineError):
                    _log.exception("engine %s", self.variant.config.name)
                for job in wanted:
                    job.failed(e)
                continue
            self.timeline.add(thread, "engine", self.variant.config.name, len(outputs), started, ended)
            each = iter(outputs)
            for job in wanted:
                first, *more = islice(each, 1 + len(job.more))
                job.ran(Ran(first, started, ended, after_idle, tuple(more)))

    def _infer_all(self, tensors: Sequence[NDArray[Any]]) -> tuple[list[Outputs], int, int, bool]:
        """In as many calls as it takes: the outputs of each, when the first call began and the last one ended, and
        whether the first one came after a pause."""
        outputs, began, after_idle, ended = [], 0, False, 0
        for i in range(0, len(tensors), self.batch):
            some, started, ended = self.infer(tensors[i : i + self.batch])
            outputs += some
            if i == 0:
                began, after_idle = started, self._after_idle
        return outputs, began, ended, after_idle

    def _next(self) -> list[EngineJob] | None:
        """The frames of the next call; None at the end."""
        with self.change:
            while not self._closed:
                jobs: list[EngineJob] = []
                room = self.batch
                while room > 0 and (turn := self.turns.take(time.monotonic_ns())):
                    jobs.append(turn[1])
                    room -= 1 + len(turn[1].more)
                if jobs:
                    # who waits for room in a seat
                    self.change.notify_all()
                    return jobs
                self.change.wait()
        return None

    def _together(self, tensors: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """One tensor of several. An engine of a fixed batch gets what was there before in the rest."""
        if len(tensors) == 1 and not self._padded:
            return tensors[0]
        if not self._padded:
            return np.concatenate(tensors)
        if self._buffer is None:
            self._buffer = np.zeros((self.batch, *tensors[0].shape[1:]), tensors[0].dtype)
        for row, tensor in zip(self._buffer, tensors, strict=False):
            row[...] = tensor[0]
        return self._buffer

    def _apart(self, outputs: Outputs, n: int) -> list[Outputs]:
        if self.batch == 1:
            return [outputs]
        sent = self.batch if self._padded else n
        for name, value in outputs.items():
            if value.shape[:1] != (sent,):
                raise EngineError(
                    f"output {name} has shape {list(value.shape)}, which is not one row for each of {sent} pictures"
                )
        return [{name: value[i : i + 1] for name, value in outputs.items()} for i in range(n)]

    def _note(self, started: int, ended: int, frames: int) -> None:
        self._ran, self._busy_ns = self._ran + frames, self._busy_ns + ended - started
        gap = started - self._ended_ns
        self._after_idle = gap > max(_IDLE_NS, _IDLE_RATIO * self._gap_ns)
        self._gap_ns, self._ended_ns = gap, ended
        self._last_ns.append(ended - started)
        self._frame_ns.append((ended - started) // frames)
        self._recent_ns = sorted(self._frame_ns)[len(self._frame_ns) // 2]


class EngineSeat:
    """Where the frames of one stream wait for an engine."""

    def __init__(self, engine: PooledEngine, waiting: Seat[EngineJob], waits: bool) -> None:
        self.waiting = waiting
        self._engine = engine
        self._waits = waits
        self._closed = False

    def offer(self, job: EngineJob, due_ns: int) -> EngineJob | None:
        """Let a frame wait for its turn. Returns the one that will now never have it: the one that it
        displaced, or itself once closed."""
        with self._engine.change:
            if self._waits:
                self._engine.change.wait_for(
                    lambda: len(self.waiting.items) < self.waiting.size or self._closed
                )
            if self._closed:
                return job
            self._engine.offered += 1 + len(job.more)
            displaced = self._engine.turns.offer(self.waiting, job, due_ns, time.monotonic_ns())
            self._engine.change.notify_all()
            return displaced

    def wake(self) -> None:
        """The stream may be ready for another result."""
        if self.waiting.items:
            with self._engine.change:
                self._engine.change.notify_all()

    def cancel(self) -> None:
        """No more frames; those that wait are gone."""
        with self._engine.change:
            self._closed = True
        self.clear()

    def clear(self) -> None:
        """Those that wait are gone."""
        with self._engine.change:
            left = [job for job, _ in self.waiting.items]
            self.waiting.items.clear()
            self._engine.change.notify_all()
        for job in left:
            job.gone()

    def close(self) -> None:
        """Leave the engine's thread. A frame that is under way is finished."""
        self.cancel()
        with self._engine.change:
            if self.waiting in self._engine.turns.seats:
                self._engine.turns.seats.remove(self.waiting)


class EnginePool:
    """Usable from several threads. All streams of a pool open a variant in the same way: of several that join
    at once the first one opens it."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        """What the threads of the streams of this pool did last."""
        self._lock = threading.Lock()
        self._engines: dict[str, PooledEngine] = {}
        """By digest: the one that is joined."""
        self._open: list[PooledEngine] = []
        """Those of earlier editions, too."""
        self._opening: dict[str, threading.Lock] = {}
        self._opening_since: dict[str, tuple[str, int]] = {}

    def join(
        self, variant: Variant, open_engine: Callable[[Variant], Engine], edition: int = 0
    ) -> PooledEngine:
        """The engine of a variant, opened by ``open_engine`` unless it is open. Raises :class:`EngineError`;
        nothing is left open then.

        ``edition`` counts how often its finalised file has become a better one: an engine that was opened for an
        earlier edition stays with those who have it.
        """
        digest = variant.digest
        with self._lock:
            opening = self._opening.setdefault(digest, threading.Lock())
        with opening:
            with self._lock:
                found = self._engines.get(digest)
                if found is not None and found.edition >= edition:
                    found.users += 1
                    return found
                self._opening_since[digest] = (variant.config.name, time.monotonic_ns())
            try:
                opened = open_engine(variant)
                try:
                    engine = PooledEngine(self, variant, opened, edition)
                except BaseException:
                    opened.close()
                    raise
            finally:
                with self._lock:
                    del self._opening_since[digest]
            with self._lock:
                engine.users = 1
                self._engines[digest] = engine
                self._open.append(engine)
            return engine

    def leave(self, engine: PooledEngine) -> None:
        """One user less. See :meth:`PooledEngine.close`."""
        with self._lock:
            if engine.users == 0:
                return
            engine.users -= 1
            if engine.users:
                return
            self._open.remove(engine)
            if self._engines.get(engine.variant.digest) is engine:
                del self._engines[engine.variant.digest]
        engine.shut()

    def stuck(self) -> tuple[StuckEngine, ...]:
        """Native calls that have not come back in time, now."""
        now = time.monotonic_ns()
        with self._lock:
            engines, opening = list(self._open), dict(self._opening_since)
        found = [
            StuckEngine(digest, name, "open", (now - since) / 1e9)
            for digest, (name, since) in opening.items()
            if now - since > _OPEN_LIMIT_S * 1e9
        ]
        for engine in engines:
            if (ran_s := engine.stuck_s(now)) is not None:
                found.append(
                    StuckEngine(engine.variant.digest, engine.variant.config.name, "run", ran_s, engine.vital)
                )
        return tuple(found)

    def variants(self) -> tuple[str, ...]:
        """Digests of the variants that are open."""
        with self._lock:
            return tuple(self._engines)


def _batch_of(engine: Engine, built_for: int) -> int:
    """How many pictures a call takes; ``built_for``: where the engine leaves it open. Raises :class:`EngineError` for an engine with several inputs."""
    if len(engine.inputs) != 1:
        names = ", ".join(t.name for t in engine.inputs)
        raise EngineError(f"the model has {len(engine.inputs)} inputs ({names}), a detector has one")
    shape = engine.inputs[0].shape
    return 1 if not shape or shape[0] == 0 else built_for if shape[0] == -1 else shape[0]
