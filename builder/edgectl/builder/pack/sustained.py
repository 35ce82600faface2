"""``edgectl bench DIR --sustained TIME``: one variant of a bundle for minutes or hours, golden checked first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl.builder.pack.bench import BenchRow, Runnable, opened
from edgectl.builder.pack.svg import Series, document, lines
from edgectl.core.bundle import Bundle
from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.device_profiles.machine import probe
from edgectl.engines.measure.sustained import Second, Sustained, Window, judge, sustain, windows_of

__all__ = ["SustainedReport", "plot", "sustain_bundle"]

Sustain = Callable[..., list[Second]]


@dataclass(frozen=True)
class SustainedReport:
    machine: str
    digest: str
    """Of the bundle."""
    profile: str
    variant: str
    runtime: str
    threads: int
    rate: float | None
    """Frames a second; None: back to back."""
    result: Sustained
    windows: tuple[Window, ...]


def sustain_bundle(
    root: Path,
    *,
    seconds: float,
    variant: str | None = None,
    rate: float | None = None,
    threads: int | None = None,
    cache: Path | None = None,
    progress: Callable[[Sequence[Second]], None] = lambda seen: None,
    stop: Callable[[], bool] = lambda: False,
    measure: Sustain = sustain,
) -> SustainedReport:
    """``variant``: ``PROFILE/VARIANT``; None: the first one that runs here. ``stop``: ends the run; what was seen by
    then is the report.

    Raises :class:`UsageError` if it is not in the bundle, does not run here, or nothing was measured.
    """
    bundle, machine = Bundle(root), probe()
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as folder:
        one = _chosen(bundle, variant, lambda v: opened(v, machine, threads, cache, Path(folder)))
        seen = measure(one.contender, seconds=seconds, rate=rate, progress=progress, stop=stop)
    if not seen:
        raise UsageError(
            "nothing was measured before it was stopped", hint="let it run for a second at least"
        )
    row = one.row
    return SustainedReport(
        machine.summary,
        bundle.digest,
        row.profile,
        row.variant,
        row.runtime,
        row.threads,
        rate,
        judge(seen),
        windows_of(seen),
    )


def plot(report: SustainedReport) -> str:
    """An SVG of its own: latency, temperature and clock, memory, over the minutes of the run."""
    minutes = [w.end_s / 60 for w in report.windows]

    def series(label: str, css: str, values: Sequence[float | None]) -> Series:
        return Series(
            label, css, tuple((x, v) for x, v in zip(minutes, values, strict=True) if v is not None)
        )

    w = report.windows
    rests = series("first after a rest", "bad", [x.first_after_rest_ms for x in w])
    latency = [
        series("p50", "a", [x.p50_ms for x in w]),
        series("p95", "b", [x.p95_ms for x in w]),
        series("p99", "c", [x.p99_ms for x in w]),
        rests,
    ]
    panels = [
        lines(latency, x="minutes", y="latency, ms"),
        lines([series("hottest", "bad", [x.temperature_c for x in w])], x="minutes", y="°C"),
        lines([series("clock", "a", [x.mhz for x in w])], x="minutes", y="MHz"),
        lines([series("resident", "a", [x.rss_mb for x in w])], x="minutes", y="memory, MiB"),
    ]
    title = f"{report.profile}/{report.variant} on {report.machine}"
    return document(title, [p for p in panels if p])


def _chosen(bundle: Bundle, wanted: str | None, look: Callable[..., BenchRow | Runnable]) -> Runnable:
    variants = {f"{v.config.profile}/{v.config.variant}": v for v in bundle.variants}
    if wanted is not None and wanted not in variants:
        raise UsageError(f"the bundle has no variant {wanted!r}", hint=did_you_mean(wanted, variants))
    skipped = []
    for name in variants if wanted is None else [wanted]:
        found = look(variants[name])
        if isinstance(found, Runnable):
            return found
        skipped.append(f"{name}: {found.skipped}")
    raise UsageError(
        f"not run here: {'; '.join(skipped)}",
        hint="build it with a profile that fits: `edgectl profiles probe` names one",
    )
