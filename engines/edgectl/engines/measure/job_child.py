"""Measure one job (:mod:`edgectl.engines.measure.job`): in a process that may crash, hang or be killed without harm to
whoever started it. ``python -m edgectl.engines.measure.job_child BLOBS JOB RESULT CACHE UNTIL`` writes the result to a
file and says ``{"ok": true}``. What it writes meanwhile lies beside RESULT, in ``scratch/``: whoever kills it knows where
it is. UNTIL (seconds of ``CLOCK_MONOTONIC``) is when it is killed. On a slow device that comes before everything is
measured as often as it was asked for: then it is measured less often.

Below everything else of the device: it has a lower priority than others, is the first that the kernel ends where
memory is short, and writes no core. Its children have all of that from it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from edgectl.core.bundle import Descriptor, Variant
from edgectl.core.errors import EdgectlError, IntegrityError
from edgectl.core.files import atomic_write, file_digest, hex_of
from edgectl.core.schema import parse_json
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.child import answer
from edgectl.engines.finalise.finalise import finalise
from edgectl.engines.finalise.golden import check_golden, read_golden
from edgectl.engines.finalise.guarded import guarded_openings, open_guarded
from edgectl.engines.finalise.open import engine_file
from edgectl.engines.measure.called import read_feeds
from edgectl.engines.measure.conditions import read_conditions, wait_until_quiet
from edgectl.engines.measure.job import Contender, GoldenFigures, JobFigures, MeasureJob, RoundTimes
from edgectl.engines.measure.processes import LEAST_RUNS, MeasuredEngine, ProcessTimes, measure_in_processes
from edgectl.engines.timing import LEAST_ROUNDS, LONG_ROUND_S, WARM_UP, interleave

__all__ = ["MeasureResult", "measure_job", "no_time_for_more"]

_NICE = 10
_OOM_SCORE = 1000
_MAX_JOB_BYTES = 1 << 20
_USED = 0.9
"""Of the time: the rest is for closing and writing."""
_SLOWER = 1.25
"""Than on the average may the next round be."""


class MeasureResult(JobFigures):
    processes: dict[str, ProcessTimes] = Field(default={}, max_length=128)


def measure_job(job: MeasureJob, blobs: Path, cache: Path, until_s: float = math.inf) -> MeasureResult:
    """Measure it here. ``blobs``: a folder with its files, named by their digests; ``cache``: of finalised engines;
    ``until_s``: of ``time.monotonic``, when it has to be done: rounds and processes that would not be are left out, but
    for the first three and the first two.

    A contender that does not open, or does not reproduce its golden outputs, is among ``failed`` and costs nobody
    else. Raises :class:`IntegrityError` for files that are not what the job says, :class:`BundleError` for
    feeds that are none.
    """
    start = time.monotonic()
    for d in job.files:
        path = blobs / hex_of(d.digest)
        if not path.is_file() or path.stat().st_size != d.size or file_digest(path) != d.digest:
            raise IntegrityError(f"file {d.digest[:19]}… of the job is not here whole")
    failed: dict[str, str] = {}
    found: dict[str, Any]
    if job.kind == "quiet":
        found = {"quiet": wait_until_quiet(job.seconds)}
    elif job.kind == "rounds":
        found = {"rounds": _rounds(job, blobs, failed, until_s)}
    else:
        found = _processes(job, blobs, cache, failed, until_s)
    return MeasureResult.model_validate(
        {
            **found,
            "failed": {n: why[:1000] for n, why in failed.items()},
            "conditions": read_conditions(),
            "seconds": round(time.monotonic() - start, 3),
        }
    )


def _rounds(job: MeasureJob, blobs: Path, failed: dict[str, str], until_s: float) -> dict[str, RoundTimes]:
    feeds = _feeds(job, blobs)
    engines: dict[str, Engine] = {}
    try:
        with guarded_openings():
            for c in job.contenders:
                assert c.model is not None
                try:
                    engine = open_guarded(_path(blobs, c.model), c.session, runtime=c.runtime)
                except EdgectlError as e:
                    failed[c.name] = e.message
                    continue
                engines[c.name] = engine
                try:
                    engine.run(feeds[0])
                except EdgectlError as e:
                    failed[c.name] = e.message
                    engines.pop(c.name).close()
        if not engines:
            return {}
        runs = {n: _caller(e, feeds, i) for i, (n, e) in enumerate(engines.items())}
        times = interleave(
            runs,
            seconds=job.seconds,
            min_rounds=job.fewest,
            max_rounds=job.most,
            long_s=LONG_ROUND_S if job.seconds > 0 else math.inf,
            warm_up=WARM_UP,
            enough=no_time_for_more(until_s, done=WARM_UP + LEAST_ROUNDS),
        )
        return {
            n: RoundTimes(ms=tuple(round(float(x), 5) for x in t), runtime=engines[n].runtime)
            for n, t in times.items()
        }
    finally:
        for engine in engines.values():
            engine.close()


def no_time_for_more(
    until_s: float, done: int, clock: Callable[[], float] = time.monotonic
) -> Callable[[], bool]:
    """To be asked between things that take equally long, for the first time when ``done`` of them are: whether another
    one would not be done in time. The time for them begins now."""
    began_s, counted = clock(), itertools.count(done)
    ends_s = began_s + _USED * (until_s - began_s)

    def enough() -> bool:
        now_s = clock()
        return now_s + _SLOWER * (now_s - began_s) / next(counted) > ends_s

    return enough


def _caller(engine: Engine, feeds: Sequence[Feeds], start: int) -> Callable[[], object]:
    turn = itertools.count(start)
    return lambda: engine.run(feeds[next(turn) % len(feeds)])


def _processes(
    job: MeasureJob, blobs: Path, cache: Path, failed: dict[str, str], until_s: float
) -> dict[str, Any]:
    feeds = [] if job.feeds is None else _feeds(job, blobs)
    golden: dict[str, GoldenFigures] = {}
    contenders: dict[str, MeasuredEngine] = {}
    with guarded_openings():
        for c in job.contenders:
            if c.model is not None:
                contenders[c.name] = MeasuredEngine(_path(blobs, c.model).read_bytes(), c.runtime, c.session)
                continue
            try:
                contenders[c.name], golden[c.name] = _finalised(c, blobs, cache)
            except EdgectlError as e:
                failed[c.name] = e.message
    times: Mapping[str, ProcessTimes] = {}
    if contenders and job.kind == "processes":
        first = feeds or next(iter(contenders.values())).feeds or ()
        times = measure_in_processes(
            contenders,
            first,
            runs=job.runs,
            seconds=job.seconds,
            enough=no_time_for_more(until_s, done=LEAST_RUNS),
        )
    return {"processes": times, "golden": golden}


def _finalised(c: Contender, blobs: Path, cache: Path) -> tuple[MeasuredEngine, GoldenFigures]:
    """A variant as this device runs it, by the way of every deployment. Raises :class:`EdgectlError`."""
    assert c.manifest is not None
    variant = Variant.open(blobs, c.manifest.digest)
    final = finalise(variant, cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        path, settings = engine_file(variant, Path(folder), cache=cache)
        runtime = variant.config.runtime
        engine = open_guarded(path, settings, runtime=runtime)
        try:
            worst = min(e.cosine for e in check_golden(engine, variant).outputs.values())
            figures = GoldenFigures(
                worst_cosine=worst, kind=final.kind, runtime=engine.runtime, notes=final.notes
            )
        finally:
            engine.close()
        feeds = [f for f, _ in read_golden(variant)]
        return MeasuredEngine(path.read_bytes(), runtime, settings, feeds), figures


def _feeds(job: MeasureJob, blobs: Path) -> list[Feeds]:
    assert job.feeds is not None
    return read_feeds(_path(blobs, job.feeds))


def _path(blobs: Path, d: Descriptor) -> Path:
    return blobs / hex_of(d.digest)


def _step_back() -> None:
    """Let everything else of this machine go first."""
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # not everywhere is there one
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


def _write_below(scratch: Path) -> None:
    """Have all temporary files of this process and its children there, and none of a job that was killed."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)


def _main(blobs: Path, job: Path, result: Path, cache: Path, until_s: float) -> dict[str, Any]:
    _step_back()
    _write_below(result.parent / "scratch")
    data = job.read_bytes()
    order = parse_json(MeasureJob, data, max_bytes=_MAX_JOB_BYTES, what="measuring job")
    cache.mkdir(parents=True, exist_ok=True)
    found = measure_job(order, blobs, cache, until_s)
    atomic_write(result, found.model_dump_json(exclude_none=True).encode())
    return {}


if __name__ == "__main__":
    blobs_, job_, result_, cache_ = map(Path, sys.argv[1:5])
    sys.exit(answer(lambda: _main(blobs_, job_, result_, cache_, float(sys.argv[5]))))
