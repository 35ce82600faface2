"""The engines of one process: each opened once, however many streams use it.

A stream joins an engine by its variant and leaves it again; the last one that leaves closes it. A native call
that does not come back cannot be interrupted by a thread: :meth:`EnginePool.stuck` makes it visible, so that
whoever watches the process can end it. Left out: hot swap, which is an operation of one stream.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edgectl.core.bundle import Variant
from edgectl.engines.base import Engine, Feeds, Outputs

__all__ = ["EnginePool", "PooledEngine", "StuckEngine"]

_log = logging.getLogger(__name__)

_OPEN_LIMIT_S = 900.0
"""A plan may be compiled on the way."""
_RUN_LIMIT_S = 2.0
_RUN_LIMIT_RUNS = 10
"""A call is stuck after 2 s, or after ten times the longest of the last calls if that is more."""
_LAST_RUNS = 64
_CLOSE_S = 5.0


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


class PooledEngine:
    """An :class:`~edgectl.engines.base.Engine` that several streams may hold; calls take turns.

    Each :meth:`EnginePool.join` is answered by one :meth:`close`.
    """

    def __init__(self, pool: EnginePool, variant: Variant, engine: Engine) -> None:
        self.variant = variant
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.runtime = engine.runtime
        self.users = 0
        """Counted by the pool."""
        self._pool = pool
        self._engine = engine
        self._turn = threading.Lock()
        self._since_ns: int | None = None
        self._last_ns: deque[int] = deque(maxlen=_LAST_RUNS)

    def run(self, feeds: Feeds) -> Outputs:
        """Run once, when it is this caller's turn. Raises :class:`EngineError`."""
        with self._turn:
            self._since_ns = started = time.monotonic_ns()
            try:
                return self._engine.run(feeds)
            finally:
                self._since_ns = None
                self._last_ns.append(time.monotonic_ns() - started)

    def close(self) -> None:
        """Leave. The last one that leaves closes the engine, once a call that is under way has come back."""
        self._pool.leave(self)

    def stuck_s(self, now_ns: int) -> float | None:
        """For how long the present call has run, if that is too long; seconds."""
        since_ns = self._since_ns
        if since_ns is None:
            return None
        limit_s = max(_RUN_LIMIT_S, _RUN_LIMIT_RUNS * max(tuple(self._last_ns), default=0) / 1e9)
        ran_s = (now_ns - since_ns) / 1e9
        return ran_s if ran_s > limit_s else None

    def shut(self) -> None:
        """Close the engine itself. For the pool."""
        if not self._turn.acquire(timeout=_CLOSE_S):
            _log.error("engine %s is stuck in a call and cannot be closed", self.variant.config.name)
            return
        try:
            self._engine.close()
        finally:
            self._turn.release()


class EnginePool:
    """Usable from several threads. All streams of a pool open a variant in the same way: of several that join
    at once the first one opens it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[str, PooledEngine] = {}
        self._opening: dict[str, threading.Lock] = {}
        self._opening_since: dict[str, tuple[str, int]] = {}

    def join(self, variant: Variant, open_engine: Callable[[Variant], Engine]) -> PooledEngine:
        """The engine of a variant, opened by ``open_engine`` unless it is open. Raises :class:`EngineError`;
        nothing is left open then."""
        digest = variant.digest
        with self._lock:
            opening = self._opening.setdefault(digest, threading.Lock())
        with opening:
            with self._lock:
                found = self._engines.get(digest)
                if found is not None:
                    found.users += 1
                    return found
                self._opening_since[digest] = (variant.config.name, time.monotonic_ns())
            try:
                engine = PooledEngine(self, variant, open_engine(variant))
            finally:
                with self._lock:
                    del self._opening_since[digest]
            with self._lock:
                engine.users = 1
                self._engines[digest] = engine
            return engine

    def leave(self, engine: PooledEngine) -> None:
        """One user less. See :meth:`PooledEngine.close`."""
        with self._lock:
            if engine.users == 0:
                return
            engine.users -= 1
            if engine.users:
                return
            del self._engines[engine.variant.digest]
        engine.shut()

    def stuck(self) -> tuple[StuckEngine, ...]:
        """Native calls that have not come back in time, now."""
        now = time.monotonic_ns()
        with self._lock:
            engines, opening = list(self._engines.values()), dict(self._opening_since)
        found = [
            StuckEngine(digest, name, "open", (now - since) / 1e9)
            for digest, (name, since) in opening.items()
            if now - since > _OPEN_LIMIT_S * 1e9
        ]
        for engine in engines:
            if (ran_s := engine.stuck_s(now)) is not None:
                found.append(StuckEngine(engine.variant.digest, engine.variant.config.name, "run", ran_s))
        return tuple(found)

    def variants(self) -> tuple[str, ...]:
        """Digests of the variants that are open."""
        with self._lock:
            return tuple(self._engines)
