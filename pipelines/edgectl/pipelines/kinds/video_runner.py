"""One video stream: capture thread → hand-over → engine thread → sinks. Detection, tracking and rules happen
in the engine thread.

The ledger books every frame, the tracer times every stage. An engine that fails makes an ``inference_failed``
event, never an empty scene: trackers and rules do not see that frame. Engines are swapped between two frames.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from edgectl.core.errors import EdgectlError, EngineError, ModelError, UsageError
from edgectl.core.histogram import Histogram
from edgectl.core.wire import StreamStats
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.config import VideoConfig
from edgectl.pipelines.kinds.stills import StillAnalyser, StillObjects
from edgectl.pipelines.rules import RulesConfig, RuleSet
from edgectl.pipelines.rules.line import LineConfig
from edgectl.pipelines.sinks import open_sinks
from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, StreamControl, StreamOutput
from edgectl.pipelines.sinks.jsonl import CallbackSink
from edgectl.pipelines.sinks.pool import SinkPool, SinkState
from edgectl.pipelines.sources import SourceInfo, open_source
from edgectl.pipelines.sources.media.ring import PacketRing, PacketSource
from edgectl.pipelines.stream.events import Event, EventWriter
from edgectl.pipelines.stream.flow import Fifo, Handover, LatestSlot
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.stream.ledger import Ledger
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.threads import stream_thread
from edgectl.pipelines.stream.trace import Tracer
from edgectl.pipelines.video.capture import Capture
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.labels import LabelMap
from edgectl.pipelines.video.privacy import Privacy
from edgectl.pipelines.video.shadow import Shadow, Shadowing
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.video.swap import HotSwap
from edgectl.pipelines.video.tracker import Tracker, Tracks

__all__ = ["Analyser", "VideoPipeline"]

PART = "detector"
_POLL_S = 0.2
_JOIN_S = 20.0
# at most one inference_failed event in this time; each failure is counted
_FAILURE_EVENT_S = 1.0


class Analyser(Protocol):
    """What a pipeline does with tracks. Lives in the engine thread."""

    def step(self, frame: Frame, tracks: Tracks, t: float) -> list[Event]: ...

    def overlay(self) -> Callable[[NDArray[Any]], None]:
        """A function that draws the present state into a BGR image; it is called later, from the sink
        thread."""
        ...

    def counters(self) -> dict[str, int]: ...

    def close(self) -> None:
        """Called once, after the last ``step``, by another thread."""
        ...


class VideoPipeline:
    """See :class:`edgectl.pipelines.kinds.base.Pipeline`."""

    def __init__(
        self,
        kind: str,
        args: PipelineArgs,
        config: VideoConfig,
        make_analyser: Callable[[Sequence[str], SourceInfo], Analyser],
        budget_ms: float,
    ) -> None:
        self._kind = kind
        self._args = args
        self._make_analyser = make_analyser
        self._default_budget_ms = budget_ms
        self._config = config
        self._slot = args.engines[PART]
        self.ledger = Ledger()
        self.tracer = Tracer()
        self.outputs: tuple[Path, ...] = ()
        self.expected: int | None = None
        self._notices: deque[tuple[Event, Stamp]] = deque()
        self._writer = EventWriter(args.stream, releases=_releases(self._slot))
        self._error: EdgectlError | None = None
        self._stop = threading.Event()
        self._done = threading.Event()
        self._started = self._stopped = False
        self._errors = 0
        self._last_failure_s = -1e9
        self._previous_done_ns: int | None = None
        self._window_start = time.monotonic()
        self._window_processed = 0
        self._dropped_late = False
        self._control = StreamControl()
        self._shadow: Shadow | None = None
        self._shadow_lock = threading.Lock()

    # -- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        source = open_source(self._args.source, patient=self._args.patient)
        self._packets = self._ring_of(source)
        with contextlib.ExitStack() as undo:
            self._engines = HotSwap(self._open(self._slot), self._slot, self._done.is_set)
            undo.callback(self._engines.close)
            self._labels = LabelMap(self._config, self._engines.detector.labels)
            self._capture = Capture(
                self._args.stream,
                source,
                self.ledger,
                target_fps=self._config.flow.target_fps,
                seconds=self._args.seconds,
                failed=self._fail,
            )
            undo.callback(self._capture.join, _JOIN_S)
            undo.callback(self._capture.stop)
            self._plan(self._capture.open())
            self._engine = stream_thread("engine", self._args.stream, self._engine_loop, self._fail)
            self._window_start = time.monotonic()
            self._started = True
            self._engine.start()
            self._capture.deliver(self._handover, self._hear)
            undo.pop_all()

    def wait(self, timeout_s: float) -> bool:
        return self._done.wait(timeout_s)

    @property
    def error(self) -> EdgectlError | None:
        return self._error

    def stop(self) -> None:
        if not self._started or self._stopped:
            return
        self._stop.set()
        self._capture.stop()
        self._handover.close()
        self._engine.join(_JOIN_S)
        if not self._capture.join(_JOIN_S) or self._engine.is_alive():
            self._stopped = True
            raise EngineError(
                f"stream {self._args.stream} does not stop: a native call is stuck",
                hint="the process must be killed",
            )
        while (left := self._handover.take(0)) is not None:
            del left
            self.ledger.drop("shutdown")
        self._analyser.close()
        self._sinks.close()
        self._end_shadow("the stream has ended")
        self._engines.close()
        # not before: who was interrupted (Ctrl-C) asks again
        self._stopped = True
        if self._error is None and self._sinks.errors:
            self._error = next(iter(self._sinks.errors.values()))

    def _open(self, slot: PartVariant) -> Detector:
        engine = self._args.pool.join(slot.variant, self._args.open_engine)
        return Detector(slot.variant.config, engine)

    def _plan(self, info: SourceInfo) -> None:
        """Everything that depends on the source: hand-over, budget, analyser, sinks."""
        mode = self._config.flow.mode
        self._realtime = info.realtime
        self.expected = _expected(info, self._args.seconds)
        latest = info.realtime if mode == "auto" else mode == "latest"
        self._handover: Handover[Frame] = LatestSlot() if latest else Fifo()
        self._budget_ms = self._config.budget_ms or (self._default_budget_ms if info.realtime else None)
        self._analyser: Analyser
        self._tracker: Tracker | StillObjects
        if info.kind == "images":
            self._analyser, self._tracker = (
                StillAnalyser(self._config, self._labels.labels),
                StillObjects(self._config.track),
            )
        else:
            self._analyser = self._make_analyser(self._labels.labels, info)
            self._tracker = Tracker(
                self._config.track, period_s=_period_s(info, self._config.flow.target_fps)
            )
        self._privacy = Privacy(
            self._config.privacy,
            self._engines.detector.labels,
            self._config,
            self._labels.labels,
            {name: zone.polygon for name, zone in self._config.zones.items()},
            still=info.kind == "images",
        )
        self._sinks = SinkPool(
            self._args.stream,
            self._make_sinks(info),
            wait=not latest,
            written=lambda ns: self.tracer.record("publish", ns),
            tell=self._sink_changed,
        )

    def _make_sinks(self, info: SourceInfo) -> list[Sink]:
        sinks: list[Sink] = [CallbackSink(self._args.emit)]
        fps = min(info.fps or 25.0, self._config.flow.target_fps or 1000.0)
        switched = getattr(self._analyser, "rules", None)
        if isinstance(switched, RuleSet):
            self._control.armed, self._control.arm = lambda: switched.switches, switched.switch
        lines = tuple(rule.id for rule in self._config.rules if isinstance(rule, LineConfig))
        rules = self._config.model_dump(
            mode="json", include=set(RulesConfig.model_fields), exclude_unset=True
        )
        sinks += open_sinks(
            self._config,
            SinkContext(
                self._args.stream,
                self._args.out,
                fps,
                tuple(self._labels.labels),
                tuple(self._config.zones),
                lines,
                self._control,
                self._kind,
                rules,
                packets=self._packets,
                say=self._capture.say,
            ),
        )
        self.outputs = tuple(sink.path for sink in sinks if sink.path is not None)
        self._naming = [sink for sink in sinks if type(sink).file_of is not Sink.file_of]
        self._pictures = any(sink.pictures for sink in sinks)
        return sinks

    def _ring_of(self, source: object) -> PacketRing | None:
        """Keeps the source's packets where a sink wants them."""
        sinks = self._config.chosen() if self._args.out is not None else {}
        wanted = {name: s for name, o in sinks.items() if (s := o.packet_seconds())}
        if not wanted:
            return None
        if not isinstance(source, PacketSource):
            raise UsageError(
                f"{min(wanted)}: this source gives no packets that could be kept",
                hint="it needs a network camera or a video file; annotate writes a video of any source",
            )
        source.packets = PacketRing(max(wanted.values()))
        return source.packets

    def _sink_changed(self, state: SinkState) -> None:
        """From any thread."""
        self._capture.say(state.event)

    def _fail(self, e: EdgectlError) -> None:
        self._error = self._error or e
        self._stop.set()
        if self._started:
            self._handover.close()
        self._done.set()

    def _hear(self, event: Event, stamp: Stamp) -> None:
        """What becomes of the source, from the capture thread: told by the engine thread, in the order of
        the frames."""
        self._notices.append((event, stamp))

    def _tell(self, heard: int) -> None:
        """Give out the first ``heard`` of what was heard of the source."""
        for _ in range(heard):
            event, stamp = self._notices.popleft()
            self._sinks.offer(StreamOutput((self._writer.record(event, stamp),)))

    # -- engine thread ----------------------------------------------------------------------------------------------------

    def _engine_loop(self) -> None:
        while not self._stop.is_set():
            self._switch()
            self._capture.look_after()
            heard, finished = len(self._notices), self._handover.finished
            frame = self._handover.take(_POLL_S)
            if frame is not None:
                seq = frame.stamp.seq
                self._tell(sum(1 for _, stamp in list(self._notices) if stamp.seq <= seq))
                self._process(frame)
            else:
                # What was heard before nothing was found belongs behind every frame that came before it.
                self._tell(heard)
                if finished:
                    break
        self._tell(len(self._notices))
        self._done.set()

    def _switch(self) -> None:
        """Take over another engine, if there is one, between two frames."""
        if self._engines.apply():
            self._end_shadow("the stream took another engine")
            self._writer.releases = _releases(self._engines.slot)

    def _process(self, frame: Frame) -> None:
        taken = time.monotonic_ns()
        self.tracer.record("wait", taken - frame.stamp.avail_ns)
        if not self._control.detect:
            self.ledger.drop("paused")
            return
        if self._too_late(frame, taken):
            return
        detector = self._engines.detector
        frame = self._privacy.blind(frame)
        try:
            meta = detector.prepare(frame)
            prepared = time.monotonic_ns()
            outputs = detector.run()
            ran = time.monotonic_ns()
            raw = detector.decode(outputs, meta)
            found = self._labels(raw)
            decoded = time.monotonic_ns()
        except (EngineError, ModelError) as e:
            self._inference_failed(frame, e)
            return
        t = frame.stamp.t_s
        tracks = self._tracker.update(found, t, frame.width, frame.height)
        tracked = time.monotonic_ns()
        events = self._analyser.step(frame, tracks, t)
        done = time.monotonic_ns()
        for stage, ns in (
            ("pre", prepared - taken),
            ("engine", ran - prepared),
            ("decode", decoded - ran),
            ("track", tracked - decoded),
            ("rules", done - tracked),
        ):
            self.tracer.record(stage, ns)  # type: ignore[arg-type]
        self._finish(frame, raw, tracks, events, done)
        with self._shadow_lock:
            if self._shadow is not None and self._shadow.step(frame, raw, ran - prepared):
                self._shadow = None

    def _too_late(self, frame: Frame, now: int) -> bool:
        """Drop a frame that waited too long; never two in a row for the deadline, so that a slow engine
        still makes progress."""
        if not self._realtime:
            return False
        age_ms = (now - frame.stamp.avail_ns) / 1e6
        max_age_ms = self._config.flow.max_age_ms
        if max_age_ms is not None and age_ms > max_age_ms:
            self.ledger.drop("stale")
            return True
        if self._budget_ms is not None and age_ms > self._budget_ms and not self._dropped_late:
            self._dropped_late = True
            self.ledger.drop("deadline")
            return True
        self._dropped_late = False
        return False

    def _inference_failed(self, frame: Frame, e: EdgectlError) -> None:
        self._errors += 1
        self.ledger.drop("engine_error")
        t = frame.stamp.t_s
        if t - self._last_failure_s < _FAILURE_EVENT_S:
            return
        self._last_failure_s = t
        data = {"part": PART, "code": e.code, "detail": e.message[:500], "errors": self._errors}
        self._sinks.offer(
            StreamOutput((self._writer.record(Event("inference_failed", t, data=data), frame.stamp),))
        )

    def _finish(
        self, frame: Frame, found: Detections, tracks: Tracks, events: list[Event], done: int
    ) -> None:
        records = tuple(self._record(e, frame, done) for e in events)
        t = frame.stamp.t_s
        # Stepped for every frame, shown or not: it remembers where somebody was.
        hidden = self._privacy.step(found, tracks, t)
        shown = ShownFrame(frame, hidden, self._analyser.overlay()) if self._pictures else None
        age_ms = (done - frame.stamp.avail_ns) / 1e6
        self._sinks.offer(
            StreamOutput(records, shown, self._privacy.clean_tracks(tracks), frame.stamp, age_ms)
        )
        self.tracer.record("avail_to_event", done - frame.stamp.avail_ns)
        if self._realtime:
            self.tracer.record("glass_to_event", done - frame.stamp.t_ns)
        period = None if self._previous_done_ns is None else done - self._previous_done_ns
        if period is not None:
            self.tracer.record("period", period)
        self._previous_done_ns = done
        self.ledger.process()
        self._engines.frame_done(period)

    def _record(self, event: Event, frame: Frame, now_ns: int) -> Record:
        record = self._privacy.clean_record(self._writer.record(event, frame.stamp, now_ns=now_ns))
        for sink in self._naming:
            record |= sink.file_of(record)
        return record

    # -- hot swap ---------------------------------------------------------------------------------------------------------

    def swap(self, part: str, slot: PartVariant) -> float:
        return self._engines.switch(self._fitting(part, slot), slot)

    def shadow(
        self,
        part: str,
        slot: PartVariant,
        percent: float,
        frames: int,
        done: Callable[[Shadowing | EdgectlError], None],
    ) -> None:
        shadow = Shadow(self._fitting(part, slot), percent, frames, done)
        self._end_shadow("another engine is compared")
        with self._shadow_lock:
            self._shadow = shadow

    def _end_shadow(self, why: str) -> None:
        with self._shadow_lock:
            shadow, self._shadow = self._shadow, None
        if shadow is not None:
            shadow.abandon(why)

    def _fitting(self, part: str, slot: PartVariant) -> Detector:
        """Another detector, opened and warm, that finds the same things."""
        _check_part(part)
        detector = self._open(slot)
        running = self._engines.detector.labels
        if detector.labels != running:
            detector.close()
            raise ModelError(
                f"the new engine's {len(detector.labels)} labels are not the {len(running)} of the running one",
                hint="start the stream anew for another set of labels",
            )
        return detector

    def commit(self, part: str) -> None:
        _check_part(part)
        self._engines.commit()

    def revert(self, part: str) -> None:
        _check_part(part)
        self._engines.revert()

    # -- numbers ----------------------------------------------------------------------------------------------------------

    def stats(self) -> StreamStats:
        frames = self.ledger.frames()
        now = time.monotonic()
        seconds, self._window_start = now - self._window_start, now
        done, self._window_processed = frames.processed - self._window_processed, frames.processed
        slot = self._engines.slot
        state = (
            "failed"
            if self._error
            else "ended"
            if self._done.is_set()
            else "outage"
            if self._capture.outage
            else "running"
        )
        return StreamStats(
            kind=self._kind,
            slots={PART: slot.bundle or slot.variant.digest},
            releases=_releases(slot),
            stages=self.tracer.window(),
            frames=frames,
            errors=self._errors,
            fps=round(done / seconds, 3) if seconds > 0 else 0.0,
            budget_ms=self._budget_ms,
            state=state,
            reason=self._capture.outage,
            counters={**self._analyser.counters(), **self._sinks.counters},
        )

    def totals(self) -> dict[str, Histogram]:
        return self.tracer.totals()


def _period_s(info: SourceInfo, target_fps: float | None) -> float | None:
    """Seconds between two frames that are looked at, as far as the source tells."""
    rates = [fps for fps in (info.fps, target_fps) if fps]
    return 1 / min(rates) if rates else None


def _check_part(part: str) -> None:
    if part != PART:
        raise UsageError(f"this pipeline has no engine for the part {part!r}", hint=f"its part is {PART}")


def _expected(info: SourceInfo, seconds: float | None) -> int | None:
    """How many frames there will be, if that can be told."""
    limit = None if seconds is None or not info.fps else max(1, round(seconds * info.fps))
    return min((n for n in (info.frames, limit) if n is not None), default=None)


def _releases(slot: PartVariant) -> dict[str, str]:
    return {PART: slot.release} if slot.release else {}
