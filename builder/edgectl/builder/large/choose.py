"""Measure and choose among the engines of a large model, of which memory holds one: each is judged alone, and measured in
processes of its own, one after the other.

There are no rounds with many settings: one number of threads, ONNX Runtime alone. (OpenVINO holds the weights twice while
it opens them: 6.3 GB of a model of 3.2, in 70 s.) What may ship, and in which order, is decided by the rules of every
build (:mod:`edgectl.builder.search.rules`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.builder.judge.judges import Judges
from edgectl.builder.judge.labelled import LabelledJudge
from edgectl.builder.judge.significance import affordable, broken_budget, too_few
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.search.candidates import Candidate, CandidateOutcome, Cause, Choice, Pick, TimedRound
from edgectl.builder.search.outcomes import with_fresh
from edgectl.builder.search.reasons import drop_told, reasons_of_search
from edgectl.builder.search.rules import choose, contradiction, is_accurate, least_power, picks_of
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.measured import Context, Measured, Standing
from edgectl.device_profiles.machine import Machine
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model
from edgectl.engines.measure.conditions import read_conditions
from edgectl.engines.measure.contexts import busy_because
from edgectl.engines.measure.processes import (
    SECONDS,
    MeasuredEngine,
    ProcessTimes,
    evidence,
    measure_in_processes,
)
from edgectl.engines.timing import paired_ratio, percentile

__all__ = ["LargeCandidate", "choose_large", "judged"]

_RUNS = 3


@dataclass(frozen=True)
class LargeCandidate:
    """A candidate, and the file that is opened for it. ``searched``: None for float."""

    candidate: Candidate
    file: Path
    outcome: CandidateOutcome

    @property
    def alive(self) -> bool:
        return self.outcome.rejected is None


def judged(
    candidate: Candidate, file: Path, judges: Judges, limit: float, guide: float, monitor: BuildMonitor
) -> LargeCandidate:
    """What a candidate loses on the search slice, and if it holds there, on the confirmation slice (or by labels), too.
    Float loses nothing."""
    outcome = CandidateOutcome(candidate)
    if candidate.is_float:
        return LargeCandidate(candidate, file, replace(outcome, searched=Accuracy(0.0, {}, 0.0, 0.0)))
    searched = confirmed = None
    try:
        monitor.tell("judge", 0.4, f"judging {candidate.name}")
        searched = _verdict(candidate, file, judges.search, guide)
        outcome = replace(outcome, searched=searched)
        if not affordable(searched, guide):
            return LargeCandidate(candidate, file, _lossy(outcome, searched, guide))
        confirmed = _verdict(candidate, file, judges.confirmation, limit)
    except EdgectlError as e:
        why = f"does not run: {e.message}"
        return LargeCandidate(candidate, file, replace(outcome, rejected=why, cause=Cause.REFUSED))
    outcome = replace(outcome, confirmed=confirmed)
    broken = broken_budget(searched, confirmed, limit)
    return LargeCandidate(candidate, file, outcome if broken is None else _lossy(outcome, broken[1], limit))


def choose_large(
    contenders: Sequence[LargeCandidate],
    feeds: Sequence[Feeds],
    p: DeviceProfile,
    machine: Machine,
    max_drop: float,
    monitor: BuildMonitor,
) -> Choice:
    """Of those that hold the budget, in processes of their own. The first contender is float. Raises :class:`ModelError`
    where it does not run."""
    alive = [c for c in contenders if c.alive]
    reference = contenders[0].candidate
    monitor.tell("search", 0.6, f"{len(alive)} engines in processes of their own, one after the other")
    times = measure_in_processes(
        {c.candidate.name: MeasuredEngine(c.file, c.candidate.runtime, c.candidate.settings) for c in alive},
        feeds,
        runs=_RUNS,
        seconds=monitor.budget.fresh_s(SECONDS),
        enough=lambda: monitor.budget.left() <= 0,
        together=False,
    )
    if (why := times[reference.name].failed) is not None:
        raise ModelError(f"the float model does not run in a process of its own: {why}")
    busy = busy_because(evidence(times[reference.name]))
    outcomes = [
        _measured(c.outcome, times, reference, p, machine) if c.alive else c.outcome for c in contenders
    ]
    order = choose([o for o in outcomes if o.possible], min_speedup=p.min_speedup)
    fast = order[0]
    accurate = next(o for o in order if is_accurate(o, max_drop))
    picks = picks_of({"fast": fast, "accurate": accurate, "low-power": least_power(order, fast)}, None)
    undecided = [o for o in outcomes if o.possible and o.standing is Standing.UNDECIDED]
    if fast.candidate.is_float and undecided:
        picks = (*picks, Pick(min(undecided, key=_ratio), ()))
    reasons = reasons_of_search(outcomes, max_drop, busy)
    if fast.candidate.is_float:
        reason = reasons[0].text if reasons else "float is the only candidate"
    else:
        reason = f"{1 / _ratio(fast):.2f} × faster than float"
    fallback = next(o for o in outcomes if o.candidate == reference)
    return Choice(picks, fallback, tuple(outcomes), reason, (), busy if undecided else ())


def _verdict(candidate: Candidate, file: Path, judge: Judge | LabelledJudge, limit: float) -> Accuracy:
    engine = open_model(file, candidate.settings)
    try:
        return judge.judge(engine, limit=limit)
    finally:
        engine.close()


def _lossy(o: CandidateOutcome, a: Accuracy, limit: float) -> CandidateOutcome:
    cause = Cause.TOO_FEW_SAMPLES if too_few(a, limit) else Cause.OVER_BUDGET
    return replace(o, rejected=f"loses {drop_told(a.drop)}, more than {limit:g}", cause=cause)


def _measured(
    o: CandidateOutcome,
    times: Mapping[str, ProcessTimes],
    reference: Candidate,
    p: DeviceProfile,
    machine: Machine,
) -> CandidateOutcome:
    c, own = o.candidate, times[o.candidate.name]
    if own.failed is not None:
        return replace(o, rejected=f"does not run: {own.failed}", cause=Cause.REFUSED)
    base = times[reference.name]
    ms = np.asarray(own.of(Context.ALONE))
    n = min(len(ms), len(base.of(Context.ALONE)))
    ratio = paired_ratio(ms[:n], base.of(Context.ALONE)[:n])
    p50 = round(float(np.median(ms)), 4)
    conditions = read_conditions()
    measured = Measured(
        p10_ms=round(float(np.percentile(ms, 10)), 4),
        p50_ms=p50,
        p90_ms=None if (p90 := percentile(ms, 90)) is None else round(p90, 4),
        n=len(ms),
        machine=machine.summary,
        threads=c.settings.threads,
        runtime_version=f"onnxruntime {machine.runtimes['onnxruntime']}",
        conditions=conditions,
    )
    o = replace(o, measured=measured, ratio=ratio, rounds=(TimedRound(0, len(ms), p50, conditions),))
    o = with_fresh(o, times, reference, reference, min_speedup=p.min_speedup)
    # float ships whatever it takes, and takes more
    limit = max(p.limits.rss_mb, *base.rss_mb)
    found = None if c.is_float else contradiction(o, limit)
    if found is not None:
        return replace(o, rejected=found[0], cause=found[1])
    return replace(o, cause=Cause.UNDECIDED) if o.standing is Standing.UNDECIDED else o


def _ratio(o: CandidateOutcome) -> float:
    fresh = o.measured.fresh if o.measured is not None else None
    return fresh.ratio_to_float or 1.0 if fresh is not None else 1.0
