"""The goals of ``bench/rules_under_drops.py`` on seeds that it never draws. They are shares of many runs, not of each:
the seeds are the same every time."""

from __future__ import annotations

import pytest
from support.bench import load

pytestmark = pytest.mark.slow

bench = load("rules_under_drops")
SEEDS = range(10_000, 10_020)


@pytest.mark.parametrize("shared", [False, True])
def test_what_trembles_on_a_line_is_no_traffic(shared: bool) -> None:
    """In twenty minutes on two lines: the goal is 0.1 a minute for each."""
    seeds = range(10_000, 10_040)
    assert sum(bench.standing(seed, seconds=30, shared=shared) for seed in seeds) <= 4


def test_a_walk_of_four_seconds_through_the_picture_is_counted_with_half_of_the_frames() -> None:
    assert all(bench.crossing(seed, seconds=4, drop=0.5) for seed in SEEDS)


def test_a_walk_of_two_seconds_is_counted_in_25_of_30_with_half_of_the_frames() -> None:
    assert sum(bench.crossing(seed, seconds=2, drop=0.5) for seed in range(10_000, 10_030)) >= 25


@pytest.mark.parametrize("drop", [0.0, 0.3, 0.5, 0.7])
def test_how_long_somebody_stayed_is_right_to_the_longest_gap(drop: float) -> None:
    for found in (bench.dwell(seed, drop=drop) for seed in SEEDS):
        assert found.error_s <= found.gap_s + found.period_s
