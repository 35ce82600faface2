"""What a candidate is known to do, with the figures of one more measurement. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgectl.builder.search.candidates import Candidate, CandidateOutcome, TimedRound
from edgectl.builder.search.tuning_log import Line
from edgectl.core.measured import Context, Measured
from edgectl.engines.measure.processes import ProcessTimes, standing_of, summarise_processes
from edgectl.engines.timing import Samples, paired_ratio, percentile

__all__ = ["with_fresh", "with_times"]


def with_times(
    o: CandidateOutcome, times: Samples, reference: Samples, line: Line, machine: str
) -> CandidateOutcome:
    ratio = paired_ratio(times, reference)
    fresh, standing = (o.measured.fresh, o.measured.standing) if o.measured else (None, None)
    p50 = round(float(np.median(times)), 5)
    measured = Measured(
        p10_ms=round(float(np.percentile(times, 10)), 5),
        p50_ms=p50,
        p90_ms=None if (p90 := percentile(times, 90)) is None else round(p90, 5),
        n=len(times),
        ratio_to_float=round(ratio.median, 4),
        machine=machine,
        threads=o.candidate.settings.threads,
        runtime_version=line.runtime,
        conditions=line.conditions,
        fresh=fresh,
        standing=standing,
    )
    rounds = (*o.rounds, TimedRound(line.round, len(times), p50, line.conditions))
    return replace(o, measured=measured, ratio=ratio, rounds=rounds)


def with_fresh(
    o: CandidateOutcome,
    times: Mapping[str, ProcessTimes],
    reference: Candidate,
    shown: Candidate,
    *,
    min_speedup: float,
) -> CandidateOutcome:
    """What a candidate did in processes of its own, against ``reference``, the fastest float one. ``shown``:
    the float one that figures are told against."""
    c, base, told = o.candidate, times[reference.name], times[shown.name]
    assert o.measured is not None
    fresh = summarise_processes(
        times[c.name],
        None if c.name == reference.name else base,
        None if c.name == shown.name or told.failed is not None else told,
    )
    standing = None if c.is_float else standing_of(times[c.name], base, min_speedup=min_speedup)
    alone = next((x.ratio for x in fresh.contexts if x.context is Context.ALONE), None)
    update = {
        "fresh": fresh,
        "standing": standing,
        "ratio_to_float": 1.0 if c.name == shown.name else alone,
    }
    return replace(o, measured=o.measured.model_copy(update=update), standing=standing)
