"""A stream that the agent keeps running, and the thread that executes the table of
:mod:`edgectl.agent.streams.worker_states` for it.

The worker that it is in may be shared with other streams. One that crashes it again and again gets a worker of its
own. How other threads have the stream change its engines: :mod:`edgectl.agent.streams.engine_requests`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.set_engines import Wanted
from edgectl.agent.streams.start_count import StartCount
from edgectl.agent.streams.worker_life import (
    Timing,
    WorkerLife,
    advance,
    is_crash_loop,
    is_forgiven,
    is_outside,
    left_with,
    overdue,
    receive,
)
from edgectl.agent.streams.worker_pipe import ToWorkerMessage
from edgectl.agent.streams.worker_process import ProcessSeat, WorkerProcess
from edgectl.agent.streams.worker_sharing import needs_own_worker
from edgectl.agent.streams.worker_states import SHOWN, WorkerEvent, WorkerState
from edgectl.core.errors import ProtocolError, StorageError
from edgectl.core.schema import Key
from edgectl.core.wire import Failure
from edgectl.pipelines.host.protocol import (
    Commit,
    Configured,
    ConfigureFailed,
    EngineRef,
    EventMessage,
    Fault,
    FromWorker,
    LeaseMessage,
    Ready,
    Shadowed,
    ShadowFailed,
    Start,
    Stats,
)

__all__ = ["Lost", "SupervisedStream", "WorkerCallbacks"]

log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""Between two looks at the slots of a stream that waits for an engine."""
_FAILED_STOP_S = 1.0
"""For a stream that failed to stop in order."""


@dataclass(frozen=True)
class WorkerCallbacks:
    """What the supervisor tells. All are called on pipeline threads and must not wait."""

    stats: Callable[[str, Stats], None]
    event: Callable[[str, EventMessage], None]
    crash_loop: Callable[[str, Mapping[str, EngineRef], Mapping[str, Any]], None]
    """This stream does not survive with these engines (part → engine) and this configuration."""
    lease: Callable[[str, LeaseMessage], None] = lambda stream, lease: None
    """The stream is in the middle of something."""


@dataclass(frozen=True)
class Lost:
    """What came of a request that the worker did not answer before the stream was out of it."""

    fault: Failure | None
    """Of the stream itself; None: something else ended it."""


class SupervisedStream:
    """The thread ``pipe-<stream>`` enters and leaves the worker and takes every step of the table.

    Other threads send messages and wait on ``changed``. It guards ``life``, ``place`` and ``shadow_answers``
    and is notified whenever one of them changes.
    """

    def __init__(
        self,
        stream: str,
        config: StreamConfig,
        engine_of: Callable[[str], EngineRef | None],
        journal: Journal,
        hooks: WorkerCallbacks,
        worker: WorkerProcess,
        own_worker: Callable[[], WorkerProcess],
        *,
        on_trial: Callable[[str], bool] = lambda slot: False,
        set_engines: Mapping[str, EngineRef] = MappingProxyType({}),
        stats_every_s: float = 2.0,
        timing: Timing | None = None,
        cache: Path | None = None,
    ) -> None:
        """``engine_of``: slot → the engine that it is to run now; ``on_trial``: slot → whether that is still judged.
        ``set_engines``: part → the engine that goes with ``config``, in the place of that of its slot.
        ``own_worker`` makes one that it shares with nobody. ``cache``: folder of finalised engines."""
        self.stream = stream
        self.config = config
        self.set_engines = set_engines
        """Changes with ``config``, under ``changed``: what is started or told to a worker is always both."""
        self.engine_of = engine_of
        self._on_trial = on_trial
        self.timing = timing or Timing()
        self._hooks = hooks
        self.worker = worker
        self._own_worker: Callable[[], WorkerProcess] | None = own_worker
        self.place_of: Callable[[Key], str | None] = lambda key: None
        """Where a setting stands in the agent's own configuration: file and line."""
        self._crashes_s: list[float] = []
        """When it crashed the worker."""
        self._stats_every_s = stats_every_s
        self._cache = cache
        self._starts = StartCount(stream, journal)
        self.changed = threading.Condition()
        self.life = WorkerLife()
        self.place: ProcessSeat | None = None
        """In the worker that takes messages for it; None while it is in none, or about to leave."""
        self.configuring = threading.RLock()
        """Held by who changes its configuration, from the look at what it has until that is another one."""
        self.config_asked: dict[int, Wanted | None] = {}
        """Number of the request → what the worker has not answered for yet; None: it only prepares a configuration. Who
        waits no longer takes it out: a late answer is dropped."""
        self._told_engines: dict[int, Mapping[str, EngineRef]] = {}
        """Number of the request → the engines that are to take over with it."""
        self.config_answers: dict[int, Configured | ConfigureFailed | Lost] = {}
        """Number of the request → what came of another configuration. Whoever asked takes it out."""
        self._config_before: dict[str, Any] | None = None
        self._worker_config: dict[str, Any] | None = None
        """What the worker has, started with it or told since; None while the stream is in none."""
        self._config_fault: str | None = None
        self._launched_config, self._launched_set = config, set_engines
        """What it was last started with, or is about to be: they belong to the engines of ``life.launched``."""
        self.shadow_answers: dict[str, Shadowed | ShadowFailed] = {}
        """Part → what came of running another engine beside it."""
        self._close_asked = False
        self._restart_asked = False
        self._restart_why: str | None = None
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

    @property
    def running_config(self) -> dict[str, Any] | None:
        """What it runs with; None: it does not run, or is about to start again."""
        with self.changed:
            runs = self.life.state is WorkerState.RUNNING and not self._is_interrupted()
            return self._worker_config if runs else None

    @property
    def running_engines(self) -> Mapping[str, EngineRef]:
        """Part → what the worker has said that it runs; empty: it does not run, or is about to start again."""
        with self.changed:
            runs = self.life.state is WorkerState.RUNNING and not self._is_interrupted()
            return self.life.parts.serving if runs else {}

    @property
    def config_fault(self) -> str | None:
        """Why it did not start with the configuration that it has; None: it did, or was not started since."""
        return self._config_fault

    def parts(self, slot: str) -> list[str]:
        """That run what the slot has: those of a set do not."""
        return [part for part, s in self.config.slots.items() if s == slot and part not in self.set_engines]

    def engine(self, part: str) -> EngineRef | None:
        """What it is to run: by its set, else by its slot; None: the slot is empty."""
        of_set = self.set_engines.get(part)
        return self.engine_of(self.config.slots[part]) if of_set is None else of_set

    def engines(self) -> dict[str, EngineRef] | None:
        """Part → engine; None while a slot is empty."""
        found = {part: ref for part in self.config.slots if (ref := self.engine(part)) is not None}
        return found if len(found) == len(self.config.slots) else None

    def lacks_only(self, slot: str) -> bool:
        """Whether it can start once this slot has an engine."""
        return all(self.engine(part) is not None for part, s in self.config.slots.items() if s != slot)

    def others(self, engines: Mapping[str, EngineRef]) -> dict[str, EngineRef] | None:
        """Part → what it has to change over to, to run ``engines`` as its set, or none; None: a slot is empty that is to
        be run then. With ``changed`` held."""
        found = {}
        for part in {**self.set_engines, **engines}:
            ref = engines.get(part) or self.engine_of(self.config.slots[part])
            if ref is None:
                return None
            if self.life.parts.serving.get(part) != ref:
                found[part] = ref
        return found

    def told(self, number: int, engines: Mapping[str, EngineRef]) -> None:
        """These take over with the configuration of that request. With ``changed`` held."""
        self._told_engines[number] = engines

    def stop(self) -> None:
        with self.changed:
            self._close_asked = True
            self.changed.notify_all()

    def adopt(self, config: StreamConfig, engines: Mapping[str, EngineRef] | None = None) -> None:
        """Start with this configuration from now on, and with these engines of its set; None: with those that it has."""
        with self.changed:
            engines = self.set_engines if engines is None else engines
            if config.config != self.config.config:
                # alone it does not come back behind other engines
                self._config_before = self.config.config if engines == self.set_engines else None
                self._config_fault = None
            self.config, self.set_engines = config, engines
            self.changed.notify_all()

    def adopt_all_but_config(self, config: StreamConfig) -> None:
        """Its other settings, from now on."""
        with self.changed:
            self.adopt(config.model_copy(update={"config": self.config.config}))

    def start_with(self, config: StreamConfig, engines: Mapping[str, EngineRef] | None = None) -> None:
        """The same for a stream that does not run; one that is being started with another one starts again."""
        with self.changed:
            self.adopt(config, engines)
            if self.life.state in (WorkerState.LAUNCHING, WorkerState.LOADING, WorkerState.RUNNING):
                self.restart("its configuration is another one")

    def restart(self, why: str | None = None) -> None:
        """Leave the worker and enter one again; ``why``, for people."""
        with self.changed:
            self._restart_asked, self._restart_why = True, why
            self.changed.notify_all()

    def send(self, message: ToWorkerMessage) -> None:
        """To the worker, if it is in one."""
        if (place := self.place) is not None:
            self.worker.send(place, message)

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
            # a defect ends this thread, and the agent with it: it leaves nothing behind
            if (place := self.place) is not None:
                self.worker.leave(place, 0.0, lambda message: None)

    def _take_requests(self) -> None:
        with self.changed:
            close, restart, why = self._close_asked, self._restart_asked, self._restart_why
            self._restart_asked, self._restart_why = False, None
        if close and self.life.state is not WorkerState.CLOSING:
            self._step(WorkerEvent.CLOSE)
        elif restart and not close:
            self._step(WorkerEvent.RESTART, reason=why)

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
            with self.changed:
                # together: no start is made of the one from before a change and the other from behind it
                engines, reason = self.engines(), "a slot has no engine yet"
                self._launched_config, self._launched_set = self.config, self.set_engines
        except StorageError as e:
            # of the journal: nobody knows which engine, until it can be read
            engines, reason = None, e.message
        if engines is None:
            self._step(WorkerEvent.NO_ENGINES, reason=reason)
            self._pause(_LOOK_S)
        else:
            self._step(WorkerEvent.ENGINES, engines=engines)

    def _launch(self) -> None:
        engines, c = self.life.launched, self._launched_config
        if is_crash_loop(self._starts.add(engines, c.config), self.timing):
            self._hooks.crash_loop(self.stream, engines, c.config)
        start = Start(
            stream=self.stream,
            kind=c.kind,
            source=c.source,
            config=c.config,
            engines=dict(engines),
            on_trial=tuple(part for part in c.slots if self._is_on_trial(part)),
            out=c.out,
            cache=self._cache,
            stats_every_s=self._stats_every_s,
        )
        try:
            place = self.worker.enter(start, self.restart, lambda: not self._is_interrupted())
        except OSError as e:
            # no memory, no process, no file left: the engine is not to blame
            detail = f"a worker cannot be started: {e.strerror}"
            log.error("%s: %s", self.stream, detail)
            self._forgive()
            self._step(WorkerEvent.NOT_LAUNCHED, fault=Failure(code="storage", detail=detail, retryable=True))
            return
        if place is None:
            # something else is wanted, and nothing was tried
            self._forgive()
            return
        with self.changed:
            self.place, self._worker_config = place, c.config
            self._step(WorkerEvent.LAUNCHED)

    def _read(self) -> None:
        """What the worker says of it within a moment; its end, and the end of its time."""
        assert self.place is not None
        failure = overdue(self.life, time.monotonic(), self.timing, self.config.stall_s)
        if failure is not None:
            self._step(WorkerEvent.NO_PROGRESS, fault=failure)
            return
        messages = self.place.read(0.1)
        try:
            for message in messages or []:
                self._handle(message)
        except ProtocolError as e:
            self._step(WorkerEvent.VIOLATION, fault=Failure(code="protocol", detail=e.message))
            return
        if messages is None:
            self._step(WorkerEvent.ENDED)

    def _handle(self, message: FromWorker) -> None:
        wrong = (
            message.error.detail if isinstance(message, Fault) and message.error.code == "config" else None
        )
        if wrong is not None and isinstance(message, Fault) and message.key:
            message = message.model_copy(update={"error": self._placed(message)})
        with self.changed:
            before = self.life
            self.life = receive(before, message, time.monotonic(), self.timing)
            self._config_fault = wrong or self._config_fault
            if isinstance(message, Configured | ConfigureFailed):
                self._take_answer(message)
            elif (
                isinstance(message, EventMessage) and _went_back(message) and self._config_before is not None
            ):
                log.error(
                    "%s: the configuration before is back: %s", self.stream, message.event.get("detail")
                )
                self.config, self._worker_config = self._with(self._config_before), self._config_before
                self._config_before = None
            if isinstance(message, Shadowed | ShadowFailed):
                self.shadow_answers[message.part] = message
            if isinstance(message, Ready):
                self._config_fault = None
                self._end_trials()
                if (self._worker_config, self._launched_set) != (self.config.config, self.set_engines):
                    self.restart("its configuration became another one while it started")
            self.changed.notify_all()
        if self.life.steady and not before.steady:
            self._forgive()
        self._tell(message)

    def _end_trials(self) -> None:
        """What was said of an engine while it was being started did not reach the worker. With the lock held: before any
        swap."""
        for part in self.config.slots:
            if not self._is_on_trial(part):
                self.send(Commit(stream=self.stream, part=part))

    def _is_on_trial(self, part: str) -> bool:
        slot = self.config.config_slot if part in self.set_engines else self.config.slots[part]
        return slot is not None and self._on_trial(slot)

    def _take_answer(self, answer: Configured | ConfigureFailed) -> None:
        """In the order of the worker's messages: what it takes back a moment later is back, however late the thread that
        asked looks."""
        if answer.number not in self.config_asked:
            log.warning("%s: an answer about its configuration came too late", self.stream)
            return
        asked = self.config_asked.pop(answer.number)
        engines = self._told_engines.pop(answer.number, {})
        self.config_answers[answer.number] = answer
        if asked is not None and isinstance(answer, Configured):
            self.adopt(self._with(asked.config), asked.engines)
            self._worker_config = asked.config
            self.life = replace(self.life, parts=self.life.parts.took(engines))
            if engines and not answer.in_force:
                # which engine runs is told by frames, and there are none
                self.restart("its camera gives no frame at which its engines could change")

    def _lose_answers(self) -> None:
        """The stream is out of the worker. Who killed that in the middle of another configuration finds it in force all
        the same."""
        ended = self.life.state is WorkerState.ENDING
        fault = self.life.fault if ended and not is_outside(self.life.fault) else None
        for number, asked in self.config_asked.items():
            self.config_answers[number] = Lost(fault)
            if asked is not None:
                self.adopt(self._with(asked.config), asked.engines)
        self.config_asked.clear()
        self._told_engines.clear()

    def _with(self, config: dict[str, Any]) -> StreamConfig:
        return self.config.model_copy(update={"config": config})

    def _placed(self, fault: Fault) -> Failure:
        """With the place in the file that the configuration was read from."""
        place = self.place_of(("pipelines", self.stream, "config", *fault.key))
        detail = fault.error.detail if place is None else f"{place}: {fault.error.detail}"
        return fault.error.model_copy(update={"detail": detail})

    def _tell(self, message: FromWorker) -> None:
        if isinstance(message, Stats):
            self._hooks.stats(self.stream, message)
        elif isinstance(message, EventMessage):
            self._hooks.event(self.stream, message)
        elif isinstance(message, LeaseMessage):
            self._hooks.lease(self.stream, message)

    def _end(self, timeout_s: float) -> None:
        """Leave the worker. What the stream says on its way out is told like everything before."""
        place = self.place
        assert place is not None
        with self.changed:
            self.place = self._worker_config = None
            self.changed.notify_all()
        left = self.worker.leave(place, timeout_s, self._tell)
        with self.changed:
            self.life = left_with(self.life, left.stuck, left.fault)
            self._lose_answers()
            self.changed.notify_all()
        self._take_requests()
        if is_forgiven(self.life):
            self._forgive()
        if left.guilty:
            self._consider_isolation()
        self._step(WorkerEvent.EXITED)

    def _consider_isolation(self) -> None:
        """A stream that crashes its worker again and again shares it no more. It begins to count anew: alone, its
        crashes say something about its engine."""
        now_s = time.monotonic()
        self._crashes_s = [*self._crashes_s[1 - self.timing.crashes :], now_s]
        if self._own_worker is not None and needs_own_worker(self._crashes_s, now_s, self.timing.crashes):
            log.warning("%s has crashed its worker too often and gets one of its own", self.stream)
            self.worker, self._own_worker = self._own_worker(), None
            self._forgive()

    def _forgive(self) -> None:
        """Its last start does not count."""
        self._starts.clear(self.life.launched, self._launched_config.config)

    def _back_off(self) -> None:
        """A request for another engine, or the end, cuts it short."""
        # whoever shortens it holds the lock
        with self.changed:
            self._pause(self.life.retry_s - time.monotonic())
        if self.life.state is WorkerState.BACKING_OFF and not self._is_interrupted():
            self._step(WorkerEvent.BACK_OFF_OVER)

    def _pause(self, seconds: float) -> None:
        with self.changed:
            if seconds > 0 and not self._is_interrupted():
                self.changed.wait(seconds)

    def _is_interrupted(self) -> bool:
        return self._close_asked or self._restart_asked


def _went_back(message: EventMessage) -> bool:
    """Whether a stream says that it runs with its configuration before again."""
    event = message.event
    return event.get("type") == "configuration" and event.get("phase") == "reverted"
