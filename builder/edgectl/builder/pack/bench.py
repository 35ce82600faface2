"""``edgectl bench DIR``: every variant of a bundle that this machine can run, golden checked first.

They are compared with the fallback exactly as the build compares them (:mod:`edgectl.engines.measure.processes`): in
processes of their own, in blocks, in turn, in each context of a device. Then each is run as one stream of
queries, for the latencies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgectl.core.bundle import LAYER_WEIGHTS, Bundle, Variant, requirement_met
from edgectl.core.errors import EdgectlError, UsageError
from edgectl.core.measured import Context, ContextRun, ProcessRun, Standing
from edgectl.device_profiles.machine import Machine, probe
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.golden import check_golden, read_golden
from edgectl.engines.finalise.open import engine_file, open_engine
from edgectl.engines.measure.contexts import busy_because
from edgectl.engines.measure.processes import (
    RUNS,
    SECONDS,
    MeasuredEngine,
    ProcessTimes,
    compared,
    evidence,
    measure_in_processes,
    standing_of,
    summarise_processes,
)
from edgectl.engines.measure.single_stream import at_most, single_stream
from edgectl.engines.timing import Latency, Ratio, load_1m, percentile, summarise

__all__ = ["BenchReport", "BenchRow", "Runnable", "bench_bundle", "opened"]

_STREAM_SHARE = 0.25
"""Of the time: for the latencies of one stream; the rest is for the comparison."""
_LEAST_S = 0.1

Measure = Callable[..., dict[str, ProcessTimes]]


@dataclass(frozen=True)
class BenchRow:
    """One variant. ``skipped`` says why it was not run; then there are no figures."""

    profile: str
    variant: str
    runtime: str
    threads: int
    latency: Latency | None = None
    """Of one stream of queries, from their scheduled issue (:mod:`edgectl.engines.measure.single_stream`)."""
    p90_at_most_ms: float | None = None
    p99_at_most_ms: float | None = None
    """Early-stopping estimates: what the percentile does not exceed, with 99 % confidence; None from too
    few queries."""
    timer_late_p90_ms: float | None = None
    """At a rate: how late the machine's own timer was. Differences below are the machine's, not the
    engine's."""
    ratio: Ratio | None = None
    """Alone, against the fallback of its profile; one of :attr:`contexts`."""
    contexts: tuple[ContextRun, ...] = ()
    """Each way in which a device runs it, against that fallback."""
    standing: Standing | None = None
    """What the contexts say together; None for the fallback itself."""
    worst_cosine: float | None = None
    skipped: str | None = None
    fresh: ProcessRun | None = None
    """All that was measured in processes of its own."""


@dataclass(frozen=True)
class BenchReport:
    machine: str
    load: float
    rate: float | None
    """Queries per second; None: each was issued when the last one was done."""
    rows: tuple[BenchRow, ...]
    busy_because: tuple[str, ...] = ()
    """Why the machine was too busy to trust the comparison; empty if it was quiet."""
    digest: str = ""
    """Of the bundle that was measured."""


@dataclass(frozen=True)
class Runnable:
    """A variant that this machine can run, golden checked."""

    variant: Variant
    row: BenchRow
    feeds: Sequence[Feeds]
    contender: MeasuredEngine


def bench_bundle(
    root: Path,
    *,
    seconds: float = 40.0,
    threads: int | None = None,
    rate: float | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
    measure: Measure = measure_in_processes,
) -> BenchReport:
    """Open, check and measure, for about ``seconds`` in all; starting the processes comes on top. ``rate``:
    issue this many queries a second, like a camera. ``cache``: folder of finalised engines (TensorRT needs
    it).

    Raises :class:`UsageError` if no variant runs here, and whatever :class:`~edgectl.core.bundle.Bundle`
    raises.
    """
    tell = progress or (lambda what: None)
    machine = probe()
    rows: dict[str, BenchRow] = {}
    runnable: dict[str, Runnable] = {}
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as folder:
        bundle = Bundle(root)
        for v in bundle.variants:
            key = f"{v.config.profile}/{v.config.variant}"
            tell(f"opening {key}")
            found = opened(v, machine, threads, cache, Path(folder))
            if isinstance(found, BenchRow):
                rows[key] = found
            else:
                rows[key], runnable[key] = found.row, found
        if not runnable:
            raise UsageError(
                f"no variant of this bundle runs here: {'; '.join(r.skipped or '' for r in rows.values())}",
                hint="build it with a profile that fits: `edgectl profiles probe` names one",
            )
        tell(f"measuring {len(runnable)} variants in processes of their own, in turn")
        each = seconds * (1 - _STREAM_SHARE) / (len(runnable) * RUNS * len(Context))
        contenders = {k: r.contender for k, r in runnable.items()}
        first = next(iter(runnable.values())).feeds
        times = measure(contenders, first, seconds=min(SECONDS, max(_LEAST_S, each)))
        for key, r in runnable.items():
            tell(f"one stream: {key}")
            rows[key] = _streamed(r, rate, seconds * _STREAM_SHARE / len(runnable), threads, cache)
    variants = {k: r.variant for k, r in runnable.items()}
    references = {k: _reference(variants, times, v.config.profile) for k, v in variants.items()}
    busy = [
        why
        for r in dict.fromkeys(references.values())
        if r is not None
        for why in busy_because(evidence(times[r]))
    ]
    for key in runnable:
        rows[key] = _compared(rows[key], times, key, references[key])
    return BenchReport(
        machine.summary, load_1m(), rate, tuple(rows.values()), tuple(dict.fromkeys(busy)), bundle.digest
    )


def opened(
    v: Variant, machine: Machine, threads: int | None, cache: Path | None, folder: Path
) -> BenchRow | Runnable:
    """What is measured of a variant, or a row that says why it is not. ``folder``: for a finalised engine."""
    c = v.config
    row = BenchRow(c.profile, c.variant, c.runtime, threads or c.session.threads)
    missing = [r for r in (*c.requires, f"runtime:{c.runtime}") if not requirement_met(r, machine.facts)]
    if missing:
        return replace(row, skipped=f"this machine lacks {', '.join(missing)}")
    try:
        engine = open_engine(v, threads=threads, cache=cache)
        try:
            golden = check_golden(engine, v)
            runtime = engine.runtime
        finally:
            engine.close()
        path, settings = engine_file(v, folder, threads=threads, cache=cache)
    except EdgectlError as e:
        return replace(row, skipped=e.message)
    feeds: list[Feeds] = [f for f, _ in read_golden(v)]
    row = replace(row, worst_cosine=min(e.cosine for e in golden.outputs.values()), runtime=runtime)
    model = path if v.layer(LAYER_WEIGHTS) is not None else path.read_bytes()
    return Runnable(v, row, feeds, MeasuredEngine(model, c.runtime, settings, feeds))


def _streamed(
    r: Runnable, rate: float | None, seconds: float, threads: int | None, cache: Path | None
) -> BenchRow:
    engine = open_engine(r.variant, threads=threads, cache=cache)
    turn = [0]

    def call() -> object:
        turn[0] += 1
        return engine.run(r.feeds[turn[0] % len(r.feeds)])

    try:
        stream = single_stream(call, seconds=seconds, rate=rate)
    finally:
        engine.close()
    return replace(
        r.row,
        latency=summarise(stream.latencies),
        p90_at_most_ms=at_most(stream.latencies, 90),
        p99_at_most_ms=at_most(stream.latencies, 99),
        timer_late_p90_ms=percentile(stream.late, 90),
    )


def _reference(
    variants: Mapping[str, Variant], times: Mapping[str, ProcessTimes], profile: str
) -> str | None:
    """Who those of a profile are told against: its fallback, another one's if that does not run, or the
    slowest. None if nothing ran in a process of its own."""
    alive = {k: v.config for k, v in variants.items() if times[k].failed is None}
    fallbacks = sorted((k for k, c in alive.items() if c.fallback), key=lambda k: alive[k].profile != profile)
    if fallbacks:
        return fallbacks[0]
    return max(alive, key=lambda k: float(np.median(times[k].of(Context.ALONE))), default=None)


def _compared(row: BenchRow, times: Mapping[str, ProcessTimes], key: str, reference: str | None) -> BenchRow:
    mine = times[key]
    if mine.failed is not None or reference is None:
        return replace(row, skipped=mine.failed)
    base = times[reference]
    if key == reference:
        fresh = summarise_processes(mine, None)
        n = len(mine.of(Context.ALONE))
        return replace(row, fresh=fresh, contexts=fresh.contexts, ratio=Ratio(1.0, 1.0, 1.0, n))
    fresh = summarise_processes(mine, base, base)
    alone = compared(mine, base, busy=False).get(Context.ALONE)
    return replace(
        row,
        fresh=fresh,
        contexts=fresh.contexts,
        ratio=None if alone is None else alone[1],
        standing=standing_of(mine, base),
    )
