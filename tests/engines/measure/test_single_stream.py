"""Scheduled issue times with a fake clock, and the early-stopping table of LoadGen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.engines.measure.single_stream import at_most, overruns_allowed, single_stream


class Machine:
    """Time passes only in queries, sleeps and between calls. ``late``: how much longer than asked a sleep
    takes, ms."""

    def __init__(self, latencies: list[float], *, late: float = 0.0, overhead: float = 0.0) -> None:
        self.now, self._late, self._overhead = 0, late, overhead
        self._latencies = [0.0, 0.0, 0.0, *latencies]  # the first three warm up
        self.asked = 0

    def clock(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round((seconds * 1e3 + self._late) * 1e6)

    def query(self) -> None:
        self.now += round((self._latencies[self.asked] + self._overhead) * 1e6)
        self.asked += 1


def test_the_next_query_is_scheduled_when_the_last_one_is_done() -> None:
    m = Machine([5.0, 7.0, 9.0], overhead=0.5)
    m.now = 123
    s = single_stream(m.query, seconds=0, min_queries=3, max_queries=3, clock=m.clock, sleep=m.sleep)
    assert s.latencies.tolist() == [5.5, 7.5, 9.5]
    assert s.late.size == 0


def test_a_query_that_waits_behind_a_slow_one_counts_its_waiting() -> None:
    m = Machine([5.0, 35.0, 5.0, 5.0, 5.0])
    s = single_stream(
        m.query, seconds=0, min_queries=5, max_queries=5, rate=100, clock=m.clock, sleep=m.sleep
    )
    assert s.latencies.tolist() == [5.0, 35.0, 30.0, 25.0, 20.0]
    # the timer was asked once: before the second query
    assert s.late.tolist() == [0.0]


def test_the_lateness_of_the_timer_is_a_part_of_the_latency_and_is_told_apart() -> None:
    m = Machine([1.0] * 4, late=0.25)
    s = single_stream(
        m.query, seconds=0, min_queries=4, max_queries=4, rate=100, clock=m.clock, sleep=m.sleep
    )
    assert s.latencies.tolist() == [1.0, 1.25, 1.25, 1.25]
    assert s.late.tolist() == [0.25] * 3


def test_it_ends_after_its_time_and_not_before_its_queries() -> None:
    m = Machine([10.0] * 200)
    assert (
        len(single_stream(m.query, seconds=0.5, min_queries=10, clock=m.clock, sleep=m.sleep).latencies) == 50
    )
    m = Machine([10.0] * 200)
    assert (
        len(single_stream(m.query, seconds=0.01, min_queries=64, clock=m.clock, sleep=m.sleep).latencies)
        == 64
    )


@pytest.mark.parametrize(
    ("percentile", "needed"),
    [
        (90, {0: 44, 1: 64, 2: 81, 5: 127, 10: 197}),
        (95, {0: 90, 1: 130, 2: 165}),
        (99, {0: 459, 1: 662, 2: 838, 10: 2010}),
    ],
)
def test_the_early_stopping_table_of_loadgen(percentile: float, needed: dict[int, int]) -> None:
    for t, n in needed.items():
        assert overruns_allowed(n, percentile) == t
        assert overruns_allowed(n - 1, percentile) == t - 1


@given(st.integers(2, 3000), st.sampled_from([50.0, 90.0, 99.0]), st.integers(0, 100))
def test_the_estimate_is_never_below_the_percentile_of_the_samples(
    n: int, percentile: float, seed: int
) -> None:
    samples = np.random.default_rng(seed).exponential(size=n)
    bound = at_most(samples, percentile)
    if bound is None:
        assert overruns_allowed(n, percentile) < 1
    else:
        assert bound >= np.percentile(samples, percentile, method="lower")
        assert int((samples > bound).sum()) == overruns_allowed(n, percentile)


def test_too_few_samples_give_no_estimate() -> None:
    assert at_most(np.ones(63), 90) is None
    assert at_most(np.ones(64), 90) == 1.0
    assert at_most(np.ones(0), 90) is None
