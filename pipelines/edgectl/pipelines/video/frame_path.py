"""The way of a stream's frames through the engine: from the capture thread, where they are preprocessed, by the
engine's thread to the analysis thread.

Every frame is booked here or handed on; what is handed on comes out in the order in which it came in, also around
a hot swap. Left out: where frames come from, and what is made of an engine's outputs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from numpy.typing import NDArray

from edgectl.pipelines.stream.borders import Border, Borders
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.flow import Room
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.stream.ledger import Cause, Ledger
from edgectl.pipelines.stream.order import InOrder, Place
from edgectl.pipelines.stream.timeline import Timeline
from edgectl.pipelines.stream.trace import Tracer
from edgectl.pipelines.video.camera_motion import camera_view
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.engine_pool import Ran
from edgectl.pipelines.video.frame_choice import FrameChoice
from edgectl.pipelines.video.preprocess import LetterboxMeta, Staging
from edgectl.pipelines.video.regions.choice import RegionChoice
from edgectl.pipelines.video.regions.cover import Region
from edgectl.pipelines.video.shadow import Beside, Shadow
from edgectl.pipelines.video.swap import HotSwap

__all__ = ["Between", "FramePath", "FrameResult", "Heard"]

_log = logging.getLogger(__name__)

_RECORDED_DUE_NS = 1_000_000_000
"""When the turn of a frame without a deadline is due: a second after it came. So recordings go on beside
cameras."""

_MOST_LATE = 1000


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of the source."""

    event: Event
    stamp: Stamp
    frame: Frame | None = None
    """The picture that shows it."""


class Between(Protocol):
    """A change between two frames: what is done for the frame behind it in the capture thread, and later, when the
    frames before it are through, in the analysis thread."""

    def at_capture(self) -> None: ...

    def at_analysis(self) -> None: ...


@dataclass(slots=True)
class FrameResult:
    """What an engine made of a frame: ``ran``, or ``error``."""

    frame: Frame
    """Without its picture where nobody needs it any more."""
    detector: Detector
    metas: tuple[LetterboxMeta, ...]
    """Of what the detector saw: the whole picture, or regions of it, or both, the whole picture first."""
    crossed: dict[Border, int]
    """When it crossed each border, CLOCK_MONOTONIC."""
    pre_ns: int
    ran: Ran | None = None
    error: Exception | None = None
    view: NDArray[Any] | None = None
    """The small picture that tells how the camera moved; None where nobody asks."""

    @property
    def whole(self) -> bool:
        """Whether the whole picture is the first that the detector saw."""
        return (self.metas[0].width, self.metas[0].height) == (self.frame.width, self.frame.height)


class FramePath:
    """One stream. :meth:`take_over`, :meth:`tell` and :meth:`end` belong to the capture thread, :meth:`next` and
    :meth:`through` to the analysis thread."""

    def __init__(
        self,
        stream: str,
        room: Room,
        borders: Borders,
        engines: HotSwap[Detector],
        ledger: Ledger,
        tracer: Tracer,
        timeline: Timeline,
        *,
        choice: FrameChoice | None = None,
        regions: RegionChoice | None = None,
        settle: Callable[[], None] = lambda: None,
        blind: Callable[[Frame], Frame] = lambda frame: frame,
        pictures: bool,
        camera: bool = False,
    ) -> None:
        """``choice``: which frames are looked at; None: all of them. ``regions``: which regions of them; None: the
        whole picture. ``settle``: waits for the frames before, where what they showed decides about the next one and
        the source waits. ``blind``: paints over what nobody may see, not
        even the detector. ``pictures``: whether a frame keeps its picture on its way to the analysis. It costs
        the memory of the frames that are under way. ``camera``: whether the analysis asks how the camera moved."""
        self.stream = stream
        self.borders = borders
        self.ledger = ledger
        self.tracer = tracer
        self.timeline = timeline
        self._room = room
        self._engines = engines
        self._choice = choice or FrameChoice()
        self._regions = regions
        self._settle = settle
        self._blind = blind
        self._pictures = pictures
        self._camera = camera
        self._changes: deque[Between] = deque()
        self._order: InOrder[FrameResult | Heard | Between] = InOrder()
        self._crossing = threading.Lock()
        self.beside: Beside[Shadow] = Beside(f"stream {stream}")
        """A second detector that is compared."""
        self._stopping = False
        self._late: deque[Heard] = deque(maxlen=_MOST_LATE)

    def seat(self, detector: Detector) -> None:
        """Give a detector the seat that this stream needs."""
        most = self._room.results
        detector.sit_down(self._room.size, self._room.waits, lambda: self._order.ready(most) < most)

    # -- capture thread --

    def take_over(self, frame: Frame) -> None:
        """Preprocess a frame that is booked as captured, and let it wait for the engine; where the source waits,
        until there is room."""
        while self._changes:
            change = self._changes.popleft()
            change.at_capture()
            self._order.settle(self._order.place(), change)
        stamp = frame.stamp
        self._settle()
        began = time.monotonic_ns()
        if (cause := self._choice.left_out()) is not None:
            self.ledger.drop(cause)
            return
        if self.cross("pre", stamp, began):
            return
        try:
            frame = self._blind(frame)
            idle = self._choice.idle(frame)
        except BaseException:
            self.ledger.drop("corrupt")
            raise
        if idle:
            self.ledger.drop("gated")
            return
        detector = self._engines.begin()
        try:
            shown = [detector.prepare(frame, region) for region in self._regions_of(frame, detector)]
            view = camera_view(frame.luma()) if self._camera else None
        except BaseException:
            # no picture that anybody can take: the stream ends of it
            self.ledger.drop("corrupt")
            detector.end()
            raise
        prepared = time.monotonic_ns()
        self.timeline.add(f"capture-{self.stream}", "pre", self.stream, stamp.seq, began, prepared)
        if not self._pictures and not self.beside.on:
            frame = replace(frame, planes=())
        stagings, metas = zip(*shown, strict=True)
        result = FrameResult(frame, detector, metas, {"pre": began}, prepared - began, view=view)
        job = _Job(self, result, self._order.place(), stagings)
        budget_ns = self.borders.budget_ns
        due_ns = stamp.avail_ns + (_RECORDED_DUE_NS if budget_ns is None else budget_ns)
        assert detector.seat is not None
        lost = detector.seat.offer(job, due_ns)
        if lost is not None:
            lost.gone()

    def _regions_of(self, frame: Frame, detector: Detector) -> tuple[Region | None, ...]:
        if self._regions is None:
            return (None,)
        # a comparison of two engines is one of the whole picture
        whole = self.beside.on
        return self._regions.regions(frame, self._choice.motion, detector.size, whole=whole)

    def tell(self, event: Event, stamp: Stamp, frame: Frame | None = None) -> None:
        """What becomes of the source: told behind every frame that came before. From any thread."""
        heard = Heard(event, stamp, frame if self._pictures else None)
        if not self._order.settle(self._order.place(), heard):
            self._late.append(heard)

    def change(self, change: Between) -> None:
        """Before the next frame. From any thread."""
        self._changes.append(change)

    def see(self, *, blind: Callable[[Frame], Frame], camera: bool) -> None:
        """What the detector may see, and whether the camera's own motion is looked for, from the next frame on."""
        self._blind, self._camera = blind, camera

    def keep_pictures(self, on: bool) -> None:
        """Whether pictures are kept, from the next frame on. From any thread."""
        self._pictures = on

    def limit(self, budget_ms: float | None, max_age_ms: float | None) -> None:
        """How old frames may become, from now on."""
        with self._crossing:
            self.borders.limit(budget_ms, max_age_ms)

    def end(self) -> None:
        """No more frames."""
        self._order.end()

    # -- analysis thread --

    def next(self, timeout_s: float) -> FrameResult | Heard | Between | None:
        """The next in order; None after ``timeout_s``, or when :attr:`finished`."""
        item = self._order.take(timeout_s)
        if item is not None:
            self._engines.wake()
        return item

    @property
    def finished(self) -> bool:
        """Ended, and every frame is through."""
        return self._order.finished

    def through(self, result: FrameResult, done_ns: int, period_ns: int | None) -> None:
        """A frame's events are ready."""
        with self._crossing:
            self.borders.through(result.crossed, done_ns)
        self.ledger.process()
        self._engines.frame_done(result.detector, period_ns)

    # -- from any thread --

    def cross(self, border: Border, stamp: Stamp, now_ns: int) -> bool:
        """True: the frame is dropped at this border, and booked."""
        with self._crossing:
            cause = self.borders.cross(border, stamp.avail_ns, now_ns)
        if cause is not None:
            self.ledger.drop(cause)
        return cause is not None

    def stop(self) -> None:
        """Nothing is taken any more: frames that wait are dropped, those in an engine when it gives them back."""
        self._stopping = True
        self._engines.cancel()
        for item in self._order.abort():
            if isinstance(item, FrameResult):
                self.ledger.drop("shutdown")
            elif isinstance(item, Heard):
                self._late.append(item)

    def late(self) -> list[Heard]:
        """What was told and not taken, after :meth:`stop`: once."""
        found: list[Heard] = []
        while self._late:
            found.append(self._late.popleft())
        return found

    # -- engine thread --

    def give(self, job: _Job) -> None:
        """What an engine gave back, to the analysis; to a shadow as well."""
        result = job.result
        if not self._order.settle(job.place, result):
            self.ledger.drop("shutdown")
        if self.beside.on and (ran := result.ran) is not None and self._may_compare(result):
            self.beside.step(lambda shadow: shadow.step(result.frame, ran, result.metas[0]))

    def _may_compare(self, result: FrameResult) -> bool:
        """Only the whole picture, and not what another variant made of it that stands in."""
        own = result.detector is self._engines.engine
        return own and bool(result.frame.planes) and result.whole

    def lose(self, job: _Job, cause: Cause | None) -> None:
        """A frame that does not come back. ``cause`` None: it is booked."""
        self._order.give_up(job.place)
        if cause is not None:
            self.ledger.drop(cause)

    @property
    def lost_cause(self) -> Cause:
        return "shutdown" if self._stopping else "superseded"


class _Job:
    """See :class:`~edgectl.pipelines.video.engine_pool.EngineJob`."""

    __slots__ = ("_path", "_stagings", "more", "place", "result", "tensor")

    def __init__(
        self,
        path: FramePath,
        result: FrameResult,
        place: Place[FrameResult | Heard | Between],
        stagings: Sequence[Staging],
    ) -> None:
        self.tensor: NDArray[Any] = stagings[0].tensor
        self.more: Sequence[NDArray[Any]] = [staging.tensor for staging in stagings[1:]]
        self.result = result
        self.place = place
        self._path = path
        self._stagings = stagings

    def wanted(self, now_ns: int) -> bool:
        self.result.crossed["engine"] = now_ns
        if self._path.cross("engine", self.result.frame.stamp, now_ns):
            self._path.lose(self, None)
            self._leave()
            return False
        return True

    def ran(self, ran: Ran) -> None:
        self.result.ran = ran
        self._give_back()
        try:
            self._path.give(self)
        finally:
            self.result.detector.end()

    def failed(self, e: Exception) -> None:
        self.result.error = e
        self._path.give(self)
        self._leave()

    def gone(self) -> None:
        self._path.lose(self, self._path.lost_cause)
        self._leave()

    def _leave(self) -> None:
        self._give_back()
        self.result.detector.end()

    def _give_back(self) -> None:
        for staging in self._stagings:
            self.result.detector.give_back(staging)
