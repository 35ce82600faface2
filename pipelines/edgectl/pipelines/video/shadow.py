"""Run a second detector on some of the frames and compare; nothing of what it finds goes anywhere.

The thread of the engine that serves calls :meth:`Shadow.step` when it has given a frame back, so both engines
are timed on the same frame, one after the other, on the same thread. The frame behind it waits for as long as
the second engine takes: a live source may drop it as ``superseded``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from edgectl.core.errors import EdgectlError, EngineError, ModelError
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.engine_pool import Ran
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["Shadow", "Shadowing", "matched"]

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


class Shadow:
    """``done`` is called once, in the engine thread: with what was found, or with why there is nothing.
    Closes the detector."""

    def __init__(
        self,
        detector: Detector,
        serving: Detector,
        percent: float,
        frames: int,
        done: Callable[[Shadowing | EdgectlError], None],
    ) -> None:
        self._detector = detector
        # a decoder belongs to one thread: this is not the one that the stream uses
        self._decode_old = make_decoder(serving.task)
        self._percent = percent
        self._wanted = frames
        self._done = done
        self._share = 100.0 - percent  # so that the first frame is taken
        self._old_ms: list[float] = []
        self._new_ms: list[float] = []
        self._matched = self._found = self._errors = 0

    def step(self, frame: Frame, ran: Ran, meta: LetterboxMeta) -> bool:
        """One frame, and what the engine which serves has made of it. True: that was the last one."""
        self._share += self._percent
        if self._share < 100.0:
            return False
        self._share -= 100.0
        try:
            found = self._decode_old(ran.outputs, meta)
        except (EngineError, ModelError):
            # it has failed on its own: nothing to compare with
            return False
        try:
            staging, own = self._detector.prepare(frame)
            result = self._detector.run(staging)
            ns = result.ended_ns - result.started_ns
            other = self._detector.decode(result.outputs, own)
            self._detector.give_back(staging)
        except (EngineError, ModelError):
            self._errors += 1
            other, ns = Detections.none(), 0
        old_ns = ran.ended_ns - ran.started_ns
        self._old_ms.append(old_ns / 1e6)
        self._new_ms.append(ns / 1e6)
        self._matched += matched(found, other)
        self._found += len(found) + len(other)
        if len(self._old_ms) < self._wanted:
            return False
        self._detector.close()
        self._done(
            Shadowing(
                len(self._old_ms),
                self._matched,
                self._found,
                self._errors,
                median(self._old_ms),
                median(self._new_ms),
            )
        )
        return True

    def abandon(self, why: str) -> None:
        """The stream ends or changes its engine first."""
        self._detector.close()
        self._done(EngineError(why))


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
