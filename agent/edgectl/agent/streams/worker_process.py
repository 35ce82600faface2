"""The worker process of one stream, and the thread that executes the table of
:mod:`edgectl.agent.streams.worker_states` for it.

A crash in a native library ends the worker, never the agent. How other threads have the worker change its
engines: :mod:`edgectl.agent.streams.engine_requests`.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.start_count import StartCount
from edgectl.agent.streams.worker_life import (
    Timing,
    WorkerLife,
    advance,
    is_crash_loop,
    is_forgiven,
    overdue,
    receive,
)
from edgectl.agent.streams.worker_pipe import ToWorkerMessage, WorkerPipe
from edgectl.agent.streams.worker_states import SHOWN, WorkerEvent, WorkerState
from edgectl.core.errors import ProtocolError, StorageError
from edgectl.core.wire import Failure
from edgectl.pipelines.host.protocol import (
    EngineRef,
    EventMessage,
    LeaseMessage,
    Shadowed,
    ShadowFailed,
    Start,
    Stats,
    Stop,
    parse_from_worker,
)

__all__ = ["WORKER", "WorkerCallbacks", "WorkerProcess"]

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "edgectl.pipelines.host.worker")

_LOOK_S = 1.0
"""Between two looks at the slots of a stream that waits for an engine."""
_FAILED_STOP_S = 1.0
"""For a worker that failed to exit by itself."""


@dataclass(frozen=True)
class WorkerCallbacks:
    """What the supervisor tells. All are called on pipeline threads and must not wait."""

    stats: Callable[[str, Stats], None]
    event: Callable[[str, EventMessage], None]
    crash_loop: Callable[[str], None]
    """The engines of this stream do not survive."""
    lease: Callable[[str, LeaseMessage], None] = lambda stream, lease: None
    """The stream is in the middle of something."""


class WorkerProcess:
    """One stream. The thread ``pipe-<stream>`` owns the process and takes every step of the table.

    Other threads send messages and wait on ``changed``. It guards ``life``, ``pipe`` and ``shadow_answers``
    and is notified whenever one of them changes.
    """

    def __init__(
        self,
        stream: str,
        config: StreamConfig,
        engine_of: Callable[[str], EngineRef | None],
        journal: Journal,
        hooks: WorkerCallbacks,
        *,
        command: Sequence[str] = WORKER,
        stats_every_s: float = 2.0,
        timing: Timing | None = None,
        cache: Path | None = None,
    ) -> None:
        """``engine_of``: slot → the engine that it is to run now. ``cache``: folder of finalised engines."""
        self.stream = stream
        self.config = config
        self.engine_of = engine_of
        self.timing = timing or Timing()
        self._hooks = hooks
        self._command = command
        self._stats_every_s = stats_every_s
        self._cache = cache
        self._starts = StartCount(stream, journal)
        self.changed = threading.Condition()
        self.life = WorkerLife()
        self.pipe: WorkerPipe | None = None
        """The process that takes messages; None while there is none, or it is about to end."""
        self.shadow_answers: dict[str, Shadowed | ShadowFailed] = {}
        """Part → what came of running another engine beside it."""
        self._close_asked = False
        self._restart_asked = False
        self.thread = threading.Thread(target=self._run, name=f"pipe-{stream}", daemon=True)

    # ---- what others ask

    @property
    def state(self) -> tuple[str, str | None]:
        """(As telemetry names it, why it is not running)."""
        life = self.life
        return SHOWN[life.state], life.reason

    @property
    def stalled(self) -> bool:
        """It runs and makes no progress."""
        life = self.life
        running = life.state is WorkerState.RUNNING
        return running and time.monotonic() - life.progress_s > self.config.stall_s

    def parts(self, slot: str) -> list[str]:
        return [part for part, s in self.config.slots.items() if s == slot]

    def engines(self) -> dict[str, EngineRef] | None:
        """Part → engine; None while a slot is empty."""
        found = {
            part: ref for part, slot in self.config.slots.items() if (ref := self.engine_of(slot)) is not None
        }
        return found if len(found) == len(self.config.slots) else None

    def stop(self) -> None:
        with self.changed:
            self._close_asked = True
            self.changed.notify_all()

    def restart(self) -> None:
        with self.changed:
            self._restart_asked = True
            self.changed.notify_all()

    def send(self, message: ToWorkerMessage) -> None:
        """To the worker, if there is one."""
        if (pipe := self.pipe) is not None:
            pipe.send(message)

    # ---- the thread

    def _run(self) -> None:
        actions = {
            WorkerState.WAITING: self._look_for_engines,
            WorkerState.LAUNCHING: self._launch,
            WorkerState.LOADING: self._read,
            WorkerState.RUNNING: self._read,
            WorkerState.ENDING: lambda: self._end(_FAILED_STOP_S),
            WorkerState.REPLACING: lambda: self._end(self.timing.stop_s),
            WorkerState.CLOSING: lambda: self._end(self.timing.stop_s),
            WorkerState.BACKING_OFF: self._back_off,
        }
        try:
            while self.life.state is not WorkerState.CLOSED:
                self._take_requests()
                if (action := actions.get(self.life.state)) is not None:
                    action()
        finally:
            # a defect ends this thread, and the agent with it: it leaves no process behind
            if (pipe := self.pipe) is not None:
                pipe.end(0.0)

    def _take_requests(self) -> None:
        with self.changed:
            close, restart = self._close_asked, self._restart_asked
            self._restart_asked = False
        if close and self.life.state is not WorkerState.CLOSING:
            self._step(WorkerEvent.CLOSE)
        elif restart and not close:
            self._step(WorkerEvent.RESTART)

    def _step(
        self,
        event: WorkerEvent,
        *,
        engines: Mapping[str, EngineRef] | None = None,
        fault: Failure | None = None,
        reason: str | None = None,
    ) -> None:
        with self.changed:
            self.life = advance(
                self.life,
                event,
                time.monotonic(),
                self.timing,
                engines=engines,
                fault=fault,
                reason=reason,
                jitter=random.random(),
            )
            self.changed.notify_all()

    def _look_for_engines(self) -> None:
        try:
            engines, reason = self.engines(), "a slot has no engine yet"
        except StorageError as e:
            # of the journal: nobody knows which engine, until it can be read
            engines, reason = None, e.message
        if engines is None:
            self._step(WorkerEvent.NO_ENGINES, reason=reason)
            self._pause(_LOOK_S)
        else:
            self._step(WorkerEvent.ENGINES, engines=engines)

    def _launch(self) -> None:
        engines = self.life.launched
        if is_crash_loop(self._starts.add(engines), self.timing):
            self._hooks.crash_loop(self.stream)
        try:
            pipe = WorkerPipe(self.stream, self._command)
        except OSError as e:
            # no memory, no process, no file left: the engine is not to blame
            detail = f"a worker cannot be started: {e.strerror}"
            log.error("%s: %s", self.stream, detail)
            self._starts.clear(engines)
            self._step(WorkerEvent.NOT_LAUNCHED, fault=Failure(code="storage", detail=detail, retryable=True))
            return
        c = self.config
        # before anybody else can send
        pipe.send(
            Start(
                stream=self.stream,
                kind=c.kind,
                source=c.source,
                config=c.config,
                engines=dict(engines),
                out=c.out,
                cache=self._cache,
                stats_every_s=self._stats_every_s,
            )
        )
        self.pipe = pipe
        self._step(WorkerEvent.LAUNCHED)

    def _read(self) -> None:
        """What the worker says within a moment; its end, and the end of its time."""
        assert self.pipe is not None
        failure = overdue(self.life, time.monotonic(), self.timing, self.config.stall_s)
        if failure is not None:
            self._step(WorkerEvent.NO_PROGRESS, fault=failure)
            return
        try:
            lines = self.pipe.read(0.1)
            for line in lines or []:
                self._handle(line)
        except ProtocolError as e:
            self._step(WorkerEvent.VIOLATION, fault=Failure(code="protocol", detail=e.message))
            return
        if lines is None:
            self._step(WorkerEvent.OUTPUT_CLOSED)

    def _handle(self, line: bytes) -> None:
        message = parse_from_worker(line)
        with self.changed:
            before = self.life
            self.life = receive(before, message, time.monotonic(), self.timing)
            if isinstance(message, Shadowed | ShadowFailed):
                self.shadow_answers[message.part] = message
            self.changed.notify_all()
        if self.life.steady and not before.steady:
            self._starts.clear(before.launched)
        if isinstance(message, Stats):
            self._hooks.stats(self.stream, message)
        elif isinstance(message, EventMessage):
            self._hooks.event(self.stream, message)
        elif isinstance(message, LeaseMessage):
            self._hooks.lease(self.stream, message)

    def _end(self, timeout_s: float) -> None:
        """Ask, wait, kill; nothing is left behind."""
        pipe = self.pipe
        assert pipe is not None
        if pipe.returncode is None and self.life.state is not WorkerState.ENDING:
            pipe.send(Stop())
        with self.changed:
            self.pipe = None
            self.changed.notify_all()
        code = pipe.end(timeout_s)
        if code:
            crash = Failure(code="crash", detail=f"the worker ended with code {code}", retryable=True)
            with self.changed:
                self.life = replace(self.life, fault=self.life.fault or crash)
        self._take_requests()
        if is_forgiven(self.life):
            self._starts.clear(self.life.launched)
        self._step(WorkerEvent.EXITED)

    def _back_off(self) -> None:
        """A request for another engine, or the end, cuts it short."""
        # whoever shortens it holds the lock
        with self.changed:
            self._pause(self.life.retry_s - time.monotonic())
        if self.life.state is WorkerState.BACKING_OFF and not (self._close_asked or self._restart_asked):
            self._step(WorkerEvent.BACK_OFF_OVER)

    def _pause(self, seconds: float) -> None:
        with self.changed:
            if seconds > 0 and not self._close_asked and not self._restart_asked:
                self.changed.wait(seconds)
