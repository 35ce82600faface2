"""A hard stop that stays; no gentle one, no start, no tremble."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import of, play, rule_set, thing

STOP = {"id": "stop", "sudden_stop": {}}


def brakes(seconds: float) -> object:
    """150 px/s for 3 s, then to a stop within ``seconds``."""

    def where(t: float) -> list:  # type: ignore[type-arg]
        u = min(max(t - 3, 0), seconds)
        x = 100 + 150 * min(t, 3) + 150 * (u - u * u / (2 * seconds))
        return [thing(1, x, 500, 1)]

    return where


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 0.6), st.floats(0, 0.4))
def test_a_hard_stop_is_told_once(seed: int, seconds: float, drop: float) -> None:
    events = play(rule_set(STOP), brakes(seconds), 9, fps=15, drop=drop, sigma=1, seed=seed)  # type: ignore[arg-type]
    (stop,) = of(events, "sudden_stop")
    assert 3.5 <= stop.t_s <= 7


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.4))
def test_a_gentle_stop_a_walk_and_a_thing_that_stands_are_none(seed: int, drop: float) -> None:
    for where in (brakes(5), lambda t: [thing(1, 100 + 80 * t, 500)], lambda t: [thing(1, 500, 500)]):
        events = play(rule_set(STOP), where, 10, fps=15, drop=drop, sigma=1, seed=seed)  # type: ignore[arg-type]
        assert of(events, "sudden_stop") == []
