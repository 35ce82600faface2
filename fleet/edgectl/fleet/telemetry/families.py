"""The metrics that the controller tells: a table of all of them, and what a scrape is made from. Pure.

Cardinality is bounded, whatever devices make up: nothing is told per device, and a family keeps at most
:data:`SERIES` series; what is beyond is added to one whose labels are all ``other``. A kind or cause that is too much is
``other``, too.

Latencies are in microseconds and not in the seconds that Prometheus recommends: so the buckets of a native histogram
are ours exactly (schema 5; 2^(i/32) seconds are no bounds in microseconds), and so are the classic ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from edgectl.core.histogram import SCALE, Histogram

__all__ = [
    "CLASSIC_US",
    "METRICS",
    "OTHER",
    "SERIES",
    "MetricFamily",
    "MetricSample",
    "MetricType",
    "alone",
    "bounded",
    "cumulative",
]

SERIES = 1000
OTHER = "other"
CLASSIC_US = tuple(float(2**k) for k in range(7, 25))
"""Upper bounds of classic buckets: 128 µs to 16.8 s, each the end of a bucket of ours."""


@dataclass(frozen=True)
class MetricType:
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS: dict[str, MetricType] = {
    "edgectl_devices": MetricType("gauge", "Devices of the fleet.", ("presence", "profile")),
    "edgectl_rollouts": MetricType("gauge", "Rollouts.", ("state",)),
    "edgectl_stage_latency_microseconds": MetricType(
        "histogram",
        "Time that a stage took of a frame; what a lighter variant took in an engine's place is left out.",
        ("slot", "release", "profile", "stage"),
    ),
    "edgectl_frames_processed_total": MetricType("counter", "Frames that were processed.", ("kind",)),
    "edgectl_frames_dropped_total": MetricType("counter", "Frames that were dropped.", ("kind", "cause")),
    "edgectl_stream_errors_total": MetricType(
        "counter", "Frames that failed in an engine or a rule.", ("kind",)
    ),
    "edgectl_telemetry_messages_total": MetricType("counter", "Live messages of telemetry that counted."),
    "edgectl_telemetry_replays_total": MetricType("counter", "Messages of telemetry that came late."),
    "edgectl_tick_microseconds": MetricType("histogram", "Time that a tick of the controller took."),
    "edgectl_queue_length": MetricType("gauge", "What waits in the controller.", ("queue",)),
    "edgectl_database_bytes": MetricType("gauge", "Size of the controller's database."),
    "edgectl_broker_connected": MetricType("gauge", "1 while the controller reaches the broker."),
    "edgectl_frozen": MetricType("gauge", "1 while the fleet activates nothing."),
}


@dataclass(frozen=True)
class MetricSample:
    labels: tuple[str, ...]
    """In the order of the family's names."""
    value: float | Histogram


@dataclass(frozen=True)
class MetricFamily:
    """What is told of one metric now."""

    name: str
    samples: tuple[MetricSample, ...]

    @property
    def type(self) -> MetricType:
        return METRICS[self.name]

    def named(self, sample: MetricSample) -> Iterator[tuple[str, str]]:
        return zip(self.type.labels, sample.labels, strict=True)


def bounded(name: str, series: Iterable[tuple[tuple[str, ...], float | Histogram]]) -> MetricFamily:
    """(labels, value) of each; at most :data:`SERIES` of them, and one for the rest."""
    every = list(series)
    samples = [MetricSample(labels, value) for labels, value in every[:SERIES]]
    if rest := [value for _, value in every[SERIES:]]:
        histograms = [v for v in rest if isinstance(v, Histogram)]
        whole = (
            Histogram.merged(histograms)
            if histograms
            else sum(v for v in rest if not isinstance(v, Histogram))
        )
        samples.append(MetricSample((OTHER,) * len(METRICS[name].labels), whole))
    return MetricFamily(name, tuple(samples))


def alone(name: str, value: float | Histogram) -> MetricFamily:
    """Of a metric without labels."""
    return MetricFamily(name, (MetricSample((), value),))


def cumulative(h: Histogram, bounds_us: Iterable[float] = CLASSIC_US) -> list[tuple[float, int]]:
    """(upper bound, how many are not above it), for bounds that are powers of two."""
    data = h.data()
    found, seen, at = [], data.zero, 0
    for bound in bounds_us:
        # bucket i ends at 2^((i + 1) / 32)
        end = (int(bound).bit_length() - 1) * (1 << SCALE) - data.offset
        while at < min(end, len(data.counts)):
            seen += data.counts[at]
            at += 1
        found.append((bound, seen))
    return found
