"""One sink of a stream: its thread, its bounded queue, and what becomes of it when it hangs or fails."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from edgectl.core.errors import EdgectlError, EngineError
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.stream.events import Event

__all__ = ["MAX_RECORDS", "SinkFeeder", "SinkListener", "SinkState", "Timed"]

_log = logging.getLogger(__name__)

MAX_RECORDS = 4096
"""Outputs without a picture that wait for one sink."""
_MAX_PICTURES = 4
"""Outputs with one."""
_BACKOFF_S = (1.0, 60.0)
_HURRY_S = 2.0
"""For a call that gets on no further, when the stream is to stop now."""
_LOOK_S = 0.05
_TROUBLE_S = 3.0
"""How long a sink's trouble lasts before it is told of."""


@dataclass(frozen=True, slots=True)
class SinkState:
    """How a sink does, when that changes."""

    sink: str
    available: bool
    reason: Literal["stuck", "failed", "away", "back"]
    """``stuck``: a call does not come back. ``failed``: it is closed. ``away``: it is tried again later. ``back``: it
    writes again."""
    detail: str | None = None
    cause: str | None = None
    """A code, where one is known (:attr:`Sink.cause`)."""

    def event(self, t_s: float) -> Event:
        """What the stream says of it."""
        data: dict[str, Any] = {
            "name": "sink",
            "available": self.available,
            "reason": self.reason,
            "sink": self.sink,
        }
        if self.cause is not None:
            data["cause"] = self.cause
        if self.detail is not None:
            data["detail"] = self.detail[:500]
        return Event("capability", t_s, "end" if self.available else "start", None, data)


class SinkListener(Protocol):
    """Who hears of a sink: the pool of its stream."""

    errors: dict[str, EdgectlError]

    def count(self, key: str, n: int = 1) -> None: ...

    def tell(self, state: SinkState) -> None: ...


class Timed:
    """Calls ``written`` once the last of ``n`` sinks has what was offered."""

    def __init__(self, n: int, written: Callable[[int], None]) -> None:
        self._left = n
        self._written = written
        self._since_ns = time.monotonic_ns()
        self._lock = threading.Lock()

    def done(self) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._written(time.monotonic_ns() - self._since_ns)


class _Last:
    """In the place of an output: the stream has ended."""


class _Nothing:
    """In the place of an output: none came for a while."""


class SinkFeeder:
    """One sink, its queue and its thread."""

    def __init__(self, pool: SinkListener, sink: Sink, *, wait: bool) -> None:
        self.sink = sink
        self.is_stuck = False
        self.thread = threading.Thread(target=self._run, name=f"sink-{sink.name}", daemon=True)
        self._pool = pool
        self._wait = wait
        self._change = threading.Condition()
        self._queue: deque[tuple[StreamOutput, Timed | None]] = deque()
        self._pictures = 0
        """Outputs in the queue that hold one."""
        self._busy_since: float | None = None
        self._progress = 0
        self._moved_at = 0.0
        """When the sink was seen to get on, within a call."""
        self._hurried = False
        self._last_asked = False
        self.is_finished = threading.Event()
        self._last: Sequence[Callable[[float], Event]] = ()
        self._deadline: float | None = None
        self._closed = False
        self._failures = 0
        self._retry_at = 0.0
        self._troubled_since: float | None = None
        self._told_causes: set[str | None] = set()
        """Of the trouble that the sink is in."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_busy(self) -> bool:
        """In a call of the sink."""
        return self._busy_since is not None

    def wants(self, output: StreamOutput) -> bool:
        sink = self.sink
        return bool(
            output.records
            or (sink.pictures and output.frame is not None)
            or (sink.tracks and output.tracks is not None)
        )

    def put(self, output: StreamOutput, timed: Timed | None) -> None:
        if not self.sink.pictures and output.frame is not None:
            output = replace(output, frame=None)
        has_picture = output.frame is not None
        with self._change:
            if self._wait:
                self._change.wait_for(
                    lambda: (
                        self._closed
                        or self._room(has_picture)
                        or self.is_stuck
                        or self._hurried
                        or self._deadline is not None
                    )
                )
            # also where it failed for good while we waited for room
            if self._closed:
                return
            while not self._room(has_picture):
                self._lose(has_picture)
            self._queue.append((output, timed))
            self._pictures += has_picture
            self._change.notify_all()

    def finish(self, deadline: float) -> None:
        """Write what is queued until ``deadline`` (monotonic), then close."""
        with self._change:
            self._deadline = deadline
            self._change.notify_all()

    def hurry(self) -> None:
        with self._change:
            self._hurried = self.sink.hurried = True
            self._change.notify_all()

    def ask_for_the_last(self) -> None:
        """:meth:`Sink.finish`, behind what is queued."""
        with self._change:
            self._last_asked = True
            self._change.notify_all()

    def last_words(self) -> Sequence[Callable[[float], Event]]:
        """What the sink has said at the end, once."""
        said, self._last = self._last, ()
        return said

    def wait_until(self, over: Callable[[], bool], until: float) -> None:
        """As long as the sink gets on, and until a monotonic time."""
        limits = [self.sink.stuck_s, _HURRY_S if self._hurried else None]
        limit = min((s for s in limits if s is not None), default=math.inf)
        while not over():
            now = time.monotonic()
            if now >= until or self._still_s(now) > limit:
                return
            # who hangs already had his time
            if self.is_stuck:
                self.thread.join(2 * _LOOK_S)
                return
            self.thread.join(_LOOK_S)

    def watch(self, now: float) -> None:
        """Tell of a call that does not come back, and of what the sink waits for. From the pool's thread."""
        self._watch_trouble(now)
        since, limit = self._busy_since, self.sink.stuck_s
        if since is None or limit is None or self._still_s(now) <= limit or self.is_stuck:
            return
        with self._change:
            if self._busy_since != since:
                return
            self.is_stuck = True
            # who waits for room waits no more
            self._change.notify_all()
        self._pool.count(f"sink_stuck:{self.sink.name}")
        self._pool.tell(
            SinkState(self.sink.name, False, "stuck", f"a call has not come back for {limit:g} s")
        )

    def _still_s(self, now: float) -> float:
        """For how long its call has got on no further; 0 where there is none."""
        since = self._busy_since
        if since is None:
            return 0.0
        if (progress := self.sink.progress()) != self._progress:
            self._progress, self._moved_at = progress, now
        return now - max(since, self._moved_at)

    def _watch_trouble(self, now: float) -> None:
        trouble = None if self._closed else self.sink.trouble()
        if trouble is None:
            self._troubled_since = None
            if self._told_causes:
                self._told_causes.clear()
                self._pool.tell(SinkState(self.sink.name, True, "back"))
            return
        self._troubled_since = self._troubled_since or now
        cause = self.sink.cause
        # another reason is told, too: a server that is back, and says no
        if cause not in self._told_causes and now - self._troubled_since >= _TROUBLE_S:
            self._told_causes.add(cause)
            self._pool.tell(SinkState(self.sink.name, False, "away", trouble, cause))

    def _room(self, picture: bool) -> bool:
        return len(self._queue) < MAX_RECORDS and (not picture or self._pictures < _MAX_PICTURES)

    def _lose(self, picture: bool) -> None:
        """Make room: the oldest picture goes, and what came with it stays if it is an event."""
        at = next((i for i, (o, _) in enumerate(self._queue) if not picture or o.frame is not None), 0)
        output, timed = self._queue[at]
        self._pictures -= output.frame is not None
        if picture and (output.records or (self.sink.tracks and output.tracks is not None)):
            self._queue[at] = (replace(output, frame=None), timed)
        else:
            del self._queue[at]
        self._pool.count(f"sink_full:{self.sink.name}")

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            if isinstance(taken, _Last):
                self._call(self._finish)
                self.is_finished.set()
                continue
            if isinstance(taken, _Nothing):
                if time.monotonic() >= self._retry_at:
                    self._call(self.sink.beat)
                continue
            output, timed = taken
            if time.monotonic() < self._retry_at and self._deadline is None:
                self._pool.count(f"sink_lost:{self.sink.name}")
                continue
            if self._call(lambda o=output: self.sink.write(o)) and timed is not None:  # type: ignore[misc]
                timed.done()
            if self._closed:
                break
        self.is_finished.set()
        self._call(self.sink.close)

    def _finish(self) -> None:
        self._last = self.sink.finish()

    def _next(self) -> tuple[StreamOutput, Timed | None] | _Last | _Nothing | None:
        with self._change:
            if not self._change.wait_for(
                lambda: self._queue or self._last_asked or self._deadline is not None, self.sink.beat_s
            ):
                return _Nothing()
            if self._last_asked and not self._queue:
                self._last_asked = False
                return _Last()
            late = self._deadline is not None and time.monotonic() > self._deadline
            if late or not self._queue:
                return None
            output, timed = self._queue.popleft()
            self._pictures -= output.frame is not None
            self._change.notify_all()
            return output, timed

    def _call(self, call: Callable[[], None]) -> bool:
        self._busy_since = time.monotonic()
        try:
            call()
        except EdgectlError as e:
            self._failed(e)
            return False
        except Exception as e:
            _log.exception("sink %s", self.sink.name)
            self._failed(EngineError(f"sink {self.sink.name} failed: {type(e).__name__}: {e}"))
            return False
        finally:
            self._came_back()
        if self._failures and not self._closed:
            self._failures, self._retry_at = 0, 0.0
            self._pool.tell(SinkState(self.sink.name, True, "back"))
        return True

    def _came_back(self) -> None:
        with self._change:
            self._busy_since = None
            was_stuck, self.is_stuck = self.is_stuck, False
        if was_stuck and not self._failures:
            self._pool.tell(SinkState(self.sink.name, True, "back"))

    def _failed(self, e: EdgectlError) -> None:
        self._failures += 1
        if e.retryable:
            self._retry_at = time.monotonic() + random.uniform(
                _BACKOFF_S[0] / 2, min(_BACKOFF_S[1], _BACKOFF_S[0] * 2 ** min(self._failures, 10))
            )
            if self._failures == 1:
                self._pool.count(f"sink_failed:{self.sink.name}")
                self._pool.tell(SinkState(self.sink.name, False, "away", e.message))
            return
        with self._change:
            first, self._closed = not self._closed, True
            self._queue.clear()
            self._pictures = 0
            self._change.notify_all()
        if first:
            self._pool.errors.setdefault(self.sink.name, e)
            self._pool.count(f"sink_failed:{self.sink.name}")
            self._pool.tell(SinkState(self.sink.name, False, "failed", e.message))
