"""The same metrics for OpenTelemetry: requests of OTLP (``ExportMetricsServiceRequest``, protocol 1.x). Pure.

Our histograms are its exponential ones, bucket by bucket (scale 5). Counters and histograms are cumulative since the
controller began, or what came since the last request that was taken (delta).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgectl.core.histogram import SCALE, Histogram, HistogramData
from edgectl.fleet.telemetry.families import MetricFamily, MetricSample
from edgectl.fleet.telemetry.protobuf import (
    bytes_field,
    double_field,
    encoded,
    fixed64_field,
    text_field,
    varint_field,
    zigzag,
)

__all__ = ["Temporality", "Told", "request"]

Temporality = Literal["cumulative", "delta"]
_DELTA, _CUMULATIVE = 1, 2
_UNITS = {"_microseconds": "us", "_bytes": "By", "_total": "1"}


@dataclass(frozen=True)
class Told:
    """What was told last, and when: where a delta begins."""

    at_ns: int
    families: tuple[MetricFamily, ...] = ()


def request(
    families: Iterable[MetricFamily],
    resource: Mapping[str, str],
    now_ns: int,
    since: Told,
    temporality: Temporality,
) -> bytes:
    """``since``: of a delta what was told last, else when the controller began (Unix time in ns). ``resource``: attributes
    of all of it."""
    before = {f.name: {s.labels: s.value for s in f.samples} for f in since.families}
    metrics = b"".join(
        bytes_field(2, _metric(f, before.get(f.name, {}), since.at_ns, now_ns, temporality)) for f in families
    )
    scope = bytes_field(1, text_field(1, "edgectl"))
    return bytes_field(1, bytes_field(1, _attributes(1, resource.items())) + bytes_field(2, scope + metrics))


def _metric(
    f: MetricFamily,
    before: Mapping[tuple[str, ...], float | Histogram],
    since_ns: int,
    now_ns: int,
    temporality: Temporality,
) -> bytes:
    unit = next((u for suffix, u in _UNITS.items() if f.name.endswith(suffix)), "1")
    name = f.name
    for suffix in _UNITS:
        name = name.removesuffix(suffix)
    head = text_field(1, name.replace("_", ".")) + text_field(2, f.type.help) + text_field(3, unit)
    delta = temporality == "delta"
    kind = varint_field(2, _DELTA if delta else _CUMULATIVE)
    points = []
    for s in f.samples:
        last = before.get(s.labels) if delta else None
        if isinstance(s.value, Histogram):
            points.append(_exponential(f, s, s.value, last, since_ns, now_ns))
        else:
            grown = s.value - last if isinstance(last, float | int) and f.type.kind == "counter" else s.value
            begin = b"" if f.type.kind == "gauge" else fixed64_field(2, since_ns)
            points.append(
                begin + fixed64_field(3, now_ns) + double_field(4, grown) + _attributes(7, f.named(s))
            )
    data = b"".join(bytes_field(1, p) for p in points)
    if f.type.kind == "histogram":
        return head + bytes_field(10, data + kind)
    if f.type.kind == "gauge":
        return head + bytes_field(5, data)
    return head + bytes_field(7, data + kind + varint_field(3, 1))


def _exponential(
    f: MetricFamily,
    s: MetricSample,
    value: Histogram,
    last: float | Histogram | None,
    since_ns: int,
    now_ns: int,
) -> bytes:
    data = value.data()
    counts, zero, sum_us = list(data.counts), data.zero, data.sum_us
    earlier = last.data() if isinstance(last, Histogram) else None
    if earlier is not None and (fewer := _less(data, earlier)) is not None:
        counts, zero = fewer, zero - earlier.zero
        sum_us = max(0.0, sum_us - earlier.sum_us)
    buckets = varint_field(1, zigzag(data.offset)) + bytes_field(2, b"".join(map(encoded, counts)))
    point = _attributes(1, f.named(s)) + fixed64_field(2, since_ns) + fixed64_field(3, now_ns)
    point += fixed64_field(4, zero + sum(counts)) + double_field(5, sum_us)
    point += varint_field(6, zigzag(SCALE)) + fixed64_field(7, zero) + bytes_field(8, buckets)
    # between which two values the new ones lie is not known
    if last is None and data.min_us is not None and data.max_us is not None:
        point += double_field(12, data.min_us) + double_field(13, data.max_us)
    return point + double_field(14, 1.0)


def _less(data: HistogramData, earlier: HistogramData) -> list[int] | None:
    """Counts less those of before. None: something else counts under that name by now, from the beginning."""
    counts = dict(enumerate(data.counts, data.offset))
    for bucket, n in enumerate(earlier.counts, earlier.offset):
        counts[bucket] = counts.get(bucket, 0) - n
    if data.zero < earlier.zero or any(n < 0 for n in counts.values()):
        return None
    return [counts[data.offset + k] for k in range(len(data.counts))]


def _attributes(number: int, pairs: Iterable[tuple[str, str]] | Sequence[tuple[str, str]]) -> bytes:
    return b"".join(
        bytes_field(number, text_field(1, key) + bytes_field(2, text_field(1, value))) for key, value in pairs
    )
