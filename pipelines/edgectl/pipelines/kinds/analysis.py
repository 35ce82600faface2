"""The analysis thread of a video stream: what an engine put out becomes detections, tracks and events, and goes
to the sinks.

An engine that fails makes an ``inference_failed`` event, never an empty scene: tracker and rules do not see that
frame. Left out: the source and the engine, whose results come here in the order of the frames.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from numpy.typing import NDArray

from edgectl.core.errors import EdgectlError, EngineError, ModelError
from edgectl.pipelines.sinks.base import Record, Sink, StreamOutput
from edgectl.pipelines.sinks.pool import SinkPool
from edgectl.pipelines.stream.events import Event, EventWriter
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.threads import stream_thread
from edgectl.pipelines.stream.trace import Stage
from edgectl.pipelines.video.camera_motion import CameraMotion
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.engine_pool import Ran
from edgectl.pipelines.video.frame_path import FramePath, FrameResult, Heard
from edgectl.pipelines.video.hidden_log import HiddenLog
from edgectl.pipelines.video.labels import LabelMap
from edgectl.pipelines.video.object_filter import ObjectFilters
from edgectl.pipelines.video.privacy import Privacy
from edgectl.pipelines.video.regions.merge import MergedDetections, merge_regions
from edgectl.pipelines.video.second_stage.stages import SecondStages
from edgectl.pipelines.video.shown import Hidden, ShownFrame
from edgectl.pipelines.video.track_watch import TrackWatch
from edgectl.pipelines.video.tracker import ObjectTracker, Tracks

__all__ = ["PART", "Analyser", "Analysis", "Reconfigurable", "releases_of"]

PART = "detector"
_POLL_S = 0.2
# at most one inference_failed event in this time; each failure is counted
_FAILURE_EVENT_S = 1.0


class _Times(NamedTuple):
    """When a frame was through each step, ns."""

    taken: int
    decoded: int
    tracked: int
    looked: int
    """By the second stage."""
    done: int


class Analyser(Protocol):
    """What a pipeline does with tracks. Lives in the analysis thread."""

    def step(self, frame: Frame, tracks: Tracks, t: float) -> list[Event]: ...

    def overlay(self, shown: Tracks) -> Callable[[NDArray[Any]], None]:
        """A function that draws the present state into a BGR image; it is called later, from the sink
        thread. ``shown``: of the tracks of the last :meth:`step`, those that may be seen."""
        ...

    def counters(self) -> dict[str, int]: ...

    def close(self) -> None:
        """Called once, after the last ``step``, by another thread."""
        ...


@runtime_checkable
class Reconfigurable(Protocol):
    """An analyser that takes another configuration while it runs. One of another package need not."""

    def prepare(self, config: Any, told: Mapping[str, Any], *, final: bool = False) -> Callable[[], None]:
        """Another configuration, ready to be taken over by what is returned, which is called between two steps.
        From any thread, while another one steps. ``told``: what the event ``configuration`` says of it. ``final``: a
        step that fails does not bring the one before back. Raises :class:`EdgectlError`."""
        ...

    @property
    def switched(self) -> Mapping[str, Any] | None:
        """Other rules took over in the last step: what the track log says of it."""
        ...


class Analysis:
    """Owns what it is made of; everything but the numbers belongs to its thread."""

    def __init__(
        self,
        path: FramePath,
        labels: LabelMap,
        filters: ObjectFilters,
        tracker: ObjectTracker,
        watch: TrackWatch,
        analyser: Analyser,
        privacy: Privacy,
        sinks: SinkPool,
        writer: EventWriter,
        second: SecondStages,
        *,
        realtime: bool,
        pictures: bool,
        naming: Sequence[Sink],
        hidden: HiddenLog | None = None,
        look_after: Callable[[], None],
        ended: threading.Event,
        failed: Callable[[EdgectlError], None],
        went_back: Callable[[], None] = lambda: None,
    ) -> None:
        """``pictures``: whether the sinks want them. ``naming``: the sinks that name their files in events.
        ``hidden``: hears what must not be seen of each frame. ``look_after`` is called now and then. ``ended`` is set
        when everything is through. ``went_back``: the rules before have come back, because a new one failed."""
        self.errors = 0
        """Frames on which the engine failed."""
        self.analyser = analyser
        self._path = path
        self._labels = labels
        self._filters = filters
        self._tracker = tracker
        self._watch = watch
        self._camera = CameraMotion()
        self._privacy = privacy
        self._sinks = sinks
        self._writer = writer
        self._second = second
        self._realtime = realtime
        self.pictures = pictures
        """Whether sinks want pictures. Set from any thread."""
        self.naming = tuple(naming)
        """Sinks that name their files in events. Replaced from any thread."""
        self._hidden = hidden
        self._look_after = look_after
        self._ended = ended
        self._went_back = went_back
        self._detector: Detector | None = None
        self._last_failure_s = -1e9
        self._previous_done_ns: int | None = None
        self._stop = threading.Event()
        self.thread = stream_thread("analysis", path.stream, self._run, failed)

    def adopt(self, privacy: Privacy, filters: ObjectFilters) -> None:
        """Hide and leave out other things from the next frame on. From this object's thread."""
        self._filters = filters
        privacy.go_on_from(self._privacy)
        self._privacy = privacy

    def stop(self) -> None:
        """Begin nothing more."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._look_after()
            item = self._path.next(_POLL_S)
            if isinstance(item, FrameResult):
                self._analyse(item)
            elif isinstance(item, Heard):
                self.say(item.event, item.stamp, item.frame)
            elif item is not None:
                item.at_analysis()
            elif self._path.finished:
                break
        self._ended.set()

    def _analyse(self, result: FrameResult) -> None:
        if result.detector is not self._detector or self._second:
            self._detector = result.detector
            self._writer.releases = releases_of(result.detector.slot, self._second)
        if result.ran is None:
            assert result.error is not None
            # a defect, and no failed inference: the stream ends of it
            if not isinstance(result.error, EngineError | ModelError):
                self._path.ledger.drop("engine_error")
                raise result.error
            self._inference_failed(result.frame, result.error)
            return
        taken = time.monotonic_ns()
        result.crossed["analysis"] = taken
        frame, ran = result.frame, result.ran
        if self._path.cross("analysis", frame.stamp, taken):
            return
        try:
            seen = self._see(result, ran)
            found = self._filters(self._labels(seen.found), frame.width, frame.height)
        except (EngineError, ModelError) as e:
            self._inference_failed(frame, e)
            return
        decoded = time.monotonic_ns()
        t = frame.stamp.t_s
        camera = None
        if result.view is not None:
            camera = self._camera.step(result.view, found.xyxy, frame.width, frame.height)
        tracks = self._tracker.update(found, t, frame.width, frame.height, camera)
        self._watch.see(t, found, tracks, seen.cut)
        tracked = time.monotonic_ns()
        unread = hidden = None
        if self._second:
            hidden = self._hide(result, seen, tracks)
            unread = self._privacy.unread(tracks, hidden)
            tracks, failures = self._second.before_rules(frame, tracks, t, unread, self._privacy.closed)
            for event in failures:
                self.say(event, frame.stamp)
        looked = time.monotonic_ns()
        events = self.analyser.step(frame, tracks, t)
        done = time.monotonic_ns()
        if not self._second:
            # events do not wait for it
            hidden = self._hide(result, seen, tracks)
        self._offer(frame, hidden, tracks, events, done)
        if any(event.type == "configuration" and event.phase == "reverted" for event in events):
            self._went_back()
        self._count(result, ran, _Times(taken, decoded, tracked, looked, done))
        if self._second:
            self._second.after_rules(frame, tracks, t, unread, self._privacy.closed)

    def _see(self, result: FrameResult, ran: Ran) -> MergedDetections:
        """What was found in all regions of the frame, and what their borders cut. Raises as a decoder does."""
        outputs = (ran.outputs, *ran.more)
        regions = [
            (result.detector.decode(o, meta), meta) for o, meta in zip(outputs, result.metas, strict=True)
        ]
        return merge_regions(regions, (result.frame.width, result.frame.height))

    def _hide(self, result: FrameResult, seen: MergedDetections, tracks: Tracks) -> Hidden | None:
        """What must not be seen of the frame. Asked for every frame, shown or not: it remembers where somebody was."""
        # a piece of somebody is somebody
        found = Detections.joined([seen.found, seen.pieces]) if len(seen.pieces) else seen.found
        looked = None if result.whole else [(m.x, m.y, m.width, m.height) for m in result.metas]
        return self._privacy.step(found, tracks, result.frame.stamp.t_s, looked)

    def _offer(
        self, frame: Frame, hidden: Hidden | None, tracks: Tracks, events: list[Event], done: int
    ) -> None:
        records = tuple(self._record(e, frame, done) for e in events)
        if self._hidden is not None and hidden is not None and frame.stamp.pts_s is not None:
            self._hidden.add(frame.stamp.pts_s, hidden, frame.stamp.seq)
        clean = self._privacy.clean_tracks(tracks)
        shown = (
            ShownFrame(frame, hidden, self.analyser.overlay(clean))
            if self.pictures and frame.planes
            else None
        )
        age_ms = (done - frame.stamp.avail_ns) / 1e6
        self._sinks.offer(
            StreamOutput(
                records,
                shown,
                clean,
                frame.stamp,
                age_ms,
                self.analyser.switched if isinstance(self.analyser, Reconfigurable) else None,
                frame.view,
            )
        )

    def _count(self, result: FrameResult, ran: Ran, at: _Times) -> None:
        stamp, done = result.frame.stamp, at.done
        engine, whole = ran.ended_ns - ran.started_ns, done - stamp.avail_ns
        # a recording waits for its crops: no work of this thread
        waited = at.looked - at.tracked
        period = None if self._previous_done_ns is None else done - self._previous_done_ns
        self._previous_done_ns = done
        stages: list[tuple[Stage, int]] = [
            ("wait", whole - result.pre_ns - engine - (done - at.taken - waited)),
            ("pre", result.pre_ns),
            ("first_after_idle" if ran.after_idle else "engine", engine),
            ("decode", at.decoded - at.taken),
            ("track", at.tracked - at.decoded),
            ("rules", done - at.looked),
            ("avail_to_event", whole),
        ]
        # when it arrived says nothing of when it was taken
        if self._realtime and stamp.quality != "arrival":
            stages.append(("glass_to_event", done - stamp.t_ns))
        if period is not None:
            stages.append(("period", period))
        self._path.tracer.record_all(stages)
        add, thread, stream = self._path.timeline.add, self.thread.name, self._path.stream
        add(thread, "decode", stream, stamp.seq, at.taken, at.decoded)
        add(thread, "track", stream, stamp.seq, at.decoded, at.tracked)
        add(thread, "rules", stream, stamp.seq, at.looked, done)
        self._path.through(result, done, period)

    def _inference_failed(self, frame: Frame, e: EngineError | ModelError) -> None:
        self.errors += 1
        self._path.ledger.drop("engine_error")
        t = frame.stamp.t_s
        if t - self._last_failure_s < _FAILURE_EVENT_S:
            return
        self._last_failure_s = t
        data = {"part": PART, "code": e.code, "detail": e.message[:500], "errors": self.errors}
        self.say(Event("inference_failed", t, data=data), frame.stamp)

    def say(self, event: Event, stamp: Stamp, frame: Frame | None = None) -> None:
        """To the sinks. From this object's thread, and what it calls. ``frame`` shows it; nobody has looked yet for
        what must not be seen in it, and where that would be asked for it is left out."""
        hidden = self._privacy.unlooked() if frame is not None and self.pictures else None
        if frame is None or hidden is None:
            self._sinks.offer(StreamOutput((self._writer.record(event, stamp),)))
            return
        record = self._record(event, frame, time.monotonic_ns())
        self._sinks.offer(StreamOutput((record,), ShownFrame(frame, hidden)))

    def _record(self, event: Event, frame: Frame, now_ns: int) -> Record:
        record = self._privacy.clean_record(self._writer.record(event, frame.stamp, now_ns=now_ns))
        for sink in self.naming:
            record |= sink.file_of(record)
        return record


def releases_of(slot: PartVariant, second: SecondStages) -> dict[str, str]:
    return ({PART: slot.release} if slot.release else {}) | second.releases()
