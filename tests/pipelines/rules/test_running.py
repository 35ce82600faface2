"""Running: in metres by the ground, else by the height of the box."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import of, person, play, rule_set, seen_people, thing

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


def test_who_is_hidden_below_the_hips_is_as_tall_as_the_torso_says() -> None:
    """Half a box would make a walk of 1.4 m/s a run of 3."""

    def speeds(points: bool) -> set[str]:
        rules, events = rule_set(RUN), []
        for frame in range(60):
            t = frame / 15
            (track, x, y, cls, width, _), body = person(1, 100 + 140 * t, 500)
            half = (track, x, y - 85, cls, width, 85.0)
            body[13:, 2] = 0
            body[:, 2] *= points
            events += rules.step(seen_people((half, body)), t)
        return {e.data["measured_by"] for e in of(events, "running")}

    assert speeds(points=False) == {"height"}
    assert speeds(points=True) == set()


def test_who_runs_with_keypoints_is_told() -> None:
    rules, events = rule_set(RUN), []
    for frame in range(40):
        t = frame / 15
        (track, x, y, cls, width, _), body = person(1, 100 + 400 * t, 500)
        body[13:, 2] = 0
        events += rules.step(seen_people(((track, x, y - 85, cls, width, 85.0), body)), t)
    (start,) = (e for e in of(events, "running") if e.phase == "start")
    assert start.data["measured_by"] == "pose"
    assert start.data["speed_mps"] == pytest.approx(4, rel=0.15)
