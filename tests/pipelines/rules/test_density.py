"""A crowd by people to a square metre."""

from __future__ import annotations

import pytest
from support.rules import of, play, rule_set, thing

from edgectl.core.errors import UsageError

FLAT = {"picture": [0, 0, 1, 0, 1, 1, 0, 1], "metres": [0, 0, 5, 0, 5, 5, 0, 5]}


def people(t: float) -> list:  # type: ignore[type-arg]
    """Twenty from 2 s on, five from 12 s on, in nine square metres."""
    n = 20 if 2 <= t < 12 else 5
    return [thing(i + 1, 230 + 27 * i, 500) for i in range(n)]


@pytest.mark.parametrize("area", [{"area_m2": 9}, {}])
def test_a_crowd_is_told_by_the_area_that_is_said_or_measured(area: dict[str, float]) -> None:
    rules = rule_set({"id": "crowd", "density": {"zone": "yard", "hold_s": 3, **area}}, ground=FLAT)
    start, end = of(play(rules, people, 20), "crowd")
    assert (start.phase, start.data["count"], start.data["per_m2"]) == ("start", 20, 2.222)
    assert start.data["area_m2"] == pytest.approx(9)
    assert 5.0 <= start.t_s <= 5.5
    assert end.phase == "end"


def test_a_short_one_is_none() -> None:
    rules = rule_set({"id": "crowd", "density": {"zone": "yard", "hold_s": 12, "area_m2": 9}})
    assert of(play(rules, people, 20), "crowd") == []


def test_a_zone_that_reaches_the_horizon_has_no_area() -> None:
    steep = {"picture": [0.45, 0.5, 0.55, 0.5, 1, 1, 0, 1], "metres": [0, 40, 10, 40, 10, 0, 0, 0]}
    with pytest.raises(UsageError, match="reaches the horizon"):
        rule_set({"id": "crowd", "density": {"zone": "yard"}}, ground=steep)
