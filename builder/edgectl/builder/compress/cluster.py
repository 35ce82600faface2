"""Weight sharing: k-means over each weight tensor, so that it has at most k distinct values
(:mod:`edgectl.core.codebook` packs them)."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from edgectl.builder.compress.weights import Floats, replace_weights, weights_of
from edgectl.builder.graph import GraphIndex

__all__ = ["share_weights"]

_ROUNDS = 30


def share_weights(model: ModelProto, k: int) -> tuple[ModelProto, float]:
    """Replace every weight by its nearest of ``k`` values a tensor; zero stays zero. Returns the graph and
    the SNR in dB."""
    values: dict[str, Floats] = {}
    signal = noise = 0.0
    for w in weights_of(GraphIndex(model)):
        # the codebook would be as large as what it replaces
        if w.value.size <= 4 * k:
            continue
        shared = _nearest(w.value, k)
        signal += float(np.square(w.value, dtype=np.float64).sum())
        noise += float(np.square(w.value.astype(np.float64) - shared).sum())
        values[w.name] = shared
    return replace_weights(model, values), float(10 * np.log10(signal / noise)) if noise else 120.0


def _nearest(weight: Floats, k: int) -> Floats:
    """One-dimensional k-means (Lloyd), deterministic. Pruned weights keep a value of their own: 0.

    It starts where the cube root of the density says (Panter & Dite, 1951): from evenly spread quantiles hardly any
    value lies among the few large weights, and no round brings one there.
    """
    flat = weight.ravel()
    live = np.sort(flat[flat != 0]) if (flat == 0).any() else np.sort(flat)
    # a layer whose normalisation scales it by zero, or of which nothing was left
    if not live.size:
        return weight
    count = k - 1 if live.size < flat.size else k
    # between two neighbours lies the cube root of the density, which is one over their distance, times that
    dense = np.concatenate([[0.0], np.cumsum(np.power(np.diff(live.astype(np.float64)), 2 / 3))])
    centres = np.unique(np.interp((np.arange(count) + 0.5) / count * dense[-1], dense, live))
    total = np.concatenate([[0.0], np.cumsum(live, dtype=np.float64)])
    for _ in range(_ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(live, (centres[1:] + centres[:-1]) / 2), [live.size]])
        sizes = np.diff(edges)
        moved = np.where(sizes > 0, (total[edges[1:]] - total[edges[:-1]]) / np.maximum(sizes, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    chosen = centres.astype(np.float32)
    shared = chosen[np.searchsorted((chosen[1:] + chosen[:-1]) / 2, flat)]
    return np.where(flat == 0, np.float32(0), shared).reshape(weight.shape)
