from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgectl.core.histogram import Histogram
from edgectl.fleet.telemetry import regression
from edgectl.fleet.telemetry.regression import compare


def hours(
    rng: np.random.Generator, n: int, *, slower: float = 1.0, unsteady: float = 0.0, calls: int = 400
) -> list[Histogram]:
    """``unsteady``: by how much the hours differ (deviation of the logarithm)."""
    found = []
    for _ in range(n):
        h = Histogram()
        centre = np.log(5000 * slower) + rng.normal(0, unsteady)
        for us in rng.lognormal(centre, 0.3, calls):
            h.record(float(us))
        found.append(h)
    return found


def test_engine_that_is_a_fifth_slower_is_found_out_and_by_how_much() -> None:
    rng = np.random.default_rng(0)
    for p in regression.PERCENTILES:
        found = compare(hours(rng, 24, unsteady=0.05), hours(rng, 24, slower=1.2, unsteady=0.05), p)
        assert found.ratio is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low <= 1.2 <= found.high
        assert (found.verdict, found.by) == ("slower", "hours")
    back = compare(hours(rng, 24, slower=1.2), hours(rng, 24), 50)
    assert back.verdict == "faster"


def test_equal_engines_in_unsteady_hours_are_told_apart_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(1)
    seen: Counter[str] = Counter()
    for _ in range(300):
        found = compare(hours(rng, 10, unsteady=0.2, calls=150), hours(rng, 10, unsteady=0.2, calls=150), 90)
        seen[found.verdict] += 1
    assert seen["slower"] + seen["faster"] <= 9, "1 % of 300 is 3; 9 are 1 in 300 by chance"


def test_hours_are_what_counts_and_not_the_calls_in_them() -> None:
    rng = np.random.default_rng(2)
    a, b = hours(rng, 7, unsteady=0.2), hours(rng, 7, unsteady=0.2)
    few = compare(a, b, 50)
    assert few.by == "calls"
    many = compare([*a, *hours(rng, 3, unsteady=0.2)], [*b, *hours(rng, 3, unsteady=0.2)], 50)
    assert many.by == "hours"
    assert few.low is not None
    assert few.high is not None
    assert many.low is not None
    assert many.high is not None
    assert np.log(many.high / many.low) > 2 * np.log(few.high / few.low)


@pytest.mark.parametrize(("n", "percentile"), [(0, 50), (6, 50), (129, 95), (661, 99)])
def test_percentile_of_too_few_samples_is_not_compared(n: int, percentile: float) -> None:
    rng = np.random.default_rng(3)
    found = compare(hours(rng, 1, calls=n), hours(rng, 1, calls=5000), percentile)
    assert (found.ratio, found.low, found.high, found.by) == (None, None, None, None)
    assert found.before_ms is None
    assert found.verdict == "cannot tell"


def test_difference_that_a_bucket_may_hide_is_none() -> None:
    def one(us: float) -> list[Histogram]:
        h = Histogram()
        for _ in range(10_000):
            h.record(us)
        return [h] * 24

    assert compare(one(1000.0), one(1020.0), 50).verdict == "cannot tell"
    assert compare(one(1000.0), one(1060.0), 50).verdict == "slower"
    assert (
        compare(one(0.0), one(0.0), 50).ratio is None
        or compare(one(0.0), one(0.0), 50).verdict == "cannot tell"
    )


def test_students_t_is_as_in_the_tables() -> None:
    for degrees, expected in ((7, 3.499), (9, 3.250), (31, 2.744), (1000, 2.581)):
        assert regression._t(0.995, degrees) == pytest.approx(expected, rel=0.01)
