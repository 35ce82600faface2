"""What a decoder picks from an engine's outputs before anything else is computed: the few boxes with a
score.

A value that is not a number is always picked, so that :func:`~edgectl.pipelines.video.decode.base.finish`
refuses it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Activation", "Background", "Picked", "pick", "sigmoid", "softmax"]

Activation = Literal["none", "sigmoid", "softmax"]
Background = Literal["none", "first", "last"]
Picked = tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.intp]]
"""Row of the box, its score (0..1) and its class; each (M,)."""


def pick(
    raw: NDArray[np.float32],
    least: float,
    *,
    activation: Activation = "none",
    background: Background = "none",
    every_class: bool = False,
) -> Picked:
    """Boxes with a score of at least ``least``, from class scores ``raw`` (N, C), a row for a box; a transposed
    view of (C, N) costs nothing.

    ``activation``: what makes ``raw`` scores of 0..1. ``background``: the column that is no class; classes are
    counted without it. ``every_class``: a box comes once for each class with such a score, not only for the
    best one.
    """
    rows = None
    if activation == "softmax":
        # p ≥ least only where the logit is within log(least) of the row's largest
        behind = _best(_foreground(raw, background)) - _best(raw)
        (rows,) = np.nonzero(~(behind < _log(least)))
        raw = softmax(raw[rows])
    raw = _foreground(raw, background)
    limit = _log(least) - float(np.log1p(-min(least, 1 - 1e-9))) if activation == "sigmoid" else least
    index, cls = _every_class(raw, limit) if every_class else _best_class(raw, limit)
    score = raw[index, cls]
    return (
        index if rows is None else rows[index],
        sigmoid(score) if activation == "sigmoid" else score,
        cls,
    )


def sigmoid(x: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float32)


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True), np.float32)


def _best_class(scores: NDArray[np.float32], least: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    if scores.strides[0] > scores.strides[1]:
        # a comparison is faster than the largest of many short rows
        (rows,) = np.nonzero((~(scores < least)).any(axis=1))
    else:
        (rows,) = np.nonzero(~(scores.max(axis=1) < least))
    return rows, scores[rows].argmax(axis=1)


def _every_class(scores: NDArray[np.float32], least: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows, cls = np.nonzero(~(scores < least))
    return rows, cls


def _foreground(raw: NDArray[np.float32], background: Background) -> NDArray[np.float32]:
    # it would win nearly every box, and take the place of all detections
    return {"none": raw, "first": raw[:, 1:], "last": raw[:, :-1]}[background]


def _best(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(scores.max(axis=1), np.float32)


def _log(x: float) -> float:
    return float(np.log(x)) if x > 0 else -np.inf
