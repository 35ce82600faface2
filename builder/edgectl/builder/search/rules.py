"""What decides the search: times and drops in, an order out. Pure.

A resource must earn its place: a second thread and an arena are charged to the latency before candidates are
compared. Among equals (5 %) a graph that follows an older release wins, then the more accurate one. What the
search measures only says who is worth measuring in processes of their own; those decide whether a quantized
candidate is faster than float (:mod:`edgectl.engines.measure.contexts`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from edgectl.builder.search.candidates import Candidate, CandidateOutcome, Cause, Choice, Pick
from edgectl.core.bundle import PREFERENCES, Preference
from edgectl.core.measured import Context, Standing
from edgectl.engines.measure.contexts import EQUAL
from edgectl.engines.timing import Samples, median_interval

__all__ = [
    "choose",
    "contradiction",
    "cost",
    "eligible",
    "fastest",
    "frugal",
    "is_accurate",
    "kinds",
    "least_power",
    "looks",
    "may_be_faster",
    "picks_of",
    "quicker_with_more_threads",
    "rank",
    "settled",
    "slower_carried_over",
    "soonest",
    "survivors",
]

# share of the time that twice the threads must come down to: a core on a device has other work
_THREADS_WORTH = 0.9
_ARENA_WORTH = 0.99
_RESOLUTION = 0.01  # of a ratio: what is closer is equal
# of the time: one graph with other codes was measured 2 % apart
_SMALL_UPDATE_WORTH = 0.97
FINALISTS = 5
# × the latency of the fastest that the low-power variant may take
LOW_POWER_SLOWER = 1.5
_LOW_POWER_WORTH = 0.95  # of the processor time of the fastest
ACCURATE_SHARE = 0.1  # of the accuracy budget
# × float: a search does not err by a third, and who is that slow needs no second look
_FAR = 1.33


def cost(o: CandidateOutcome) -> float:
    """Latency in units of the fastest float candidate's, charged for what it takes to get it."""
    assert o.ratio is not None
    return o.ratio.median / _worth(o) * _update_discount(o)


def _worth(o: CandidateOutcome) -> float:
    s = o.candidate.settings
    return float(_THREADS_WORTH ** math.log2(s.threads) * (_ARENA_WORTH if s.arena else 1.0))


def _pays(o: CandidateOutcome, best_float: CandidateOutcome) -> bool:
    """Whether it is worth what it takes, by the search or, where it was measured so, in processes of its
    own."""
    fresh = o.measured.fresh if o.measured else None
    proven = fresh.ratio_to_float if fresh is not None and o.standing is Standing.FASTER else None
    return cost(o) <= cost(best_float) or (
        proven is not None and proven / _worth(o) * _update_discount(o) <= cost(best_float)
    )


def _update_discount(o: CandidateOutcome) -> float:
    return _SMALL_UPDATE_WORTH if o.candidate.graph.carried_over else 1.0


def kinds(c: Candidate) -> set[str]:
    """What a candidate may be needed for although others are faster: each kind keeps its fastest to the
    last round."""
    if c.is_float:
        return {"float", f"float in {c.runtime}"}
    if c.graph.carried_over:
        return {f"int8 in {c.runtime}", f"carried_over in {c.runtime}"}
    return {f"int8 in {c.runtime}"} if c.runtime == "onnxruntime" else set()


def frugal(c: Candidate) -> bool:
    return c.settings.threads == 1


def is_accurate(o: CandidateOutcome, max_drop: float) -> bool:
    """Whether it loses at most a tenth of the budget on every slice that it was judged on. Float has
    nothing to lose."""
    known = [a for a in (o.searched, o.confirmed) if a is not None]
    return o.candidate.is_float or (bool(known) and all(a.drop <= ACCURATE_SHARE * max_drop for a in known))


def survivors(times: Mapping[str, Samples], of_kind: Mapping[str, Collection[str]]) -> set[str]:
    """Of a round, at most :data:`FINALISTS` that are in the better half or may still be the best, and the
    fastest of each kind (name → its kinds)."""
    order = sorted(times, key=lambda n: (float(np.median(times[n])), n))
    better_half = order[: max(2, (len(order) + 1) // 2)]
    close = [n for n in order if median_interval(times[n] / times[order[0]])[0] <= 1 + _RESOLUTION]
    best = {next(n for n in order if kind in of_kind[n]) for kind in set().union(*of_kind.values())}
    return set((better_half if len(better_half) > len(close) else close)[:FINALISTS]) | best


def settled(times: Mapping[str, Samples], floats: Collection[str], min_speedup: float) -> bool:
    """Whether more rounds would hardly change what is chosen: everyone's ratio to the fastest is known to
    2 %, or clearly above 1; and it is clear whether the fastest is ``min_speedup`` faster than float."""
    order = sorted(times, key=lambda n: float(np.median(times[n])))
    best = order[0]
    for n in order[1:]:
        low, high = median_interval(times[n] / times[best])
        if low <= 1 + _RESOLUTION and high - low > 2 * _RESOLUTION:
            return False
    reference = next(n for n in order if n in floats)
    low, high = median_interval(times[best] / times[reference])
    return best in floats or high <= 1 / min_speedup or low > 1 / min_speedup


def eligible(o: CandidateOutcome, min_speedup: float) -> bool:
    """Whether a candidate may ship: float may; a quantized one if it is faster in processes of its own, or
    has yet to be measured there and the search does not rule it out."""
    if not o.possible or o.candidate.is_float:
        return o.possible
    if o.standing is not None:
        return o.standing is Standing.FASTER
    return o.ratio is not None and o.ratio.low < _least(min_speedup)


def may_be_faster(o: CandidateOutcome) -> bool:
    """Whether a quantized candidate that the search ruled out is near enough to float that it is measured
    in a process of its own, too: what is told of the best one must come from there."""
    return o.possible and o.standing is None and o.ratio is not None and o.ratio.low < _FAR


def looks(o: CandidateOutcome) -> Cause | None:
    """What the search alone says of a quantized candidate that was measured nowhere else; None if it may
    be faster."""
    if o.ratio is None or o.ratio.median < 1 - EQUAL:
        return None
    return Cause.SLOWER if o.ratio.median > 1 + EQUAL and o.ratio.low > 1 else Cause.EQUAL


def _least(min_speedup: float) -> float:
    return min(1 - EQUAL, 1 / min_speedup)


def choose(outcomes: Iterable[CandidateOutcome], *, min_speedup: float) -> list[CandidateOutcome]:
    """Best first, down to the best float one; quantized ones only if :func:`eligible`. Whoever was
    measured longer goes first: a short look makes some candidate look better than it is. Of those that are
    as fast as the first, the most accurate one goes first. Raises StopIteration if there is no float one."""
    order = sorted((o for o in outcomes if eligible(o, min_speedup)), key=rank)
    best_float = next(o for o in order if o.candidate.is_float)
    quantized = [o for o in order if not o.candidate.is_float and _pays(o, best_float)]
    if quantized and not quantized[0].candidate.graph.carried_over:
        first = quantized[0]
        equal = [
            o for o in quantized if rank(o)[0] == rank(first)[0] and cost(o) * (1 - EQUAL) <= cost(first)
        ]
        equal.sort(key=lambda o: (_loss(o), rank(o)))
        quantized = [*equal, *(o for o in quantized if o not in equal)]
    return [*quantized, best_float]


def _loss(o: CandidateOutcome) -> float:
    """In tenths of a percent: less than that is no difference."""
    return round(o.accuracy.drop, 3) if o.accuracy is not None else 0.0


def rank(o: CandidateOutcome) -> tuple[int, float, str]:
    """Sorts by the last round that was reached, then by cost."""
    return -max(r.index for r in o.rounds), cost(o), o.candidate.name


def fastest(outcomes: Iterable[CandidateOutcome]) -> CandidateOutcome:
    """The least latency, whatever it takes; whoever was measured longer goes first. Raises ValueError if
    there is none."""
    return min(
        outcomes, key=lambda o: (rank(o)[0], o.ratio.median if o.ratio else math.inf, o.candidate.name)
    )


def soonest(fast: CandidateOutcome, shipped: Iterable[CandidateOutcome]) -> CandidateOutcome:
    """``fast``, or one that ships, too, takes no more threads and is more than 5 % faster: what is called
    fast must not be slow. One that follows an older release keeps its place among equals."""
    rivals = (o for o in shipped if o.candidate.settings.threads <= fast.candidate.settings.threads)

    def median(o: CandidateOutcome) -> float:
        return o.measured.p50_ms * _update_discount(o) if o.measured else math.inf

    best = min((fast, *rivals), key=median)
    return best if median(best) < (1 - EQUAL) * median(fast) else fast


def quicker_with_more_threads(
    fast: CandidateOutcome, outcomes: Iterable[CandidateOutcome], min_speedup: float
) -> str:
    """What more threads would bring, for the report; empty if nothing."""
    threads, p50 = fast.candidate.settings.threads, fast.measured.p50_ms if fast.measured else 0.0
    more = [o for o in outcomes if o.candidate.settings.threads > threads and eligible(o, min_speedup)]
    best = min(more, key=lambda o: o.measured.p50_ms if o.measured else math.inf, default=None)
    if best is None or best.measured is None or best.measured.p50_ms >= p50:
        return ""
    return (
        f"{threads} thread{'s' if threads > 1 else ''}; {best.candidate.name} with {best.candidate.settings.threads} would be "
        f"{p50 / best.measured.p50_ms:.2f} × faster"
    )


def slower_carried_over(choice: Choice) -> str:
    """What speaks against the graphs that follow an older release, if none of them ships; empty if one
    does or there are none."""
    carried_over = [o for o in choice.outcomes if o.candidate.graph.carried_over and o.ratio is not None]
    if not carried_over or any(p.outcome.candidate.graph.carried_over for p in choice.picks):
        return ""
    best = min(carried_over, key=rank)
    ratio, winner = best.ratio, choice.winner
    assert ratio is not None
    why = best.rejected or "it is slower"
    fast = 1.0 if winner.ratio is None else winner.ratio.median
    return (
        f"no variant follows the older release: {best.candidate.name} takes {ratio.median:.2f} × the time of float, "
        f"{winner.candidate.name} {fast:.2f} × ({why})"
    )


def contradiction(o: CandidateOutcome, max_rss_mb: float | None) -> tuple[str, Cause] | None:
    """What new processes say against a quantized candidate or one of another runtime; None if nothing, or
    if the machine was too busy to say."""
    fresh = o.measured.fresh if o.measured else None
    if fresh is None:
        return None
    if not o.candidate.is_float and o.standing in (Standing.EQUAL, Standing.SLOWER):
        of = [c for c in fresh.contexts if c.context is not Context.BESIDE and c.ratio is not None]
        times = (
            " and ".join(f"{c.ratio:.2f} × {c.context.value}" for c in of)
            or f"{fresh.ratio_to_float or 0:.2f} ×"
        )
        return (
            f"in processes of its own it takes {times} the time of float",
            Cause.EQUAL if o.standing is Standing.EQUAL else Cause.SLOWER,
        )
    if max_rss_mb is not None and fresh.rss_mb > max_rss_mb:
        return f"takes {fresh.rss_mb:.0f} MiB of memory, {max_rss_mb:g} are allowed", Cause.MEMORY
    return None


def least_power(among: Sequence[CandidateOutcome], fast: CandidateOutcome) -> CandidateOutcome:
    """The one that takes least processor time an inference, if it is not much slower than ``fast`` and
    takes clearly less."""

    def figures(o: CandidateOutcome) -> tuple[float, float]:
        assert o.measured is not None
        assert o.measured.fresh is not None
        return o.measured.fresh.cpu_ms, o.measured.p50_ms

    cpu, p50 = figures(fast)
    low = [
        o
        for o in among
        if figures(o)[1] <= LOW_POWER_SLOWER * p50 and figures(o)[0] <= _LOW_POWER_WORTH * cpu
    ]
    return min(low, key=lambda o: (figures(o), o.candidate.name), default=fast)


def picks_of(
    named: Mapping[Preference, CandidateOutcome], plain: CandidateOutcome | None
) -> tuple[Pick, ...]:
    """One pick a candidate, with all its preferences, the fast one first. ``plain``: the fast one for devices
    that have ONNX Runtime alone."""
    found: dict[str, tuple[CandidateOutcome, list[Preference]]] = {}
    for preference in (r for r in PREFERENCES if r in named):
        found.setdefault(named[preference].candidate.name, (named[preference], []))[1].append(preference)
        if preference == "fast" and plain is not None:
            found.setdefault(plain.candidate.name, (plain, []))[1].append(preference)
    return tuple(Pick(o, tuple(dict.fromkeys(best_at))) for o, best_at in found.values())
