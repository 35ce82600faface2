"""Latency of the variants of a bundle."""

from __future__ import annotations

from rich.console import Group, RenderableType

from edgectl.builder.pack.bench import BenchReport
from edgectl.builder.pack.decide import Decision
from edgectl.cli._printer import table

__all__ = ["bench_view"]


def bench_view(report: BenchReport, decision: Decision | None, digest: str | None) -> Group:
    """Every variant alone, each against the fallback in every context, and what was decided."""
    compared = table("profile", "variant", "context", ">p50 ms", ">× fallback", "95 % interval", "")
    for r in report.rows:
        for c in r.contexts:
            last = c is r.contexts[-1]
            compared.add_row(
                r.profile,
                r.variant,
                c.context.value,
                f"{c.p50_ms:.3f}",
                "-" if c.ratio is None else f"{c.ratio:.3f}",
                "-" if c.low is None else f"{c.low:.3f} … {c.high:.3f}",
                ("" if c.standing is None else c.standing.value)
                + (f"; in all: {r.standing.value}" if last and r.standing else ""),
            )
    t = table(
        "profile",
        "variant",
        "runtime",
        ">threads",
        ">p50 ms",
        ">p90 ms",
        ">p99 ms",
        ">p90 ≤",
        ">p99 ≤",
        ">n",
        "",
    )
    for r in report.rows:
        one = r.latency
        times = (
            (one.p50_ms, one.p90_ms, one.p99_ms, r.p90_at_most_ms, r.p99_at_most_ms)
            if one is not None
            else (None,) * 5
        )
        t.add_row(
            r.profile,
            r.variant,
            r.runtime,
            str(r.threads),
            *("-" if x is None else f"{x:.3f}" for x in times),
            "-" if one is None else str(one.n),
            r.skipped or "",
        )
    issued = (
        "each query when the last one was done"
        if report.rate is None
        else f"{report.rate:g} queries a second"
    )
    late = max((r.timer_late_p90_ms or 0.0 for r in report.rows), default=0.0)
    floor = f"; this machine's timer was up to {late:.2f} ms late (p90)" if late else ""
    said = f"{issued}; ≤: with 99 % confidence; {report.machine}; load {report.load:.2f}{floor}"
    parts: list[RenderableType] = [t, "", compared, "", said]
    if report.busy_because:
        parts.append(
            f"the machine was busy: {'; '.join(report.busy_because)}; what is not clear by far is undecided"
        )
    if decision is not None and not decision.undecided:
        parts += [
            "",
            *(decision.sentences or ("no profile has both a float and a quantized engine that ran here",)),
        ]
        parts.append(f"{'written anew' if decision.changed else 'as it was'}: {digest}")
    return Group(*parts)
