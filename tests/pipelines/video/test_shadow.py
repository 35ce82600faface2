from __future__ import annotations

import numpy as np
import pytest

from edgectl.core.errors import EdgectlError
from edgectl.core.wire import MAX_SHADOW_BLOCKS, ShadowBlock
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.engine_pool import Ran
from edgectl.pipelines.video.shadow import Comparison, Shadowing, matched


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


class Closed:
    closed = False

    def close(self) -> None:
        self.closed = True


def compared(frames: int, both: int = 3, old: int = 4, new: int = 3) -> Shadowing:
    told: list[Shadowing | EdgectlError] = []
    engine = Closed()
    comparison = Comparison(engine, 50.0, frames, told.append)  # type: ignore[arg-type]
    for i in range(frames):
        assert comparison.count(Ran({}, 0, 2_000_000), Ran({}, 0, 3_000_000), both, old, new) is (
            i == frames - 1
        )
    assert engine.closed
    (found,) = told
    assert isinstance(found, Shadowing)
    return found


@pytest.mark.parametrize("frames", [1, 31, 32, 33, 100, 1000])
def test_comparison_is_told_in_blocks_of_frames_that_follow_each_other(frames: int) -> None:
    found = compared(frames)
    assert len(found.blocks) <= MAX_SHADOW_BLOCKS
    assert sum(b.frames for b in found.blocks) == found.frames == frames
    first = found.blocks[0]
    n = first.frames
    assert first == ShadowBlock(frames=n, both=3 * n, missed=n, extra=0)
    assert (found.matched, found.found) == (3 * frames, 7 * frames)


def test_frame_that_the_second_engine_fails_on_is_missed_whole() -> None:
    told: list[Shadowing | EdgectlError] = []
    comparison = Comparison(Closed(), 50.0, 1, told.append)  # type: ignore[arg-type]
    assert comparison.count(Ran({}, 0, 1), None, 0, 5, 0)
    (found,) = told
    assert isinstance(found, Shadowing)
    assert found.errors == 1
    assert found.blocks == (ShadowBlock(frames=1, both=0, missed=5, extra=0),)
