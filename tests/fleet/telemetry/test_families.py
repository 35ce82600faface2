from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edgectl.core.histogram import Histogram
from edgectl.fleet.telemetry import families
from edgectl.fleet.telemetry.families import CLASSIC_US, METRICS, OTHER, bounded, cumulative


def histogram(*us: float) -> Histogram:
    h = Histogram()
    for value in us:
        h.record(value)
    return h


@given(us=st.lists(st.floats(0, 1e8) | st.sampled_from(CLASSIC_US), max_size=100))
def test_classic_buckets_hold_exactly_what_is_not_above_their_bounds(us: list[float]) -> None:
    assert cumulative(histogram(*us)) == [(b, sum(x <= b for x in us)) for b in CLASSIC_US]


def test_series_beyond_the_bound_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "SERIES", 2)
    latency = {(f"s{i}", "r", "p", "engine"): histogram(1000.0 * (i + 1)) for i in range(5)}
    samples = bounded("edgectl_stage_latency_microseconds", latency.items()).samples
    assert [s.labels for s in samples] == [
        ("s0", "r", "p", "engine"),
        ("s1", "r", "p", "engine"),
        (OTHER,) * 4,
    ]
    assert [s.value.n for s in samples if isinstance(s.value, Histogram)] == [1, 1, 3]
    counted = bounded("edgectl_frames_processed_total", (((f"k{i}",), float(i)) for i in range(5)))
    assert [(s.labels, s.value) for s in counted.samples][2] == ((OTHER,), 9.0)


def test_metrics_are_named_as_prometheus_wants_them() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("edgectl_")
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert not {"device", "instance", "job", "le"} & set(metric.labels)
