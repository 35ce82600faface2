"""How one engine does for minutes and hours: heat, throttling, drift, the first call after a rest, memory.

:func:`sustain` asks a process of its own (:mod:`edgectl.engines.measure.sustained_child`) for a second of calls
after the other and notes what the machine says of itself beside each; :func:`judge` is pure and says what they
mean together. A device that is fast for ten seconds and slow for the rest of the day shows it here and nowhere else.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.histogram import Histogram, HistogramData
from edgectl.core.tensors import write_npz
from edgectl.engines.child import Conversation
from edgectl.engines.measure.conditions import CpuTimes, Heat, evidence_of, read_cpu, read_heat
from edgectl.engines.measure.contexts import busy_because
from edgectl.engines.measure.processes import MeasuredEngine
from edgectl.engines.timing import Ratio

__all__ = ["Second", "Sustained", "Window", "judge", "sustain", "windows_of"]

_REST_EVERY_S = 60.0
_RESTS = 10
"""In a run that is too short for one each minute."""
REST_S = 2.0
"""As long as a street without cars: clocks fall, caches go to others."""

_ASK_TIMEOUT_S = 120.0
_WARM_S = 5.0
_QUARTER_LEAST = 8
"""Seconds in a quarter of the run from which a drift is told."""
_BLOCK = 5
"""Seconds that are drawn together: neighbouring seconds are alike."""
_DRIFT = 0.05
_SLOW_CLOCK = 0.95
_GROWN_MB = 1.0
_MOST_SLOPE_POINTS = 300


@dataclass(frozen=True)
class Second:
    """About a second of calls, and the machine beside it."""

    at_s: float
    """Since the start, of its end."""
    p50_ms: float
    latency: HistogramData
    first_ms: float | None
    """Of the first call after a rest; it is in no other figure."""
    rss_mb: float
    heat: Heat
    others: float | None = None
    """Cores that computed for other processes meanwhile."""
    busy_because: tuple[str, ...] = ()


@dataclass(frozen=True)
class Window:
    """What is shown of a stretch of the run. Percentiles are None from too few calls."""

    start_s: float
    end_s: float
    n: int
    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None
    first_after_rest_ms: float | None
    """The slowest."""
    rss_mb: float
    temperature_c: float | None
    """The highest."""
    mhz: float | None
    """Median of the clocks of all cores."""
    throttled: bool
    busy: bool


@dataclass(frozen=True)
class Sustained:
    """What the whole run says."""

    seconds: float
    n: int
    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None
    drift: Ratio | None
    """Median latency of the last quarter ÷ the first after five seconds, with the 95 % interval of a bootstrap over
    blocks of seconds; None if the run was too short."""
    first_after_rest_ms: float | None
    """Median; ``rests`` of them."""
    rests: int
    memory_mb_per_h: Ratio | None
    """Theil–Sen slope of the resident memory with the 95 % interval of Sen (1968), MiB an hour."""
    temperature_c: tuple[float, float] | None
    """At the start, and the highest."""
    sentences: tuple[str, ...]
    """What follows from it, in words; the first one says whether it got slower."""


def sustain(
    engine: MeasuredEngine,
    *,
    seconds: float,
    rate: float | None = None,
    progress: Callable[[Sequence[Second]], None] = lambda seen: None,
    stop: Callable[[], bool] = lambda: False,
    cpu: Callable[[], CpuTimes | None] = read_cpu,
    heat: Callable[[], Heat] = read_heat,
    clock: Callable[[], float] = time.monotonic,
    rest_s: float = REST_S,
) -> list[Second]:
    """Run it for ``seconds`` in a process of its own; ``rate``: frames a second, like a camera (those that come while
    the engine computes are dropped), None: back to back. Each minute (ten times in a shorter run) it rests for
    ``rest_s``. ``stop`` is asked after each second. Raises :class:`EngineError` if it fails, with nothing of the run."""
    seen: list[Second] = []
    with tempfile.TemporaryDirectory(prefix="edgectl-sustained-") as folder:
        arguments = _files(Path(folder), engine)
        module = "edgectl.engines.measure.sustained_child"
        with Conversation(module, arguments, what="the engine in a process of its own") as child:

            def ask(**question: float | None) -> dict[str, Any]:
                return child.ask(question, timeout_s=_ASK_TIMEOUT_S + rest_s)

            ask(open=1)
            start = rested = clock()
            while clock() - start < seconds and not stop():
                rest = clock() - rested >= min(_REST_EVERY_S, seconds / _RESTS)
                before = cpu()
                answer = ask(seconds=1.0, rate=rate, rest_s=rest_s if rest else None)
                load = evidence_of(before, cpu(), answer["cpu_s"])
                if rest:
                    rested = clock()
                seen.append(
                    Second(
                        at_s=round(clock() - start, 3),
                        p50_ms=answer["p50_ms"],
                        latency=HistogramData.model_validate(answer["latency"]),
                        first_ms=answer["first_ms"],
                        rss_mb=answer["rss_mb"],
                        heat=heat(),
                        others=load.others,
                        busy_because=busy_because(load),
                    )
                )
                progress(seen)
    return seen


def windows_of(seen: Sequence[Second], most: int = 30) -> tuple[Window, ...]:
    """At most ``most`` stretches of equally many seconds, in order. Pure."""
    each = max(1, math.ceil(len(seen) / most))
    return tuple(_window(seen, i, min(len(seen), i + each)) for i in range(0, len(seen), each))


def judge(seen: Sequence[Second]) -> Sustained:
    """``seen``: at least one second. Pure."""
    whole = Histogram.merged(Histogram.of(s.latency) for s in seen)
    drift = _drift(seen)
    memory = _memory(seen)
    firsts = [s.first_ms for s in seen if s.first_ms is not None]
    p50 = float(np.median([s.p50_ms for s in seen]))
    first = float(np.median(firsts)) if firsts else None
    hot = [s.heat.temperature_c for s in seen if s.heat.temperature_c is not None]
    return Sustained(
        seconds=seen[-1].at_s,
        n=whole.n,
        p50_ms=round(p50, 5),
        p95_ms=_rounded(whole.percentile_ms(95)),
        p99_ms=_rounded(whole.percentile_ms(99)),
        drift=drift,
        first_after_rest_ms=_rounded(first),
        rests=len(firsts),
        memory_mb_per_h=memory,
        temperature_c=(hot[0], max(hot)) if hot else None,
        sentences=(
            _of_drift(seen, drift),
            *_of_heat(seen),
            *_of_rest(first, p50, len(firsts)),
            *_of_memory(seen, memory),
        ),
    )


def _of_drift(seen: Sequence[Second], drift: Ratio | None) -> str:
    if drift is None:
        return f"{seen[-1].at_s:.0f} s are too short to tell a drift: allow a minute"
    by = f"{drift.median - 1:+.1%} [{drift.low - 1:+.1%}, {drift.high - 1:+.1%}] from the first quarter to the last"
    if drift.low > 1 and drift.median > 1 + _DRIFT:
        said = f"it got slower: {by}"
    elif drift.high < 1 and drift.median < 1 - _DRIFT:
        said = f"it got faster: {by}"
    elif drift.low >= 1 - _DRIFT and drift.high <= 1 + _DRIFT:
        said = f"no drift: {by}"
    else:
        said = f"whether it drifts cannot be told: {by}; run it for longer"
    busy = [s for s in seen if s.busy_because]
    if busy:
        said += f"; the machine was busy in {len(busy)} of {len(seen)} s ({busy[-1].busy_because[0]})"
    return said


def _of_heat(seen: Sequence[Second]) -> list[str]:
    """What the machine itself says of throttling, or that it does not tell."""
    first, last = seen[0].heat, seen[-1].heat
    found = []
    if first.throttles is not None and last.throttles is not None and last.throttles > first.throttles:
        found.append(f"the processor throttled {last.throttles - first.throttles} times for heat")
    cooled = sum(bool(s.heat.cooling) for s in seen)
    if cooled:
        found.append(f"the kernel slowed the clock for heat in {cooled} of {len(seen)} s")
    clocks = [s.heat.mhz for s in seen if s.heat.mhz is not None]
    if len(clocks) >= 2 * _QUARTER_LEAST:
        quarter = len(clocks) // 4
        before, after = float(np.median(clocks[:quarter])), float(np.median(clocks[-quarter:]))
        if after < before * _SLOW_CLOCK:
            found.append(f"the clock fell from {before:.0f} to {after:.0f} MHz")
    if all(s.heat.temperature_c is None for s in seen):
        found.append("this machine does not tell its temperature")
    if first.throttles is None and first.cooling is None and not clocks:
        found.append(
            "nor whether it throttles" if found else "this machine does not tell whether it throttles"
        )
    return found


def _of_rest(first: float | None, p50: float, rests: int) -> list[str]:
    if first is None:
        return []
    times = "rest" if rests == 1 else "rests"
    return [
        f"first call after a rest of {REST_S:g} s: {first:.3f} ms, {first / p50:.1f} × the median ({rests} {times})"
    ]


def _of_memory(seen: Sequence[Second], slope: Ratio | None) -> list[str]:
    if slope is None:
        return []
    grown = slope.median * seen[-1].at_s / 3600
    said = f"{slope.median:+.1f} MiB an hour [{slope.low:+.1f}, {slope.high:+.1f}]"
    if slope.low > 0 and grown > _GROWN_MB:
        return [f"memory grows: {said}, {grown:.1f} MiB in this run"]
    return [f"memory grew by less than a MiB: {said}" if slope.low > 0 else f"memory is flat: {said}"]


def _drift(seen: Sequence[Second]) -> Ratio | None:
    medians = np.asarray([s.p50_ms for s in seen if s.at_s > _WARM_S])
    quarter = len(medians) // 4
    if quarter < _QUARTER_LEAST:
        return None
    first, last = medians[:quarter], medians[-quarter:]
    rng = np.random.default_rng(0)
    ratios = [
        float(np.median(_blocks_of(last, rng)) / np.median(_blocks_of(first, rng))) for _ in range(1000)
    ]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(float(np.median(last) / np.median(first)), float(low), float(high), 2 * quarter)


def _blocks_of(values: Any, rng: np.random.Generator) -> Any:
    """As many values, in blocks of neighbours drawn with replacement (Künsch 1989)."""
    starts = rng.integers(0, len(values) - _BLOCK + 1, math.ceil(len(values) / _BLOCK))
    return np.concatenate([values[s : s + _BLOCK] for s in starts])[: len(values)]


def _memory(seen: Sequence[Second]) -> Ratio | None:
    """Of the seconds after the first tenth: what a runtime allocates with its first calls is no leak."""
    late = [s for s in seen if s.at_s > max(_WARM_S, seen[-1].at_s / 10)]
    if len(late) < 2 * _QUARTER_LEAST:
        return None
    chosen = [late[i] for i in np.linspace(0, len(late) - 1, min(len(late), _MOST_SLOPE_POINTS)).astype(int)]
    hours = np.asarray([s.at_s for s in chosen]) / 3600
    mb = np.asarray([s.rss_mb for s in chosen])
    i, j = np.triu_indices(len(chosen), 1)
    slopes = np.sort((mb[j] - mb[i]) / (hours[j] - hours[i]))
    n = len(chosen)
    reach = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = slopes[max(0, math.floor((len(slopes) - reach) / 2))]
    high = slopes[min(len(slopes) - 1, math.ceil((len(slopes) + reach) / 2))]
    return Ratio(float(np.median(slopes)), float(low), float(high), n)


def _window(seen: Sequence[Second], first: int, end: int) -> Window:
    part = seen[first:end]
    whole = Histogram.merged(Histogram.of(s.latency) for s in part)
    before = seen[max(0, first - 1)].heat.throttles
    after = part[-1].heat.throttles
    counted = before is not None and after is not None and after > before
    return Window(
        start_s=seen[first - 1].at_s if first else 0.0,
        end_s=part[-1].at_s,
        n=whole.n,
        p50_ms=round(float(np.median([s.p50_ms for s in part])), 5),
        p95_ms=_rounded(whole.percentile_ms(95)),
        p99_ms=_rounded(whole.percentile_ms(99)),
        first_after_rest_ms=max((s.first_ms for s in part if s.first_ms is not None), default=None),
        rss_mb=part[-1].rss_mb,
        temperature_c=max(
            (s.heat.temperature_c for s in part if s.heat.temperature_c is not None), default=None
        ),
        mhz=_middle([s.heat.mhz for s in part if s.heat.mhz is not None]),
        throttled=counted or any(s.heat.cooling for s in part),
        busy=any(s.busy_because for s in part),
    )


def _middle(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 1) if values else None


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 4)


def _files(folder: Path, engine: MeasuredEngine) -> list[str]:
    model, feeds = folder / "engine", folder / "feeds.npz"
    if isinstance(engine.model, Path):
        model = engine.model
    else:
        model.write_bytes(engine.model)
    feeds.write_bytes(
        write_npz({f"{i}/{n}": np.asarray(a) for i, f in enumerate(engine.feeds or ()) for n, a in f.items()})
    )
    return [str(model), engine.runtime, engine.settings.model_dump_json(), str(feeds)]
