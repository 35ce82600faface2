"""Detections, and what every detector's decoder shares: checks, suppression, the way back into the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import DecodeSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.video.keypoints import Keypoints
from edgectl.pipelines.video.masks import InstanceMasks
from edgectl.pipelines.video.preprocess import LetterboxMeta, unletterbox

__all__ = [
    "Decoder",
    "Detections",
    "Suppression",
    "check_finite",
    "expect",
    "finish",
    "keep_best",
    "known_classes",
    "only_output",
    "quiet",
]

Suppression = Literal["class", "agnostic", "none"]

MAX_CANDIDATES = 3000
"""Boxes that enter suppression, best first: bounds the time of one frame whatever a broken engine puts
out."""


quiet = np.errstate(invalid="ignore", over="ignore")
"""For decoders: values that are not finite raise in :func:`finish`, not warnings on the way there."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Structure of arrays, best score first. Coordinates are pixels of the frame."""

    xyxy: NDArray[np.float32]  # (N, 4)
    score: NDArray[np.float32]  # (N,), 0..1
    cls: NDArray[np.int32]  # (N,), index into the task's labels
    keypoints: Keypoints | None = None
    """Of each detection; None: the model finds none."""
    masks: InstanceMasks | None = None
    """The same."""

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def none(cls) -> Detections:
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))

    @classmethod
    def joined(cls, parts: Sequence[Detections]) -> Detections:
        """All rows of one or more of one model, one after the other, in no order of score."""
        keypoints = [p.keypoints for p in parts if p.keypoints is not None]
        masks = [p.masks for p in parts if p.masks is not None]
        return cls(
            np.concatenate([p.xyxy for p in parts]),
            np.concatenate([p.score for p in parts]),
            np.concatenate([p.cls for p in parts]),
            Keypoints.joined(keypoints) if len(keypoints) == len(parts) else None,
            InstanceMasks.joined(masks) if len(masks) == len(parts) else None,
        )

    def select(self, index: NDArray[Any]) -> Detections:
        """Rows by boolean mask or index."""
        return Detections(
            self.xyxy[index],
            self.score[index],
            self.cls[index],
            None if self.keypoints is None else self.keypoints.select(index),
            None if self.masks is None else self.masks.select(index),
        )


class Decoder(Protocol):
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        """Engine outputs to detections in frame pixels.

        Raises :class:`ModelError` for shapes that do not fit the task, :class:`EngineError` for values that
        are not finite.
        """
        ...


def only_output(outputs: Outputs) -> NDArray[Any]:
    """The graph's single output. Raises :class:`ModelError` if there are more."""
    if len(outputs) != 1:
        raise ModelError(f"this decoder reads one output, the model has {len(outputs)}: {', '.join(outputs)}")
    return next(iter(outputs.values()))


def expect(array: NDArray[Any], expected: tuple[int | None, ...], what: str) -> NDArray[np.float32]:
    """``array`` as float32 if its shape is ``expected`` (None: any size). Raises :class:`ModelError` with
    both shapes."""
    if array.ndim != len(expected) or any(
        e is not None and e != a for e, a in zip(expected, array.shape, strict=True)
    ):
        wanted = "x".join("?" if e is None else str(e) for e in expected)
        got = "x".join(map(str, array.shape))
        raise ModelError(
            f"{what} should have shape {wanted}, it has {got}", hint="check the task's labels and decode kind"
        )
    return np.asarray(array, np.float32)


def known_classes(numbers: NDArray[Any], classes: int, first: int = 0) -> NDArray[np.int64]:
    """Class numbers as a graph writes them, counted from ``first``, as indices of labels. Raises
    :class:`EngineError` for one that has no label, or is no number."""
    check_finite(numbers)
    cls: NDArray[np.int64] = np.rint(numbers).astype(np.int64) - first
    if len(cls) and not (cls.min() >= 0 and cls.max() < classes):
        bad = cls.min() if cls.min() < 0 else cls.max()
        raise EngineError(
            f"the model puts out class {int(bad) + first}, and the task has {classes} labels",
            hint="give the task all labels of the model, in their order",
        )
    return cls


def finish(
    boxes: NDArray[np.float32],
    score: NDArray[np.float32],
    cls: NDArray[np.integer[Any]],
    spec: DecodeSpec,
    meta: LetterboxMeta,
    suppression: Suppression = "class",
) -> Detections:
    """Candidates (xyxy in tensor pixels, already above the threshold) to detections: suppression, then
    frame pixels.

    ``suppression``: what the authors of the model do, unless the task says otherwise.
    """
    return keep_best(boxes, score, cls, spec, meta, suppression)[0]


def keep_best(
    boxes: NDArray[np.float32],
    score: NDArray[np.float32],
    cls: NDArray[np.integer[Any]],
    spec: DecodeSpec,
    meta: LetterboxMeta,
    suppression: Suppression = "class",
) -> tuple[Detections, NDArray[np.intp]]:
    """:func:`finish`, and which candidate each detection was: for what a model says of a box besides."""
    if not len(score):
        return Detections.none(), np.empty(0, np.intp)
    check_finite(boxes, score)
    candidates = np.arange(len(score))
    if len(score) > MAX_CANDIDATES:
        candidates = np.argpartition(-score, MAX_CANDIDATES)[:MAX_CANDIDATES]
        boxes, score, cls = boxes[candidates], score[candidates], cls[candidates]
    limit = 4.0 * max(meta.input_width, meta.input_height)
    # wild coordinates would cost suppression its precision
    boxes = np.clip(boxes, -limit, limit)
    keep = _best(boxes, score, cls, spec.iou, spec.nms or suppression)[: spec.max_detections]
    found = Detections(unletterbox(boxes[keep], meta), score[keep], cls[keep].astype(np.int32))
    size = found.xyxy[:, 2:] - found.xyxy[:, :2]
    real = np.nonzero((size > 0).all(axis=1))[0]
    return found.select(real), candidates[keep[real]]


def check_finite(*arrays: NDArray[Any]) -> None:
    """Raises :class:`EngineError` for a value that is no number."""
    if not all(np.isfinite(a).all() for a in arrays):
        raise EngineError(
            "the engine's output has values that are not finite",
            hint="the engine is broken; roll back to the last one",
        )


def _best(
    boxes: NDArray[np.float32],
    score: NDArray[np.float32],
    cls: NDArray[np.integer[Any]],
    iou: float,
    suppression: Suppression,
) -> NDArray[np.intp]:
    """Rows that no better box suppresses, best score first.

    OpenCV's greedy suppression: 0.6 of the time of one in numpy that drops a row of overlaps at a time.
    """
    if suppression == "none":
        return np.argsort(-score, kind="stable")
    xywh = boxes.copy()
    xywh[:, 2:] -= xywh[:, :2]
    # OpenCV moves each class by the largest coordinate: what is below zero would land on the class before
    xywh[:, :2] -= xywh[:, :2].min()
    of = cls.astype(np.int32) if suppression == "class" else np.zeros(len(score), np.int32)
    kept = cv2.dnn.NMSBoxesBatched(xywh, score, of, 0.0, iou)  # type: ignore[arg-type]
    rows: NDArray[np.intp] = np.asarray(kept, np.intp).reshape(-1)
    return rows[np.argsort(-score[rows], kind="stable")]
