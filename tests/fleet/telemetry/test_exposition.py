"""What is written is read by parsers of others: prometheus-client's, protobuf's with Prometheus' definitions, and a real
Prometheus in test_scraper.py."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from support.prometheus import read_families

from edgectl.core.histogram import Histogram
from edgectl.fleet.telemetry.exposition import OPENMETRICS, PROTOBUF, TEXT, answer, wanted
from edgectl.fleet.telemetry.families import MetricFamily, bounded

LATENCY = "edgectl_stage_latency_microseconds"
AWKWARD = 'a "quoted" \\ name\nof two lines'


def families(*us: float) -> list[MetricFamily]:
    h = Histogram()
    for value in us:
        h.record(value)
    return [
        bounded("edgectl_devices", {("online", AWKWARD): 3.0, ("offline", "cpu"): 0.0}.items()),
        bounded("edgectl_frames_dropped_total", {("surveillance", "superseded"): 7.0}.items()),
        bounded(LATENCY, {("gate", "gate@1", "cpu", "engine"): h}.items()),
    ]


@pytest.mark.parametrize("form", [TEXT, OPENMETRICS])
def test_text_is_what_a_parser_reads(form: str) -> None:
    parse = openmetrics_families if form == OPENMETRICS else text_string_to_metric_families
    found = {f.name: f for f in parse(answer(families(100, 200, 3000), form).decode())}
    assert [s.labels["profile"] for s in found["edgectl_devices"].samples] == [AWKWARD, "cpu"]
    assert found["edgectl_frames_dropped"].samples[0].value == 7
    latency = {s.labels.get("le", s.name): s.value for s in found[LATENCY].samples}
    assert latency["+Inf"] == latency[f"{LATENCY}_count"] == 3
    assert latency[f"{LATENCY}_sum"] == pytest.approx(3300)
    bounds = {float(le): n for le, n in latency.items() if le[0].isdigit()}
    assert [bounds[le] for le in (128, 256, 2048, 4096, 2**24)] == [1, 2, 2, 3, 3]


@given(us=st.lists(st.floats(0, 1e8), max_size=60))
def test_native_histogram_holds_every_count_in_the_bucket_that_it_is_in(us: list[float]) -> None:
    h = Histogram()
    for value in us:
        h.record(value)
    found = read_families(answer(families(*us), PROTOBUF))
    assert {s.label[1].value: s.gauge.value for s in found["edgectl_devices"].metric} == {
        AWKWARD: 3.0,
        "cpu": 0.0,
    }
    assert found["edgectl_frames_dropped_total"].metric[0].counter.value == 7
    (metric,) = found[LATENCY].metric
    assert [(p.name, p.value) for p in metric.label] == [
        ("slot", "gate"),
        ("release", "gate@1"),
        ("profile", "cpu"),
        ("stage", "engine"),
    ]
    told = metric.histogram
    assert (told.sample_count, told.schema, told.zero_threshold) == (len(us), 5, 1.0)
    assert told.sample_sum == pytest.approx(sum(us))
    assert len(told.positive_span) > 0, "without a span it would be no native one"
    index, count, counts, deltas = 0, 0, dict[int, int](), list(told.positive_delta)
    for span in told.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += deltas.pop(0)
            counts[index] = count
            index += 1
    assert deltas == []
    data = h.data()
    # Prometheus' bucket i is (2^((i-1)/32), 2^(i/32)]
    assert counts == {data.offset + k + 1: n for k, n in enumerate(data.counts) if n}
    assert told.zero_count + sum(counts.values()) == len(us)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html, application/xml;q=0.9", TEXT),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
            "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3",
            PROTOBUF,
        ),
        ("application/vnd.google.protobuf;encoding=text, text/plain;q=0.2", TEXT),
        ("application/openmetrics-text;q=0, text/plain;q=x", TEXT),
    ],
)
def test_scraper_gets_what_it_likes_best(accept: str, form: str) -> None:
    assert wanted(accept) == form
