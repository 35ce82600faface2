"""Speed in a zone: metres from four points, and an error bar that holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pipelines import detections
from support.rules import LABELS, of, play, rule_set, thing

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.rules.ground import Ground, GroundConfig
from edgectl.pipelines.video.tracker import Tracker

ROAD = {
    # A road seen from above its end: 10 m wide, 40 m long.
    "picture": [0.35, 0.3, 0.65, 0.3, 0.95, 0.9, 0.05, 0.9],
    "metres": [0, 40, 10, 40, 10, 0, 0, 0],
}
ZONE = {"polygon": [0.3, 0.3, 0.7, 0.3, 0.9, 0.85, 0.1, 0.85]}
GROUND = Ground(GroundConfig.model_validate(ROAD))


def picture_of(x: float, y: float) -> tuple[float, float]:
    """Metres → relative to the frame, by the inverse of four points."""
    back = Ground(GroundConfig.model_construct(picture=_wide(ROAD["metres"]), metres=ROAD["picture"]))  # type: ignore[arg-type]
    u, v = back.metres_of(np.array([[x, y]]))[0]
    return float(u), float(v)


def _wide(flat: list[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in flat)


def drive(speed: float, seed: int, drop: float = 0.3, sigma: float = 2.0) -> tuple[float, float]:
    """Speed and error that are told of a car at ``speed`` m/s, through the tracker, 1000 × 1000 pixels at 15 fps."""
    rng = np.random.default_rng(seed)
    rules = RuleSet(
        parse_config(
            "surveillance",
            {"zones": {"road": ZONE}, "ground": ROAD, "rules": [{"id": "v", "speed": {"zone": "road"}}]},
        ),
        LABELS,
    )
    tracker, told = Tracker(), []
    for frame in range(int(15 * (44 / speed + 3))):
        t = frame / 15
        y_m = 42 - speed * t
        found = []
        if y_m > -2:
            x, y = (1000 * v for v in picture_of(5, y_m))
            size = 30 + 0.15 * y
            box = np.array([x - size / 2, y - size, x + size / 2, y]) + rng.normal(0, sigma, 4)
            found = [(*np.clip(box, 0, 1000).tolist(), 0.9, 1)]
        if rng.random() >= drop:
            told += rules.step(tracker.update(detections(*found), t, 1000, 1000), t)
    (event,) = of(told, "speed")
    return event.data["speed_mps"], event.data["error_mps"]


def test_four_points_make_metres_and_the_horizon_has_none() -> None:
    corners = np.array(ROAD["picture"]).reshape(4, 2)
    assert GROUND.metres_of(corners) == pytest.approx(np.array(ROAD["metres"], float).reshape(4, 2), abs=1e-9)
    assert np.isnan(GROUND.metres_of(np.array([[0.5, 0.0], [0.5, -0.01]]))).all()
    assert GROUND.area_m2(ROAD["picture"]) == pytest.approx(400)


def test_nine_of_ten_error_bars_hold_the_true_speed_and_are_narrow() -> None:
    rng = np.random.default_rng(9)
    held, widths = 0, []
    for seed in range(40):
        speed = float(rng.uniform(3, 20))
        found, error = drive(speed, seed)
        held += abs(found - speed) <= error + 0.005
        widths.append(error / speed)
    assert held >= 36
    assert np.median(widths) < 0.15


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.floats(3, 20), st.floats(0, 0.5))
def test_a_speed_is_never_off_by_more_than_two_of_its_error_bars(
    seed: int, speed: float, drop: float
) -> None:
    found, error = drive(speed, seed, drop)
    assert abs(found - speed) <= 2.5 * error + 0.02 * speed


def test_over_is_said_only_when_the_whole_error_bar_is() -> None:
    flat = {"picture": [0, 0, 1, 0, 1, 1, 0, 1], "metres": [0, 0, 100, 0, 100, 100, 0, 100]}
    for limit, over in ((8.0, True), (9.99, False), (12.0, False)):
        rules = rule_set({"id": "v", "speed": {"zone": "yard", "limit_mps": limit}}, ground=flat)
        events = play(rules, lambda t: [thing(1, 50 + 100 * t, 500, 1)] if t < 9 else [], 10, sigma=1)
        (event,) = of(events, "speed")
        assert event.data["speed_mps"] == pytest.approx(10, abs=0.1)
        assert event.data["over"] is over


def test_who_was_hardly_seen_has_no_speed() -> None:
    flat = {"picture": [0, 0, 1, 0, 1, 1, 0, 1], "metres": [0, 0, 100, 0, 100, 100, 0, 100]}
    rules = rule_set({"id": "v", "speed": {"zone": "yard"}}, ground=flat)
    assert of(play(rules, lambda t: [thing(1, 500, 500)] if t < 0.35 else [], 3), "speed") == []


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ({"rules": [{"id": "v", "speed": {"zone": "yard"}}]}, "there is no ground"),
        ({"ground": {"picture": [0, 0, 1, 1, 1, 0, 0, 1], "metres": ROAD["metres"]}}, "corners of an area"),
        ({"ground": {"picture": [0, 0, 0.5, 0, 1, 0, 0, 1], "metres": ROAD["metres"]}}, "corners of an area"),
    ],
)
def test_a_ground_that_is_none_is_named(bad: dict, what: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UsageError, match=what):
        parse_config("surveillance", {"zones": {"yard": ZONE}, **bad})
