"""What is known of the objects after each frame."""

from __future__ import annotations

import numpy as np
import pytest
from support.pipelines import detections, tracks

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.track_watch import TrackWatch

NOTHING = Detections.none()


def test_a_track_is_expected_where_it_will_be() -> None:
    watch = TrackWatch(0.5)
    for i in range(20):
        watch.see(i / 10, NOTHING, tracks((1, 100 + 20 * i, 400)))
    (box,) = watch.known.boxes_at(2.4)
    # 200 pixels a second from 480 at 1.9 s
    assert (box[0] + box[2]) / 2 == pytest.approx(580, abs=3)
    assert box[3] == pytest.approx(400, abs=0.1)


def test_one_that_goes_on_as_it_did_is_steady_after_a_second_and_one_that_turns_is_not() -> None:
    watch = TrackWatch(0.5)
    x, calm = 100.0, []
    for i in range(40):
        x += 15 if i < 25 else -15
        watch.see(i / 10, NOTHING, tracks((1, x, 400)))
        calm.append(watch.known.calm)
    assert not any(calm[:10])
    assert all(calm[14:25])
    assert not any(calm[26:34])


def test_one_that_was_not_seen_is_not_steady_and_says_how_long_ago_it_was() -> None:
    watch = TrackWatch(0.5)
    for i in range(20):
        watch.see(i / 10, NOTHING, tracks((1, 100 + 5 * i, 400), seen=i < 18))
    assert not watch.known.calm
    assert watch.known.seen_s.tolist() == pytest.approx([1.7])


def test_nothing_at_all_is_calm_and_something_new_is_not() -> None:
    watch = TrackWatch(0.5)
    watch.see(0.0, NOTHING, tracks())
    assert watch.known.calm
    watch.see(0.1, detections((10, 10, 30, 60, 0.6, 0), (90, 90, 99, 99, 0.4, 0)), tracks())
    assert not watch.known.calm
    assert watch.known.fresh.tolist() == [[10, 10, 30, 60]]


def test_what_is_tracked_is_neither_new_nor_cut() -> None:
    watch = TrackWatch(0.5)
    box = np.array([[85, 320, 118, 398], [500, 500, 600, 600]], np.float32)
    watch.see(0.0, detections((82, 322, 119, 399, 0.9, 0)), tracks((1, 100, 400)), box)
    assert len(watch.known.fresh) == 0
    assert watch.known.cut.tolist() == [[500, 500, 600, 600]]


def test_after_another_picture_size_nothing_is_carried_over() -> None:
    watch = TrackWatch(0.5)
    for i in range(20):
        watch.see(i / 10, NOTHING, tracks((1, 100 + 20 * i, 400)))
    watch.see(2.0, NOTHING, tracks((1, 250, 200), size=(500, 500)))
    assert watch.known.speed.tolist() == [[0, 0]]
    assert not watch.known.calm
