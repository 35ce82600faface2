"""Against the arrow, and not across it, behind it or trembling on the spot."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import of, play, rule_set, thing

ONE_WAY = {"id": "one-way", "wrong_way": {"zone": "yard", "allowed": [0.2, 0.5, 0.8, 0.5]}}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(60, 300), st.floats(0, 0.5))
def test_who_goes_against_the_arrow_is_told_once(seed: int, speed: float, drop: float) -> None:
    events = play(
        rule_set(ONE_WAY),
        lambda t: [thing(1, 900 - speed * t, 500, 1)],
        900 / speed,
        fps=15,
        drop=drop,
        sigma=2,
        seed=seed,
    )
    assert [e.phase for e in of(events, "wrong_way")][:1] == ["start"]
    assert sum(e.phase == "start" for e in of(events, "wrong_way")) == 1


@pytest.mark.parametrize(("vx", "vy"), [(100, 0), (0, 60), (-30, 60), (0, 0)])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), drop=st.floats(0, 0.5))
def test_who_goes_along_across_or_nowhere_is_not_told(vx: float, vy: float, seed: int, drop: float) -> None:
    events = play(
        rule_set(ONE_WAY),
        lambda t: [thing(1, 500 + vx * (t - 4), 500 + vy * (t - 4))],
        8,
        fps=15,
        drop=drop,
        sigma=4,
        seed=seed,
    )
    assert of(events, "wrong_way") == []


def test_who_leaves_the_zone_as_the_last_one_ends_the_alarm() -> None:
    events = play(rule_set(ONE_WAY), lambda t: [thing(1, max(50, 900 - 200 * t), 500, 1)], 12)
    assert [e.phase for e in of(events, "wrong_way")] == ["start", "end"]
    assert of(events, "wrong_way")[-1].data["reason"] == "over"
