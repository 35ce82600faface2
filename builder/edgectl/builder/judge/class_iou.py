"""Mean IoU of classes: what a model says of each pixel against what people say of it. Pure.

As Cityscapes and PASCAL VOC evaluate: pixels of all pictures are counted together, IoU of a class = TP / (TP + FP + FN), and
the mean is over the classes that the labels have somewhere. Pixels that are not judged (255) count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["IGNORED", "ClassCounts", "IouCurves", "class_counts"]

IGNORED = 255

ClassCounts = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Of one picture, for each class: pixels that both call so, that the labels call so, that the model calls so."""


def class_counts(found: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> ClassCounts:
    """``found``: (h, w), of the same rectangle as ``truth`` (H, W), whatever its size: the nearest pixel is taken. ``truth``:
    below ``classes``, or :data:`IGNORED`."""
    rows, columns = (
        ((np.arange(n) * 2 + 1) * of // (2 * n)).astype(np.intp)
        for n, of in zip(truth.shape, found.shape, strict=True)
    )
    judged = truth != IGNORED
    named = found[np.ix_(rows, columns)][judged]
    wanted = truth[judged]

    def counts(of: NDArray[np.uint8]) -> tuple[int, ...]:
        return tuple(np.bincount(of, minlength=classes)[:classes].tolist())

    return counts(wanted[named == wanted]), counts(wanted), counts(named)


class IouCurves:
    """The figures of many pictures, by how often each counts."""

    def __init__(self, rows: Sequence[ClassCounts], classes: int) -> None:
        self._table = np.asarray(rows, np.float64).reshape(len(rows), 3, classes)

    def at(self, weights: NDArray[np.float64]) -> tuple[float, float]:
        """Mean IoU, and the share of pixels that are right; 0 of nothing."""
        both, wanted, named = np.tensordot(weights, self._table, axes=1)
        there = wanted > 0
        union = wanted + named - both
        iou = both[there] / np.maximum(union[there], 1e-9)
        return (float(iou.mean()) if there.any() else 0.0), float(both.sum() / max(wanted.sum(), 1e-9))

    @property
    def by_guessing(self) -> float:
        """Mean IoU of a model that calls every pixel by the most frequent class."""
        wanted = self._table[:, 1].sum(axis=0)
        there = int((wanted > 0).sum())
        return float(wanted.max() / max(wanted.sum(), 1e-9) / there) if there else 0.0
