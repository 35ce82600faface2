"""What is drawn: the geometry of histograms, scatters and bars, in the units of an SVG's viewBox. Pure.

Templates write the SVG, with a title, a description and a table of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgectl.core.histogram import SCALE, Histogram

__all__ = [
    "HistogramChart",
    "HistogramSeries",
    "Mark",
    "Percentiles",
    "Scatter",
    "ScatterPoint",
    "Strip",
    "Tick",
    "histogram_chart",
    "percentiles",
    "scatter",
    "strip",
]

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 46, 26
"""Room for labels around what is drawn."""
_BINS = 96
_PER_OCTAVE = 1 << SCALE
_MARKS = (50.0, 90.0, 99.0)
_STEPS = (1, 2, 5)
_MOST_TICKS = 12
_COLOURS = ("c0", "c1", "c2", "c3")
"""Grey for what is compared with; alone, none is grey."""


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds; None without enough samples to say it."""

    label: str
    n: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    mean: float | None
    largest: float | None


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A percentile: a line from top to bottom, with its name in ``row`` above."""

    x: float
    text: str
    row: int


@dataclass(frozen=True)
class HistogramSeries:
    label: str
    kind: str
    """A class of the style sheet: its colour."""
    path: str
    """Of a closed area."""
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class HistogramChart:
    """Share of samples over latency, whose axis is logarithmic."""

    series: tuple[HistogramSeries, ...]
    ticks: tuple[Tick, ...]
    """Milliseconds, along x."""
    shares: tuple[Tick, ...]
    """Along y."""
    table: tuple[Percentiles, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def description(self) -> str:
        """What is to be seen, in words."""
        return "; ".join(_said(p) for p in self.table)


def _said(p: Percentiles) -> str:
    if p.p50 is None:
        return f"{p.label}: {p.n} samples, too few to say a percentile"
    known = [(name, v) for name, v in (("p50", p.p50), ("p90", p.p90), ("p99", p.p99)) if v is not None]
    return f"{p.label}: {p.n} samples, " + ", ".join(f"{name} {v:.3g} ms" for name, v in known)


def percentiles(label: str, h: Histogram) -> Percentiles:
    mean, largest = h.mean_us, h.max_us
    p50, p90, p95, p99 = (h.percentile_ms(p) for p in (50.0, 90.0, 95.0, 99.0))
    return Percentiles(
        label,
        h.n,
        p50,
        p90,
        p95,
        p99,
        mean=None if mean is None else mean / 1000,
        largest=None if largest is None else largest / 1000,
    )


def histogram_chart(named: Sequence[tuple[str, Histogram]]) -> HistogramChart | None:
    """Up to four distributions over one axis; None where nothing was measured at all."""
    table = tuple(percentiles(label, h) for label, h in named)
    filled = [(label, h, _bins_of(h)) for label, h in named if h.n][: len(_COLOURS)]
    if not filled:
        return None
    low = min(min(counts) for _, _, counts in filled)
    high = max(max(counts) for _, _, counts in filled) + 1
    # never narrower than an octave: one bar over the whole width says nothing
    room = max(0, _PER_OCTAVE - (high - low)) // 2
    low, high = max(0, low - room), high + room
    step = max(1, math.ceil((high - low) / _BINS))
    bins = math.ceil((high - low) / step)
    shares = [_binned(counts, low, step, bins, sum(counts.values())) for _, _, counts in filled]
    top = max(max(s) for s in shares)
    axis = _Axis(low, low + bins * step)
    kinds = _COLOURS if len(filled) > 1 else _COLOURS[1:]
    return HistogramChart(
        series=tuple(
            HistogramSeries(label, kind, _area(share, top), _marks(h, axis))
            for (label, h, _), share, kind in zip(filled, shares, kinds, strict=False)
        ),
        ticks=axis.ticks(),
        shares=tuple(Tick(_y(f), f"{f * top:.0%}") for f in (0.5, 1.0)),
        table=table,
    )


@dataclass(frozen=True)
class _Axis:
    """Buckets along x."""

    low: int
    high: int

    def x(self, us: float) -> float:
        bucket = math.log2(max(us, 1.0)) * _PER_OCTAVE
        share = (bucket - self.low) / (self.high - self.low)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> tuple[Tick, ...]:
        """At 1, 2 and 5 times powers of ten; fewer where that is many."""
        first, last = 2.0 ** (self.low / _PER_OCTAVE), 2.0 ** (self.high / _PER_OCTAVE)
        decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
        for steps in (_STEPS, (1,)):
            found = [s * 10.0**d for d in decades for s in steps if first <= s * 10.0**d <= last]
            if len(found) <= _MOST_TICKS:
                break
        if not found:
            found = [math.sqrt(first * last)]
        return tuple(Tick(self.x(us), f"{us / 1000:.3g}") for us in found)


def _bins_of(h: Histogram) -> dict[int, int]:
    """Bucket → samples; those below a microsecond are in the first one."""
    data = h.data()
    found = {data.offset + k: c for k, c in enumerate(data.counts) if c}
    if data.zero:
        found[0] = found.get(0, 0) + data.zero
    return found


def _binned(counts: Mapping[int, int], low: int, step: int, bins: int, total: int) -> list[float]:
    found = [0.0] * bins
    for bucket, n in counts.items():
        found[(bucket - low) // step] += n / total
    return found


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _area(shares: Sequence[float], top: float) -> str:
    width = (WIDTH - LEFT - RIGHT) / len(shares)
    path = [f"M{LEFT},{_y(0):.1f}"]
    for i, share in enumerate(shares):
        path.append(f"V{_y(share / top):.1f}H{LEFT + (i + 1) * width:.1f}")
    return "".join(path) + f"V{_y(0):.1f}Z"


def _marks(h: Histogram, axis: _Axis) -> tuple[Mark, ...]:
    found = ((p, h.percentile_ms(p)) for p in _MARKS)
    return tuple(
        Mark(axis.x(ms * 1000), f"p{p:g} {ms:.3g}", row)
        for row, (p, ms) in enumerate(found)
        if ms is not None
    )


@dataclass(frozen=True)
class Strip:
    """Parts of a whole beside each other, 0..100."""

    parts: tuple[tuple[str, float, float, int], ...]
    """What it is (a class of the style sheet), where it begins, how wide it is, how many it stands for."""
    description: str


def strip(counts: Mapping[str, int], total: int | None = None) -> Strip:
    """``total``: what the whole bar stands for; None: the sum. In the order of ``counts``."""
    whole = sum(counts.values()) if total is None else total
    parts, at = [], 0.0
    for name, n in counts.items():
        if n and whole:
            width = 100 * n / whole
            parts.append((name, round(at, 3), round(width, 3), n))
            at += width
    return Strip(tuple(parts), ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "none")


@dataclass(frozen=True)
class ScatterPoint:
    x: float
    y: float
    label: str
    kind: str
    """A class of the style sheet."""
    right: bool
    """Its label stands to the right."""


@dataclass(frozen=True)
class Scatter:
    points: tuple[ScatterPoint, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = 16
    bottom: int = HEIGHT - BOTTOM


def scatter(points: Sequence[tuple[str, float, float, str]]) -> Scatter | None:
    """``points``: label, p50 in milliseconds, drop, kind. Both axes are linear and begin at 0 (a drop may be negative).
    None without any."""
    if not points:
        return None
    most_x = max(x for _, x, _, _ in points) * 1.15 or 1.0
    low_y = min(0.0, *(y for _, _, y, _ in points)) * 1.15
    most_y = max(max(y for _, _, y, _ in points) * 1.15, 0.002)
    top = 16

    def x_of(x: float) -> float:
        return LEFT + x / most_x * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - low_y) / (most_y - low_y) * (HEIGHT - BOTTOM - top)

    return Scatter(
        tuple(
            ScatterPoint(round(x_of(x), 1), round(y_of(y), 1), label, kind, x < 0.6 * most_x)
            for label, x, y, kind in points
        ),
        tuple(Tick(round(x_of(x), 1), f"{x:.3g}") for x in _round_steps(0.0, most_x)),
        tuple(Tick(round(y_of(y), 1), f"{y:.3g}") for y in _round_steps(low_y, most_y)),
    )


def _round_steps(low: float, high: float) -> list[float]:
    """Four to ten round numbers in a range."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]
