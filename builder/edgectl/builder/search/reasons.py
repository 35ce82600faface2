"""Why no quantized engine ships first: one cause, its figure and the next step. Pure.

What came nearest to shipping is told first. A candidate that is over the budget says nothing about its speed,
so both may be told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgectl.builder.int8.quantizable import NotQuantizable, Obstacle
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.significance import (
    changed_answers,
    labels_needed,
    samples_in_all,
    samples_needed,
    too_few,
)
from edgectl.builder.search.candidates import CandidateOutcome, Cause
from edgectl.core.measured import Context

__all__ = [
    "SPEED_CAUSES",
    "Cause",
    "Reason",
    "best_ratio",
    "drop_told",
    "out_of_time",
    "over_budget",
    "reasons_of_search",
    "refused_by_runtime",
    "why_not_quantizable",
]


SPEED_CAUSES = (Cause.UNDECIDED, Cause.EQUAL, Cause.SLOWER)
"""What the clock says. Of these the first one is the answer; the others add nothing to it."""


@dataclass(frozen=True)
class Reason:
    """One cause. ``figure``: the number behind it, with its unit; empty where there is none."""

    cause: Cause
    sentence: str
    next: str
    figure: str = ""

    @property
    def text(self) -> str:
        return f"{self.sentence}; {self.next}"


def why_not_quantizable(found: NotQuantizable) -> Reason:
    """Of a model or machine for which no int8 graph is written."""
    why, what = found.obstacle, found.what
    if why is Obstacle.QUANTIZED:
        return Reason(
            Cause.NOTHING_TO_QUANTIZE,
            "the model came quantized: it ships as it is, in int8 by its own codes",
            "for a float fallback and int8 for other devices, build from the float model",
        )
    if why is Obstacle.NOT_ASKED:
        return Reason(
            Cause.NOTHING_TO_QUANTIZE,
            f"int8 was not asked for ({what})",
            "name int8 as well, or leave --precision and --runtime out",
        )
    if why is Obstacle.NO_LAYER:
        return Reason(
            Cause.NOTHING_TO_QUANTIZE,
            "the model has no convolution or matrix product with constant weights: it ships as float",
            "nothing to do: int8 would change nothing",
            "0 layers",
        )
    if why is Obstacle.SIZE_OF_DATA:
        return Reason(
            Cause.NOTHING_TO_QUANTIZE,
            f"output {what} has a size that depends on the data, so that int8 cannot be compared with float: the model ships as float",
            "to have int8, cut the model before what picks by the data (NonZero, NonMaxSuppression …)",
        )
    if why is Obstacle.RECURRENT:
        return Reason(
            Cause.NOTHING_TO_QUANTIZE,
            f"the model carries {what} from input to input, where errors would add up: it ships as float",
            "to have int8, quantize the part without the state and give that as a model",
        )
    if why is Obstacle.NO_PLACE:
        return Reason(
            Cause.REFUSED,
            f"no layer of the model may be int8 in this kernel family: {what}",
            "`edgectl bundle inspect DIR --layers` names each",
            "0 layers",
        )
    return Reason(
        Cause.REFUSED,
        f"this CPU has no int8 kernels that are faster than float ({what})",
        "build on, or for, a CPU with dot products",
    )


def drop_told(drop: float) -> str:
    """With four decimals; a smaller one, which those would call nothing, with one digit."""
    return f"{drop:.1g}" if 0 < drop < 5e-5 else f"{drop:.4f}"


def over_budget(name: str, a: Accuracy, budget: float, what: str = "int8") -> Reason:
    """Of candidates that lose too much, the one that loses least."""
    if a.labelled:
        return _by_labels(name, a, budget)
    if too_few(a, budget) and a.units:
        return Reason(
            Cause.TOO_FEW_SAMPLES,
            f"one of {a.units} samples decides: {name} answers it otherwise",
            f"give about {samples_in_all(budget)} samples in all",
            f"1 of {a.units}",
        )
    if too_few(a, budget):
        return Reason(
            Cause.TOO_FEW_SAMPLES,
            f"too few objects to tell: {name} loses {drop_told(a.drop)} [{a.low:.4f}, {a.high:.4f}], {budget:g} are allowed, and float is sure of {a.objects} objects",
            f"give data with about {math.ceil(samples_needed(budget) / a.objects)} × as many",
            f"{a.objects} objects",
        )
    of = f", {changed_answers(a)} of {a.units}" if a.units else ""
    return Reason(
        Cause.OVER_BUDGET,
        f"{what} loses too much: {name} {drop_told(a.drop)}{of}, {budget:g} are allowed",
        f"allow more (--max-drop {_rounded_up(a.drop)}), give calibration data that look like the device's, or train (--recover MINUTES)",
        drop_told(a.drop),
    )


def _by_labels(name: str, a: Accuracy, budget: float) -> Reason:
    told = f"{name} loses {drop_told(a.drop)} [{a.low:.4f}, {a.high:.4f}] by the labels of {a.samples} pictures, {budget:g} are allowed"
    if not too_few(a, budget):
        return Reason(
            Cause.OVER_BUDGET,
            told,
            f"allow more (--max-drop {_rounded_up(a.drop)}), give calibration data that look like the device's, or train (--recover MINUTES)",
            drop_told(a.drop),
        )
    return Reason(
        Cause.TOO_FEW_SAMPLES,
        f"too few labelled pictures to tell: {told}; where they cannot, float's own answers decide",
        f"label more: about {labels_needed(a, budget)} would tell {budget:g} from 0",
        f"{a.samples} pictures",
    )


def refused_by_runtime(name: str, words: str) -> Reason:
    """Of an int8 graph that cannot even be judged."""
    return Reason(
        Cause.REFUSED,
        f"int8 does not run here ({name}): {words}",
        "float ships; report it with the model: a graph that runs in float should run in int8",
    )


def out_of_time(left_out: Sequence[str], minutes: float) -> Reason:
    return Reason(
        Cause.OUT_OF_TIME,
        f"the {minutes:g} minutes ran out before int8 was tried to the end: {', '.join(left_out)} left out",
        f"allow more: --minutes {max(1.0, 2 * minutes):g}",
        f"{minutes:g} min",
    )


def reasons_of_search(
    outcomes: Iterable[CandidateOutcome], budget: float, busy: Sequence[str] = ()
) -> tuple[Reason, ...]:
    """The causes of one search that ends with float first; empty if there was no other candidate. Those of
    int8 come before those of bfloat16 and float16, each time what came nearest to shipping first.

    A runtime that does not run float either says nothing about int8."""
    everyone = list(outcomes)
    floats = [o for o in everyone if o.candidate.is_float]
    unfit = {o.candidate.runtime for o in floats if o.cause is Cause.REFUSED} - {
        o.candidate.runtime for o in floats if o.cause is not Cause.REFUSED
    }
    found = []
    for precision in ("int8", "bfloat16", "float16"):
        own = [o for o in everyone if not o.candidate.is_float and o.candidate.precision == precision]
        of: dict[Cause, list[CandidateOutcome]] = {}
        for o in own:
            if o.cause is not None and (o.cause is not Cause.REFUSED or o.candidate.runtime not in unfit):
                of.setdefault(o.cause, []).append(o)
        found += [
            _reason(cause, of[cause], budget, busy, precision, len(own)) for cause in Cause if cause in of
        ]
    return tuple(found)


def best_ratio(o: CandidateOutcome) -> float:
    """The least latency, × float, that is known of a candidate, measured best."""
    fresh = o.measured.fresh if o.measured else None
    known = (
        []
        if fresh is None
        else [c.ratio for c in fresh.contexts if c.context is not Context.BESIDE and c.ratio is not None]
    )
    if known:
        return min(known)
    return o.ratio.median if o.ratio is not None else float("inf")


def _reason(
    cause: Cause, found: Sequence[CandidateOutcome], budget: float, busy: Sequence[str], what: str, tried: int
) -> Reason:
    """``what``: the precision of those that were ``found``, of ``tried`` of that precision."""
    best = min(
        found, key=lambda o: (o.standing is None, best_ratio(o), o.candidate.name)
    )  # measured in a process of its own first
    name, times = best.candidate.name, _times(best)
    if cause is Cause.UNDECIDED:
        return Reason(
            cause,
            f"undecided: the machine was busy ({'; '.join(busy) or 'see its conditions'}), {name} took {times}, and float ships first",
            "measure again when it is quiet: `edgectl bench DIR --decide`",
            times,
        )
    if cause is Cause.EQUAL:
        return Reason(
            cause,
            f"{what} is only equal: {name} takes {times}, within 5 % or its spread, and float is more accurate",
            "nothing to do here; on a slower device measure again: `edgectl bench DIR`",
            times,
        )
    if cause is Cause.SLOWER:
        return Reason(
            cause,
            f"{what} is slower: the best of {len(found)}, {name}, takes {times}",
            "nothing to do: float is faster on this machine",
            times,
        )
    if cause is Cause.OUT_OF_TIME:
        return Reason(
            cause,
            f"the time ran out before {name} was measured in a process of its own: {times}",
            "allow more: --minutes",
            times,
        )
    if cause is Cause.MEMORY:
        return Reason(
            cause,
            f"{what} takes too much memory: {name} {best.rejected}",
            "raise limits.rss_mb in the device profile",
        )
    if cause in (Cause.OVER_BUDGET, Cause.TOO_FEW_SAMPLES):
        least = min(found, key=lambda o: o.accuracy.drop if o.accuracy else 1.0)
        return over_budget(least.candidate.name, least.accuracy or Accuracy(1.0, {}), budget, what)
    none = (
        f"no {what} graph runs here"
        if len(found) == tried
        else f"{len(found)} of {tried} {what} candidates do not run here"
    )
    return Reason(
        Cause.REFUSED,
        f"{none}: {name} {best.rejected}",
        "report it with the model, or build for another runtime",
    )


def _times(o: CandidateOutcome) -> str:
    fresh = o.measured.fresh if o.measured else None
    known = (
        []
        if fresh is None
        else [c for c in fresh.contexts if c.context is not Context.BESIDE and c.ratio is not None]
    )
    if known:
        return " and ".join(
            f"{c.ratio:.2f} × float {c.context.value} [{c.low:.2f}, {c.high:.2f}]" for c in known
        )
    if o.ratio is None:
        return "an unknown time"
    return f"{o.ratio.median:.2f} × float [{o.ratio.low:.2f}, {o.ratio.high:.2f}] in the search"


def _rounded_up(drop: float) -> str:
    return f"{min(1.0, drop * 1.05 + 0.0005):.3f}"
