"""One variant over minutes or hours."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType

from edgectl.builder.pack.sustained import SustainedReport
from edgectl.cli._printer import table

__all__ = ["sustained_view"]


def sustained_view(report: SustainedReport, drawn: Path | None) -> Group:
    """A row for each stretch of the run, then what follows from them."""
    t = table(
        ">from",
        ">p50 ms",
        ">p95 ms",
        ">p99 ms",
        ">after a rest",
        ">MiB",
        ">°C",
        ">MHz",
        "",
    )
    for w in report.windows:
        t.add_row(
            _clock(w.start_s),
            f"{w.p50_ms:.3f}",
            _ms(w.p95_ms),
            _ms(w.p99_ms),
            _ms(w.first_after_rest_ms),
            f"{w.rss_mb:.0f}",
            "-" if w.temperature_c is None else f"{w.temperature_c:.0f}",
            "-" if w.mhz is None else f"{w.mhz:.0f}",
            ", ".join(word for word, on in (("throttled", w.throttled), ("busy", w.busy)) if on),
        )
    r = report.result
    issued = "back to back" if report.rate is None else f"at {report.rate:g} frames a second"
    said = (
        f"{report.profile}/{report.variant} ({report.runtime}, {report.threads} threads), {r.n} calls {issued} in"
        f" {_clock(r.seconds)}: p50 {r.p50_ms:.3f} ms, p95 {_ms(r.p95_ms)}, p99 {_ms(r.p99_ms)}; {report.machine}"
    )
    parts: list[RenderableType] = [t, "", said, *(f"- {s}" for s in r.sentences)]
    if drawn is not None:
        parts.append(f"drawn: {drawn}")
    return Group(*parts)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    m, s = divmod(round(seconds), 60)
    h, m = divmod(m, 60)
    return f"{h}:{m:02d}:{s:02d}" if h else f"{m}:{s:02d}"
