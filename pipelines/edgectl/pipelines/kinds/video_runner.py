"""One video stream: capture thread → engine thread → analysis thread → sinks.

The capture thread decodes and preprocesses, the engine's thread belongs to an engine that other streams may share,
the analysis thread detects, tracks and applies rules. The ledger books every frame, the tracer times every stage.
Engines are swapped between two frames.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgectl.core.errors import EdgectlError, EngineError, ModelError, UsageError
from edgectl.core.histogram import Histogram
from edgectl.core.wire import StreamStats
from edgectl.pipelines.kinds.analysis import PART, Analyser, Analysis, ObjectTracker, releases_of
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.camera_view import CameraView
from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig, as_video
from edgectl.pipelines.kinds.config_change import ConfigChange, Reconfigured
from edgectl.pipelines.kinds.difference import difference
from edgectl.pipelines.kinds.source_facts import (
    degradation_event,
    engine_event,
    expected,
    packet_ring,
    period_s,
)
from edgectl.pipelines.kinds.stills import StillAnalyser, StillObjects
from edgectl.pipelines.rules import RulesConfig, RuleSet
from edgectl.pipelines.rules.line import LineConfig, counted
from edgectl.pipelines.sinks import open_sink, open_sinks
from edgectl.pipelines.sinks.base import Sink, SinkContext, StreamControl
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sinks.jsonl import CallbackSink
from edgectl.pipelines.sinks.pool import SinkPool, SinkState
from edgectl.pipelines.sources import SourceInfo, open_source
from edgectl.pipelines.stream.borders import Borders
from edgectl.pipelines.stream.events import EventWriter
from edgectl.pipelines.stream.flow import room
from edgectl.pipelines.stream.governor import GovernorConfig
from edgectl.pipelines.stream.ledger import Ledger
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.trace import Tracer
from edgectl.pipelines.video.capture import Capture
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.frame_choice import FrameChoice
from edgectl.pipelines.video.frame_path import FramePath
from edgectl.pipelines.video.health.judge import HealthConfig
from edgectl.pipelines.video.labels import LabelMap
from edgectl.pipelines.video.load_watch import LoadWatch
from edgectl.pipelines.video.privacy import Privacy
from edgectl.pipelines.video.shadow import Shadow, Shadowing
from edgectl.pipelines.video.swap import HotSwap
from edgectl.pipelines.video.tracker import Tracker

__all__ = ["Analyser", "VideoPipeline"]

_JOIN_S = 20.0
_IN_FORCE_S = 2.0
"""The answer to another configuration does not wait longer for a frame of a camera that is away."""
_SETTLE_S = 10.0
"""So long an engine may take for the frames that are under way."""


class VideoPipeline:
    """See :class:`edgectl.pipelines.kinds.base.Pipeline`."""

    def __init__(
        self,
        kind: str,
        args: PipelineArgs,
        config: VideoConfig,
        make_analyser: Callable[[Sequence[str], SourceInfo], Analyser],
        budget_ms: float,
        *,
        looks: bool = True,
        govern: Callable[[VideoConfig], GovernorConfig | None] = lambda config: None,
        health: Callable[[VideoConfig], HealthConfig | None] = lambda config: None,
        complete: Callable[[PipelineConfig], VideoConfig] = as_video,
    ) -> None:
        """``looks``: whether the analyser looks at pictures. Where nobody does, the memory of a frame goes back
        to the decoder as soon as it is preprocessed. ``govern``: when less is done than everything, of a live
        source; None: never. ``complete``: another configuration with what it does not say."""
        self._kind = kind
        self._args = args
        self._make_analyser = make_analyser
        self._default_budget_ms = budget_ms
        self._looks = looks
        self._config = config
        self._govern = govern
        self._complete = complete
        self._health_of = health
        self._configuring = threading.Lock()
        self._before: VideoConfig | None = None
        """The configuration before this one."""
        self._load: LoadWatch | None = None
        self.ledger = Ledger()
        self.tracer = Tracer()
        self.outputs: tuple[Path, ...] = ()
        self.expected: int | None = None
        self._error: EdgectlError | None = None
        self._done = threading.Event()
        self._started = self._stopped = False
        self._stuck = False
        self._control = StreamControl()
        self._window_start = time.monotonic()
        self._window_processed = 0
        self._capturing: Capture | None = None
        """From the moment on in which it opens its source."""

    # -- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        source = open_source(self._args.source, patient=self._args.patient)
        self._packets = packet_ring(self._config.chosen() if self._args.out is not None else {}, source)
        with contextlib.ExitStack() as undo:
            self._engines = HotSwap(self._open(self._args.engines[PART]), self._done.is_set)
            undo.callback(self._engines.close)
            labels = LabelMap(self._config, self._engines.detector.labels)
            self._view = CameraView(self._health_of(self._config), self._args.out, self._args.stream)
            self._capture = Capture(
                self._args.stream,
                source,
                self.ledger,
                target_fps=self._config.flow.target_fps,
                seconds=self._args.seconds,
                failed=self._source_failed,
                health=self._view.watch,
            )
            self._capturing = self._capture
            undo.callback(self._capture.join, _JOIN_S)
            undo.callback(self._capture.stop)
            self._plan(self._capture.open(), labels)
            self._window_start = time.monotonic()
            self._started = True
            self._analysis.thread.start()
            self._capture.deliver(self._path)
            undo.pop_all()

    def wait(self, timeout_s: float) -> bool:
        return self._done.wait(timeout_s)

    @property
    def error(self) -> EdgectlError | None:
        return self._error

    def stop(self) -> None:
        if not self._started or self._stopped:
            return
        self._analysis.stop()
        self._capture.stop()
        self._path.stop()
        self._analysis.thread.join(_JOIN_S)
        self._path.end_shadow("the stream has ended")
        if not self._engines.close() or self._analysis.thread.is_alive():
            self._stopped = True
            raise self._does_not_stop()
        self._analysis.analyser.close()
        self._view.close()
        self._sinks.close()
        # not before: who was interrupted (Ctrl-C) asks again
        self._stopped = True
        if self._error is None and self._sinks.errors:
            self._error = next(iter(self._sinks.errors.values()))
        # last: a camera that hangs keeps neither the engine nor the files
        if not self._capture.join(_JOIN_S):
            raise self._does_not_stop()

    def _does_not_stop(self) -> EngineError:
        return EngineError(
            f"stream {self._args.stream} does not stop: a native call is stuck",
            hint="the process must be killed",
        )

    def interrupt(self) -> None:
        if (capture := self._capturing) is not None:
            capture.stop()

    def stuck(self) -> tuple[str, ...]:
        found = ["source"] if self._capturing is not None and self._capturing.stuck else []
        if self._started and self._engines.detector.stuck_s(time.monotonic_ns()) is not None:
            found.append("engine")
        sinks = self._sinks.stuck() if self._started else ()
        return (*found, *(f"sink:{name}" for name in sinks))

    def _open(self, slot: PartVariant) -> Detector:
        engine = self._args.pool.join(slot.variant, self._args.open_engine, slot.edition)
        return Detector(slot, engine)

    def _plan(self, info: SourceInfo, labels: LabelMap) -> None:
        """Everything that depends on the source: flow, budget, analyser, sinks."""
        flow = self._config.flow
        self._info, self._labels = info, labels
        place = self._room = room(flow, info.realtime)
        self.expected = expected(info, self._args.seconds)
        self._budget_ms = self._budget(self._config)
        analyser: Analyser
        tracker: ObjectTracker
        if info.kind == "images":
            analyser = StillAnalyser(self._config, labels.labels)
            tracker = StillObjects(self._config.track)
        else:
            analyser = self._make_analyser(labels.labels, info)
            tracker = Tracker(self._config.track, period_s=period_s(info, flow.target_fps))
        self._tracker = tracker
        privacy = self._privacy(self._config)
        sinks = self._make_sinks(analyser)
        pictures = any(sink.pictures for sink in sinks)
        self._choice = FrameChoice(
            paused=lambda: not self._control.detect,
            # of still pictures each one is asked about
            gate=self._config.gate if info.kind != "images" else None,
            lost_s=self._config.track.lost_s,
            tracking=lambda: self._tracking(place.waits),
        )
        self._load = self._load_watch(self._config)
        self._path = FramePath(
            self._args.stream,
            place,
            Borders(*self._limits(self._config)),
            self._engines,
            self.ledger,
            self.tracer,
            self._args.pool.timeline,
            choice=self._choice,
            blind=privacy.blind,
            pictures=pictures or self._looks,
        )
        self._path.seat(self._engines.detector)
        self._sinks = SinkPool(
            self._args.stream,
            sinks,
            wait=place.waits,
            written=lambda ns: self.tracer.record("publish", ns),
            tell=self._sink_changed,
        )
        self._analysis = Analysis(
            self._path,
            labels,
            tracker,
            analyser,
            privacy,
            self._sinks,
            EventWriter(self._args.stream, releases=releases_of(self._engines.detector.slot)),
            realtime=info.realtime,
            pictures=pictures,
            naming=_naming(sinks),
            look_after=self._look_after,
            ended=self._done,
            failed=self._analysis_failed,
            went_back=self._went_back,
        )

    def _make_sinks(self, analyser: Analyser) -> list[Sink]:
        rules = getattr(analyser, "rules", None)
        self._rules = None
        if isinstance(rules, RuleSet):
            self._rules = rules
            self._control.armed, self._control.arm = lambda: rules.switches, rules.switch
        self._files = None if self._args.out is None else OutFiles(self._args.out)
        self._named_sinks = open_sinks(self._config, self._sink_context(self._config))
        sinks = [CallbackSink(self._args.emit), *self._named_sinks.values(), *self._args.sinks]
        self.outputs = tuple(sink.path for sink in sinks if sink.path is not None)
        return sinks

    def _sink_context(self, config: VideoConfig) -> SinkContext:
        fps = min(self._info.fps or 25.0, config.flow.target_fps or 1000.0)
        lines = tuple(rule.id for rule in config.rules if isinstance(rule, LineConfig))
        rules = config.model_dump(mode="json", include=set(RulesConfig.model_fields), exclude_unset=True)
        return SinkContext(
            self._args.stream,
            self._args.out,
            fps,
            tuple(self._labels.labels),
            tuple(config.zones),
            lines,
            self._control,
            self._kind,
            rules,
            packets=self._packets,
            files=self._files,
            say=self._capture.say,
            inside={} if self._rules is None else self._rules.inside(),
            counted={} if self._rules is None else counted(self._rules),
        )

    def _privacy(self, config: VideoConfig) -> Privacy:
        return Privacy(
            config.privacy,
            self._engines.detector.labels,
            config,
            self._labels.labels,
            {name: zone.polygon for name, zone in config.zones.items()},
            still=self._info.kind == "images",
        )

    def _budget(self, config: VideoConfig) -> float | None:
        return config.budget_ms or (self._default_budget_ms if self._info.realtime else None)

    def _limits(self, config: VideoConfig) -> tuple[float | None, float | None]:
        """What a frame's events may take, and how old a frame may be."""
        return (self._budget(config), config.flow.max_age_ms) if self._info.realtime else (None, None)

    def _load_watch(self, config: VideoConfig) -> LoadWatch | None:
        govern = self._govern(config)
        if govern is None or not govern.on or not self._info.realtime or self._room.waits:
            return None
        return LoadWatch(govern, self.ledger.frames, lambda: self._engines.detector.work())

    def _tracking(self, waits: bool) -> bool:
        """Whether there are tracks, in the capture thread. A recording waits for the frames before, so that the
        same file gives the same events."""
        if waits:
            self.ledger.wait_for_others(_SETTLE_S)
        return self._analysis.tracking

    def _sink_changed(self, state: SinkState) -> None:
        """From any thread."""
        self._capture.say(state.event)

    def _source_failed(self, e: EdgectlError) -> None:
        """The stream ends of it, behind the frames that are under way."""
        self._error = self._error or e

    def _analysis_failed(self, e: EdgectlError) -> None:
        self._error = self._error or e
        self._capture.stop()
        self._path.stop()
        self._done.set()

    def _look_after(self) -> None:
        """Now and then: what hangs is told, and how much is done is adjusted."""
        self._capture.look_after()
        stuck = self._engines.detector.stuck_s(time.monotonic_ns()) is not None
        if stuck != self._stuck:
            self._stuck = stuck
            stamp = self._capture.now()
            self._analysis.say(engine_event(stamp.t_s, available=not stuck), stamp)
        if self._load is not None:
            before = self._load.level
            if (changed := self._load.look(time.monotonic())) is not None:
                change, since_s = changed
                self._choice.detect_every = change.rung.detect_every
                stamp = self._capture.now()
                self._analysis.say(degradation_event(stamp.t_s, before, change, since_s), stamp)

    # -- hot swap ---------------------------------------------------------------------------------------------------------

    def swap(self, part: str, slot: PartVariant) -> float:
        detector = self._fitting(part, slot)
        self._path.seat(detector)
        gap_ms = self._engines.switch(detector)
        self._path.end_shadow("the stream took another engine")
        return gap_ms

    def shadow(
        self,
        part: str,
        slot: PartVariant,
        percent: float,
        frames: int,
        done: Callable[[Shadowing | EdgectlError], None],
    ) -> None:
        detector = self._fitting(part, slot)
        self._path.compare(Shadow(detector, self._engines.detector, percent, frames, done))

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
        self._path.end_shadow("the stream took another engine")

    # -- another configuration --------------------------------------------------------------------------------------------

    def configure(self, config: PipelineConfig, told: Mapping[str, Any]) -> Reconfigured:
        with self._configuring:
            if not self._started or self._stopped or self._done.is_set():
                raise EngineError("the stream is not running: its configuration was not changed")
            new = self._complete(config)
            changes = difference(self._config, new)
            if not changes.changed:
                return Reconfigured((), in_force=True)
            changes.check()
            take = self._analysis.analyser.prepare(new, {**told, "changed": list(changes.changed)})
            change = self._change(new, changes.sinks, take)
            self._before, self._config = self._config, new
            self._path.change(change)
            in_force = change.done.wait(_IN_FORCE_S)
            return Reconfigured(changes.changed, in_force)

    def _change(
        self, config: VideoConfig, sinks: frozenset[str], take: Callable[[], None] | None
    ) -> ConfigChange:
        """``take``: lets other rules take over. Raises :class:`UsageError` for a label that the model does not have."""
        privacy, load = self._privacy(config), self._load_watch(config)
        governed = self._govern(config) != self._govern(self._config)
        flow = config.flow

        def at_capture() -> None:
            self._capture.target_fps = flow.target_fps
            self._view.adopt(self._health_of(config))
            self._choice.gate(config.gate if self._info.kind != "images" else None, config.track.lost_s)
            self._path.see(blind=privacy.blind, pictures=self._analysis.pictures or self._looks)

        def at_analysis() -> None:
            self._analysis.adopt(privacy)
            self._tracker.adopt(config.track, period_s(self._info, flow.target_fps))
            self._path.limit(*self._limits(config))
            self._budget_ms = self._budget(config)
            if governed:
                self._load, self._choice.detect_every = load, 1
            if take is not None:
                take()
            if sinks:
                context = self._sink_context(config)
                gone = [sink for name in sinks if (sink := self._named_sinks.pop(name, None)) is not None]
                make = {
                    name: partial(open_sink, name, config, context)
                    for name in sinks
                    if name in config.chosen()
                }
                self._sinks.replace(gone, make, partial(self._sinks_opened, privacy))

        return ConfigChange(at_capture, at_analysis)

    def _sinks_opened(self, privacy: Privacy, opened: Mapping[str, Sink]) -> None:
        """From a thread of the sinks."""
        self._named_sinks |= opened
        sinks = [*self._named_sinks.values(), *self._args.sinks]
        self._analysis.naming = _naming(sinks)
        self._analysis.pictures = any(sink.pictures for sink in sinks)
        self._path.see(blind=privacy.blind, pictures=self._analysis.pictures or self._looks)
        known = set(self.outputs)
        self.outputs += tuple(s.path for s in opened.values() if s.path is not None and s.path not in known)

    def _went_back(self) -> None:
        """A new rule has failed, and the rules before have come back: so does the rest of their configuration. From the
        analysis thread."""
        before, self._before = self._before, None
        if before is not None:
            change = self._change(before, difference(self._config, before).sinks, None)
            self._config = before
            self._path.change(change)

    # -- numbers ----------------------------------------------------------------------------------------------------------

    def stats(self) -> StreamStats:
        frames = self.ledger.frames()
        now = time.monotonic()
        seconds, self._window_start = now - self._window_start, now
        done, self._window_processed = frames.processed - self._window_processed, frames.processed
        slot = self._engines.detector.slot
        outage = self._capture.outage or ("engine_stuck" if self._stuck else None)
        state = (
            "failed" if self._error else "ended" if self._done.is_set() else "outage" if outage else "running"
        )
        return StreamStats(
            kind=self._kind,
            slots={PART: slot.bundle or slot.variant.digest},
            releases=releases_of(slot),
            stages=self.tracer.window(),
            frames=frames,
            errors=self._analysis.errors,
            fps=round(done / seconds, 3) if seconds > 0 else 0.0,
            budget_ms=self._budget_ms,
            state=state,
            reason=outage or self._capture.view,
            counters={
                **self._analysis.analyser.counters(),
                **self._sinks.counters,
                **({"degradation_level": self._load.level} if self._load is not None else {}),
            },
        )

    def totals(self) -> dict[str, Histogram]:
        return self.tracer.totals()


def _naming(sinks: Sequence[Sink]) -> tuple[Sink, ...]:
    """Those that name their files in events."""
    return tuple(sink for sink in sinks if type(sink).file_of is not Sink.file_of)


def _check_part(part: str) -> None:
    if part != PART:
        raise UsageError(f"this pipeline has no engine for the part {part!r}", hint=f"its part is {PART}")
