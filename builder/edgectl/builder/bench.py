"""``edgectl bench DIR``: latency of every variant of a bundle that this machine can run, golden checked first.

First all are run in turn, for the ratios; then each alone as one stream of queries, for the latencies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgectl.core.bundle import Bundle, Variant, requirement_met
from edgectl.core.errors import EdgectlError, UsageError
from edgectl.device_profiles.probe import probe
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.golden import check_golden, read_golden
from edgectl.engines.open import open_engine
from edgectl.engines.single_stream import at_most, single_stream
from edgectl.engines.timing import Latency, Ratio, interleave, load_1m, paired_ratio, percentile, summarise

__all__ = ["BenchReport", "BenchRow", "bench_bundle"]


@dataclass(frozen=True)
class BenchRow:
    """One variant. ``skipped`` says why it was not run; then there are no figures."""

    profile: str
    variant: str
    runtime: str
    threads: int
    latency: Latency | None = None
    """Of one stream of queries, from their scheduled issue (:mod:`edgectl.engines.single_stream`)."""
    p90_at_most_ms: float | None = None
    p99_at_most_ms: float | None = None
    """Early-stopping estimates: what the percentile does not exceed, with 99 % confidence; None from too few queries."""
    timer_late_p90_ms: float | None = None
    """At a rate: how late the machine's own timer was. Differences below are the machine's, not the engine's."""
    ratio: Ratio | None = None
    """Against the first fallback variant that ran."""
    worst_cosine: float | None = None
    skipped: str | None = None


@dataclass(frozen=True)
class BenchReport:
    machine: str
    load: float
    rate: float | None
    """Queries per second; None: each was issued when the last one was done."""
    rows: tuple[BenchRow, ...]


def bench_bundle(
    root: Path,
    *,
    seconds: float = 5.0,
    threads: int | None = None,
    rate: float | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Open, check and measure. ``rate``: issue this many queries a second, like a camera. ``cache``: folder of finalised engines (TensorRT needs it).

    Raises :class:`UsageError` if no variant runs here, and whatever :class:`~edgectl.core.bundle.Bundle` raises.
    """
    tell = progress or (lambda what: None)
    machine = probe()
    engines: dict[str, tuple[Variant, Engine, list[Feeds], float]] = {}
    rows: dict[str, BenchRow] = {}
    for v in Bundle(root).variants:
        c = v.config
        key = f"{c.profile}/{c.variant}"
        row = BenchRow(c.profile, c.variant, c.runtime, threads or c.session.threads)
        missing = [r for r in (*c.requires, f"runtime:{c.runtime}") if not requirement_met(r, machine.facts)]
        if missing:
            rows[key] = replace(row, skipped=f"this machine lacks {', '.join(missing)}")
            continue
        tell(f"opening {key}")
        try:
            engine = open_engine(v, threads=threads, cache=cache)
            golden = check_golden(engine, v)
        except EdgectlError as e:
            rows[key] = replace(row, skipped=e.message)
            continue
        rows[key] = row
        feeds = [f for f, _ in read_golden(v)]
        engines[key] = (v, engine, list(feeds), min(e.cosine for e in golden.outputs.values()))
    if not engines:
        raise UsageError(
            f"no variant of this bundle runs here: {'; '.join(r.skipped or '' for r in rows.values())}",
            hint="build it with a profile that fits: `edgectl profiles probe` names one",
        )
    tell(f"measuring {len(engines)} variants in turn")
    runs = {key: _caller(engine, feeds) for key, (_, engine, feeds, _) in engines.items()}
    times = interleave(runs, seconds=seconds / 2, min_rounds=64, max_rounds=100_000)
    fallbacks = [key for key, (v, *_) in engines.items() if v.config.fallback]
    reference = fallbacks[0] if fallbacks else max(times, key=lambda k: float(np.median(times[k])))
    for key, (_, engine, _, cosine) in engines.items():
        tell(f"one stream: {key}")
        stream = single_stream(runs[key], seconds=seconds / 2 / len(engines), rate=rate)
        rows[key] = replace(
            rows[key], latency=summarise(stream.latencies), p90_at_most_ms=at_most(stream.latencies, 90),
            p99_at_most_ms=at_most(stream.latencies, 99), timer_late_p90_ms=percentile(stream.late, 90),
            ratio=paired_ratio(times[key], times[reference]), worst_cosine=cosine, runtime=engine.runtime,
        )  # fmt: skip
        engine.close()
    return BenchReport(machine.summary, load_1m(), rate, tuple(rows.values()))


def _caller(engine: Engine, feeds: list[Feeds]) -> Callable[[], object]:
    turn = [0]

    def call() -> object:
        turn[0] += 1
        return engine.run(feeds[turn[0] % len(feeds)])

    return call
