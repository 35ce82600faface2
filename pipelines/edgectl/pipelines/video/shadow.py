"""Run a second detector on some of the frames and compare; nothing of what it finds goes anywhere.

The thread of the engine that serves steps a shadow when it has given a frame back, so both engines are timed on the same
frame, one after the other, on the same thread. The frame behind it waits for as long as the second engine takes: a live
source may drop it as ``superseded``. A second stage does the same with its crops
(:mod:`edgectl.pipelines.video.second_stage.crop_shadow`).
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, Protocol, TypeVar

import numpy as np

from edgectl.core.errors import EdgectlError, EngineError, ModelError
from edgectl.core.wire import MAX_SHADOW_BLOCKS, ShadowBlock
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.engine_pool import Ran
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.seated_engine import SeatedEngine

__all__ = ["Beside", "Comparison", "Done", "Shadow", "Shadowing", "matched"]

_log = logging.getLogger(__name__)

_IOU = 0.5


@dataclass(frozen=True)
class Shadowing:
    """What came of it. ``found`` counts what both found together, ``matched`` the pairs; medians of the
    engine stage in ms."""

    frames: int
    matched: int
    found: int
    errors: int
    old_ms: float
    new_ms: float
    blocks: tuple[ShadowBlock, ...]
    """The same in frames that follow each other."""


Done = Callable[[Shadowing | EdgectlError], None]
"""Called once, in the thread of the engine that serves or by who ends the comparison: with what was found, or with why
there is nothing."""


class Comparison:
    """Which frames both engines get, and what they made of them. Closes the second engine at the end."""

    def __init__(self, engine: SeatedEngine, percent: float, frames: int, done: Done) -> None:
        self.engine = engine
        self._percent = percent
        self._wanted = frames
        self._done = done
        self._share = 100.0 - percent  # so that the first frame is taken
        self._old_ms: list[float] = []
        self._new_ms: list[float] = []
        self._counts: list[tuple[int, int, int]] = []
        """Of each frame: found by both, by the old one alone, by the new one alone."""
        self._errors = 0

    def is_due(self) -> bool:
        """Whether the next frame is one of them. Once a frame."""
        self._share += self._percent
        if self._share < 100.0:
            return False
        self._share -= 100.0
        return True

    def count(self, old: Ran, new: Ran | None, matched: int, of_old: int, of_new: int) -> bool:
        """One frame, and how much each found. ``new`` None: the second engine failed. True: that was the last one, and
        it is told."""
        self._errors += new is None
        self._old_ms.append((old.ended_ns - old.started_ns) / 1e6)
        self._new_ms.append(0.0 if new is None else (new.ended_ns - new.started_ns) / 1e6)
        self._counts.append((matched, of_old - matched, of_new - matched))
        if len(self._old_ms) < self._wanted:
            return False
        self.engine.close()
        self._done(
            Shadowing(
                len(self._old_ms),
                sum(both for both, _, _ in self._counts),
                sum(2 * both + old + new for both, old, new in self._counts),
                self._errors,
                median(self._old_ms),
                median(self._new_ms),
                tuple(_blocks(self._counts)),
            )
        )
        return True

    def abandon(self, why: str) -> None:
        """The stream ends or changes its engine first."""
        self.engine.close()
        self._done(EngineError(why))


def _blocks(counts: Sequence[tuple[int, int, int]]) -> Iterator[ShadowBlock]:
    size = math.ceil(len(counts) / MAX_SHADOW_BLOCKS)
    for i in range(0, len(counts), size):
        several = counts[i : i + size]
        both, missed, extra = (sum(column) for column in zip(*several, strict=True))
        yield ShadowBlock(frames=len(several), both=both, missed=missed, extra=extra)


class Shadow:
    """Of a detector."""

    def __init__(
        self, detector: Detector, serving: Detector, percent: float, frames: int, done: Done
    ) -> None:
        self.comparison = Comparison(detector, percent, frames, done)
        self._detector = detector
        # a decoder belongs to one thread: this is not the one that the stream uses
        self._decode_old = make_decoder(serving.task)

    def step(self, frame: Frame, ran: Ran, meta: LetterboxMeta) -> bool:
        """One frame, and what the engine which serves has made of it. True: that was the last one."""
        if not self.comparison.is_due():
            return False
        try:
            found = self._decode_old(ran.outputs, meta)
        except (EngineError, ModelError):
            # it has failed on its own: nothing to compare with
            return False
        try:
            staging, own = self._detector.prepare(frame)
            result = self._detector.run(staging)
            other = self._detector.decode(result.outputs, own)
            self._detector.give_back(staging)
        except (EngineError, ModelError):
            return self.comparison.count(ran, None, 0, len(found), 0)
        return self.comparison.count(ran, result, matched(found, other), len(found), len(other))


class _Shadow(Protocol):
    @property
    def comparison(self) -> Comparison: ...


S = TypeVar("S", bound=_Shadow)


class Beside(Generic[S]):
    """What runs beside the engine of a part, one at a time. Any thread."""

    def __init__(self, what: str) -> None:
        """``what``: the stream, and the part where it is another one, for the log."""
        self._what = what
        self._lock = threading.Lock()
        self._shadow: S | None = None

    @property
    def on(self) -> bool:
        return self._shadow is not None

    def put(self, shadow: S) -> None:
        """In place of one that may be there."""
        self.end("another engine is compared")
        with self._lock:
            self._shadow = shadow

    def end(self, why: str) -> None:
        with self._lock:
            shadow, self._shadow = self._shadow, None
            if shadow is not None:
                shadow.comparison.abandon(why)

    def step(self, step: Callable[[S], bool]) -> None:
        """``step`` says whether that was the last one. Whatever fails in it, the engine's thread goes on for all
        streams."""
        with self._lock:
            if (shadow := self._shadow) is None:
                return
            try:
                over = step(shadow)
            except Exception as e:
                _log.exception("%s: the comparison failed", self._what)
                shadow.comparison.abandon(f"the comparison failed: {type(e).__name__}: {e}")
                over = True
            if over:
                self._shadow = None

    def stuck(self, now_ns: int) -> bool:
        """Whether the second engine's call does not come back: the one that serves waits for it."""
        shadow = self._shadow
        return shadow is not None and shadow.comparison.engine.stuck_s(now_ns) is not None


def matched(a: Detections, b: Detections) -> int:
    """Pairs of the same class that overlap by at least half (IoU ≥ 0.5), each used once, the best scores
    of ``a`` first."""
    free = np.ones(len(b), bool)
    pairs = 0
    for box, cls in zip(a.xyxy, a.cls, strict=True):
        corner = np.minimum(box[2:], b.xyxy[:, 2:]) - np.maximum(box[:2], b.xyxy[:, :2])
        shared = np.maximum(corner, 0).prod(axis=1)
        union = (box[2:] - box[:2]).prod() + (b.xyxy[:, 2:] - b.xyxy[:, :2]).prod(axis=1) - shared
        iou = np.where(free & (b.cls == cls) & (union > 0), shared / np.maximum(union, 1e-9), 0.0)
        if len(iou) and iou.max() >= _IOU:
            free[int(iou.argmax())] = False
            pairs += 1
    return pairs
