"""Totals of the fleet as operators ask for them: rows with percentiles, the hours behind them, one release against
another. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgectl.core.histogram import Histogram
from edgectl.fleet.store.rollup import LatencyClass
from edgectl.fleet.store.totals import Total
from edgectl.fleet.telemetry.regression import PERCENTILES, Regression, compare

__all__ = ["MeasuredRow", "RegressionRow", "hour_rows", "measured_rows", "regression_rows"]

_TAIL = 99.9


@dataclass(frozen=True)
class MeasuredRow:
    """One class over all the time that was asked for. Latencies in milliseconds, None without enough samples."""

    slot: str
    digest: str
    release: str | None
    """None: the engine is of no release that the controller knows."""
    profile: str
    stage: str
    preference: str
    power_mode: str
    throttled: bool
    samples: int
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    mean_ms: float | None
    since_s: int
    """Start of the first hour or day, and"""
    until_s: int
    """end of the last (Unix time)."""
    by_arrival: int
    """Samples whose hour is that of their arrival: their device did not know the time."""


@dataclass(frozen=True)
class RegressionRow:
    """One class of a release against the same class of another."""

    of: LatencyClass
    """``digest``: of the release that is asked about."""
    samples: int
    samples_before: int
    percentiles: tuple[Regression, ...]

    def told(self) -> dict[str, Any]:
        return {
            **asdict(self.of),
            "samples": self.samples,
            "samples_before": self.samples_before,
            "percentiles": [{**asdict(r), "verdict": r.verdict} for r in self.percentiles],
        }


def measured_rows(
    found: Mapping[LatencyClass, Sequence[Total]], releases: Mapping[str, str]
) -> list[MeasuredRow]:
    """``releases``: digest → name."""
    rows = []
    for of, spans in found.items():
        whole = Histogram.merged(t.histogram for t in spans)
        mean_us = whole.mean_us
        rows.append(
            MeasuredRow(
                **asdict(of),
                release=releases.get(of.digest),
                samples=whole.n,
                p50_ms=whole.percentile_ms(50.0),
                p90_ms=whole.percentile_ms(90.0),
                p95_ms=whole.percentile_ms(95.0),
                p99_ms=whole.percentile_ms(99.0),
                p999_ms=whole.percentile_ms(_TAIL),
                mean_ms=None if mean_us is None else mean_us / 1000,
                since_s=min(t.start_s for t in spans),
                until_s=max(t.start_s + t.span_s for t in spans),
                by_arrival=sum(t.histogram.n for t in spans if t.clock == "arrival"),
            )
        )
    return rows


def hour_rows(
    found: Mapping[LatencyClass, Sequence[Total]], releases: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Each hour or day with its histogram, for other programs."""
    return [
        {
            **asdict(of),
            "release": releases.get(of.digest),
            "start_s": t.start_s,
            "span_s": t.span_s,
            "clock": t.clock,
            "samples": t.histogram.n,
            **{f"p{p:g}_ms": t.histogram.percentile_ms(p) for p in PERCENTILES},
            "histogram": t.histogram.data().model_dump(exclude_none=True),
        }
        for of, spans in found.items()
        for t in spans
    ]


def regression_rows(
    after: Mapping[LatencyClass, Sequence[Total]], before: Mapping[LatencyClass, Sequence[Total]], digest: str
) -> tuple[list[RegressionRow], list[LatencyClass]]:
    """The classes that both have; and those that only one of them has: there is nothing to compare them with.
    ``digest``: of the engine before."""
    rows, alone = [], []
    for of, spans in after.items():
        other = before.get(replace(of, digest=digest))
        if other is None:
            alone.append(of)
            continue
        hours, hours_before = _hours(spans), _hours(other)
        rows.append(
            RegressionRow(
                of,
                sum(h.n for h in hours),
                sum(h.n for h in hours_before),
                tuple(compare(hours_before, hours, p) for p in PERCENTILES),
            )
        )
    known = {replace(of, digest=digest) for of in after}
    return rows, alone + [of for of in before if of not in known]


def _hours(spans: Iterable[Total]) -> list[Histogram]:
    """In order; what was told by either clock is of one hour."""
    found: dict[int, Histogram] = {}
    for t in sorted(spans, key=lambda t: t.start_s):
        found.setdefault(t.start_s, Histogram()).merge(t.histogram)
    return list(found.values())
