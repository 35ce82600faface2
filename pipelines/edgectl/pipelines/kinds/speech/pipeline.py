"""A speech stream: capture thread → bounded queue → engine thread → sinks.

The ledger counts blocks of 256 samples. A live source whose queue is full loses its oldest block, counted as
``superseded``; the next block then carries the gap, so that no stage joins sounds that do not belong
together.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgectl.core.errors import EdgectlError, EngineError, UsageError
from edgectl.core.histogram import Histogram
from edgectl.core.wire import StreamStats
from edgectl.engines.base import Engine
from edgectl.pipelines.audio.blocks import BLOCK, RATE, AudioBlock, AudioSource
from edgectl.pipelines.kinds import KindType
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.kinds.config_change import Reconfigured
from edgectl.pipelines.kinds.difference import NewStartNeeded
from edgectl.pipelines.kinds.speech.session import SpeechConfig, SpeechPart, SpeechSession
from edgectl.pipelines.sinks import open_sinks
from edgectl.pipelines.sinks.base import Sink, SinkContext, StreamOutput
from edgectl.pipelines.sinks.jsonl import CallbackSink
from edgectl.pipelines.sinks.pool import SinkPool, SinkState
from edgectl.pipelines.sources import open_audio
from edgectl.pipelines.stream.events import Event, EventWriter
from edgectl.pipelines.stream.frame import Stamp
from edgectl.pipelines.stream.ledger import Ledger
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.threads import stream_thread
from edgectl.pipelines.stream.trace import Stage, Tracer
from edgectl.pipelines.video.shadow import Shadowing

__all__ = ["KIND", "SpeechPipeline", "SpeechPipelineConfig"]

_QUEUE = 256  # blocks: 4 s
_RATE_ERROR = 0.05  # of the nominal rate: no crystal is so far off
_PARTS: tuple[SpeechPart, ...] = ("vad", "keyword")
BUDGET_MS = 250.0


class SpeechPipelineConfig(PipelineConfig):
    speech: SpeechConfig = SpeechConfig()


def _make(args: PipelineArgs) -> SpeechPipeline:
    config = args.config
    assert isinstance(config, SpeechPipelineConfig)
    return SpeechPipeline(args, config.speech)


KIND = KindType(("keyword", "vad"), SpeechPipelineConfig, _make, "a microphone: voice activity and keywords")


class SpeechPipeline:
    """See :class:`edgectl.pipelines.kinds.base.Pipeline`."""

    def __init__(self, args: PipelineArgs, config: SpeechConfig) -> None:
        self._args = args
        self._slots = dict(args.engines)
        self._engines: dict[str, Engine] = {}
        self._previous: dict[str, tuple[Engine, PartVariant]] = {}
        self._config = config
        self._budget_ms = args.config.budget_ms or BUDGET_MS
        self._queue: deque[AudioBlock] = deque()
        self._change = threading.Condition()
        self._ended = False
        self._stopping = threading.Event()
        self._done = threading.Event()
        self._between_blocks = threading.Lock()
        self._swap_lock = threading.Lock()
        self._error: EdgectlError | None = None
        self._started = self._stopped = self._asked = False
        self._seq = self._window_processed = 0
        self._longest_gap_ns, self._last_done_ns = 0, 0
        self._outage: str | None = None  # capture thread; read by others
        self._rate_fault: str | None = None
        self._window_start = time.monotonic()
        self.ledger, self.tracer = Ledger(), Tracer()
        self.outputs: tuple[Path, ...] = ()
        self.expected: int | None = None
        self._writer = EventWriter(args.stream, releases=self._releases())

    def start(self) -> None:
        self._found: list[Event] = []
        self._sink_states: deque[SinkState] = deque()
        self._session = SpeechSession(self._config, self._found.append, timer=self._timed)
        self._source: AudioSource | None = None
        try:
            for part in _PARTS:
                if part in self._slots:
                    self._engines[part] = self._open(self._slots[part])
                    self._session.use(part, self._engines[part], self._slots[part].variant.config.task)
            self._source = open_audio(self._args.source, patient=self._args.patient)
            lengths = [s for s in (self._source.seconds, self._args.seconds) if s is not None]
            self.expected = math.ceil(min(lengths) * RATE / BLOCK) if lengths else None
            sinks: list[Sink] = [CallbackSink(self._args.emit)]
            endless = self._source.live and self._source.seconds is None
            context = SinkContext(self._args.stream, self._args.out, endless=endless)
            sinks += open_sinks(self._args.config, context).values()
        except BaseException:
            if self._source is not None:
                self._source.close()
            self._close_engines()
            raise
        self.outputs = tuple(sink.path for sink in sinks if sink.path is not None)
        self._sinks = SinkPool(
            self._args.stream,
            sinks,
            wait=not self._source.live,
            written=lambda ns: self.tracer.record("publish", ns),
            tell=self._sink_states.append,
        )
        self._session.announce()
        self._window_start = time.monotonic()
        self._capture = stream_thread("capture", self._args.stream, self._capture_loop, self._fail)
        self._engine = stream_thread("engine", self._args.stream, self._engine_loop, self._fail)
        self._started = True
        self._capture.start()
        self._engine.start()

    def wait(self, timeout_s: float) -> bool:
        return self._done.wait(timeout_s)

    @property
    def error(self) -> EdgectlError | None:
        return self._error

    def swap(self, part: str, slot: PartVariant) -> float:
        known = self._part(part)
        with self._swap_lock:
            engine = self._open(slot)
            task = slot.variant.config.task
            try:
                with self._between_blocks:
                    self._session.use(known, engine, task)
                    self._longest_gap_ns = 0
            except BaseException:
                engine.close()
                raise
            if older := self._previous.pop(part, None):
                older[0].close()
            self._previous[part] = (self._engines[part], self._slots[part])
            self._engines[part], self._slots[part] = engine, slot
            self._writer.releases = self._releases()
            before = self.ledger.frames().processed
            deadline = time.monotonic() + 2.0
            with self._change:
                self._change.wait_for(
                    lambda: self.ledger.frames().processed >= before + 3 or self._done.is_set(),
                    deadline - time.monotonic(),
                )
            return self._longest_gap_ns / 1e6

    def shadow(
        self,
        part: str,
        slot: PartVariant,
        percent: float,
        frames: int,
        done: Callable[[Shadowing | EdgectlError], None],
    ) -> None:
        raise UsageError(
            "a speech pipeline cannot run two engines beside each other: they carry state from block to block",
            hint="leave `shadow` out of the policy for its slots",
        )

    def commit(self, part: str) -> None:
        self._part(part)
        with self._swap_lock:
            if previous := self._previous.pop(part, None):
                previous[0].close()

    def revert(self, part: str) -> None:
        known = self._part(part)
        with self._swap_lock:
            previous = self._previous.pop(part, None)
            if previous is None:
                return
            replaced = self._engines[part]
            with self._between_blocks:
                self._session.use(known, previous[0], previous[1].variant.config.task)
            self._engines[part], self._slots[part] = previous
            self._writer.releases = self._releases()
            replaced.close()

    def configure(
        self,
        config: PipelineConfig,
        told: Mapping[str, Any],
        *,
        check: bool = False,
        engines: Mapping[str, PartVariant] = MappingProxyType({}),
    ) -> Reconfigured:
        if config == self._args.config and not engines:
            return Reconfigured((), in_force=True)
        raise NewStartNeeded(
            "the configuration of a speech stream cannot change while it runs", hint="start the stream again"
        )

    def stats(self) -> StreamStats:
        frames = self.ledger.frames()
        now = time.monotonic()
        seconds, self._window_start = now - self._window_start, now
        done, self._window_processed = frames.processed - self._window_processed, frames.processed
        return StreamStats(
            kind="speech",
            slots={part: slot.bundle or slot.variant.digest for part, slot in self._slots.items()},
            releases=self._releases(),
            stages=self.tracer.window(),
            frames=frames,
            errors=self._session.errors,
            fps=round(done / seconds, 3) if seconds > 0 else 0.0,
            budget_ms=self._budget_ms,
            state="failed"
            if self._error
            else "ended"
            if self._done.is_set()
            else "outage"
            if self._outage
            else "running",
            counters={
                **self._session.counts,
                **self._sinks.counters,
                **(self._source.counters if self._source else {}),
            },
        )

    def totals(self) -> dict[str, Histogram]:
        return self.tracer.totals()

    def interrupt(self) -> None:
        """Its source is open before the stream starts, or fails at once."""

    def stuck(self) -> tuple[str, ...]:
        if not (self._started and self._stopping.is_set()):
            return ()
        threads = {"source": self._capture, "engine": self._engine}
        found = [name for name, thread in threads.items() if thread.is_alive()]
        return (*found, *(f"sink:{name}" for name in self._sinks.stuck()))

    def stop(self) -> None:
        if not self._started or self._stopped:
            return
        if self._asked or not self._done.is_set():
            # it has not come to its end: somebody waits for it to stop
            self._sinks.hurry()
        self._asked = True
        self._stopping.set()
        if self._source is not None:
            self._source.close()
        with self._change:
            self._ended = True
            self._change.notify_all()
        self._capture.join(20)
        self._engine.join(20)
        if self._engine.is_alive() or self._capture.is_alive():
            self._stopped = True
            raise EngineError(
                f"stream {self._args.stream} does not stop: a native call is stuck",
                hint="the process must be killed",
            )
        while self._queue:
            if len(self._queue.popleft().data):
                self.ledger.drop("shutdown")
        self._sinks.close()
        self._close_engines()
        # not before: who was interrupted (Ctrl-C) asks again
        self._stopped = True
        if self._error is None and self._sinks.errors:
            self._error = next(iter(self._sinks.errors.values()))

    def _open(self, slot: PartVariant) -> Engine:
        return self._args.open_engine(slot.variant)

    def _close_engines(self) -> None:
        for engine in [*self._engines.values(), *(engine for engine, _ in self._previous.values())]:
            engine.close()
        self._previous.clear()

    def _part(self, part: str) -> SpeechPart:
        for known in _PARTS:
            if known == part and part in self._engines:
                return known
        raise UsageError(
            f"this pipeline has no engine for the part {part!r}",
            hint=f"its parts are {', '.join(self._engines)}",
        )

    def _releases(self) -> dict[str, str]:
        return {part: slot.release for part, slot in self._slots.items() if slot.release}

    def _timed(self, part: SpeechPart) -> Callable[[], None]:
        started = time.monotonic_ns()
        stage: Stage = "engine:vad" if part == "vad" else "engine:keyword"
        return lambda: self.tracer.record(stage, time.monotonic_ns() - started)

    def _fail(self, e: EdgectlError) -> None:
        self._error = self._error or e
        self._stopping.set()
        self._done.set()
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _capture_loop(self) -> None:
        assert self._source is not None
        until = None
        while not self._stopping.is_set():
            block = self._source.read()
            if block is None:
                break
            until = until or _Until(block, self._args.seconds, live=self._source.live)
            if until.over(block):
                break
            self._hand_over(block)
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _hand_over(self, block: AudioBlock) -> None:
        assert self._source is not None
        heard = len(block.data) > 0
        if not heard and block.outage == self._outage:
            return
        self._outage = block.outage
        if heard:
            self.ledger.capture()
        with self._change:
            if self._source.live:
                if len(self._queue) >= _QUEUE and len(self._queue.popleft().data):
                    self.ledger.drop("superseded")
            else:
                self._change.wait_for(lambda: len(self._queue) < _QUEUE or self._stopping.is_set())
            self._queue.append(block)
            self._change.notify_all()

    def _engine_loop(self) -> None:
        expected = 0
        last = AudioBlock(0, np.zeros(0, np.float32), time.monotonic_ns())
        while not self._stopping.is_set():
            with self._change:
                self._change.wait_for(lambda: self._queue or self._ended)
                if not self._queue:
                    break
                block = self._queue.popleft()
                self._change.notify_all()
            last = block
            if len(block.data):
                if block.first != expected:
                    block = dataclasses.replace(block, gap=block.first - expected)
                expected = block.first + len(block.data)
                self._process(block)
            else:
                self._session.push(block)
                self._publish(block, time.monotonic_ns())
        self._session.finish()
        self._publish(dataclasses.replace(last, first=expected, data=last.data[:0]), time.monotonic_ns())
        self._done.set()
        with self._change:
            self._change.notify_all()

    def _process(self, block: AudioBlock) -> None:
        taken = time.monotonic_ns()
        self.tracer.record("wait", taken - block.captured_ns)
        errors = self._session.errors
        with self._between_blocks:
            runs = self._session.push(block)
        self._tell_rate(block)
        done = time.monotonic_ns()
        if runs:
            self.tracer.record("avail_to_event", done - block.captured_ns)
        self._publish(block, done)
        if self._last_done_ns:
            self._longest_gap_ns = max(self._longest_gap_ns, done - self._last_done_ns)
        self._last_done_ns = done
        if self._session.errors > errors:
            self.ledger.drop("engine_error")
        else:
            self.ledger.process()
        with self._change:
            self._change.notify_all()

    def _tell_rate(self, block: AudioBlock) -> None:
        """Say once that a device's samples come far too fast or too slow to be the sound that they claim
        to be."""
        rate = RATE if block.clock is None else block.clock.rate
        fault = None if abs(rate / RATE - 1) <= _RATE_ERROR else "fast" if rate > RATE else "slow"
        if (fault is None) != (self._rate_fault is None):
            data = {
                "name": "sample_rate",
                "available": fault is None,
                "reason": fault or self._rate_fault,
                "rate_hz": round(rate),
            }
            self._found.append(
                Event("capability", block.first / RATE, "end" if fault is None else "start", None, data)
            )
        self._rate_fault = fault

    def _publish(self, block: AudioBlock, now_ns: int) -> None:
        end = block.first + len(block.data)
        while self._sink_states:
            self._found.append(self._sink_states.popleft().event(block.first / RATE))
        found = tuple(
            self._writer.record(e, self._stamp(block, end, e.t_s), now_ns=now_ns) for e in self._found
        )
        self._seq += 1
        self._found.clear()
        if found:
            self._sinks.offer(StreamOutput(found))

    def _stamp(self, block: AudioBlock, end: int, t_s: float) -> Stamp:
        """Of an event at ``t_s`` of stream time. A live one has a time of day: when the sample was taken,
        by this machine's clock as it is now, so that neither the sound card's drift nor a step of the
        clock stays in it."""
        offset_ns = None
        if self._source is not None and self._source.live:
            taken_ns = time.monotonic_ns() if block.clock is None else block.clock.at(t_s * RATE)
            offset_ns = time.time_ns() - time.monotonic_ns() + taken_ns - round(t_s * 1e9)
        end_ns = round(end / RATE * 1e9)
        return Stamp(
            self._seq,
            end_ns,
            block.captured_ns,
            end_ns / 1e9,
            offset_ns,
            "pts" if offset_ns is None else "arrival",
        )


class _Until:
    """When ``seconds`` of a source are over: for a live one by the clock, because one that is away or too
    slow gives no samples to tell the time by, and one that is too fast gives too many."""

    def __init__(self, first: AudioBlock, seconds: float | None, *, live: bool) -> None:
        self._samples = math.inf if seconds is None or live else round(seconds * RATE)
        began_ns = first.captured_ns - len(first.data) / RATE * 1e9
        self._ns = (
            math.inf if seconds is None or not live else began_ns + seconds * 1e9 + 1e6
        )  # 1 ms: paced blocks end on the dot

    def over(self, block: AudioBlock) -> bool:
        return block.first >= self._samples or block.captured_ns > self._ns
