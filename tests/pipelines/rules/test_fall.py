"""A fall, and what only looks like one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import of, phases, play, rule_set, thing

FALL = {"id": "fall", "fall": {}}


def falls(seconds: float, at: float = 3.0, up: float = 99.0) -> object:
    def where(t: float) -> list:  # type: ignore[type-arg]
        share = min(max(t - at, 0) / seconds, 1) if t < up else 0
        return [thing(1, 500, 600, 0, 60 + 110 * share, 170 - 110 * share)]

    return where


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.2, 1.0), st.floats(0, 0.5))
def test_who_falls_and_stays_down_is_told_once(seed: int, seconds: float, drop: float) -> None:
    events = play(rule_set(FALL), falls(seconds), 10, fps=15, drop=drop, seed=seed)  # type: ignore[arg-type]
    (fall,) = of(events, "fall")
    assert fall.phase == "start"
    assert 5 <= fall.t_s <= 7.5


def test_who_gets_up_ends_it_and_who_gets_up_at_once_did_not_fall() -> None:
    assert [p for p, _ in phases(play(rule_set(FALL), falls(0.5, up=8), 12), "fall")] == ["start", "end"]  # type: ignore[arg-type]
    assert of(play(rule_set(FALL), falls(0.5, up=4.5), 12), "fall") == []  # type: ignore[arg-type]


def test_who_lies_down_slowly_lay_from_the_start_or_is_cut_off_by_the_edge_did_not_fall() -> None:
    assert of(play(rule_set(FALL), falls(6), 14), "fall") == []  # type: ignore[arg-type]
    assert of(play(rule_set(FALL), lambda t: [thing(1, 500, 600, 0, 170, 60)], 6), "fall") == []
    leaves = play(rule_set(FALL), lambda t: [thing(1, 500, 1000, 0, 60, 170 if t < 3 else 50)], 8)
    assert of(leaves, "fall") == []


def test_a_car_does_not_fall() -> None:
    turns = play(
        rule_set(FALL), lambda t: [thing(1, 500, 600, 1, 60 if t < 3 else 170, 170 if t < 3 else 60)], 8
    )
    assert of(turns, "fall") == []
