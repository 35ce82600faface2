"""One list of detections from several regions of a frame."""

from __future__ import annotations

import numpy as np
import pytest
from support.pipelines import detections

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.regions.merge import merge_regions

SIZE = (1920, 1080)
WHOLE = LetterboxMeta(1, 1, 0, 0, 1920, 1080, 416, 416)


def region(x: int, y: int, side: int = 400) -> LetterboxMeta:
    return LetterboxMeta(1, 1, 0, 0, side, side, 416, 416, x, y)


def xyxy(found: Detections) -> list[list[float]]:
    return found.xyxy.round().tolist()


def test_the_whole_picture_alone_is_what_its_decoder_made_of_it() -> None:
    found = detections((0, 0, 1920, 1080, 0.9, 0), (0, 0, 1919, 1080, 0.8, 0))
    seen = merge_regions([(found, WHOLE)], SIZE)
    assert seen.found is found
    assert len(seen.cut) == 0


def test_a_box_that_a_region_cuts_is_not_believed_and_says_where_to_look() -> None:
    seen = merge_regions([(detections((450, 200, 500, 300, 0.9, 0)), region(100, 100))], SIZE)
    assert len(seen.found) == 0
    assert seen.cut.tolist() == [[450, 200, 500, 300]]


@pytest.mark.parametrize("box", [(100, 200, 140, 300), (200, 100, 240, 180), (200, 420, 240, 500)])
def test_every_border_of_a_region_cuts(box: tuple[float, float, float, float]) -> None:
    seen = merge_regions([(detections((*box, 0.9, 0)), region(100, 100))], SIZE)
    assert (len(seen.found), len(seen.cut)) == (0, 1)


def test_the_border_of_the_picture_cuts_nothing() -> None:
    upper_left = detections((0, 0, 50, 80, 0.9, 0))
    lower_right = detections((1880, 1000, 1920, 1080, 0.8, 0))
    seen = merge_regions([(upper_left, region(0, 0)), (lower_right, region(1520, 680))], SIZE)
    assert len(seen.found) == 2
    assert len(seen.cut) == 0


def test_of_a_cut_box_and_a_whole_one_of_the_same_thing_the_whole_one_is_kept() -> None:
    cut = detections((450, 200, 500, 300, 0.95, 0))
    whole = detections((450, 200, 560, 300, 0.6, 0))
    seen = merge_regions([(cut, region(100, 100)), (whole, region(300, 100))], SIZE)
    assert xyxy(seen.found) == [[450, 200, 560, 300]]
    assert len(seen.cut) == 0
    assert xyxy(seen.pieces) == [[450, 200, 500, 300]]


def test_a_sliver_of_a_large_thing_says_nothing_new() -> None:
    sliver = detections((480, 200, 500, 230, 0.95, 0))
    whole = detections((450, 100, 850, 400, 0.6, 0))
    seen = merge_regions([(sliver, region(100, 100)), (whole, WHOLE)], SIZE)
    assert xyxy(seen.found) == [[450, 100, 850, 400]]
    assert len(seen.cut) == 0


def test_of_two_whole_boxes_of_one_thing_the_surer_one_is_kept() -> None:
    one = detections((320, 200, 340, 240, 0.6, 0))
    other = detections((321, 201, 342, 243, 0.8, 0))
    seen = merge_regions([(one, region(100, 100)), (other, region(200, 100))], SIZE)
    assert xyxy(seen.found) == [[321, 201, 342, 243]]


def test_a_box_that_lies_in_another_one_of_its_size_is_the_same_thing() -> None:
    coarse = detections((310, 195, 350, 245, 0.5, 0))
    fine = detections((320, 200, 340, 240, 0.8, 0))
    assert len(merge_regions([(coarse, WHOLE), (fine, region(100, 100))], SIZE).found) == 1


def test_a_small_thing_before_a_large_one_stays() -> None:
    bus = detections((300, 100, 900, 500, 0.9, 1))
    person = detections((320, 300, 340, 350, 0.6, 1))
    assert len(merge_regions([(bus, WHOLE), (person, region(200, 200))], SIZE).found) == 2


def test_two_things_that_a_decoder_left_beside_each_other_stay_two() -> None:
    pair = detections((320, 200, 340, 240, 0.9, 0), (326, 200, 346, 240, 0.8, 0))
    assert len(merge_regions([(pair, region(100, 100)), (Detections.none(), WHOLE)], SIZE).found) == 2


def test_other_labels_are_other_things_here() -> None:
    one = detections((320, 200, 340, 240, 0.6, 0))
    other = detections((320, 200, 340, 240, 0.8, 1))
    assert len(merge_regions([(one, region(100, 100)), (other, region(200, 100))], SIZE).found) == 2


def test_detections_come_best_first() -> None:
    parts = [
        (detections((220, 200, 240, 240, 0.5, 0), (300, 300, 310, 330, 0.4, 0)), region(100, 100)),
        (detections((1020, 200, 1040, 240, 0.9, 0)), region(900, 100)),
    ]
    assert merge_regions(parts, SIZE).found.score.tolist() == pytest.approx([0.9, 0.5, 0.4])


def test_the_work_is_bounded_whatever_an_engine_puts_out() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1800, (3000, 2)).astype(np.float32)
    many = Detections(
        np.concatenate([corner, corner + 20], axis=1),
        rng.uniform(0, 1, 3000).astype(np.float32),
        np.zeros(3000, np.int32),
    )
    assert len(merge_regions([(many, WHOLE), (many, WHOLE)], SIZE).found) <= 2000
