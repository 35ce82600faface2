"""One list of detections from those of several regions of one frame.

The border of a region cuts things: such a box is wrong, and says only where to look next, unless it ends at the
picture's own border. What lies in two regions is found in both: the better box of one label is kept (Akyon et al.,
Slicing Aided Hyper Inference, ICIP 2022, without its joining of boxes that are cut).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["MergedDetections", "merge_regions"]

_BORDER = 0.008
"""A box that comes as near to a region's border is cut, as a share of the region's side …"""
_BORDER_PX = 2.0
"""… and at least so many pixels."""
_SAME = 0.45
"""Boxes of two regions that overlap by so much (intersection over union) are one object …"""
_INSIDE = 0.8
"""… or one lies in the other by so much of its area …"""
_SIZE = 0.35
"""… and is not smaller than this share of it, unless it was cut."""
_MOST = 2000
"""Boxes of all regions together, best first: the time of a frame is bounded, whatever an engine puts out."""


@dataclass(frozen=True, slots=True)
class MergedDetections:
    found: Detections
    cut: NDArray[np.float32]
    """(N, 4) xyxy in pixels: pieces of things that no region shows whole."""
    pieces: Detections
    """All boxes that a region's border has cut, whether the thing is seen whole elsewhere or not."""


def merge_regions(
    regions: Sequence[tuple[Detections, LetterboxMeta]], size: tuple[int, int]
) -> MergedDetections:
    """``regions``: what was found in each, in the frame's pixels, and where it lies; the whole picture may be one of
    them. ``size``: the frame's, width and height."""
    (first, meta), *others = regions
    if not others and (meta.width, meta.height) == size:
        return MergedDetections(first, np.empty((0, 4), np.float32), Detections.none())
    found = Detections.joined([one for one, _ in regions])
    cut = np.concatenate([_cut(one.xyxy, meta, size) for one, meta in regions])
    region_of = np.repeat(np.arange(len(regions)), [len(one) for one, _ in regions])
    best = np.argsort(-found.score, kind="stable")[:_MOST]
    found, cut, region_of = found.select(best), cut[best], region_of[best]
    whole, pieces = _best_of_each(found.select(~cut), region_of[~cut]), found.select(cut)
    return MergedDetections(whole, _unknown(pieces, whole), pieces)


def _cut(xyxy: NDArray[np.float32], meta: LetterboxMeta, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes end at a border of the region that is none of the picture."""
    cut = np.zeros(len(xyxy), np.bool_)
    for axis, (start, side, whole) in enumerate(
        ((meta.x, meta.width, size[0]), (meta.y, meta.height, size[1]))
    ):
        near = max(_BORDER_PX, _BORDER * side)
        if start > 0:
            cut |= xyxy[:, axis] <= start + near
        if start + side < whole:
            cut |= xyxy[:, axis + 2] >= start + side - near
    return cut


def _best_of_each(found: Detections, region_of: NDArray[np.intp]) -> Detections:
    """Of boxes of one label in different regions that are one object, the one with the best score. Rows come best
    first. Boxes of one region are as its decoder left them."""
    if len(found) < 2:
        return found
    same = _one_object(found.xyxy, found.xyxy, _SIZE)
    same &= (found.cls[:, None] == found.cls[None, :]) & (region_of[:, None] != region_of[None, :])
    kept: list[int] = []
    for i in range(len(found)):
        if not same[i, kept].any():
            kept.append(i)
    return found.select(np.array(kept))


def _unknown(cut: Detections, whole: Detections) -> NDArray[np.float32]:
    """Those that are no piece of what was seen whole."""
    if not len(cut) or not len(whole):
        return cut.xyxy
    known = _one_object(cut.xyxy, whole.xyxy, 0.0) & (cut.cls[:, None] == whole.cls[None, :])
    return np.asarray(cut.xyxy[~known.any(axis=1)])


def _one_object(a: NDArray[np.float32], b: NDArray[np.float32], least: float) -> NDArray[np.bool_]:
    """Each of ``a`` (N, 4) with each of ``b`` (M, 4): (N, M). ``least``: share of the larger one's area."""
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.maximum(corner, 0).prod(axis=2)
    area_a, area_b = (np.maximum((x[:, 2:] - x[:, :2]).prod(axis=1), 1e-9) for x in (a, b))
    union = area_a[:, None] + area_b[None, :] - shared
    smaller = np.minimum(area_a[:, None], area_b[None, :])
    inside = (shared >= _INSIDE * smaller) & (smaller >= least * np.maximum(area_a[:, None], area_b[None, :]))
    return np.asarray((shared >= _SAME * union) | inside)
