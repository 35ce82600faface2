"""Object keypoint similarity, by hand and in the judge's matching."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from support.keypoints import people

from edgectl.builder.judge.accuracy import FloatTruth, match, truth
from edgectl.builder.judge.similarity import mask_iou, measured_by, object_keypoint_similarity, similar
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.keypoints import COCO_NAMES, KeypointLayout, Keypoints
from edgectl.pipelines.video.masks import InstanceMasks, MaskGrid


def moved(found: Detections, dx: float) -> Detections:
    """The same boxes, points elsewhere."""
    assert found.keypoints is not None
    points = found.keypoints.points.copy()
    points[..., 0] += dx
    return dataclasses.replace(found, keypoints=Keypoints(points, found.keypoints.layout))


def body(*places: tuple[int, float, float, float]) -> Keypoints:
    """Joint of COCO, x, y, confidence."""
    points = np.zeros((1, 17, 3), np.float32)
    for joint, *at in places:
        points[0, joint] = at
    return Keypoints(points, KeypointLayout(COCO_NAMES))


def test_oks_is_what_coco_defines() -> None:
    """exp(-d² / (2 s² k²)), s² = 0.53 of the box, k = 2 sigma; points that one of them does not see do not count."""
    area = np.array([100.0 * 200.0])
    mine = body((0, 50, 20, 0.9), (11, 50, 110, 0.9), (13, 50, 150, 0.2))
    theirs = body((0, 53, 24, 0.9), (11, 50, 140, 0.9), (13, 900, 150, 0.9))
    nose = math.exp(-25 / (2 * 0.53 * area[0] * (2 * 0.026) ** 2))
    hip = math.exp(-900 / (2 * 0.53 * area[0] * (2 * 0.107) ** 2))
    got = object_keypoint_similarity(mine, 0, theirs, area)
    assert got[0] == pytest.approx((nose + hip) / 2, rel=1e-6)
    assert object_keypoint_similarity(mine, 0, body((16, 0, 0, 0.9)), area).tolist() == [0]


def test_the_same_box_with_other_points_is_another_find() -> None:
    wanted = people((100, 0.9))
    of = FloatTruth(wanted, np.ones(1, bool))
    assert match(of, wanted).hits.tolist() == [True]
    assert match(of, moved(wanted, 2)).hits.tolist() == [True]
    assert match(of, moved(wanted, 40)).hits.tolist() == [False]
    assert measured_by(wanted) == "oks_ap75_vs_float"
    assert measured_by(dataclasses.replace(wanted, keypoints=None)) == "ap50_vs_float"


def test_float_is_not_sure_of_points_that_noise_moves() -> None:
    seen = people((100, 0.9), (300, 0.9))
    assert truth(seen, [seen], 0.35).objects.tolist() == [True, True, False, False]
    assert truth(seen, [moved(seen, 40)], 0.35).objects.tolist() == [False] * 4


def test_boxes_alone_are_compared_by_their_overlap() -> None:
    a = dataclasses.replace(people((100, 0.9)), keypoints=None)
    b = dataclasses.replace(people((110, 0.9)), keypoints=None)
    assert similar(a, 0, b).tolist() == pytest.approx([30 / 50])


def half(found: Detections, *, upper: bool) -> Detections:
    """The same boxes of 40 × 80, of which the upper or the lower half is the object."""
    column = np.where((np.arange(20) < 10) == upper, 1, -1).astype(np.float16)
    maps = tuple(np.repeat(column[:, None], 10, axis=1) for _ in range(len(found)))
    corners = np.stack([found.xyxy[:, 0] / 4, found.xyxy[:, 1] / 4], axis=1).astype(np.int64)
    masks = InstanceMasks(maps, corners, found.xyxy, (MaskGrid(0, 0, 4, 4),) * len(maps))
    return dataclasses.replace(found, keypoints=None, masks=masks)


def test_the_same_box_with_another_mask_is_another_find() -> None:
    upper, lower = (half(people((100, 0.9)), upper=u) for u in (True, False))
    assert upper.masks is not None
    assert lower.masks is not None
    assert mask_iou(upper.masks, 0, upper.masks, 0) == 1
    assert mask_iou(upper.masks, 0, lower.masks, 0) < 0.1
    of = FloatTruth(upper, np.ones(1, bool))
    assert match(of, upper).hits.tolist() == [True]
    assert match(of, lower).hits.tolist() == [False]
    assert measured_by(upper) == "mask_ap50_vs_float"
    assert truth(upper, [lower], 0.35).objects.tolist() == [False, False]
