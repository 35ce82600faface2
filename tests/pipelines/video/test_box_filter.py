"""Kalman filters of boxes: speed over true time, doubt about low scores, another camera."""

from __future__ import annotations

import numpy as np
import pytest

from edgectl.pipelines.video.box_filter import BoxFilter, to_cxcywh

BOX = np.array([[100.0, 200.0, 40.0, 80.0]])
SURE = np.ones(1, np.float32)
ROW = np.array([0])


def test_a_walk_is_expected_where_it_leads_whatever_the_gaps() -> None:
    rng = np.random.default_rng(0)
    walker = BoxFilter()
    walker.add(BOX)
    t = 0.0
    for _ in range(60):
        dt = float(rng.choice([0.04, 0.08, 0.3]))
        t += dt
        walker.predict(dt)
        walker.update(ROW, BOX + np.array([60 * t, -20 * t, 0, 0]), SURE)
    walker.predict(0.5)
    expected = BOX + np.array([60 * (t + 0.5), -20 * (t + 0.5), 0, 0])
    assert walker.x[:, :, 0] == pytest.approx(expected, abs=1)


def test_a_low_score_moves_a_box_less() -> None:
    moved = []
    for score in (1.0, 0.2):
        one = BoxFilter()
        one.add(BOX)
        for _ in range(20):
            one.predict(0.1)
            one.update(ROW, BOX, SURE)
        one.predict(0.1)
        one.update(ROW, BOX + np.array([10, 0, 0, 0]), np.array([score], np.float32))
        moved.append(one.x[0, 0, 0] - BOX[0, 0])
    assert moved[0] > 1.5 * moved[1] > 0


def test_the_longer_nothing_is_seen_the_less_the_place_is_known() -> None:
    one = BoxFilter()
    one.add(BOX)
    one.predict(0.1)
    one.update(ROW, BOX, SURE)
    margins, far = [], to_cxcywh(np.array([[140, 160, 180, 240]]))
    distances = []
    for _ in range(5):
        one.predict(0.2)
        margins.append(float(one.margin()[0, 0]))
        distances.append(float(one.distance(far)[0, 0]))
    assert margins == sorted(margins)
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("growth", [-80.0, 80.0])
def test_a_box_that_is_not_seen_neither_collapses_nor_swells(growth: float) -> None:
    """Its width changed by its own size in half a second, as those of two cars that come apart or together."""
    one = BoxFilter()
    one.add(BOX)
    for k in range(1, 11):
        one.predict(0.05)
        one.update(ROW, BOX + np.array([0, 0, growth * 0.05 * k, 0]) + [0, 0, max(0.0, -growth), 0], SURE)
    last = float(one.x[0, 2, 0])
    for _ in range(25):
        one.predict(0.04)
    assert 0.5 * last < one.x[0, 2, 0] < 1.5 * last
    # and whether all this time passed in one step or in many is one
    twin = BoxFilter()
    twin.x, twin.p = one.x.copy(), one.p.copy()
    one.predict(0.4)
    for _ in range(4):
        twin.predict(0.1)
    assert twin.x == pytest.approx(one.x)


def test_a_size_stays_positive() -> None:
    one = BoxFilter()
    one.add(np.array([[100.0, 200.0, 4.0, 9.0]]))
    one.x[0, 2:, 1] = -400.0
    for _ in range(10):
        one.predict(0.1)
        assert (one.x[:, 2:, 0] > 0).all()


def test_between_frames_a_car_grows_as_it_did() -> None:
    one = BoxFilter()
    one.add(BOX)
    for k in range(1, 26):
        one.predict(0.04)
        one.update(ROW, BOX * [1, 1, 1 + 0.04 * k, 1 + 0.04 * k], SURE)
    one.predict(0.04)
    assert one.x[0, 2:, 0] == pytest.approx([40 * 2.04, 80 * 2.04], rel=0.05)


def test_what_trembles_is_looked_for_as_far_as_it_does() -> None:
    rng = np.random.default_rng(5)
    reached = []
    for sigma in (2.0, 12.0):
        one = BoxFilter()
        one.add(BOX)
        for _ in range(60):
            one.predict(0.1)
            one.update(ROW, BOX + np.array([*rng.normal(0, sigma, 2), 0, 0]), SURE)
        reached.append(float(one.reach()[0]))
    assert reached[0] < 6
    assert reached[1] > 10


def test_pixels_of_another_size_are_other_pixels() -> None:
    one = BoxFilter()
    one.add(BOX)
    one.predict(0.1)
    twice = BoxFilter()
    twice.add(2 * BOX)
    twice.predict(0.1)
    one.scale(2, 2)
    assert one.x == pytest.approx(twice.x)
    assert one.p == pytest.approx(twice.p)
    assert one.reach() == pytest.approx(twice.reach())


def test_a_camera_that_pans_and_zooms_takes_places_speeds_and_sizes_along() -> None:
    one = BoxFilter()
    one.add(BOX)
    one.x[0, 0, 1] = 30.0
    one.move(np.array([[0.0, -2.0, 500.0], [2.0, 0.0, 7.0]]))  # a quarter turn, twice as near
    assert one.x[0, :, 0] == pytest.approx([100.0, 207.0, 80.0, 160.0])
    assert one.x[0, :2, 1] == pytest.approx([0.0, 60.0])
