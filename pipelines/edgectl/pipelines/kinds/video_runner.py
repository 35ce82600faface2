"""One video stream: capture thread → engine thread → analysis thread → sinks.

The capture thread decodes and preprocesses, the engine's thread belongs to an engine that other streams may share,
the analysis thread detects, tracks and applies rules. The ledger books every frame, the tracer times every stage.
Engines are swapped between two frames.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgectl.core.errors import EdgectlError, EngineError, UsageError
from edgectl.core.histogram import Histogram
from edgectl.core.wire import StreamStats
from edgectl.pipelines.kinds.analysis import PART, Analyser, Analysis, releases_of
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.camera_view import CameraView
from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig, as_video
from edgectl.pipelines.kinds.configurable import Configurable, naming
from edgectl.pipelines.kinds.degradation import Degradation
from edgectl.pipelines.kinds.object_tracker import make_tracker
from edgectl.pipelines.kinds.second_stage import (
    CropEngines,
    make_stages,
    open_crop_engine,
    open_second_stage,
)
from edgectl.pipelines.kinds.source_facts import engine_event, packet_ring
from edgectl.pipelines.kinds.stills import StillAnalyser
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.sinks import open_sinks
from edgectl.pipelines.sinks.base import Sink, StreamControl
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sinks.jsonl import CallbackSink
from edgectl.pipelines.sinks.pool import SinkPool, SinkState
from edgectl.pipelines.sources import SourceInfo, open_source
from edgectl.pipelines.stream.borders import Borders
from edgectl.pipelines.stream.events import EventWriter
from edgectl.pipelines.stream.flow import room
from edgectl.pipelines.stream.governor import LoadLimits
from edgectl.pipelines.stream.ledger import Ledger
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.trace import Tracer
from edgectl.pipelines.video.capture import Capture
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.frame_choice import FrameChoice
from edgectl.pipelines.video.frame_path import FramePath
from edgectl.pipelines.video.health.judge import HealthConfig
from edgectl.pipelines.video.hidden_log import HiddenLog
from edgectl.pipelines.video.labels import LabelMap
from edgectl.pipelines.video.object_filter import ObjectFilters
from edgectl.pipelines.video.regions.choice import CallTimes, RegionChoice
from edgectl.pipelines.video.shadow import Shadow, Shadowing
from edgectl.pipelines.video.swap import HotSwap, OtherLabels
from edgectl.pipelines.video.track_watch import Known, TrackWatch

__all__ = ["Analyser", "VideoPipeline"]

_JOIN_S = 20.0
_MAX_DETAIL = 200
"""Characters of what is wrong with the source."""
_SETTLE_S = 10.0
"""So long an engine may take for the frames that are under way."""


class VideoPipeline(Configurable):
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
        govern: LoadLimits | None = None,
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
        self._degradation: Degradation | None = None
        self.ledger = Ledger()
        self.tracer = Tracer()
        self.outputs: tuple[Path, ...] = ()
        self.expected: int | None = None
        self._error: EdgectlError | None = None
        self._done = threading.Event()
        self._started = self._stopped = self._asked = False
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
        self._hidden = (
            HiddenLog(self._packets.seconds)
            if self._packets is not None and self._config.privacy.hides
            else None
        )
        with contextlib.ExitStack() as undo:
            self._engines = HotSwap(self._open(self._args.engines[PART]), self._done.is_set)
            undo.callback(self._engines.close)
            seconds = open_second_stage(self._args, self._config, self._done.is_set, undo)
            labels = LabelMap(self._config, self._engines.engine.labels)
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
            self._plan(self._capture.open(), labels, seconds)
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
        if self._asked or not self._done.is_set():
            # it has not come to its end: somebody waits for it to stop
            self._sinks.hurry()
        self._asked = True
        self._analysis.stop()
        self._capture.stop()
        self._path.stop()
        self._second.stop()
        self._analysis.thread.join(_JOIN_S)
        self._path.beside.end("the stream has ended")
        if self._degradation is not None:
            self._degradation.close()
        if not self._engines.close() or self._analysis.thread.is_alive():
            self._stopped = True
            raise self._does_not_stop()
        self._analysis.analyser.close()
        self._view.close()
        last = self._sinks.finish()
        for heard in self._path.late():
            self._analysis.say(heard.event, heard.stamp)
        for make in last:
            stamp = self._capture.now()
            self._analysis.say(make(stamp.t_s), stamp)
        self._sinks.close()
        second_closed = self._second.close()
        # not before: who was interrupted (Ctrl-C) asks again
        self._stopped = True
        if self._error is None and self._sinks.errors:
            self._error = next(iter(self._sinks.errors.values()))
        # last: what hangs keeps neither the engine nor the files
        if not self._capture.join(_JOIN_S) or not second_closed:
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
        if self._started and self._engines.running.stuck_s(time.monotonic_ns()) is not None:
            found.append("engine")
        if self._started:
            found += [f"engine:{stage.part}" for stage in self._second if stage.stuck]
        sinks = self._sinks.stuck() if self._started else ()
        return (*found, *(f"sink:{name}" for name in sinks))

    def _open(self, slot: PartVariant) -> Detector:
        engine = self._args.pool.join(slot.variant, self._args.open_engine, slot.edition)
        return Detector(slot, engine)

    def _open_seated(self, slot: PartVariant) -> Detector:
        detector = self._open(slot)
        self._path.seat(detector)
        return detector

    def _plan(self, info: SourceInfo, labels: LabelMap, seconds: CropEngines) -> None:
        """Everything that depends on the source: flow, budget, analyser, second stage, sinks."""
        flow = self._config.flow
        self._info, self._labels = info, labels
        place = self._room = room(flow, info.realtime)
        self.expected = info.expected(self._args.seconds)
        self._budget_ms = self._budget(self._config)
        analyser: Analyser
        if info.kind == "images":
            analyser = StillAnalyser(self._config, labels.labels)
        else:
            analyser = self._make_analyser(labels.labels, info)
        tracker = self._tracker = make_tracker(
            self._config, info, finds_masks=self._engines.engine.finds_masks
        )
        privacy = self._privacy(self._config)
        sinks = self._make_sinks(analyser)
        pictures = any(sink.pictures for sink in sinks)
        watch = self._watch = TrackWatch(self._config.track.high)
        regions = self._config.regions.on and info.kind != "images"
        self._choice = FrameChoice(
            paused=lambda: not self._control.detect,
            # of still pictures each one is asked about
            gate=self._config.gate if info.kind != "images" else None,
            lost_s=self._config.track.lost_s,
            known=lambda: self._known(place.waits),
            small_px=self._config.regions.small_px if regions else None,
        )
        borders = Borders(*self._limits(self._config))
        places = self._make_regions(borders, waits=place.waits) if regions else None
        self._path = FramePath(
            self._args.stream,
            place,
            borders,
            self._engines,
            self.ledger,
            self.tracer,
            self._args.pool.timeline,
            choice=self._choice,
            regions=places,
            settle=self._settle if regions and place.waits else lambda: None,
            blind=privacy.blind,
            pictures=pictures or self._looks or bool(seconds),
            camera=self._config.track.camera_motion and info.kind != "images",
        )
        self._second = make_stages(
            self._config, seconds, labels.labels, self.tracer, waits=place.waits, still=info.kind == "images"
        )
        self._path.seat(self._engines.engine)
        if self._govern is not None and self._govern.on and info.realtime and not place.waits:
            self._degradation = Degradation(
                self._args.stream,
                self._govern,
                self._engines,
                self.ledger.frames,
                self._choice,
                places,
                self._open_seated,
                self._capture.only_key_frames,
                self._capture.say,
            )
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
            ObjectFilters(self._config.filters, labels.labels),
            tracker,
            watch,
            analyser,
            privacy,
            self._sinks,
            EventWriter(self._args.stream, releases=releases_of(self._engines.engine.slot, self._second)),
            self._second,
            realtime=info.realtime,
            pictures=pictures,
            naming=naming(sinks),
            hidden=self._hidden,
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

    def _known(self, waits: bool) -> Known:
        """What the frames before have shown, in the capture thread. A recording waits for them, so that the same file
        gives the same events."""
        if waits:
            self._settle()
        return self._watch.known

    def _settle(self) -> None:
        """Until the frames before are through, in the capture thread."""
        self.ledger.wait_for_others(_SETTLE_S)

    def _make_regions(self, borders: Borders, *, waits: bool) -> RegionChoice:
        times = None
        if not waits:
            times = CallTimes(
                lambda frame: borders.left_ns("analysis", frame.stamp.avail_ns, time.monotonic_ns()),
                lambda: self._engines.running.sharing(),
            )
        return RegionChoice(self._config.regions, lambda: self._watch.known, self._config.track.lost_s, times)

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
        stuck = self._engines.running.stuck_s(time.monotonic_ns()) is not None
        hanging = self._second.changed() if self._second else {}
        if stuck != self._stuck:
            self._stuck = hanging[PART] = stuck
        for part, hangs in hanging.items():
            stamp = self._capture.now()
            self._analysis.say(engine_event(part, stamp.t_s, available=not hangs), stamp)
        if self._degradation is not None:
            self._degradation.look(time.monotonic())

    # -- hot swap ---------------------------------------------------------------------------------------------------------

    def swap(self, part: str, slot: PartVariant) -> float:
        if (second := self._second.of(part)) is not None:
            return second.swap(open_crop_engine(self._args, second.config, slot))
        detector = self._fitting(part, slot)
        self._path.seat(detector)
        gap_ms = self._engines.switch(detector)
        self._path.beside.end("the stream took another engine")
        return gap_ms

    def shadow(
        self,
        part: str,
        slot: PartVariant,
        percent: float,
        frames: int,
        done: Callable[[Shadowing | EdgectlError], None],
    ) -> None:
        if (second := self._second.of(part)) is not None:
            second.compare(open_crop_engine(self._args, second.config, slot), percent, frames, done)
            return
        detector = self._fitting(part, slot)
        self._path.beside.put(Shadow(detector, self._engines.engine, percent, frames, done))

    def _fitting(self, part: str, slot: PartVariant) -> Detector:
        """Another detector, opened and warm, that finds the same things."""
        self._check_part(part)
        detector = self._open(slot)
        running = self._engines.engine.labels
        if detector.labels != running:
            detector.close()
            raise OtherLabels(
                f"the new engine's {len(detector.labels)} labels are not the {len(running)} of the running one",
                hint="start the stream anew for another set of labels",
            )
        if detector.keypoints != self._engines.engine.keypoints:
            detector.close()
            raise OtherLabels(
                "the new engine's keypoints are not those of the running one",
                hint="start the stream anew for other keypoints",
            )
        return detector

    def commit(self, part: str) -> None:
        if (second := self._second.of(part)) is not None:
            second.engines.commit()
            return
        self._check_part(part)
        self._engines.commit()

    def revert(self, part: str) -> None:
        if (second := self._second.of(part)) is not None:
            second.revert()
            return
        self._check_part(part)
        self._engines.revert()
        self._path.beside.end("the stream took another engine")

    def _check_part(self, part: str) -> None:
        if part != PART:
            parts = ", ".join([PART, *self._config.further_parts()])
            raise UsageError(f"this pipeline has no engine for the part {part!r}", hint=f"its parts: {parts}")

    # -- numbers ----------------------------------------------------------------------------------------------------------

    def stats(self) -> StreamStats:
        frames = self.ledger.frames()
        now = time.monotonic()
        seconds, self._window_start = now - self._window_start, now
        done, self._window_processed = frames.processed - self._window_processed, frames.processed
        slot = self._engines.engine.slot
        level = None if self._degradation is None else self._degradation.level
        outage = self._capture.outage or ("engine_stuck" if self._stuck else None)
        trouble, retry_s = self._capture.trouble
        state = (
            "failed" if self._error else "ended" if self._done.is_set() else "outage" if outage else "running"
        )
        return StreamStats(
            kind=self._kind,
            slots={PART: slot.bundle or slot.variant.digest} | self._second.slots(),
            releases=releases_of(slot, self._second),
            stand_ins={}
            if (other := self._engines.stood_in()) is None
            else {PART: other.slot.stands_in or ""},
            stages=self.tracer.window(),
            frames=frames,
            crops=self._second.crops(),
            errors=self._analysis.errors,
            fps=round(done / seconds, 3) if seconds > 0 else 0.0,
            budget_ms=self._budget_ms,
            state=state,
            reason=outage or self._capture.view,
            detail=None if trouble is None else trouble[:_MAX_DETAIL],
            retry_s=None if retry_s is None else round(retry_s, 1),
            counters={
                **self._analysis.analyser.counters(),
                **self._sinks.counters,
                **({"degradation_level": level} if level is not None else {}),
            },
        )

    def totals(self) -> dict[str, Histogram]:
        return self.tracer.totals()
