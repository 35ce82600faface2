"""How tracks move: speed and tremble from where they were seen, at any frame rate."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pipelines import tracks

from edgectl.pipelines.rules.motion import Motion, MotionEstimator, still
from edgectl.pipelines.video.tracker import Tracks


def walk(
    seed: int, *, speed: float, sigma: float, drop: float = 0.0, seconds: float = 6.0
) -> list[tuple[Tracks, float]]:
    rng = np.random.default_rng(seed)
    steps = []
    for f in range(int(seconds * 15)):
        x, y = 100 + speed * f / 15 + rng.normal(0, sigma), 500 + rng.normal(0, sigma)
        if f == 0 or rng.random() >= drop:
            steps.append((tracks((3, x, y)), f / 15))
    return steps


def last(steps: list[tuple[Tracks, float]], estimator: MotionEstimator | None = None) -> Motion:
    estimator = estimator or MotionEstimator()
    return [estimator.step(*step) for step in steps][-1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-120, 120), st.floats(1, 12), st.floats(0, 0.6))
def test_speed_is_within_four_of_its_errors_and_tremble_within_half(
    seed: int, speed: float, sigma: float, drop: float
) -> None:
    motion = last(walk(seed, speed=speed, sigma=sigma, drop=drop))
    assert abs(motion.velocity[0, 0] - speed) <= 4 * motion.velocity_error[0, 0]
    assert sigma / 2 <= motion.jitter[0, 0] <= sigma * 1.5 + 2


def test_somebody_who_turns_back_does_not_tremble() -> None:
    rng = np.random.default_rng(4)
    estimator = MotionEstimator()
    for f in range(75):
        x = 100 + 200 * min(f / 15, 6 - f / 15) + rng.normal(0, 1)
        motion = estimator.step(tracks((1, x, 500)), f / 15)
    assert motion.jitter[0, 0] < 5


def test_of_one_sighting_the_usual_tremble_and_no_speed_are_told() -> None:
    one = tracks((1, 100, 500))
    for motion in (last([(one, 0.0)]), still(one)):
        assert motion.jitter[0] == pytest.approx([6.4, 6.4])
        assert motion.velocity[0].tolist() == [0, 0]
        assert np.isinf(motion.velocity_error[0]).all()


def test_what_was_seen_before_a_track_was_confirmed_is_part_of_it() -> None:
    seen = [(t, 100 + 90 * t) for t in (0.0, 0.1, 0.2, 0.3)]
    past = np.array([(t, x - 20, 420, x + 20, 500) for t, x in seen[:3]], np.float64)
    now = tracks((1, seen[3][1], 500))
    late = Tracks(*(getattr(now, n) for n in ("ids", "xyxy", "score", "cls", "seen")), 1000, 1000, {1: past})
    assert last([(late, 0.3)]).velocity[0, 0] == pytest.approx(90, abs=1e-3)


def test_a_new_picture_size_begins_anew_and_the_vanished_are_forgotten() -> None:
    steps = walk(1, speed=50, sigma=1)
    estimator = MotionEstimator()
    last(steps, estimator)
    other = tracks((3, 900, 500), (4, 100, 100), size=(2000, 2000))
    motion = estimator.step(other, 7.0)
    assert motion.velocity.tolist() == [[0, 0], [0, 0]]
    estimator.step(tracks(size=(2000, 2000)), 7.1)
    assert estimator.snapshot()["ids"] == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 60))
def test_a_snapshot_goes_on_to_the_same_bits(seed: int, at: int) -> None:
    steps = walk(seed, speed=40, sigma=3, drop=0.3)
    first, second = MotionEstimator(), MotionEstimator()
    for step in steps[:at]:
        first.step(*step)
    second.restore(json.loads(json.dumps(first.snapshot())))
    one, two = (last([*steps[at:], (tracks((3, 500, 500)), 9.0)], e) for e in (first, second))
    assert np.array_equal(one.jitter, two.jitter)
    assert np.array_equal(one.velocity, two.velocity)
