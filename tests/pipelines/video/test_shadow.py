from __future__ import annotations

import numpy as np

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.shadow import matched


def found(*boxes: tuple[float, float, float, float, int]) -> Detections:
    if not boxes:
        return Detections.none()
    values = np.array(boxes, np.float32)
    return Detections(
        values[:, :4], np.linspace(0.9, 0.5, len(boxes)).astype(np.float32), values[:, 4].astype(np.int32)
    )


A, B = (0.0, 0.0, 10.0, 10.0, 0), (50.0, 50.0, 60.0, 60.0, 0)


def test_pairs_are_of_one_class_overlap_by_half_and_are_used_once() -> None:
    assert matched(found(A, B), found(B, A)) == 2
    assert matched(found(A), found((0, 0, 10, 10, 1))) == 0
    assert matched(found(A), found((0, 0, 10, 5, 0))) == 1
    assert matched(found(A), found((0, 0, 10, 4.9, 0))) == 0
    assert matched(found(A, A), found(A)) == 1
    assert matched(found(A), found(A, A)) == 1
    assert matched(found(), found(A)) == matched(found(A), found()) == matched(found(), found()) == 0
