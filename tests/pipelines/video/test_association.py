"""Who goes on with whom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.video.association import best_pairs, box_overlap, likeness
from edgectl.pipelines.video.box_filter import BoxFilter, to_cxcywh

F64 = NDArray[np.float64]


def followed(*boxes: tuple[float, float, float, float]) -> BoxFilter:
    """Tracks that have stood there for two seconds."""
    z = to_cxcywh(np.array(boxes))
    tracks, rows = BoxFilter(), np.arange(len(z))
    tracks.add(z)
    for _ in range(20):
        tracks.predict(0.1)
        tracks.update(rows, z, np.ones(len(z), np.float32))
    return tracks


def alike(tracks: BoxFilter, *boxes: tuple[float, float, float, float]) -> F64:
    detected = np.array(boxes, np.float64)
    return likeness(tracks, tracks.boxes(), detected, to_cxcywh(detected))[1]


def test_the_same_box_is_most_alike_and_one_elsewhere_not_at_all() -> None:
    tracks = followed((100, 100, 140, 200))
    tracks.predict(0.1)
    near = alike(tracks, (100, 100, 140, 200), (106, 100, 146, 200), (400, 100, 440, 200))[0]
    assert near[0] > 0.99
    assert near[0] > near[1] > 0.3
    assert near[2] == 0


def test_after_a_gap_a_box_beside_the_old_one_can_be_it() -> None:
    beside = (142, 100, 182, 200)
    tracks = followed((100, 100, 140, 200))
    tracks.predict(0.04)
    assert alike(tracks, beside)[0, 0] < 0.05
    tracks.predict(0.8)
    assert alike(tracks, beside)[0, 0] > 0.2


def test_pairs_are_the_best_for_all_and_nobody_is_taken_twice() -> None:
    values = np.array([[0.9, 0.8], [0.85, 0.1]])
    both = np.ones(2, np.bool_)
    r, c = best_pairs(values, values > 0.05, both, both)
    assert sorted(zip(r.tolist(), c.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_only_what_is_allowed_and_masked_in_is_paired() -> None:
    values = np.array([[0.9, 0.8], [0.85, 0.7]])
    both = np.ones(2, np.bool_)
    r, c = best_pairs(values, values > 0.82, both, np.array([False, True]))
    assert (len(r), len(c)) == (0, 0)
    r, c = best_pairs(values, values > 0.82, np.array([False, True]), both)
    assert (r.tolist(), c.tolist()) == ([1], [0])


def test_nothing_pairs_with_nothing() -> None:
    none = np.empty((0, 4))
    assert likeness(BoxFilter(), none, none, none)[0].shape == (0, 0)
    assert (
        best_pairs(np.empty((0, 3)), np.empty((0, 3), bool), np.empty(0, bool), np.ones(3, bool))[0].size == 0
    )
    assert box_overlap(none, np.array([[0.0, 0, 1, 1]])).shape == (0, 1)
