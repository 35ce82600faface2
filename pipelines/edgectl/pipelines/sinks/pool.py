"""The threads of a stream's sinks: one each, with a bounded queue, and one that watches whether they come on.

No sink holds up the stream or another sink. One that hangs is told of and left behind; one that fails is closed, or
tried again where that can help.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edgectl.core.errors import EdgectlError
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.sinks.feeder import MAX_RECORDS, SinkFeeder, SinkState, Timed
from edgectl.pipelines.stream.events import Event

__all__ = ["SinkPool", "SinkState"]

_log = logging.getLogger(__name__)

_WATCH_S = 0.5
_LEAVE_S = 10.0
"""For a sink that another one replaces to write what is queued."""


class SinkPool:
    """``wait=True`` (files): :meth:`offer` waits for room, and nothing is lost but by a sink that is stuck.
    ``wait=False`` (cameras): it never blocks.

    What does not fit is counted in :attr:`counters` as ``sink_full:<name>``: pictures go first, events last. A sink
    that fails is counted as ``sink_failed:<name>``, one that hangs as ``sink_stuck:<name>``. Those that failed for
    good are in :attr:`errors`.
    """

    def __init__(
        self,
        name: str,
        sinks: Sequence[Sink],
        *,
        wait: bool,
        written: Callable[[int], None] | None = None,
        tell: Callable[[SinkState], None] | None = None,
    ) -> None:
        """``written`` hears, in ns, how long events took until every sink for events had them. ``tell`` hears of changes,
        from any thread."""
        self.counters: dict[str, int] = {}
        self.errors: dict[str, EdgectlError] = {}
        self._name = name
        self._lock = threading.Lock()
        self._tell = tell
        self._closing = threading.Event()
        self._wait = wait
        self._feeders = tuple(SinkFeeder(self, sink, wait=wait) for sink in sinks)
        self._hands = threading.Lock()
        """Held while sinks come and go, and while something is handed to them."""
        self._backlogs: list[deque[StreamOutput]] = []
        """Events for sinks that are being opened."""
        self._replacing: list[threading.Thread] = []
        self._written = written
        for feeder in self._feeders:
            feeder.thread.start()
        self._watch = threading.Thread(target=self._watch_all, name=f"sinks-{name}", daemon=True)
        self._watch.start()

    def offer(self, output: StreamOutput) -> None:
        """Hand one output to every sink that it concerns."""
        if self._closing.is_set():
            return
        with self._hands:
            takers = [f for f in self._feeders if f.wants(output)]
            for backlog in self._backlogs:
                backlog.append(replace(output, frame=None))
        events = [f for f in takers if output.records and not f.sink.pictures]
        timed = Timed(len(events), self._written) if events and self._written else None
        for feeder in takers:
            feeder.put(output, timed if feeder in events else None)

    def replace(
        self,
        gone: Sequence[Sink],
        make: Mapping[str, Callable[[], Sink | None]],
        done: Callable[[Mapping[str, Sink]], None],
    ) -> None:
        """Let some sinks finish, then open others: in this order, because they may use the same file or name. Returns at
        once; events that come meanwhile wait. ``done`` hears, from another thread, which were opened; what cannot be
        opened is told of as a sink that failed."""
        with self._hands:
            leaving = [f for f in self._feeders if f.sink in gone]
            self._feeders = tuple(f for f in self._feeders if f not in leaving)
            backlog: deque[StreamOutput] = deque(maxlen=MAX_RECORDS)
            self._backlogs.append(backlog)
        thread = threading.Thread(
            target=self._replace,
            args=(leaving, make, backlog, done),
            name=f"sinks-{self._name}-change",
            daemon=True,
        )
        self._replacing = [*(t for t in self._replacing if t.is_alive()), thread]
        thread.start()

    def _replace(
        self,
        leaving: Sequence[SinkFeeder],
        make: Mapping[str, Callable[[], Sink | None]],
        backlog: deque[StreamOutput],
        done: Callable[[Mapping[str, Sink]], None],
    ) -> None:
        deadline = time.monotonic() + _LEAVE_S
        for feeder in leaving:
            feeder.finish(deadline)
        for feeder in leaving:
            feeder.thread.join(0.1 if feeder.is_stuck else max(0.1, deadline + 1 - time.monotonic()))
        made: dict[str, Sink] = {}
        for name, open_sink in make.items():
            try:
                sink = open_sink()
            except EdgectlError as e:
                self.count(f"sink_failed:{name}")
                self.tell(SinkState(name, False, "failed", e.message))
                continue
            if sink is not None:
                made[name] = sink
        with self._hands:
            feeders = [SinkFeeder(self, sink, wait=self._wait) for sink in made.values()]
            for feeder in feeders:
                for output in backlog:
                    if feeder.wants(output):
                        feeder.put(output, None)
                feeder.thread.start()
            self._backlogs = [b for b in self._backlogs if b is not backlog]
            self._feeders = (*self._feeders, *feeders)
        done(made)

    def hurry(self) -> None:
        """The stream is to stop now: :meth:`offer` waits no more, and :meth:`close` will leave behind who hangs."""
        for feeder in self._feeders:
            feeder.hurry()

    def finish(self, timeout_s: float = 30.0) -> list[Callable[[float], Event]]:
        """What the sinks have to tell at the end of the stream, once each has what was offered so far; :meth:`offer` takes it
        yet. Whoever gets on no further is not waited for."""
        last = [f for f in self._feeders if type(f.sink).finish is not Sink.finish]
        until = time.monotonic() + timeout_s
        for feeder in last:
            feeder.ask_for_the_last()
        for feeder in last:
            feeder.wait_until(feeder.is_finished.is_set, until)
        return [event for feeder in last for event in feeder.last_words()]

    def close(self, timeout_s: float = 30.0) -> bool:
        """Write what is queued, at most for ``timeout_s``, finish the sinks and join; a sink that gets on no further is left
        behind. False if something was left unwritten: it is logged."""
        deadline = time.monotonic() + timeout_s
        for thread in self._replacing:
            thread.join(max(0.1, deadline - time.monotonic()))
        self._closing.set()
        for feeder in self._feeders:
            feeder.finish(deadline)
        whole = True
        for feeder in self._feeders:
            feeder.wait_until(lambda f=feeder: not f.thread.is_alive(), deadline + 10)  # type: ignore[misc]
            if feeder.thread.is_alive():
                _log.error("%s: sink %s is left behind: it gets on no further", self._name, feeder.sink.name)
            if left := len(feeder):
                _log.error(
                    "%s: sink %s has not written %d of its outputs", self._name, feeder.sink.name, left
                )
            whole = whole and not left and not feeder.thread.is_alive()
        self._watch.join()
        return whole

    def stuck(self) -> tuple[str, ...]:
        """Names of the sinks whose call does not come back, or has not yet although the pool is to close."""
        closing = self._closing.is_set()
        return tuple(f.sink.name for f in self._feeders if f.is_stuck or (closing and f.is_busy))

    def count(self, key: str, n: int = 1) -> None:
        with self._lock:
            self.counters[key] = self.counters.get(key, 0) + n

    def tell(self, state: SinkState) -> None:
        """Log and hand on what becomes of a sink."""
        if state.available:
            _log.info("sink %s works again", state.sink)
        else:
            _log.error(
                "sink %s is %s%s", state.sink, state.reason, f": {state.detail}" if state.detail else ""
            )
        if self._tell is not None:
            self._tell(state)

    def _watch_all(self) -> None:
        while not self._closing.wait(_WATCH_S):
            for feeder in self._feeders:
                feeder.watch(time.monotonic())
