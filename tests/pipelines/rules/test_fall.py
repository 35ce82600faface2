"""A fall, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import of, person, phases, play, rule_set, seen_people, thing

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


def acted(act: Callable[[float], Any], seconds: float) -> list[tuple[str | None, float]]:
    """Phases of ``fall`` of somebody with keypoints."""
    rules, events = rule_set(FALL), []
    for frame in range(round(seconds * 15)):
        t = frame / 15
        events += rules.step(seen_people(act(t)), t)
    assert all(e.data["measured_by"] == "pose" for e in of(events, "fall"))
    return phases(events, "fall")


def lies(t: float, at: float = 3.0) -> float:
    """Degrees: upright until ``at``, level 0.6 s later."""
    return 90 * min(max(t - at, 0) / 0.6, 1)


def test_with_keypoints_a_fall_is_a_torso_that_lies() -> None:
    ((phase, t),) = acted(lambda t: person(1, 500, 600, lean=lies(t)), 9)
    assert phase == "start"
    assert 5 <= t <= 6.5


def test_with_keypoints_who_bends_down_or_sits_does_not_fall() -> None:
    assert acted(lambda t: person(1, 500, 600, lean=lies(t), legs=0), 9) == []
    assert acted(lambda t: person(1, 500, 600, lean=0, legs=lies(t)), 9) == []


def test_with_keypoints_a_fall_at_the_edge_of_the_picture_is_seen() -> None:
    """The box is cut there and tells nothing."""
    phases_ = acted(lambda t: person(1, 985, 600, lean=-lies(t)), 9)
    assert [p for p, _ in phases_] == ["start"]


@pytest.mark.parametrize("hidden", [(5, 6), (11, 12)])
def test_without_shoulders_or_hips_the_box_is_asked(hidden: tuple[int, int]) -> None:
    rules, events = rule_set(FALL), []
    for frame in range(135):
        t = frame / 15
        of_whom, points = person(1, 500, 600, lean=lies(t))
        points[list(hidden), 2] = 0.2
        events += rules.step(seen_people((of_whom, points)), t)
    assert {e.data["measured_by"] for e in of(events, "fall")} == {"box"}


def test_a_car_does_not_fall() -> None:
    turns = play(
        rule_set(FALL), lambda t: [thing(1, 500, 600, 1, 60 if t < 3 else 170, 170 if t < 3 else 60)], 8
    )
    assert of(turns, "fall") == []
