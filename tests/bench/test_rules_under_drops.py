"""The goals of ``bench/rules_under_drops.py`` on a few of its seeds, and on others that it never draws."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.bench import load

bench = load("rules_under_drops")
SEEDS = st.integers(1_000, 2**31)


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.booleans())
def test_what_trembles_on_a_line_is_no_traffic(seed: int, shared: bool) -> None:
    assert bench.standing(seed, seconds=20, shared=shared) <= 1


def test_in_ten_minutes_on_a_line_one_false_crossing_is_the_most() -> None:
    assert sum(bench.standing(seed, seconds=30) for seed in range(20)) <= 1


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_a_walk_of_four_seconds_through_the_picture_is_counted_with_half_of_the_frames(seed: int) -> None:
    assert bench.crossing(seed, seconds=4, drop=0.5)


def test_a_walk_of_two_seconds_is_counted_in_25_of_30_with_half_of_the_frames() -> None:
    assert sum(bench.crossing(seed, seconds=2, drop=0.5) for seed in range(30)) >= 25


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0, 0.7))
def test_how_long_somebody_stayed_is_right_to_the_longest_gap(seed: int, drop: float) -> None:
    found = bench.dwell(seed, drop=drop)
    assert found.error_s <= found.gap_s + found.period_s
