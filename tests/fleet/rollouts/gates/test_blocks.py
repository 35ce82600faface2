from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.histogram import Histogram, HistogramData
from edgectl.fleet.rollouts.gates.blocks import Block, BlockHistory, drift, log2_quantile, merged, paired


def histogram(values_us: list[float]) -> HistogramData:
    h = Histogram()
    for us in values_us:
        h.record(us)
    return h.data()


@given(st.lists(st.floats(2.0, 1e7), min_size=1, max_size=200), st.sampled_from([50, 90, 95, 99]))
def test_quantile_is_within_its_bucket(values: list[float], percentile: int) -> None:
    exact = sorted(values)[math.ceil(percentile / 100 * len(values)) - 1]
    assert log2_quantile(histogram(values), percentile) == pytest.approx(math.log2(exact), abs=1 / 32 + 1e-6)


def test_difference_much_smaller_than_a_bucket_shows_in_the_quantile() -> None:
    chance = random.Random(1)
    values = [10_000 * math.exp(0.2 * chance.gauss(0, 1)) for _ in range(20_000)]
    rise = log2_quantile(histogram([1.005 * v for v in values]), 50) - log2_quantile(histogram(values), 50)
    assert rise == pytest.approx(math.log2(1.005), rel=0.3), "a bucket is 2.2 %"


def test_no_sample_has_no_quantile() -> None:
    assert math.isnan(log2_quantile(HistogramData(), 99))


def test_calls_below_a_microsecond_are_the_lowest() -> None:
    assert log2_quantile(HistogramData(zero=10), 50) == 0.0


def test_block_is_kept_in_56_bytes_and_comes_back() -> None:
    b = Block(1e9 + 0.25, 10.0, (1.0, 2.0, 3.0, 4.0), 300.0, 2.0, 310.0, 10.0, 0.5, 7.0, 0.25)
    assert len(b.pack()) == 56
    assert Block.unpack(b.pack()) == b


def test_merged_blocks_add_counts_and_average_quantiles() -> None:
    one = Block(
        10.0, quantiles=(1.0,) * 4, attempts=10, errors=1, captured=12, dropped=2, growth_mb=1.0, events=3
    )
    two = Block(
        20.0, quantiles=(3.0,) * 4, attempts=20, errors=0, captured=20, dropped=0, growth_mb=2.0, events=4
    )
    m = merged([one, two])
    assert (m.at_s, m.seconds, m.quantiles[0]) == (20.0, 20.0, 2.0)
    assert (m.attempts, m.errors, m.captured, m.dropped, m.growth_mb, m.events) == (30, 1, 32, 2, 3.0, 7)


def test_block_without_a_call_says_nothing_of_latency_when_merged() -> None:
    assert merged([Block(10.0), Block(20.0, quantiles=(3.0,) * 4)]).quantiles[0] == 3.0


def test_controls_are_taken_at_the_same_time_only() -> None:
    near, far = [Block(95.0), Block(104.0), Block(114.0)], [Block(50.0)]
    assert paired(Block(100.0), [near, far]) == [Block(104.0)]


def test_history_goes_as_far_back_as_its_coarsest_level() -> None:
    fine = tuple(Block(at_s) for at_s in (980.0, 990.0, 1000.0))
    assert BlockHistory(fine, ((Block(400.0), Block(480.0)), ())).covers_s == 600.0
    assert BlockHistory(()).covers_s == 0.0


def values(n: int, chance: random.Random) -> list[float]:
    return [chance.gauss(0, 1) for _ in range(n)]


def coarser(fine: list[float], m: int) -> list[float]:
    return [sum(fine[i : i + m]) / m for i in range(0, len(fine), m)]


def test_independent_blocks_hardly_drift() -> None:
    found = []
    for seed in range(40):
        v = values(1024, random.Random(seed))
        found.append(drift(v[-128:], [(8, coarser(v, 8)), (64, coarser(v, 64))]))
    assert sum(d == 0.0 for d in found) >= 25
    assert max(found) < 1.0, "less than the standard deviation of one block"


def test_scene_that_wanders_is_allowed_three_of_its_own_deviations() -> None:
    chance, level, v = random.Random(3), 0.0, []
    for _ in range(1024):
        level = 0.97 * level + math.sqrt(1 - 0.97**2) * chance.gauss(0, 2.0)
        v.append(level + chance.gauss(0, 1))
    assert drift(v[-128:], [(8, coarser(v, 8)), (64, coarser(v, 64))]) == pytest.approx(6.0, rel=0.5)


def test_two_blocks_say_nothing_of_drift() -> None:
    assert drift([1.0]) == 0.0
    assert drift([1.0, 5.0]) == 0.0
