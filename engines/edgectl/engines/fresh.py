"""Measure engines in new processes, in turn: cold start, memory, processor time, latency alone and beside other work.

One process for each contender, all alive at once, asked one after the other for a few inferences each: so the latencies are paired,
and memory is each one's own. That is repeated with new processes, because a process may be lucky (where its memory lies, which core
it started on). ``python -m edgectl.engines.fresh MODEL RUNTIME SETTINGS FEEDS`` is the child.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError
from edgectl.core.measured import FreshRun
from edgectl.core.tensors import read_npz, write_npz
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.child import Conversation, converse, peak_rss_mb
from edgectl.engines.open import open_model
from edgectl.engines.timing import Samples, paired_ratio, percentile

__all__ = ["SECONDS", "Contender", "FreshTimes", "measure_fresh", "summarise_fresh"]

RUNS = 3  # each costs imports and an open a contender, as much as its inferences
GAP_S = 0.02
_CALLS = (16, 44)  # a process: fewest and most timed inferences; 3 × 44 are enough for a p95
SECONDS = 1.5
"""What those take a process, if nothing else is said."""
_IN_TURN = 4  # inferences at a time
_PACED = 6
_FEEDS = 4
_TIMEOUT_S = 120.0
_MAX_FEED_BYTES = 1 << 30
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n for _ in range(100000): pass"


@dataclass(frozen=True)
class Contender:
    model: bytes = field(repr=False)
    runtime: str
    settings: SessionSettings


@dataclass(frozen=True)
class FreshTimes:
    """What one contender did in all of its processes. ``failed`` says why one of them did not get through."""

    cold_s: tuple[float, ...] = ()
    rss_mb: tuple[float, ...] = ()
    cpu_ms: tuple[float, ...] = ()
    ms: tuple[float, ...] = ()
    """In turn with those of the other contenders: equally long, pair by pair."""
    loaded_ms: tuple[float, ...] = ()
    busy: int = 0
    failed: str | None = None


def measure_fresh(
    contenders: Mapping[str, Contender], feeds: Sequence[Feeds], *, runs: int = RUNS, seconds: float = SECONDS
) -> dict[str, FreshTimes]:
    """``runs`` times a new process for each contender, which runs for about ``seconds`` alone and as long beside other work. One that
    fails is left out of the rest and of nobody else's figures."""
    total: dict[str, list[FreshTimes]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory(prefix="edgectl-fresh-") as folder:
        arguments = _files(Path(folder), contenders, feeds[:_FEEDS])
        for _ in range(runs):
            alive = {n: a for n, a in arguments.items() if all(t.failed is None for t in total[n])}
            for name, times in _one_run(alive, seconds).items():
                total[name].append(times)
    return {name: _joined(parts) for name, parts in total.items()}


def summarise_fresh(times: FreshTimes, reference: FreshTimes | None) -> FreshRun:
    """The figures of one contender that did not fail; ``reference``: the times that it is compared with, of the same measurement."""
    ms, loaded = np.asarray(times.ms), np.asarray(times.loaded_ms)
    ratio = None if reference is None else paired_ratio(ms, np.asarray(reference.ms))
    return FreshRun(
        runs=len(times.cold_s), cold_start_s=round(float(np.median(times.cold_s)), 4), rss_mb=round(max(times.rss_mb), 1),
        cpu_ms=round(float(np.median(times.cpu_ms)), 4), gap_ms=GAP_S * 1e3, p50_ms=round(float(np.median(ms)), 4),
        p95_ms=_p95(ms), p95_loaded_ms=_p95(loaded), busy=times.busy, n=len(ms),
        ratio_to_float=None if ratio is None else round(ratio.median, 4), ratio_low=None if ratio is None else round(ratio.low, 4),
        ratio_high=None if ratio is None else round(ratio.high, 4),
    )  # fmt: skip


def _p95(ms: Samples) -> float | None:
    value = percentile(ms, 95)
    return None if value is None else round(value, 4)


def _files(folder: Path, contenders: Mapping[str, Contender], feeds: Sequence[Feeds]) -> dict[str, list[str]]:
    """The command line of each contender. Contenders with one model share its file, so that the page cache treats them alike."""
    data = folder / "feeds.npz"
    data.write_bytes(write_npz({f"{i}/{n}": np.asarray(a) for i, f in enumerate(feeds) for n, a in f.items()}))
    paths: dict[bytes, Path] = {}
    for c in contenders.values():
        if c.model not in paths:
            paths[c.model] = folder / f"{len(paths)}.onnx"
            paths[c.model].write_bytes(c.model)
    return {n: [str(paths[c.model]), c.runtime, c.settings.model_dump_json(), str(data)] for n, c in contenders.items()}


def _one_run(arguments: Mapping[str, list[str]], seconds: float) -> dict[str, FreshTimes]:
    found: dict[str, dict[str, Any]] = {n: {"ms": [], "loaded_ms": []} for n in arguments}
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        children = {
            n: stack.enter_context(Conversation("edgectl.engines.fresh", a, what=f"{n} in a process of its own"))
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

        for n in children:
            ask(n)  # its imports, so that they disturb nobody's start
        for n in children:
            found[n] |= ask(n, open=1)
        slowest = max((f["first_s"] for f in found.values() if "first_s" in f), default=0.0)
        calls = int(np.clip(seconds / max(slowest, 1e-6), *_CALLS)) // _IN_TURN * _IN_TURN
        _in_turn(children, ask, calls, found, "ms")
        for n in children:
            found[n] |= ask(n, calls=_PACED, gap_s=GAP_S)
        with _busy() as busy:
            _in_turn(children, ask, calls, found, "loaded_ms")
        for n in children:
            found[n] |= ask(n, memory=1)
    return {n: FreshTimes(failed=failed[n]) if n in failed else _times(f, busy) for n, f in found.items()}


def _in_turn(children: Mapping[str, Conversation], ask: Any, calls: int, found: dict[str, dict[str, Any]], key: str) -> None:
    order = list(children)
    for _ in range(0, calls, _IN_TURN):
        for n in order:
            found[n][key] += ask(n, calls=_IN_TURN).get("ms", [])
        order.reverse()


def _times(found: Mapping[str, Any], busy: int) -> FreshTimes:
    return FreshTimes(
        (found["cold_s"],), (found["rss_mb"],), (found["cpu_ms"],), tuple(found["ms"]), tuple(found["loaded_ms"]), busy
    )


def _joined(parts: Sequence[FreshTimes]) -> FreshTimes:
    failed = next((p.failed for p in parts if p.failed is not None), None)
    if failed is not None:
        return FreshTimes(failed=failed)

    def all_of(series: Callable[[FreshTimes], tuple[float, ...]]) -> tuple[float, ...]:
        return tuple(x for p in parts for x in series(p))

    return FreshTimes(
        all_of(lambda p: p.cold_s), all_of(lambda p: p.rss_mb), all_of(lambda p: p.cpu_ms), all_of(lambda p: p.ms),
        all_of(lambda p: p.loaded_ms), parts[0].busy,
    )  # fmt: skip


@contextlib.contextmanager
def _busy() -> Iterator[int]:
    """Processes that compute and nothing else, on all cores but one (on one core: one). They end with this process, too."""
    count = max(1, len(os.sched_getaffinity(0)) - 1)
    command = [sys.executable, "-c", _BUSY, str(os.getpid())]
    processes = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        time.sleep(0.05)  # until they compute
        yield count
    finally:
        for p in processes:
            p.kill()
            p.wait()


class _Child:
    """The other side: opens the engine when asked, then runs it as often as asked."""

    def __init__(self, model: str, runtime: str, settings: str, feeds: str) -> None:
        self._model, self._runtime, self._settings = Path(model), runtime, SessionSettings.model_validate_json(settings)
        arrays = read_npz(Path(feeds), max_bytes=_MAX_FEED_BYTES)
        count = 1 + max(int(n.split("/", 1)[0]) for n in arrays)
        self._feeds = [{n.split("/", 1)[1]: a for n, a in arrays.items() if n.startswith(f"{i}/")} for i in range(count)]
        if runtime == "openvino":
            import openvino  # noqa: F401  loading the library is not the engine's start; ONNX Runtime is there already
        self._engine: Engine | None = None
        self._turn = 0

    def handle(self, question: dict[str, Any]) -> dict[str, Any]:
        if "open" in question:
            return self._open()
        if "memory" in question:
            return {"rss_mb": peak_rss_mb()}
        if "gap_s" in question:
            return self._paced(int(question["calls"]), float(question["gap_s"]))
        if "calls" in question:
            self._call()  # others ran since: the caches are theirs
            return {"ms": [self._call() for _ in range(int(question["calls"]))]}
        return {}

    def _open(self) -> dict[str, Any]:
        start = time.perf_counter()
        self._engine = open_model(self._model, self._settings, runtime=self._runtime)
        self._call()
        cold = time.perf_counter() - start
        return {"cold_s": cold, "first_s": min(self._call() for _ in range(3)) / 1e3}

    def _paced(self, calls: int, gap_s: float) -> dict[str, Any]:
        """Processor time of the process between the first rest and the last: what threads burn while they wait is in it."""
        self._call()
        before = time.process_time()
        for _ in range(calls):
            time.sleep(gap_s)
            self._call()
        return {"cpu_ms": (time.process_time() - before) / calls * 1e3}

    def _call(self) -> float:
        assert self._engine is not None
        self._turn += 1
        feeds = self._feeds[self._turn % len(self._feeds)]
        start = time.perf_counter_ns()
        self._engine.run(feeds)
        return (time.perf_counter_ns() - start) / 1e6


if __name__ == "__main__":
    sys.exit(converse(_Child(*sys.argv[1:5]).handle))
