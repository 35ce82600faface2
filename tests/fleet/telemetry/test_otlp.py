"""Requests are read with OpenTelemetry's own definitions."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from edgectl.core.histogram import Histogram
from edgectl.fleet.telemetry.families import MetricFamily, alone, bounded
from edgectl.fleet.telemetry.otlp import Temporality, Told, request


def histogram(us: list[float]) -> Histogram:
    h = Histogram()
    for value in us:
        h.record(value)
    return h


def families(us: list[float], processed: float) -> list[MetricFamily]:
    return [
        alone("edgectl_database_bytes", 4096.0),
        bounded("edgectl_frames_processed_total", [(("sound",), processed)]),
        bounded("edgectl_stage_latency_microseconds", [(("gate", "gate@1", "cpu", "engine"), histogram(us))]),
    ]


def read(data: bytes) -> dict[str, Any]:
    (resource,) = ExportMetricsServiceRequest.FromString(data).resource_metrics
    assert {a.key: a.value.string_value for a in resource.resource.attributes} == {"service.name": "c"}
    (scope,) = resource.scope_metrics
    return {m.name: m for m in scope.metrics}


def told(us: list[float], processed: float, since: Told, temporality: Temporality) -> dict[str, Any]:
    return read(request(families(us, processed), {"service.name": "c"}, 9_000, since, temporality))


@given(us=st.lists(st.floats(0, 1e8), max_size=60))
def test_exponential_histogram_is_ours_bucket_by_bucket(us: list[float]) -> None:
    found = told(us, 7, Told(1_000), "cumulative")
    metric = found["edgectl.stage.latency"]
    assert (metric.unit, metric.exponential_histogram.aggregation_temporality) == ("us", 2)
    (point,) = metric.exponential_histogram.data_points
    assert {a.key: a.value.string_value for a in point.attributes} == {
        "slot": "gate",
        "release": "gate@1",
        "profile": "cpu",
        "stage": "engine",
    }
    data = histogram(us).data()
    assert (point.count, point.scale, point.zero_count) == (len(us), 5, data.zero)
    assert (point.positive.offset, tuple(point.positive.bucket_counts)) == (data.offset, data.counts)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1_000, 9_000)
    assert point.zero_threshold == 1.0
    assert point.sum == pytest.approx(sum(us))
    if us:
        assert (point.min, point.max) == (min(us), max(us))


@given(before=st.lists(st.floats(0, 1e8), max_size=40), more=st.lists(st.floats(0, 1e8), max_size=40))
def test_delta_holds_what_came_since_and_adds_up_to_the_whole(before: list[float], more: list[float]) -> None:
    since = Told(5_000, tuple(families(before, 10)))
    found = told([*before, *more], 25, since, "delta")
    (counted,) = found["edgectl.frames.processed"].sum.data_points
    assert (counted.as_double, counted.start_time_unix_nano) == (15, 5_000)
    assert found["edgectl.frames.processed"].sum.is_monotonic
    exponential = found["edgectl.stage.latency"].exponential_histogram
    (point,) = exponential.data_points
    assert exponential.aggregation_temporality == 1
    only = histogram(more).data()
    told_counts = {i: n for i, n in enumerate(point.positive.bucket_counts, point.positive.offset) if n}
    assert told_counts == {i: n for i, n in enumerate(only.counts, only.offset) if n}
    assert (point.count, point.zero_count) == (len(more), only.zero)
    (size,) = found["edgectl.database"].gauge.data_points
    assert size.as_double == 4096
