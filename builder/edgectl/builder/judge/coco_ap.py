"""Average precision as COCO defines it, and of any weighting of the pictures, so that a bootstrap is cheap.

The definition is that of cocoapi's ``COCOeval``: at each IoU (or OKS) threshold the detections of a class and picture,
best score first, take the free object that they are most similar to; one that only a crowd (or another object that does
not count) is similar to is no error; precision is made monotone and read at 101 recalls; classes count alike. A
test compares with pycocotools where that is installed: it cannot weigh pictures, and is a dependency less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST_BOXES",
    "MOST_POSES",
    "THRESHOLDS",
    "ApCurves",
    "ClassMatch",
    "box_similarity",
    "match_class",
]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
MOST_BOXES, MOST_POSES = 100, 20
"""Detections of a class and picture that count."""


@dataclass(frozen=True)
class ClassMatch:
    """One class in one picture, at T thresholds."""

    scores: NDArray[np.float64]  # (D,), best first
    hits: NDArray[np.bool_]  # (T, D)
    ignored: NDArray[np.bool_]  # (T, D)
    objects: int


def match_class(
    similar: NDArray[np.float64],
    scores: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    ignore: NDArray[np.bool_],
    *,
    most: int = MOST_BOXES,
) -> ClassMatch:
    """``similar`` (D, G), 0..1: of each detection with each object; ``scores`` (D,). ``crowd`` (G,): may be found any
    number of times. ``ignore`` (G,): neither found nor missed; crowds among them."""
    order = np.argsort(-scores, kind="stable")[:most]
    real_first = np.argsort(ignore, kind="stable")
    similar, scores = similar[order][:, real_first], scores[order]
    crowd, ignore = crowd[real_first], ignore[real_first]
    hits, ignored = (np.zeros((len(THRESHOLDS), len(order)), np.bool_) for _ in range(2))
    near = similar.max(axis=1, initial=0.0)
    for t, threshold in enumerate(THRESHOLDS if near.size and near.max() >= THRESHOLDS[0] else ()):
        free = np.ones(len(crowd), np.bool_)
        for d in np.flatnonzero(near >= min(threshold, 1 - 1e-10)):
            able = (free | crowd) & (similar[d] >= min(threshold, 1 - 1e-10))
            # an object that counts goes first, whatever else is more similar
            able = able & ~ignore if (able & ~ignore).any() else able
            if not able.any():
                continue
            best = np.where(able, similar[d], -1.0)
            # of equals the last one, as COCO's own loop has it
            g = len(best) - 1 - int(best[::-1].argmax())
            free[g] = False
            (ignored if ignore[g] else hits)[t, d] = True
    return ClassMatch(scores, hits, ignored, int((~ignore).sum()))


@dataclass(frozen=True)
class _ClassCurve:
    """One class in all pictures, best score first."""

    hits: NDArray[np.bool_]  # (T, D)
    misses: NDArray[np.bool_]  # (T, D)
    picture: NDArray[np.intp]  # (D,)
    objects: NDArray[np.float64]  # (pictures,)


class ApCurves:
    """``pictures``: of each, class → its match. ``classes``: those that count."""

    def __init__(self, pictures: Sequence[Mapping[int, ClassMatch]], classes: Sequence[int]) -> None:
        self._curves = [curve for c in classes if (curve := _curve(pictures, c)) is not None]

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T,): at each threshold, the mean over the classes of which a picture with a weight has an object; NaN if
        there is none. ``weights`` (pictures,): how often each counts."""
        found = []
        for c in self._curves:
            total = float(c.objects @ weights)
            if not total:
                continue
            count = weights[c.picture]
            hits = np.cumsum(c.hits * count, axis=1)
            seen = hits + np.cumsum(c.misses * count, axis=1)
            precision = hits / (seen + np.spacing(1))
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = hits / total
            padded = np.concatenate([precision, np.zeros((len(hits), 1))], axis=1)
            found.append(
                [
                    float(p[np.searchsorted(r, _RECALLS, side="left")].mean())
                    for r, p in zip(recall, padded, strict=True)
                ]
            )
        return np.asarray(found).mean(axis=0) if found else np.full(len(THRESHOLDS), np.nan)


def _curve(pictures: Sequence[Mapping[int, ClassMatch]], c: int) -> _ClassCurve | None:
    """None for a class without an object: it does not count."""
    rows = [(i, m) for i, p in enumerate(pictures) if (m := p.get(c)) is not None]
    objects = np.zeros(len(pictures))
    for i, m in rows:
        objects[i] = m.objects
    if not objects.any():
        return None
    scores = np.concatenate([m.scores for _, m in rows])
    order = np.argsort(-scores, kind="stable")
    hits = np.concatenate([m.hits for _, m in rows], axis=1)[:, order]
    ignored = np.concatenate([m.ignored for _, m in rows], axis=1)[:, order]
    picture = np.repeat([i for i, _ in rows], [len(m.scores) for _, m in rows])[order]
    return _ClassCurve(hits, ~(hits | ignored), picture.astype(np.intp), objects)


def box_similarity(
    found: NDArray[np.float64], wanted: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(D, G): IoU of xyxy boxes; with a crowd, the part of the detection that lies in it."""
    low = np.maximum(found[:, None, :2], wanted[None, :, :2])
    high = np.minimum(found[:, None, 2:], wanted[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    own = (found[:, 2:] - found[:, :2]).prod(axis=1)[:, None]
    theirs = (wanted[:, 2:] - wanted[:, :2]).prod(axis=1)[None]
    union = np.where(crowd[None], own, own + theirs - shared)
    return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 0.0)
