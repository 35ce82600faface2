"""One part of a stream's second stage at work: crops of tracks go to its engine, answers come back and are votes.

The stream never waits for a camera's crops: what an answer decides holds from the frame in which it is there, and the
track log keeps it with that frame. A recording waits for its crops, so that the same file gives the same events. An
answer that fails is no vote, and an engine that hangs is not asked any more until it is back: in both cases the stream
goes on, what is undecided stays so, and an event says it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError, UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.core.wire import Frames
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.stream.ledger import Cause, Ledger
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.trace import Tracer, engine_stage
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.class_map import ClassMap
from edgectl.pipelines.video.engine_pool import Ran
from edgectl.pipelines.video.labels import LabelConfig
from edgectl.pipelines.video.preprocess import LetterboxMeta, Staging
from edgectl.pipelines.video.second_stage.answers import Looked
from edgectl.pipelines.video.second_stage.ballot import Ballot
from edgectl.pipelines.video.second_stage.config import SecondStageConfig
from edgectl.pipelines.video.second_stage.crop_engine import MOST_CROPS, CropEngine
from edgectl.pipelines.video.second_stage.crop_shadow import CropShadow
from edgectl.pipelines.video.second_stage.vote import Vote
from edgectl.pipelines.video.shadow import Beside, Done
from edgectl.pipelines.video.swap import HotSwap, OtherLabels
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["SecondStage"]

_ALL = 1 << 30
_LOOK_S = 0.2
_FAILURE_EVENT_S = 1.0
"""At most one inference_failed event in this time; each failure is counted."""


@dataclass(slots=True)
class _Result:
    """What came of a crop. Neither ``ran`` nor ``error``: its turn never came."""

    job: _CropJob
    ran: Ran | None = None
    error: Exception | None = None
    given_up: bool = False
    """Nobody waits for it any more."""


class SecondStage:
    """Of one stream. :meth:`collect`, :meth:`look` and :meth:`wait` belong to the analysis thread."""

    def __init__(
        self,
        config: SecondStageConfig,
        engines: HotSwap[CropEngine],
        labels: Sequence[str],
        names: LabelConfig,
        tracer: Tracer,
        *,
        waits: bool,
    ) -> None:
        """``labels``: of the tracks, which ``names`` made of those of the first model. ``waits``: a recording.

        Raises :class:`UsageError` for a class that the tracks cannot have.
        """
        if unknown := set(config.classes) - set(labels):
            raise UsageError(
                f"second_stage {config.part!r} names class {min(unknown)!r}, which the model does not know",
                hint=did_you_mean(min(unknown), labels, there_are="it knows "),
            )
        names_of = [(label, *names.merge.get(label, ())) for label in labels]
        for label, meant in zip(labels, names_of, strict=True):
            if (label in config.classes or not config.classes) and not engines.engine.knows(meant):
                raise UsageError(
                    f"second_stage {config.part!r} is to confirm {label!r}, which its model does not know",
                    hint=f"it knows {', '.join(engines.engine.labels[:20])}: name some of these under classes",
                )
        self.part = config.part
        self.waits = waits
        self.engines = engines
        self.config = config
        self._names = names_of
        self._ballot = Ballot(config, labels, engines.engine.task.background)
        self._tracer = tracer
        self._ledger = Ledger()
        self._change = threading.Condition()
        self._results: deque[_Result] = deque()
        self._open: set[_CropJob] = set()
        """Crops whose result is waited for."""
        self._present = engines.engine
        self._before: CropEngine | None = None
        """The engine that the present one took over from."""
        self.classes: ClassMap | None = None
        """What each pixel is by the last answer, of a model that tells it."""
        self._beside: Beside[CropShadow] = Beside(f"part {config.part}")
        """A second engine that is compared."""
        self._stopped = False
        self._told_failure_s = -1e9
        self._sit_down(engines.engine)

    # -- analysis thread --

    def collect(self, tracks: Tracks, t: float) -> list[Event]:
        """Count the answers that are there, and forget tracks that are no more. Returns what went wrong."""
        events: list[Event] = []
        self._ballot.forget(set(tracks.ids.tolist()))
        while self._results:
            result = self._results.popleft()
            vote = self.classes = None
            try:
                vote = self._vote(result)
            except (EngineError, ModelError) as e:
                self._ledger.drop("engine_error")
                if t - self._told_failure_s >= _FAILURE_EVENT_S:
                    self._told_failure_s = t
                    errors = self.crops().dropped["engine_error"]
                    data = {"part": self.part, "code": e.code, "detail": e.message[:500], "errors": errors}
                    events.append(Event("inference_failed", t, data=data))
            if not result.given_up:
                self._ballot.answer(result.job.track, vote)
        return events

    def look(
        self,
        frame: Frame,
        tracks: Tracks,
        t: float,
        hidden: NDArray[np.bool_] | None = None,
        closed: Callable[[Frame], Frame] = lambda frame: frame,
    ) -> None:
        """Send crops of a frame to the engine. ``hidden``: tracks (N,) that are not looked at; ``closed``: paints over
        what the engine may not see."""
        self._leave_what_hangs()
        if self._stopped or not frame.planes or self.stuck:
            return
        most = _ALL if self.waits else MOST_CROPS - len(self._open)
        rows = self._ballot.choose(tracks, t, most, lambda row: hidden is not None and bool(hidden[row]))
        if rows:
            frame = closed(frame)
        for row in rows:
            if len(self._open) >= MOST_CROPS:
                self.wait()
            track = int(tracks.ids[row])
            if not self._send(frame, tracks, row, track):
                self._ballot.answer(track, None)

    def wait(self) -> None:
        """Until every crop has come back; not for an engine that hangs."""
        while True:
            self._leave_what_hangs()
            with self._change:
                if not self._open or self._stopped or self.stuck:
                    return
                self._change.wait(_LOOK_S)

    def attributes(self) -> Mapping[int, Attribute]:
        """Track → what is decided."""
        return self._ballot.attributes()

    # -- from any thread --

    @property
    def slot(self) -> PartVariant:
        return self.engines.engine.slot

    @property
    def stuck(self) -> bool:
        """Whether a call that its crops wait for does not come back."""
        now_ns = time.monotonic_ns()
        return self.engines.engine.stuck_s(now_ns) is not None or self._beside.stuck(now_ns)

    def swap(self, engine: CropEngine) -> float:
        """See :meth:`~edgectl.pipelines.video.swap.HotSwap.switch`. Raises :class:`OtherLabels`."""
        self.seat(engine)
        gap_ms = self.engines.switch(engine)
        self._beside.end("the stream took another engine")
        return gap_ms

    def seat(self, engine: CropEngine) -> None:
        """Make it ready for :meth:`take`. Raises :class:`OtherLabels`; it is closed then."""
        self._check_labels(engine)
        self._sit_down(engine)

    def take(self, engine: CropEngine) -> None:
        """See :meth:`~edgectl.pipelines.video.swap.HotSwap.take`. From the analysis thread."""
        self.engines.take(engine)

    def stop_comparing(self) -> None:
        self._beside.end("the stream took another engine")

    def revert(self) -> None:
        """See :meth:`~edgectl.pipelines.video.swap.HotSwap.revert`."""
        self.engines.revert()
        self._beside.end("the stream took another engine")

    def compare(self, engine: CropEngine, percent: float, crops: int, done: Done) -> None:
        """Run another engine beside on some of the next crops. Raises :class:`OtherLabels`."""
        self._check_labels(engine)
        self._beside.put(CropShadow(engine, self.engines.engine, self.config, percent, crops, done))

    def _check_labels(self, engine: CropEngine) -> None:
        running = self.engines.engine.labels
        if engine.labels != running:
            engine.close()
            raise OtherLabels(
                f"the new engine's {len(engine.labels)} labels are not the {len(running)} of the running one",
                hint="start the stream anew for another set of labels",
            )

    def crops(self) -> Frames:
        """What became of them."""
        return self._ledger.frames()

    def stop(self) -> None:
        """No more crops; those that wait are gone."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self.engines.cancel()

    def close(self) -> bool:
        """After the stream's threads have ended. False: a call of the engine is stuck."""
        self._beside.end("the stream has ended")
        closed = self.engines.close()
        while self._results:
            result = self._results.popleft()
            if result.ran is not None or result.error is not None:
                self._ledger.drop("shutdown")
        return closed

    def _leave_what_hangs(self) -> None:
        """Wait no more for an engine that hangs and that another has taken over from."""
        now = self.engines.engine
        if now is not self._present:
            self._before, self._present = self._present, now
        before = self._before
        if before is None:
            return
        with self._change:
            crops = [job for job in self._open if job.engine is before]
        if crops and before.stuck_s(time.monotonic_ns()) is None:
            return
        self._before = None
        with self._change:
            self._open.difference_update(crops)
        for job in crops:
            self._ballot.answer(job.track, None)
        if crops and before.seat is not None:
            before.seat.clear()

    # -- a crop on its way --

    def _sit_down(self, engine: CropEngine) -> None:
        engine.sit_down(MOST_CROPS, False, lambda: True)

    def _send(self, frame: Frame, tracks: Tracks, row: int, track: int) -> bool:
        """False: there is nothing to send, or no engine to send it to."""
        box = tracks.xyxy[row].astype(np.float64)
        pad = (box[2:] - box[:2]) * self.config.margin
        cut = frame.crop([*(box[:2] - pad), *(box[2:] + pad)])
        if cut is None or self.stuck:
            return False
        crop, (left, top) = cut
        engine = self.engines.begin()
        try:
            staging, meta = engine.prepare(crop)
        except BaseException:
            engine.end()
            raise
        looked = Looked(self._names[int(tracks.cls[row])], (box - [left, top, left, top]).tolist())
        compared = crop if self._beside.on else None
        job = _CropJob(self, engine, staging, meta, looked, track, frame.stamp, compared)
        self._ledger.capture()
        with self._change:
            self._open.add(job)
        assert engine.seat is not None
        lost = engine.seat.offer(job, frame.stamp.avail_ns + round(self.config.within_s * 1e9))
        if lost is not None:
            lost.gone()
        return True

    def _vote(self, result: _Result) -> Vote | None:
        """Raises :class:`EngineError` or :class:`ModelError`."""
        job, ran = result.job, result.ran
        if result.error is not None:
            e = result.error
            raise e if isinstance(e, EngineError) else EngineError(f"{type(e).__name__}: {e}")
        if ran is None:  # it is booked
            return None
        answer = job.engine.answer(ran.outputs, job.meta, job.looked)
        self.classes = None if answer is None else answer.classes
        self._ledger.process()
        self._tracer.record("avail_to_vote", time.monotonic_ns() - job.stamp.avail_ns)
        if not ran.after_idle:
            self._tracer.record(engine_stage(self.part), ran.ended_ns - ran.started_ns)
        return None if answer is None else Vote(job.stamp.t_s, answer.value, answer.score)

    def beside(self, job: _CropJob, ran: Ran) -> None:
        """A crop that the engine has given back, by its thread: to one that is compared as well."""
        crop = job.crop
        if crop is not None and job.engine is self.engines.engine:
            self._beside.step(lambda shadow: shadow.step(crop, ran, job.meta, job.looked))

    def late(self, stamp: Stamp, now_ns: int) -> bool:
        return not self.waits and now_ns - stamp.avail_ns > self.config.within_s * 1e9

    def back(self, result: _Result, dropped: Cause | None = None) -> None:
        """A crop has come back, by any thread. ``dropped``: why there is no answer, if it is not an error."""
        if dropped is not None:
            self._ledger.drop(dropped)
        with self._change:
            result.given_up = result.job not in self._open
            self._open.discard(result.job)
            self._results.append(result)
            self._change.notify_all()

    @property
    def lost_cause(self) -> Cause:
        return "shutdown" if self._stopped else "superseded"


class _CropJob:
    """See :class:`~edgectl.pipelines.video.engine_pool.EngineJob`."""

    __slots__ = ("_stage", "_staging", "crop", "engine", "looked", "meta", "more", "stamp", "tensor", "track")

    def __init__(
        self,
        stage: SecondStage,
        engine: CropEngine,
        staging: Staging,
        meta: LetterboxMeta,
        looked: Looked,
        track: int,
        stamp: Stamp,
        crop: Frame | None,
    ) -> None:
        """``crop``: the picture, where another engine may look at it, too."""
        self.crop = crop
        self.tensor: NDArray[Any] = staging.tensor
        self.more: Sequence[NDArray[Any]] = ()
        self.engine = engine
        self.meta = meta
        self.looked = looked
        self.track = track
        self.stamp = stamp
        self._stage = stage
        self._staging = staging

    def wanted(self, now_ns: int) -> bool:
        if self._stage.late(self.stamp, now_ns):
            self._come_back(_Result(self), "stale")
            return False
        return True

    def ran(self, ran: Ran) -> None:
        self._come_back(_Result(self, ran))
        self._stage.engines.frame_done(self.engine, None)
        self._stage.beside(self, ran)

    def failed(self, e: Exception) -> None:
        self._come_back(_Result(self, error=e))

    def gone(self) -> None:
        self._come_back(_Result(self), self._stage.lost_cause)

    def _come_back(self, result: _Result, dropped: Cause | None = None) -> None:
        self.engine.give_back(self._staging)
        self._stage.back(result, dropped)
        self.engine.end()
