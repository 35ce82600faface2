"""Measure engines in new processes, in turn: cold start, memory, processor time, and latency in each context
of a device.

One process for each contender, all alive at once, asked one after the other for a block of calls: so the
latencies are paired, and memory is each one's own. Blocks are called back to back (*alone*), paced like a
camera, and back to back beside other work (:mod:`edgectl.engines.measure.contexts`). That is repeated with
new processes, because a process may be lucky (where its memory lies, which core it started on). What else the
machine did meanwhile is part of the result. Build and bench both measure here. ``python -m
edgectl.engines.measure.processes MODEL RUNTIME SETTINGS FEEDS`` is the child.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError
from edgectl.core.measured import Context, ContextRun, ProcessRun, Standing
from edgectl.core.memory import EngineMemory
from edgectl.core.tensors import write_npz
from edgectl.engines.base import Feeds
from edgectl.engines.child import Conversation, converse
from edgectl.engines.measure.called import CalledEngine, FramePacer
from edgectl.engines.measure.conditions import CpuTimes, evidence_of, read_cpu
from edgectl.engines.measure.contexts import (
    PERIOD_S,
    Load,
    block_ratio,
    busy_because,
    calls_in_a_row,
    medians,
    overall,
    spread,
    standing,
)
from edgectl.engines.measure.memory import median_memory
from edgectl.engines.resident import MemoryGrowth, memory_in, peak_rss_mb
from edgectl.engines.timing import Ratio, Samples, percentile

__all__ = [
    "LEAST_RUNS",
    "RUNS",
    "SECONDS",
    "MeasuredEngine",
    "ProcessTimes",
    "compared",
    "evidence",
    "measure_in_processes",
    "measure_memory",
    "standing_of",
    "summarise_processes",
]

# each costs imports and an open a contender; one and the same engine of 0.02 ms differed by 2 % between two
# processes
RUNS = 5
LEAST_RUNS = 2
"""That are started whatever the time is."""
_BLOCKS = (4, 24)  # a process and context: fewest and most
SECONDS = 1.0
"""What a context takes a process, if nothing else is said."""
_PACED_BLOCK = 4  # or fewer long calls
_SHORT_S = 1e-3
_FEEDS = 4
_MEMORY_CALLS = 8
_TIMEOUT_S = 120.0
_MODULE = "edgectl.engines.measure.processes"
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n for _ in range(100000): pass"


@dataclass(frozen=True)
class MeasuredEngine:
    model: bytes | Path = field(repr=False)
    """An ONNX file, or its bytes; a file where its weights lie beside it."""
    runtime: str
    settings: SessionSettings
    feeds: Sequence[Feeds] | None = field(default=None, repr=False)
    """What it is run with, if not with what the others are (another size of picture, pixels)."""


@dataclass(frozen=True)
class ProcessTimes:
    """What one contender did in all of its processes. ``failed`` says why one of them did not get through."""

    cold_s: tuple[float, ...] = ()
    rss_mb: tuple[float, ...] = ()
    cpu_ms: tuple[float, ...] = ()
    ms: tuple[float, ...] = ()
    """Alone, blocks of ``block`` calls in a row, in turn with those of the other contenders: equally many
    blocks, pair by pair."""
    loaded_ms: tuple[float, ...] = ()
    """The same beside ``busy`` processes that compute."""
    busy: int = 0
    failed: str | None = None
    block: int = 1
    paced_ms: tuple[float, ...] = ()
    paced_block: int = 1
    others: tuple[float | None, ...] = ()
    """A run each: cores that computed for others while the contenders ran alone and paced."""
    steal: tuple[float | None, ...] = ()
    cores: int = 1
    memory: tuple[EngineMemory, ...] = ()
    """What the engine added, a process each; fewer where the kernel does not tell."""

    def of(self, context: Context) -> Samples:
        """The medians of the blocks."""
        calls, block = {
            Context.ALONE: (self.ms, self.block),
            Context.PACED: (self.paced_ms, self.paced_block),
            Context.BESIDE: (self.loaded_ms, self.block),
        }[context]
        return medians(np.asarray(calls, np.float64), block)


def measure_in_processes(
    contenders: Mapping[str, MeasuredEngine],
    feeds: Sequence[Feeds],
    *,
    runs: int = RUNS,
    seconds: float = SECONDS,
    cpu: Callable[[], CpuTimes | None] = read_cpu,
    enough: Callable[[], bool] = lambda: False,
    together: bool = True,
) -> dict[str, ProcessTimes]:
    """``runs`` times a new process for each contender, which runs for about ``seconds`` in each context.
    One that fails is left out of the rest and of nobody else's figures. ``cpu`` reads the machine's
    counters. ``enough`` is asked before the third run and each one after it whether to stop. ``together`` False: one process
    at a time, for engines of which memory holds only one; each turn, one after the other, and the pairs lie seconds apart."""
    total: dict[str, list[ProcessTimes]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory(prefix="edgectl-fresh-") as folder:
        arguments = _files(Path(folder), contenders, feeds[:_FEEDS])
        extent: _Extent | None = None
        for turn in range(runs):
            if turn >= LEAST_RUNS and enough():
                break
            alive = {n: a for n, a in arguments.items() if all(t.failed is None for t in total[n])}
            for some in [alive] if together else [{n: a} for n, a in alive.items()]:
                found, extent = _one_run(some, seconds, cpu, extent)
                for name, times in found.items():
                    total[name].append(times)
    return {name: _joined(parts) for name, parts in total.items()}


def measure_memory(engine: MeasuredEngine, *, runs: int = 3) -> EngineMemory | None:
    """What an engine that has feeds of its own adds to a process, as the median of ``runs`` new ones; None where the
    kernel does not tell. Raises :class:`EngineError`."""
    found: list[EngineMemory] = []
    with tempfile.TemporaryDirectory(prefix="edgectl-memory-") as folder:
        arguments = _files(Path(folder), {"engine": engine}, ())["engine"]
        for _ in range(runs):
            with Conversation(_MODULE, arguments, what="the engine in a process of its own") as child:
                child.ask({"open": 1}, timeout_s=_TIMEOUT_S)
                child.ask({"calls": _MEMORY_CALLS, "warm": 1}, timeout_s=_TIMEOUT_S)
                found += memory_in(child.ask({"memory": 1}, timeout_s=_TIMEOUT_S))
    return median_memory(found)


def evidence(reference: ProcessTimes) -> Load:
    """How busy the machine was in the worst of the runs, and how unsteady the reference."""
    others = [o for o in reference.others if o is not None]
    steal = [x for x in reference.steal if x is not None]
    unsteady = spread(reference.of(Context.ALONE), runs=len(reference.cold_s))
    return Load(max(others, default=None), reference.cores, max(steal, default=None), round(unsteady, 4))


def compared(
    times: ProcessTimes, reference: ProcessTimes, *, busy: bool, min_speedup: float = 1.0
) -> dict[Context, tuple[Standing, Ratio]]:
    """How one contender did against another one of the same measurement, in each context in which both
    have at least three blocks."""
    found = {}
    for context in Context:
        ours, theirs = times.of(context), reference.of(context)
        n = min(len(ours), len(theirs))
        if n >= 3:
            ratio = block_ratio(ours[:n], theirs[:n], runs=max(1, len(times.cold_s)))
            middle = float(np.median(theirs))
            found[context] = (standing(ratio, busy=busy, reference_ms=middle, min_speedup=min_speedup), ratio)
    return found


def standing_of(times: ProcessTimes, reference: ProcessTimes, *, min_speedup: float = 1.0) -> Standing:
    """What all contexts of a device say together."""
    busy = bool(busy_because(evidence(reference)))
    return overall(compared(times, reference, busy=busy, min_speedup=min_speedup))


def summarise_processes(
    times: ProcessTimes, reference: ProcessTimes | None, shown: ProcessTimes | None = None
) -> ProcessRun:
    """The figures of one contender that did not fail; ``reference``: the times that it is compared with,
    of the same measurement. ``shown``: those of the engine that its contexts are told against; None: of
    that one itself."""
    ms, loaded = np.asarray(times.ms), np.asarray(times.loaded_ms)
    ratio = None if reference is None else compared(times, reference, busy=False).get(Context.ALONE)
    because = busy_because(evidence(reference or times))
    against = {} if shown is None else compared(times, shown, busy=bool(because))
    contexts = tuple(_context_run(c, times.of(c), against.get(c)) for c in Context if len(times.of(c)))
    low, middle, high = (None, None, None) if ratio is None else _figures(ratio[1])
    return ProcessRun(
        runs=len(times.cold_s),
        cold_start_s=round(float(np.median(times.cold_s)), 4),
        rss_mb=round(max(times.rss_mb), 1),
        cpu_ms=round(float(np.median(times.cpu_ms)), 4),
        gap_ms=round(PERIOD_S * 1e3, 1),
        p50_ms=round(float(np.median(ms)), 4),
        p95_ms=_p95(ms),
        p95_loaded_ms=_p95(loaded),
        busy=times.busy,
        n=len(ms),
        ratio_to_float=middle,
        ratio_low=low,
        ratio_high=high,
        contexts=contexts,
        others=evidence(times).others,
        busy_because=because,
        memory=median_memory(times.memory),
    )


def _context_run(context: Context, blocks: Samples, against: tuple[Standing, Ratio] | None) -> ContextRun:
    p50 = round(float(np.median(blocks)), 5)
    if against is None:
        return ContextRun(context=context, p50_ms=p50)
    low, middle, high = _figures(against[1])
    return ContextRun(context=context, p50_ms=p50, ratio=middle, low=low, high=high, standing=against[0])


def _figures(ratio: Ratio) -> tuple[float, float, float]:
    return round(ratio.low, 4), round(ratio.median, 4), round(ratio.high, 4)


def _p95(ms: Samples) -> float | None:
    value = percentile(ms, 95)
    return None if value is None else round(value, 4)


def _files(
    folder: Path, contenders: Mapping[str, MeasuredEngine], feeds: Sequence[Feeds]
) -> dict[str, list[str]]:
    """The command line of each contender. Contenders with one model share its file, so that the page cache
    treats them alike."""
    paths: dict[bytes, Path] = {}
    lines = {}
    for n, c in contenders.items():
        own = feeds if c.feeds is None else c.feeds[:_FEEDS]
        data = write_npz({f"{i}/{name}": np.asarray(a) for i, f in enumerate(own) for name, a in f.items()})
        for content, kind in ((data, "npz"), (c.model, "onnx")):
            if isinstance(content, bytes) and content not in paths:
                paths[content] = folder / f"{len(paths)}.{kind}"
                paths[content].write_bytes(content)
        model = c.model if isinstance(c.model, Path) else paths[c.model]
        lines[n] = [str(model), c.runtime, c.settings.model_dump_json(), str(paths[data])]
    return lines


@dataclass(frozen=True)
class _Extent:
    """How much is called, the same in every run: calls in a row of each contender, blocks of each context."""

    in_a_row: Mapping[str, int]
    blocks: int
    paced: int

    def paced_in_a_row(self, name: str) -> int:
        return min(_PACED_BLOCK, self.in_a_row.get(name, 1))

    def warm_calls(self, name: str) -> int:
        """Before each block, not timed. None where all calls are long, which feel it little: what is compared is
        either warmed up all or not at all."""
        if max(self.in_a_row.values(), default=1) == 1:
            return 0
        return max(1, self.in_a_row.get(name, 1) // 8)

    @classmethod
    def fitting(cls, first_s: Mapping[str, float], seconds: float) -> _Extent:
        in_a_row = {n: calls_in_a_row(s * 1e3) for n, s in first_s.items()}
        longest = max((in_a_row[n] * s for n, s in first_s.items()), default=1.0)
        slowest = max(first_s.values(), default=1.0)
        # after a rest such a call takes a fifth more or less each time
        paced_s = seconds * (2 if slowest < _SHORT_S else 1)
        frames_s = max(
            (min(_PACED_BLOCK, in_a_row[n]) * max(PERIOD_S, s) for n, s in first_s.items()), default=1.0
        )
        return cls(
            in_a_row,
            blocks=int(np.clip(seconds / longest, *_BLOCKS)),
            paced=int(np.clip(paced_s / frames_s, *_BLOCKS)),
        )

    def with_others(self, first_s: Mapping[str, float]) -> _Extent:
        """For contenders that start later, too: as many blocks, so that there are pairs."""
        more = {n: calls_in_a_row(s * 1e3) for n, s in first_s.items()}
        return replace(self, in_a_row={**more, **self.in_a_row})


def _one_run(
    arguments: Mapping[str, list[str]],
    seconds: float,
    cpu: Callable[[], CpuTimes | None],
    extent: _Extent | None,
) -> tuple[dict[str, ProcessTimes], _Extent]:
    found: dict[str, dict[str, Any]] = {
        n: {"ms": [], "loaded_ms": [], "paced_ms": [], "cpu": []} for n in arguments
    }
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        children = {
            n: stack.enter_context(Conversation(_MODULE, a, what=f"{n} in a process of its own"))
            for n, a in arguments.items()
        }

        def ask(name: str, **question: float) -> dict[str, Any]:
            if name in failed:
                return {}
            try:
                return children[name].ask(question, timeout_s=_TIMEOUT_S)
            except EngineError as e:
                failed[name] = e.message
                return {}

        def own_s() -> float:
            return time.process_time() + sum(float(ask(n, cpu=1).get("cpu_s", 0.0)) for n in children)

        for n in children:
            # its imports, so that they disturb nobody's start
            ask(n)
        for n in children:
            found[n] |= ask(n, open=1)
        first_s = {n: max(f["first_s"], 1e-6) for n, f in found.items() if "first_s" in f}
        extent = _Extent.fitting(first_s, seconds) if extent is None else extent.with_others(first_s)
        in_a_row = {n: {"calls": extent.in_a_row.get(n, 1), "warm": extent.warm_calls(n)} for n in children}
        like_a_camera = {
            n: {"calls": extent.paced_in_a_row(n), "period_s": PERIOD_S, "warm": min(1, extent.warm_calls(n))}
            for n in children
        }
        used, before = own_s(), cpu()
        _in_turn(in_a_row, ask, extent.blocks, found, "ms")
        _in_turn(like_a_camera, ask, extent.paced, found, "paced_ms")
        after = cpu()
        seen = evidence_of(before, after, own_s() - used)
        with _busy() as busy:
            _in_turn(in_a_row, ask, extent.blocks, found, "loaded_ms")
        for n in children:
            found[n] |= ask(n, memory=1)

    def times(n: str) -> ProcessTimes:
        f = found[n]
        return ProcessTimes(
            (f["cold_s"],),
            (f["rss_mb"],),
            (float(np.mean(f["cpu"])),),
            tuple(f["ms"]),
            tuple(f["loaded_ms"]),
            busy,
            block=extent.in_a_row[n],
            paced_ms=tuple(f["paced_ms"]),
            paced_block=extent.paced_in_a_row(n),
            others=(seen.others,),
            steal=(seen.steal,),
            cores=seen.cores,
            memory=memory_in(f),
        )

    return {n: ProcessTimes(failed=failed[n]) if n in failed else times(n) for n in found}, extent


def _in_turn(
    questions: Mapping[str, Mapping[str, float]],
    ask: Any,
    blocks: int,
    found: dict[str, dict[str, Any]],
    key: str,
) -> None:
    order = list(questions)
    for _ in range(blocks):
        for n in order:
            answer = ask(n, **questions[n])
            found[n][key] += [round(ms, 5) for ms in answer.get("ms", [])]
            if "cpu_ms" in answer:
                found[n]["cpu"].append(answer["cpu_ms"])
        order.reverse()


def _joined(parts: Sequence[ProcessTimes]) -> ProcessTimes:
    failed = next((p.failed for p in parts if p.failed is not None), None)
    if failed is not None:
        return ProcessTimes(failed=failed)

    def all_of(series: Callable[[ProcessTimes], tuple[float, ...]]) -> tuple[float, ...]:
        return tuple(x for p in parts for x in series(p))

    return ProcessTimes(
        all_of(lambda p: p.cold_s),
        all_of(lambda p: p.rss_mb),
        all_of(lambda p: p.cpu_ms),
        all_of(lambda p: p.ms),
        all_of(lambda p: p.loaded_ms),
        parts[0].busy,
        block=parts[0].block,
        paced_ms=all_of(lambda p: p.paced_ms),
        paced_block=parts[0].paced_block,
        others=tuple(x for p in parts for x in p.others),
        steal=tuple(x for p in parts for x in p.steal),
        cores=parts[0].cores,
        memory=tuple(m for p in parts for m in p.memory),
    )


@contextlib.contextmanager
def _busy() -> Iterator[int]:
    """Processes that compute and nothing else, on all cores but one (on one core: one). They end with this
    process, too."""
    count = max(1, len(os.sched_getaffinity(0)) - 1)
    command = [sys.executable, "-c", _BUSY, str(os.getpid())]
    processes = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(count)
    ]
    try:
        time.sleep(0.05)  # until they compute
        yield count
    finally:
        for p in processes:
            p.kill()
            p.wait()


class _Child:
    """The other side: opens the engine when asked, then runs it as often as asked."""

    def __init__(self, engine: CalledEngine) -> None:
        self._engine = engine
        self._grown = MemoryGrowth()
        if engine.runtime == "openvino":
            import openvino  # noqa: F401  loading the library is not the engine's start; ONNX Runtime is there already

    def handle(self, question: dict[str, Any]) -> dict[str, Any]:
        if "open" in question:
            return self._open()
        if "memory" in question:
            return {"rss_mb": peak_rss_mb(), **self._grown.figures()}
        if "cpu" in question:
            return {"cpu_s": time.process_time()}
        if "period_s" in question:
            return self._paced(
                int(question["calls"]), float(question["period_s"]), warm=int(question["warm"])
            )
        if "calls" in question:
            calls = int(question["calls"])
            for _ in range(int(question["warm"])):
                self._engine.call_ms()  # others ran since: the caches are theirs
            return {"ms": [self._engine.call_ms() for _ in range(calls)]}
        return {}

    def _open(self) -> dict[str, Any]:
        start = time.perf_counter()
        self._engine.open()
        self._engine.call_ms()
        cold = time.perf_counter() - start
        first_ms = min(self._engine.call_ms() for _ in range(2))  # one may be held up
        if calls_in_a_row(first_ms) > 1:
            first_ms = min(first_ms, self._engine.call_ms())
        return {"cold_s": cold, "first_s": first_ms / 1e3}

    def _paced(self, calls: int, period_s: float, *, warm: int) -> dict[str, Any]:
        """A call for each frame of a camera. Processor time of the process between the first rest and the
        last: what threads burn while they wait is in it."""
        for _ in range(warm):
            self._engine.call_ms()
        pacer, ms = FramePacer(period_s), []
        before = time.process_time()
        for _ in range(calls):
            pacer.wait()
            ms.append(self._engine.call_ms())
        return {"ms": ms, "cpu_ms": (time.process_time() - before) / calls * 1e3}


if __name__ == "__main__":
    sys.exit(converse(_Child(CalledEngine(*sys.argv[1:5])).handle))
