"""What a scrape answers with, in the form that was asked for. Pure.

Text (0.0.4) and OpenMetrics by prometheus-client, with classic buckets. Native histograms travel in no text that
Prometheus reads: they are in ``io.prometheus.client.MetricFamily`` messages, length-delimited, written here (Prometheus from
2.40 on with its native histograms switched on asks for them). These hold the classic buckets, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.utils import floatToGoString

from edgectl.core.histogram import SCALE, Histogram
from edgectl.fleet.telemetry.families import MetricFamily, cumulative
from edgectl.fleet.telemetry.protobuf import (
    bytes_field,
    delimited,
    double_field,
    encoded,
    text_field,
    varint_field,
    zigzag,
)

__all__ = ["OPENMETRICS", "PROTOBUF", "TEXT", "answer", "wanted"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
_TYPES = {"counter": 0, "gauge": 1, "histogram": 4}


def wanted(accept: str) -> str:
    """Which of the three the header ``Accept`` likes best, by its weights; text for whoever says nothing."""
    best, form = 0.0, TEXT
    for part in accept.split(","):
        name, *parameters = (p.strip().lower() for p in part.split(";"))
        given = dict(p.partition("=")[::2] for p in parameters)
        try:
            weight = float(given.get("q", "1"))
        except ValueError:
            weight = 0.0
        offered = {
            "application/vnd.google.protobuf": PROTOBUF if given.get("encoding") == "delimited" else None,
            "application/openmetrics-text": OPENMETRICS if given.get("version", "1.0.0") == "1.0.0" else None,
            "text/plain": TEXT,
        }.get(name)
        if offered is not None and weight > best:
            best, form = weight, offered
    return form


def answer(families: Iterable[MetricFamily], form: str) -> bytes:
    if form == PROTOBUF:
        return b"".join(delimited(_family(f)) for f in families)
    collected = _Collected([_client_family(f) for f in families])
    text: bytes = (generate_openmetrics if form == OPENMETRICS else generate_latest)(collected)
    return text


class _Collected:
    """What prometheus-client writes out: a registry, as far as it looks at one."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _client_family(f: MetricFamily) -> Metric:
    if f.type.kind == "histogram":
        histogram = HistogramMetricFamily(f.name, f.type.help, labels=f.type.labels)
        for s in f.samples:
            assert isinstance(s.value, Histogram)
            buckets = [(_bound(bound), n) for bound, n in cumulative(s.value)]
            buckets.append(("+Inf", s.value.n))
            histogram.add_metric(s.labels, buckets, sum_value=_sum_us(s.value))
        return histogram
    of = CounterMetricFamily if f.type.kind == "counter" else GaugeMetricFamily
    family = of(f.name, f.type.help, labels=f.type.labels)
    for s in f.samples:
        assert not isinstance(s.value, Histogram)
        family.add_metric(s.labels, s.value)
    return family


def _bound(bound_us: float) -> str:
    text: str = floatToGoString(bound_us)  # type: ignore[no-untyped-call]
    return text


def _sum_us(h: Histogram) -> float:
    return (h.mean_us or 0.0) * h.n


# ---- protobuf: field numbers of io.prometheus.client


def _family(f: MetricFamily) -> bytes:
    head = text_field(1, f.name) + text_field(2, f.type.help) + varint_field(3, _TYPES[f.type.kind])
    metrics = []
    for s in f.samples:
        labels = b"".join(
            bytes_field(1, text_field(1, name) + text_field(2, value)) for name, value in f.named(s)
        )
        if isinstance(s.value, Histogram):
            metrics.append(bytes_field(4, labels + bytes_field(7, _histogram(s.value))))
        else:
            metrics.append(
                bytes_field(
                    4, labels + bytes_field(3 if f.type.kind == "counter" else 2, double_field(1, s.value))
                )
            )
    return head + b"".join(metrics)


def _histogram(h: Histogram) -> bytes:
    data = h.data()
    whole = varint_field(1, h.n) + double_field(2, data.sum_us)
    whole += b"".join(
        bytes_field(3, varint_field(1, n) + double_field(2, bound)) for bound, n in cumulative(h)
    )
    whole += varint_field(5, zigzag(SCALE)) + double_field(6, 1.0) + varint_field(7, data.zero)
    spans, deltas = [], []
    last, end = 0, 0
    for index, run in _runs(data.counts):
        # their bucket i ends where ours i - 1 does
        at = data.offset + 1 + index
        spans.append(bytes_field(12, varint_field(1, zigzag(at - end)) + varint_field(2, len(run))))
        end = at + len(run)
        deltas += [encoded(zigzag(b - a)) for a, b in pairwise((last, *run))]
        last = run[-1]
    if not spans:  # without a span it would be a histogram of classic buckets only
        spans.append(bytes_field(12, varint_field(1, 0) + varint_field(2, 0)))
    return whole + b"".join(spans) + (bytes_field(13, b"".join(deltas)) if deltas else b"")


def _runs(counts: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Stretches without an empty bucket: where they begin, and their counts."""
    run: list[int] = []
    for i, count in enumerate((*counts, 0)):
        if count:
            run.append(count)
        elif run:
            yield i - len(run), run
            run = []
