"""Any quantile within 1.1 %; merging in any order gives the same bits; percentiles only from enough
samples."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.core.errors import ProtocolError
from edgectl.core.histogram import MIN_SAMPLES, Histogram, HistogramData
from edgectl.core.schema import parse_json

values = st.lists(st.floats(1.0, 6e7), min_size=1, max_size=300)


def of(us: list[float]) -> Histogram:
    h = Histogram()
    for v in us:
        h.record(v)
    return h


@settings(deadline=None)
@given(values, st.floats(0, 1))
def test_any_quantile_is_within_its_bound(us: list[float], q: float) -> None:
    got = of(us).quantile_us(q)
    exact = sorted(us)[math.floor(q * (len(us) - 1))]
    assert got == pytest.approx(exact, rel=0.0109)


@settings(deadline=None)
@given(values, values, values)
def test_merging_is_associative_and_commutative(a: list[float], b: list[float], c: list[float]) -> None:
    one = Histogram.merged([of(a), of(b), of(c)]).data()
    two = Histogram.merged([of(c), Histogram.merged([of(b), of(a)])]).data()
    whole = of(a + b + c).data()
    assert one.counts == two.counts == whole.counts
    assert one.offset == two.offset == whole.offset
    assert one.sum_us == pytest.approx(whole.sum_us)
    assert (one.min_us, one.max_us) == (whole.min_us, whole.max_us)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 1e12), max_size=50))
def test_wire_form_gives_back_the_same_histogram(us: list[float]) -> None:
    data = of(us).data()
    again = parse_json(HistogramData, data.encode(), max_bytes=1 << 16, what="histogram")
    assert Histogram.of(again).data() == data
    assert Histogram.of(again).n == len(us)


def test_bucket_boundaries_are_those_of_opentelemetry() -> None:
    # OTLP: bucket i holds (base^i, base^(i+1)]: a power of two belongs to the bucket below.
    assert of([2.0]).data().offset == 31
    assert of([2.0001]).data().offset == 32
    assert of([4.0]).data().offset == 63


@pytest.mark.parametrize(("percentile", "needed"), MIN_SAMPLES.items())
def test_a_percentile_is_not_reported_from_too_few_samples(percentile: float, needed: int) -> None:
    few, enough = of([100.0] * (needed - 1)), of([100.0] * needed)
    assert few.percentile_ms(percentile) is None
    assert enough.percentile_ms(percentile) == pytest.approx(0.1, rel=0.011)


def test_an_empty_histogram_says_nothing() -> None:
    h = Histogram()
    assert (h.n, h.mean_us, h.max_us, h.quantile_us(0.5)) == (0, None, None, None)


@pytest.mark.parametrize(
    "bad",
    [
        {"counts": [-1]},
        {"scale": 4},
        {"offset": -1},
        {"offset": 1152, "counts": [1, 1]},
        {"counts": [1] * 2000},
    ],
)
def test_a_hostile_histogram_is_refused(bad: dict[str, object]) -> None:
    import json

    with pytest.raises(ProtocolError):
        parse_json(HistogramData, json.dumps(bad).encode(), max_bytes=1 << 16, what="histogram")


def test_a_million_values_stay_exact_in_number() -> None:
    h, rng = Histogram(), np.random.default_rng(0)
    us = rng.lognormal(7, 1, 100_000)
    for v in us:
        h.record(v)
    assert h.n == len(us)
    assert h.quantile_us(0.99) == pytest.approx(np.quantile(us, 0.99), rel=0.0109)


@pytest.mark.parametrize("bad", [{"counts": [1 << 53]}, {"zero": 1 << 53}, {"counts": [10**400]}])
def test_counts_that_no_float_holds_are_refused(bad: dict[str, object]) -> None:
    """They would end whoever asks for a percentile of them."""
    with pytest.raises(ProtocolError, match="out of range"):
        parse_json(HistogramData, json.dumps(bad).encode(), max_bytes=10_000, what="histogram")
    most = Histogram.merged([Histogram.of(HistogramData(counts=((1 << 53) - 1,) * 100))] * 100)
    assert most.percentile_ms(95)


def test_histogram_of_a_peer_that_does_not_say_between_what_can_be_said_again() -> None:
    told = HistogramData(offset=3, counts=(1, 2), sum_us=9.0)
    assert Histogram.of(told).data() == told


def test_sum_of_what_liars_say_stays_a_histogram() -> None:
    most = HistogramData(counts=((1 << 53) - 1,), zero=(1 << 53) - 1, sum_us=1e24)
    total = Histogram.merged(Histogram.of(most) for _ in range(3))
    assert total.data() == most
    total.merge(Histogram.of(HistogramData(counts=(1,), sum_us=1.5)))
    assert Histogram.of(total.data()).n == 2 * ((1 << 53) - 1)
    with pytest.raises(ValueError, match="sum_us"):
        HistogramData(counts=(1,), sum_us=1.7e308)
