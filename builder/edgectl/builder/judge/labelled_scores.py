"""What one answer is worth against its label, and what many are worth together: one class a kind of label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgectl.builder.judge.class_iou import IGNORED, ClassCounts, IouCurves, class_counts
from edgectl.builder.judge.coco_ap import (
    MOST_BOXES,
    MOST_POSES,
    ApCurves,
    ClassMatch,
    box_similarity,
    match_class,
)
from edgectl.builder.judge.edit_distance import edits
from edgectl.builder.judge.pixels import class_decoder
from edgectl.builder.judge.similarity import point_sigmas
from edgectl.builder.truth.class_maps import read_class_indices
from edgectl.builder.truth.labelled import TrueClasses, TrueObjects, Truth, TruthKind
from edgectl.core.errors import DataError
from edgectl.core.task import TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import make_reader
from edgectl.pipelines.video.decode import make_decoder
from edgectl.pipelines.video.decode.base import Detections
from edgectl.pipelines.video.masks import InstanceMasks
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["LOWEST_SCORE", "Figures", "Scorer", "Weights", "scorer_for"]

LOWEST_SCORE = 0.001
"""From here on a detection enters the precision–recall curve, as the field evaluates detectors."""
_TOP = 5

Weights = NDArray[np.float64]
Figures = NDArray[np.float64]


class Scorer(Protocol):
    """``names``: of the figures. ``decides``: how many of them, from the first on, the budget bounds. ``sign``: 1 where
    more is better, -1 where less is."""

    names: tuple[str, ...]
    decides: int
    sign: int

    def row(self, outputs: Outputs, meta: LetterboxMeta | None, truth: Truth) -> Any:
        """Of one picture or recording."""
        ...

    def measured(self, rows: Sequence[Any]) -> Callable[[Weights], Figures]:
        """The figures of all, by how often each counts."""
        ...

    def is_nothing(self, figures: Figures) -> bool:
        """Whether the model answers no better than one that knows nothing of these labels."""
        ...


def scorer_for(kind: TruthKind, task: TaskSpec, classes: Sequence[int], *, classless: bool = False) -> Scorer:
    """``classes``: of objects, those that are judged. ``classless``: all that is found is of class 0."""
    if kind == "class":
        return _ClassScorer(len(task.labels))
    if kind == "text":
        return _TextScorer(task)
    if kind == "pixels":
        return _PixelScorer(task)
    return _ObjectScorer(kind, task, classes, classless)


class _ObjectScorer:
    """AP at 0.5 and AP (0.50:0.05:0.95) of boxes, masks or keypoints. Suppression is the task's own, as on the
    device."""

    decides = 2
    sign = 1

    def __init__(self, kind: TruthKind, task: TaskSpec, classes: Sequence[int], classless: bool) -> None:
        self._kind, self._classes, self._classless = kind, tuple(classes), classless
        self._most = MOST_POSES if kind == "keypoints" else MOST_BOXES
        decode = task.decode.model_copy(
            update={"score": min(task.decode.score, LOWEST_SCORE), "max_detections": MOST_BOXES}
        )
        self._decode = make_decoder(task.model_copy(update={"decode": decode}))
        prefix = {"masks": "mask_", "keypoints": "oks_"}.get(kind, "")
        self.names: tuple[str, ...] = (f"{prefix}ap50", f"{prefix}ap")

    def row(self, outputs: Outputs, meta: LetterboxMeta | None, truth: Truth) -> dict[int, ClassMatch]:
        assert isinstance(truth, TrueObjects)
        assert meta is not None
        found = self._decode(outputs, meta)
        cls = np.zeros_like(found.cls) if self._classless else found.cls
        ignore = truth.crowd.copy()
        if truth.keypoints is not None:
            ignore |= ~(truth.keypoints[..., 2] > 0).any(axis=1)
        row = {}
        for c in self._classes:
            mine, theirs = np.flatnonzero(cls == c), np.flatnonzero(truth.cls == c)
            if not len(mine) and not len(theirs):
                continue
            similar = self._similar(found, mine, truth, theirs, meta)
            scores = found.score[mine].astype(np.float64)
            row[c] = match_class(similar, scores, truth.crowd[theirs], ignore[theirs], most=self._most)
        return row

    def _similar(
        self,
        found: Detections,
        mine: NDArray[np.intp],
        truth: TrueObjects,
        theirs: NDArray[np.intp],
        meta: LetterboxMeta,
    ) -> NDArray[np.float64]:
        if not len(mine) or not len(theirs):
            return np.zeros((len(mine), len(theirs)))
        boxes, crowd = found.xyxy[mine].astype(np.float64), truth.crowd[theirs]
        if self._kind == "masks" and found.masks is not None:
            return _mask_similarity(found.masks, mine, truth, theirs, meta)
        if self._kind == "keypoints" and found.keypoints is not None:
            sigmas = point_sigmas(found.keypoints.layout.names)
            return _keypoint_similarity(found.keypoints.points[mine], truth, theirs, sigmas)
        return box_similarity(boxes, truth.boxes[theirs], crowd)

    def measured(self, rows: Sequence[Mapping[int, ClassMatch]]) -> Callable[[Weights], Figures]:
        curves = ApCurves(rows, self._classes)

        def figures(weights: Weights) -> Figures:
            at = curves.average_precision(weights)
            return np.asarray([at[0], at.mean()])

        return figures

    def is_nothing(self, figures: Figures) -> bool:
        return not figures[0] >= 0.02


class _ClassScorer:
    """How often the class of the largest score is right; of six labels or more, how often it is one of five. ``classes``: labels
    of the task; 0: it has none."""

    decides = 1
    sign = 1

    def __init__(self, classes: int) -> None:
        self._classes = self._scores = classes
        self.names: tuple[str, ...] = ("top1", "top5") if classes > _TOP else ("top1",)

    def row(self, outputs: Outputs, meta: LetterboxMeta | None, truth: Truth) -> tuple[float, ...]:
        assert isinstance(truth, int)
        scores = np.asarray(next(iter(outputs.values())), np.float64).ravel()
        if truth >= len(scores) or (self._classes and len(scores) != self._classes):
            raise DataError(
                f"the model puts out {len(scores)} scores, and its task has {self._classes or truth + 1} labels",
                hint="give the task all labels of the model, in their order: one too many or too few moves each class",
            )
        self._scores = len(scores)
        best = np.argsort(-scores, kind="stable")
        hits = (float(best[0] == truth), float(truth in best[:_TOP]))
        return hits[: len(self.names)]

    def measured(self, rows: Sequence[tuple[float, ...]]) -> Callable[[Weights], Figures]:
        table = np.asarray(rows, np.float64).reshape(-1, len(self.names))
        return lambda weights: np.asarray(weights @ table / max(weights.sum(), 1e-9), np.float64)

    def is_nothing(self, figures: Figures) -> bool:
        return bool(figures[0] <= max(0.05, 1 / max(2, self._scores)))


class _PixelScorer:
    """Mean IoU, and the share of pixels that are right, at the size of the labels."""

    names: tuple[str, ...] = ("mean_iou", "pixel_accuracy")
    decides = 1
    sign = 1

    def __init__(self, task: TaskSpec) -> None:
        self._decode = class_decoder(task)
        self._classes = len(task.labels)
        self._by_guessing = 0.0

    def row(self, outputs: Outputs, meta: LetterboxMeta | None, truth: Truth) -> ClassCounts:
        assert isinstance(truth, TrueClasses)
        assert meta is not None
        found = self._decode(outputs, meta).classes
        return class_counts(found, self._wanted(truth, meta), self._classes)

    def _wanted(self, truth: TrueClasses, meta: LetterboxMeta) -> NDArray[np.uint8]:
        numbers = read_class_indices(truth.file)
        height, width = numbers.shape
        if (width, height) != (meta.width, meta.height):
            raise DataError(
                f"{truth.file.name} has {width}x{height} pixels, its picture {meta.width}x{meta.height}",
                hint="label the pictures as they are",
            )
        table = np.full(256, IGNORED, np.int64)
        known = np.arange(self._classes) if truth.to is None else np.asarray(truth.to, np.int64)
        table[: len(known)] = np.where(known < 0, IGNORED, known)
        if (beyond := numbers[(numbers >= len(known)) & (numbers != IGNORED)]).size:
            raise DataError(
                f"{truth.file.name} has pixels of class {int(beyond.max())}, and there are {len(known)} classes, from 0 on; "
                f"{IGNORED} is not judged",
                hint="give the task all labels of the model in their order (of Cityscapes: …_labelTrainIds.png)",
            )
        if truth.moved:
            moved = table + truth.moved
            table = np.where((table == IGNORED) | (moved < 0) | (moved >= self._classes), IGNORED, moved)
        wanted: NDArray[np.uint8] = table.astype(np.uint8)[numbers]
        return wanted

    def measured(self, rows: Sequence[ClassCounts]) -> Callable[[Weights], Figures]:
        curves = IouCurves(rows, self._classes)
        self._by_guessing = curves.by_guessing
        return lambda weights: np.asarray(curves.at(weights))

    def is_nothing(self, figures: Figures) -> bool:
        return bool(figures[0] <= max(0.02, self._by_guessing))


class _TextScorer:
    """Word error and character error: edits over the words (characters) that are there."""

    names: tuple[str, ...] = ("word_error", "character_error")
    decides = 1
    sign = -1

    def __init__(self, task: TaskSpec) -> None:
        self._read = make_reader("reader", task, task)

    def row(self, outputs: Outputs, meta: LetterboxMeta | None, truth: Truth) -> tuple[int, int, int, int]:
        assert isinstance(truth, str)
        text = self._read(outputs).text
        return edits(text.split(), truth.split()), len(truth.split()), edits(text, truth), len(truth)

    def measured(self, rows: Sequence[tuple[int, int, int, int]]) -> Callable[[Weights], Figures]:
        table = np.asarray(rows, np.float64).reshape(-1, 4)

        def figures(weights: Weights) -> Figures:
            total = weights @ table
            return np.asarray([total[0] / max(total[1], 1e-9), total[2] / max(total[3], 1e-9)])

        return figures

    def is_nothing(self, figures: Figures) -> bool:
        return bool(figures[1] >= 0.9)


def _mask_similarity(
    masks: InstanceMasks,
    mine: NDArray[np.intp],
    truth: TrueObjects,
    theirs: NDArray[np.intp],
    meta: LetterboxMeta,
) -> NDArray[np.float64]:
    assert truth.shapes is not None
    wanted = []
    for g in theirs.tolist():
        shape = truth.shapes[g]
        wanted.append(
            np.zeros((meta.height, meta.width), np.bool_)
            if shape is None
            else shape.pixels(meta.width, meta.height)
        )
    areas = [int(w.sum()) for w in wanted]
    similar = np.zeros((len(mine), len(theirs)))
    for i, d in enumerate(mine.tolist()):
        left, top, inside = masks.pixels(d, meta.width, meta.height)
        own = int(inside.sum())
        rows, columns = slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1])
        for j, g in enumerate(theirs.tolist()):
            shared = int((wanted[j][rows, columns] & inside).sum())
            union = own if truth.crowd[g] else own + areas[j] - shared
            similar[i, j] = shared / union if union else 0.0
    return similar


def _keypoint_similarity(
    points: NDArray[np.float32], truth: TrueObjects, theirs: NDArray[np.intp], sigmas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """OKS (D, G). Of an object without a marked point: how near the points are to its box, doubled."""
    assert truth.keypoints is not None
    if points.shape[1] != truth.keypoints.shape[1]:
        raise DataError(
            f"the model finds {points.shape[1]} keypoints, and the labels have {truth.keypoints.shape[1]}",
            hint="give labels of the points that the model was trained for",
        )
    similar = np.zeros((len(points), len(theirs)))
    found = points[..., :2].astype(np.float64)
    for j, g in enumerate(theirs.tolist()):
        wanted = truth.keypoints[g]
        marked = wanted[:, 2] > 0
        if marked.any():
            away = found - wanted[None, :, :2]
        else:
            x1, y1, x2, y2 = truth.boxes[g].tolist()
            w, h = x2 - x1, y2 - y1
            low, high = np.asarray([x1 - w, y1 - h]), np.asarray([x2 + w, y2 + h])
            away = np.maximum(0, low - found) + np.maximum(0, found - high)
            marked = np.ones(len(wanted), np.bool_)
        off = (away**2).sum(axis=2) / (2 * sigmas) ** 2 / (truth.areas[g] + np.spacing(1)) / 2
        similar[:, j] = np.exp(-off[:, marked]).mean(axis=1)
    return similar
