"""Traffic by lane: counts, flow and the time between two that follow each other."""

from __future__ import annotations

import pytest
from support.rules import of, play, rule_set, thing

LANES = {
    "id": "flow",
    "traffic": {
        "lanes": {"left": [0.5, 0.2, 0.5, 0.45], "right": [0.5, 0.55, 0.5, 0.8]},
        "every_s": 30,
        "close_s": 1.5,
    },
}


def cars(t: float) -> list:  # type: ignore[type-arg]
    """One in the left lane every 4 s; two in the right lane, a second apart."""
    things = [thing(i + 1, (t - 4 * i) * 400, 400, 1) for i in range(7)]
    things += [thing(50, (t - 10) * 400, 700, 1), thing(51, (t - 11) * 400, 700, 0)]
    return [car for car in things if 0 < car[1] < 1000]


def test_each_lane_is_counted_with_its_flow_and_its_headways() -> None:
    (told,) = of(play(rule_set(LANES), cars, 31, fps=20), "traffic")
    lanes = told.data["lanes"]
    assert lanes["left"]["count"] == {"vehicle": 7}
    assert lanes["left"]["per_hour"] == pytest.approx(840)
    assert lanes["left"]["headway_s"] == pytest.approx(4, abs=0.11)
    assert lanes["right"]["count"] == {"person": 1, "vehicle": 1}
    assert lanes["right"]["least_headway_s"] == pytest.approx(1, abs=0.11)


def test_who_follows_too_closely_is_told_at_once() -> None:
    (close,) = of(play(rule_set(LANES), cars, 29, fps=20), "headway")
    assert (close.data["lane"], close.data["track"]) == ("right", 51)
    assert close.data["because"]["limit"] == 1.5
