"""Pruning of single weights: unstructured (helps size after entropy coding only) and 2:4 (TensorRT's
sparse kernels, Ampere on)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgectl.builder.compress.importance import scored
from edgectl.builder.compress.weights import Floats, replace_weights, weights_of
from edgectl.builder.graph import GraphIndex

__all__ = ["prune_two_of_four", "prune_weights"]


def prune_weights(
    model: ModelProto, share: float, norms: Mapping[str, NDArray[np.float64]] | None
) -> tuple[ModelProto, float]:
    """Zero the least important ``share`` of each weight tensor. Returns the graph and the share of all
    weights that is zero."""
    values: dict[str, Floats] = {}
    for w in weights_of(GraphIndex(model)):
        score = scored(w, norms)
        count = int(share * score.size)
        if count:
            threshold = np.partition(score.ravel(), count - 1)[count - 1]
            values[w.name] = np.where(score <= threshold, np.float32(0), w.value)
    return replace_weights(model, values), _zeros(values)


def prune_two_of_four(
    model: ModelProto, norms: Mapping[str, NDArray[np.float64]] | None
) -> tuple[ModelProto, float, dict[str, str]]:
    """Of each four neighbours along the input channels, zero the two least important. Also returns what
    stayed dense and why."""
    values: dict[str, Floats] = {}
    reasons: dict[str, str] = {}
    for w in weights_of(GraphIndex(model)):
        if w.value.shape[w.input_axis] % 4:
            reasons[w.node.name] = f"{w.value.shape[w.input_axis]} input channels are not a multiple of 4"
            continue
        score = np.moveaxis(scored(w, norms), w.input_axis, -1)
        fours = score.reshape(-1, 4)
        keep = np.zeros(fours.shape, bool)
        np.put_along_axis(keep, np.argsort(-fours, axis=1, kind="stable")[:, :2], True, axis=1)
        mask = np.moveaxis(keep.reshape(score.shape), -1, w.input_axis)
        values[w.name] = np.where(mask, w.value, np.float32(0))
    return replace_weights(model, values), _zeros(values), reasons


def _zeros(values: Mapping[str, Floats]) -> float:
    total = sum(v.size for v in values.values())
    return sum(int((v == 0).sum()) for v in values.values()) / total if total else 0.0
