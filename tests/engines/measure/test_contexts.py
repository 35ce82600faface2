"""Which of two engines is faster: equal, faster, slower or undecided. Pure, on drawn times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.measured import Context, Standing
from edgectl.engines.measure.contexts import (
    Load,
    block_ratio,
    busy_because,
    calls_in_a_row,
    medians,
    overall,
    spread,
    standing,
)
from edgectl.engines.timing import Ratio

QUIET = Load(0.1, 2, 0.0, 0.02)


def ratio(median: float, width: float = 0.01) -> Ratio:
    return Ratio(median, median - width, median + width, 36)


@pytest.mark.parametrize(
    ("found", "stands"),
    [
        (ratio(0.94), Standing.FASTER),
        (ratio(0.951), Standing.EQUAL),
        (ratio(0.969), Standing.EQUAL),  # AD01's 8-bit weights in blocks of 50
        (ratio(1.049), Standing.EQUAL),
        (ratio(1.06), Standing.SLOWER),
        (ratio(0.8, 0.3), Standing.EQUAL),  # within its spread
        (ratio(1.3, 0.4), Standing.EQUAL),
    ],
)
def test_within_five_percent_or_the_spread_is_equal(found: Ratio, stands: Standing) -> None:
    assert standing(found, busy=False, reference_ms=5) is stands


def test_a_profile_may_ask_for_more_than_five_percent() -> None:
    assert standing(ratio(0.9), busy=False, reference_ms=5, min_speedup=1.2) is Standing.EQUAL
    assert standing(ratio(0.9), busy=False, reference_ms=5, min_speedup=1.02) is Standing.FASTER


def test_on_a_busy_machine_only_what_no_neighbour_can_do_counts() -> None:
    assert standing(ratio(0.72), busy=True, reference_ms=5) is Standing.FASTER
    # AD01 under load: caches
    assert standing(ratio(0.72), busy=True, reference_ms=0.03) is Standing.UNDECIDED
    assert standing(ratio(0.75), busy=True, reference_ms=5) is Standing.UNDECIDED
    assert standing(ratio(1.5), busy=True, reference_ms=5) is Standing.SLOWER
    assert standing(ratio(1.0), busy=True, reference_ms=5) is Standing.UNDECIDED


ratios = st.builds(
    lambda m, down, up: Ratio(m, m * down, m * up, 36),
    st.floats(0.2, 4),
    st.floats(0.5, 1.0),
    st.floats(1.0, 2.0),
)


@settings(derandomize=True)
@given(ratios, st.booleans(), st.floats(0.01, 100))
def test_faster_and_slower_are_never_inside_the_margin_or_the_spread(
    found: Ratio, busy: bool, ms: float
) -> None:
    stands = standing(found, busy=busy, reference_ms=ms)
    if stands is Standing.FASTER:
        assert found.median < 0.95
        assert found.high < 1
    if stands is Standing.SLOWER:
        assert found.median > 1.05
        assert found.low > 1
    assert (stands is Standing.UNDECIDED) <= busy
    if not busy and 0.95 <= found.median <= 1.05:
        assert stands is Standing.EQUAL


@settings(derandomize=True)
@given(ratios, ratios, ratios, st.booleans())
def test_what_is_faster_in_all_is_slower_in_no_context_of_a_device(
    a: Ratio, p: Ratio, b: Ratio, busy: bool
) -> None:
    found = {
        c: (standing(r, busy=busy, reference_ms=5), r)
        for c, r in ((Context.ALONE, a), (Context.PACED, p), (Context.BESIDE, b))
    }
    stands = overall(found)
    deciding = [found[Context.ALONE], found[Context.PACED]]
    if stands is Standing.FASTER:
        assert any(s is Standing.FASTER for s, _ in deciding)
        assert all(r.low <= 1 for _, r in deciding)
    assert (stands is Standing.SLOWER) == any(s is Standing.SLOWER for s, _ in deciding)
    # that one is only shown
    assert stands is overall({c: f for c, f in found.items() if c is not Context.BESIDE})


def test_faster_in_one_and_a_little_but_surely_slower_in_the_other_is_equal() -> None:
    paced = ratio(1.03, 0.01)
    found = {Context.ALONE: (Standing.FASTER, ratio(0.9)), Context.PACED: (Standing.EQUAL, paced)}
    assert overall(found) is Standing.EQUAL
    assert overall({**found, Context.PACED: (Standing.EQUAL, ratio(0.99))}) is Standing.FASTER
    assert overall({}) is Standing.UNDECIDED


@settings(derandomize=True, max_examples=60)
@given(st.floats(0.3, 3), st.integers(12, 72), st.integers(0, 1000))
def test_blocks_that_take_turns_tell_the_ratio_on_a_machine_that_changes_its_speed(
    true: float, n: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    machine = np.repeat(rng.uniform(0.7, 3, n), 4)  # a clock of its own in every block
    ours = medians(machine * true * rng.normal(1, 0.01, 4 * n), 4)
    theirs = medians(machine * rng.normal(1, 0.01, 4 * n), 4)
    found = block_ratio(ours, theirs, runs=3)
    assert found.low <= found.median <= found.high
    assert abs(found.median / true - 1) < 0.02


def test_one_call_of_a_block_that_was_held_up_does_not_count() -> None:
    calls = np.ones(32)
    calls[::8] = 50
    assert medians(calls, 8).tolist() == [1.0] * 4
    assert medians(np.arange(10.0), 4).tolist() == [1.5, 5.5]


def test_the_interval_holds_what_each_run_of_processes_says() -> None:
    lucky = np.concatenate([np.full(12, 0.9), np.full(12, 1.0), np.full(12, 1.1)])
    found = block_ratio(lucky, np.ones(36), runs=3)
    assert (found.low, found.median, found.high) == (0.9, 1.0, 1.1)


def test_blocks_fill_three_milliseconds_with_four_to_sixty_four_calls() -> None:
    assert [calls_in_a_row(ms) for ms in (0.001, 0.03, 0.06, 0.5, 1, 20)] == [64, 64, 50, 6, 4, 4]


def test_four_calls_of_a_block_take_no_longer_than_a_tenth_of_a_second() -> None:
    assert [calls_in_a_row(ms) for ms in (25, 30, 45, 60, 99, 100, 5000)] == [4, 4, 3, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"others": 1.0}, "other processes took 1.0 of 2 cores"),
        ({"others": 1.2, "cores": 64}, "other processes took 1.2 of 64 cores"),
        ({"steal": 0.05}, "the hypervisor took 5% of the time"),
        ({"spread": 0.3}, "blocks differ by 30%"),
    ],
)
def test_busy_is_told_by_evidence(change: dict[str, float], says: str) -> None:
    assert busy_because(QUIET) == ()
    assert busy_because(Load(None, 2, None, 0.02)) == ()
    [why] = busy_because(Load(**{**QUIET.__dict__, **change}))
    assert says in why


def test_the_spread_is_the_distance_of_the_quartiles() -> None:
    assert spread(np.asarray([1.0, 1.0, 1.0, 1.0])) == 0
    assert spread(np.asarray([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 3)
    assert spread(np.asarray([1.0, 9.0])) == 0


def test_that_one_process_is_faster_than_another_is_no_unsteadiness_but_within_one_it_is() -> None:
    steady = np.repeat([1.0, 1.4, 1.0], 12)
    assert spread(steady) == pytest.approx(0.4)
    assert spread(steady, runs=3) == 0
    assert spread(steady[:24], runs=2) == 0
    restless = steady * np.tile([1.0, 1.3, 0.8], 12)
    assert spread(restless, runs=3) > 0.1
