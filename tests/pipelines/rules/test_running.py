"""Running: in metres by the ground, else by the height of the box."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import of, play, rule_set, thing

RUN = {"id": "run", "running": {}}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.5))
def test_who_runs_is_told_and_who_walks_is_not(seed: int, drop: float) -> None:
    # 170 px stand for 1.7 m: 4 m/s and 1.4 m/s
    for speed, told in ((400, 1), (140, 0)):
        events = play(
            rule_set(RUN),
            lambda t, v=speed: [thing(1, 50 + v * t, 500, 0, 60, 170)],  # type: ignore[misc]
            900 / speed,
            fps=15,
            drop=drop,
            sigma=2,
            seed=seed,
        )
        starts = [e for e in of(events, "running") if e.phase == "start"]
        assert len(starts) == told
        assert all(e.data["measured_by"] == "height" for e in starts)


def test_with_a_ground_metres_are_measured() -> None:
    flat = {"picture": [0, 0, 1, 0, 1, 1, 0, 1], "metres": [0, 0, 20, 0, 20, 20, 0, 20]}
    rules = rule_set(RUN, ground=flat)
    events = play(rules, lambda t: [thing(1, 50 + 200 * t, 500, 0, 60, 170)], 4, fps=15, sigma=1)
    start = of(events, "running")[0]
    assert start.data["measured_by"] == "ground"
    assert start.data["speed_mps"] == pytest.approx(4, rel=0.1)


def test_who_stands_and_trembles_does_not_run() -> None:
    events = play(rule_set(RUN), lambda t: [thing(1, 500, 500, 0, 60, 170)], 30, fps=15, sigma=12)
    assert of(events, "running") == []
