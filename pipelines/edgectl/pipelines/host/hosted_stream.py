"""One stream of a worker: its pipeline, the thread that obeys its commands, and the one that looks after it.

Nothing that this stream does, or fails to do, keeps another one waiting. A stream that does not stop in time is
abandoned: it says nothing any more, its threads stay behind in the process, and the name is free again.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import psutil

from edgectl.core.bundle import LighterPreference, Variant
from edgectl.core.errors import BundleError, EdgectlError, EngineError, ProtocolError, UsageError
from edgectl.core.schema import Message
from edgectl.core.wire import Failure
from edgectl.engines.resident import give_back
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.live import has_pictures
from edgectl.pipelines.host.protocol import (
    Commit,
    Configure,
    Configured,
    ConfigureFailed,
    Ended,
    EngineRef,
    EventMessage,
    Fault,
    LeaseMessage,
    Ready,
    Revert,
    Shadowed,
    ShadowFailed,
    ShadowMessage,
    Start,
    Stats,
    Swap,
    SwapFailed,
    Swapped,
    ToWorker,
)
from edgectl.pipelines.kinds.base import EngineFactory, Pipeline, PipelineArgs, make_pipeline, open_variant
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.kinds.difference import NewStartNeeded
from edgectl.pipelines.sinks.base import Sink
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import EnginePool
from edgectl.pipelines.video.shadow import Shadowing

__all__ = ["HostedStream", "failure_of"]

_log = logging.getLogger(__name__)

_MAX_COMMANDS = 64
"""The agent waits for most answers: a stream that leaves so many commands lying takes none any more."""
_POLL_S = 0.25
_END_S = 60.0
"""For a stream that ends by itself to write what is queued."""


class HostedStream:
    """``begin``, then ``order`` and ``stop`` from any thread; ``gone`` is set once it has said Ended."""

    def __init__(
        self,
        start: Start,
        say: Callable[[Message], None],
        left: Callable[[HostedStream], None],
        pool: EnginePool,
        open_engine: EngineFactory | None = None,
        taps: Callable[[str], tuple[Sink, ...]] | None = None,
    ) -> None:
        """``say`` writes to the agent. ``left`` is called once, right before Ended is said. ``pool``: of the worker.
        ``open_engine`` None: the variant's own runtime, with the cache of finalised engines that ``start`` names.
        ``taps``: further sinks of a stream that has pictures."""
        self.name = start.stream
        self.gone = threading.Event()
        self._start = start
        self._out = say
        self._left = left
        self._pool = pool
        self._open_engine = open_engine or functools.partial(open_variant, cache=start.cache)
        self._taps = taps
        self._commands: queue.Queue[ToWorker | None] = queue.Queue(_MAX_COMMANDS)
        self._pipeline: Pipeline | None = None
        self._lock_on: frozenset[str] = frozenset()
        self._lock_s = 0.0
        self._running = threading.Event()
        self._asked = threading.Event()
        """To stop, by anybody."""
        self._within_s = _END_S
        self._stopped = threading.Event()
        # held while something is said, so that nothing follows Ended
        self._voice = threading.Lock()
        self._silent = False
        self._windows = threading.Lock()
        self._counting = threading.Lock()
        self._events = 0
        """Said so far."""
        self._last_window_said = False
        self._window_since_s = 0.0
        """On the monotonic clock: when the last window ended."""
        self._threads = [
            threading.Thread(target=self._obey_all, name=f"stream-{self.name}", daemon=True),
            threading.Thread(target=self._look_after, name=f"watch-{self.name}", daemon=True),
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def order(self, command: ToWorker) -> None:
        """In its turn, without waiting."""
        try:
            self._commands.put_nowait(command)
        except queue.Full:
            _log.error("%s takes no commands any more", self.name)
            self.stop(0.0)

    def stop(self, within_s: float) -> None:
        """Begin to stop. What is not over then is abandoned."""
        if not self._asked.is_set():
            self._within_s = within_s
            self._asked.set()
        while True:
            try:
                self._commands.put_nowait(None)
                return
            except queue.Full:
                # whoever wants the end does not want that any more
                with contextlib.suppress(queue.Empty):
                    self._commands.get_nowait()

    # ---- the thread that obeys

    def _obey_all(self) -> None:
        error: EdgectlError | None = None
        try:
            pipeline = self._open()
            while (command := self._commands.get()) is not None:
                self._obey(pipeline, command)
        except EdgectlError as e:
            error = e
        except Exception as e:
            # a defect in one stream is not the end of the others
            _log.exception("stream %s", self.name)
            error = EngineError(f"stream {self.name} failed: {type(e).__name__}: {e}")
        self._asked.set()
        self._finish(error)

    def _open(self) -> Pipeline:
        began, start = time.monotonic(), self._start
        config = parse_config(start.kind, start.config, what=f"the configuration of stream {self.name}")
        self._lock(config)
        engines = {
            part: replace(_part_variant(ref), on_trial=part in start.on_trial)
            for part, ref in start.engines.items()
        }
        args = PipelineArgs(
            self.name,
            start.source,
            engines,
            config,
            self._emit,
            self._open_engine,
            start.out,
            patient=True,
            pool=self._pool,
            sinks=self._taps(self.name) if self._taps is not None and has_pictures(start.kind) else (),
        )
        pipeline = self._pipeline = make_pipeline(start.kind, args)
        pipeline.start()
        self._say(Ready(stream=self.name, seconds=round(time.monotonic() - began, 3)))
        _tidy_up()
        self._window_since_s = time.monotonic()
        self._running.set()
        return pipeline

    def _obey(self, pipeline: Pipeline, command: ToWorker) -> None:
        if isinstance(command, Swap):
            self._swap(pipeline, command)
        elif isinstance(command, ShadowMessage):
            self._shadow(pipeline, command)
        elif isinstance(command, Configure):
            self._configure(pipeline, command)
        elif isinstance(command, Commit):
            pipeline.commit(command.part)
        elif isinstance(command, Revert):
            pipeline.revert(command.part)
        else:
            raise ProtocolError(f"stream {self.name} does not know the command {command.op}")

    def _swap(self, pipeline: Pipeline, command: Swap) -> None:
        part, manifest = command.part, command.engine.manifest
        try:
            gap_ms = pipeline.swap(part, replace(_part_variant(command.engine), edition=command.edition))
        except EdgectlError as e:
            self._say(SwapFailed(stream=self.name, part=part, manifest=manifest, error=failure_of(e)))
        else:
            self._say(Swapped(stream=self.name, part=part, manifest=manifest, gap_ms=round(gap_ms, 3)))

    def _shadow(self, pipeline: Pipeline, command: ShadowMessage) -> None:
        part, manifest = command.part, command.engine.manifest

        def done(result: Shadowing | EdgectlError) -> None:
            if isinstance(result, EdgectlError):
                failed = ShadowFailed(
                    stream=self.name, part=part, manifest=manifest, error=failure_of(result)
                )
                self._say(failed)
            else:
                numbers = vars(result)
                self._say(Shadowed(stream=self.name, part=part, manifest=manifest, **numbers))

        try:
            pipeline.shadow(part, _part_variant(command.engine), command.percent, command.frames, done)
        except EdgectlError as e:
            done(e)

    def _configure(self, pipeline: Pipeline, command: Configure) -> None:
        what = f"the configuration of stream {self.name}"
        try:
            config = parse_config(self._start.kind, command.config, what=what)
            engines = {part: _part_variant(ref) for part, ref in command.engines.items()}
            done = pipeline.configure(config, command.told, check=command.check, engines=engines)
        except EdgectlError as e:
            self._say(
                ConfigureFailed(
                    stream=self.name,
                    number=command.number,
                    error=failure_of(e),
                    key=_key_of(e),
                    needs_start=isinstance(e, NewStartNeeded),
                )
            )
            return
        if not command.check:
            self._lock(config)
        self._say(
            Configured(stream=self.name, number=command.number, changed=done.changed, in_force=done.in_force)
        )

    def _lock(self, config: PipelineConfig) -> None:
        """For which events other engines are kept away."""
        lock = config.update_lock
        self._lock_on, self._lock_s = (
            (frozenset(), 0.0) if lock is None else (frozenset(lock.on), lock.seconds)
        )

    def _finish(self, error: EdgectlError | None) -> None:
        """Stop the pipeline; its last window comes behind its last event."""
        stuck: tuple[str, ...] = ()
        pipeline = self._pipeline
        if pipeline is not None:
            try:
                pipeline.stop()
            except EdgectlError as e:
                error, stuck = error or e, self._stuck(pipeline) or (_NOBODY_KNOWS,)
            error = error or pipeline.error
            if self._running.is_set():
                self._say_window(pipeline, last=True)
        self._stopped.set()
        self._end(error, stuck)

    # ---- the thread that looks after it

    def _look_after(self) -> None:
        """Windows while the stream lasts; the end of the stream; the end of its time."""
        while not self._running.wait(_POLL_S):
            if self._asked.is_set():
                break
        pipeline = self._pipeline
        if pipeline is not None and self._running.is_set():
            while not self._is_over(pipeline, self._start.stats_every_s):
                self._say_window(pipeline, last=False)
        self.stop(_END_S)
        if pipeline is not None and not self._running.is_set():
            pipeline.interrupt()
        if not self._stopped.wait(self._within_s):
            stuck = () if pipeline is None else self._stuck(pipeline)
            self._end(None, stuck or (_NOBODY_KNOWS,))

    def _is_over(self, pipeline: Pipeline, seconds: float) -> bool:
        """True once the stream has ended or is to stop; False after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self._asked.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if pipeline.wait(min(left, _POLL_S)):
                return True
        return True

    # ---- what it says

    def _say_window(self, pipeline: Pipeline, *, last: bool) -> None:
        """The window since the last one."""
        with self._windows:
            if self._last_window_said:
                return
            self._last_window_said = last
            now = time.monotonic()
            window_s, self._window_since_s = max(now - self._window_since_s, 1e-6), now
            stats, stuck = pipeline.stats(), self._stuck(pipeline)
            stats = stats.model_copy(update={"counters": {**stats.counters, "events": self._events}})
            if stuck and stats.reason is None:
                stats = stats.model_copy(update={"reason": ", ".join(map(_reason_of, stuck))})
            rss_mb = round(psutil.Process().memory_info().rss / 1e6, 3)
            cpu_s = round(time.process_time(), 3)
            self._say(
                Stats(
                    stream=self.name,
                    window_s=window_s,
                    stats=stats,
                    rss_mb=rss_mb,
                    cpu_s=cpu_s,
                    stuck=stuck,
                )
            )

    def _stuck(self, pipeline: Pipeline) -> tuple[str, ...]:
        """Its own calls, and those of engines, which the streams of a worker use in turns."""
        found = pipeline.stuck()
        engine = any(call.doing == "run" and call.vital for call in self._pool.stuck())
        return ("engine", *found) if engine and "engine" not in found else found

    def _emit(self, record: Mapping[str, Any]) -> None:
        with self._counting:
            self._events += 1
        self._say(EventMessage(stream=self.name, event=dict(record)))
        if record.get("rule") in self._lock_on:
            reason = f"{record['rule']} was seen"
            self._say(LeaseMessage(stream=self.name, ttl_s=self._lock_s, reason=reason))

    def _say(self, message: Message) -> None:
        with self._voice:
            if not self._silent:
                self._out(message)

    def _end(self, error: EdgectlError | None, stuck: tuple[str, ...]) -> None:
        """The last words, once."""
        with self._voice:
            if self._silent:
                return
            self._silent = True
            if error is not None:
                _log.error("%s: %s", self.name, error)
                self._out(Fault(stream=self.name, error=failure_of(error), key=_key_of(error)))
            if stuck:
                _log.error("%s does not stop (%s) and is left behind", self.name, ", ".join(stuck))
            # before it is said: the agent may start it again at once
            self._left(self)
            self._out(Ended(stream=self.name, stuck=stuck))
        self.gone.set()


_NOBODY_KNOWS = "stream"
"""What is stuck, where the pipeline does not say what."""


def _reason_of(stuck: str) -> str:
    """As a reason code: ``engine_stuck``, ``sink_stuck:webhook``."""
    what, colon, name = stuck.partition(":")
    return f"{what}_stuck{colon}{name}"


def _part_variant(ref: EngineRef) -> PartVariant:
    """Raises :class:`BundleError`, but not for a lighter variant: the stream does without it."""
    lighter: dict[LighterPreference, Variant] = {}
    for name, manifest in ref.lighter.items():
        try:
            lighter[name] = Variant.open(ref.blobs, manifest)
        except BundleError as e:
            _log.warning("%s goes without its %s variant: %s", ref.release, name, e.message)
    return PartVariant(
        Variant.open(ref.blobs, ref.manifest), ref.release, ref.bundle, lighter=MappingProxyType(lighter)
    )


def _key_of(e: EdgectlError) -> tuple[str | int, ...]:
    return e.key if isinstance(e, UsageError) else ()


def failure_of(e: EdgectlError) -> Failure:
    """An error as it travels."""
    detail = e.message if e.hint is None else f"{e.message} ({e.hint})"
    return Failure(code=e.code, detail=detail[:1024], retryable=bool(getattr(e, "retryable", False)))


def _tidy_up() -> None:
    """What the start has left behind goes back to the system, and what stays is looked through no more."""
    give_back()
    gc.freeze()
