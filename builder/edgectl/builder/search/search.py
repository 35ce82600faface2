"""Choose the fastest candidate by measurement, inside an accuracy budget, and never one that is slower than
float.

Candidates are measured in turn in rounds of successive halving: a short look at every graph in every runtime
with one thread, a longer one at the better half with other settings, and the last until the order is clear.
What is to ship is confirmed on samples that chose nothing, and in processes of its own, in turn with float,
in each context of a device; whoever is not faster there is replaced by the next. Where the machine is busy,
that waits for a while until it is quiet; what even then cannot be told is *undecided*, and float ships first.
One that a short look had left out comes back only through a runoff: measured again as long as the finalists,
in turn with them. The rules are in :mod:`edgectl.builder.search.rules`; what measures is a
:class:`~edgectl.builder.search.machine.TimingMachine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.significance import affordable, broken_budget, too_few
from edgectl.builder.search.candidates import (
    SLOWER,
    Arithmetic,
    Candidate,
    CandidateOutcome,
    Cause,
    Choice,
    Pick,
    with_threads,
    without_arena,
)
from edgectl.builder.search.machine import TimingMachine
from edgectl.builder.search.measurements import Judging, Measurements
from edgectl.builder.search.outcomes import with_fresh, with_times
from edgectl.builder.search.reasons import drop_told, reasons_of_search
from edgectl.builder.search.rules import (
    contradiction,
    kinds,
    least_power,
    looks,
    picks_of,
    quicker_with_more_threads,
    rank,
    settled,
    soonest,
    survivors,
)
from edgectl.builder.search.shortlist import Shortlist, shortlist
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.core.errors import EdgectlError, ModelError, StorageError
from edgectl.core.measured import Context, Standing
from edgectl.engines.measure.contexts import busy_because
from edgectl.engines.measure.processes import ProcessTimes, evidence, standing_of

__all__ = ["Goal", "search"]

_ROUNDS = ((0.15, 20, 20), (0.25, 20, 40), (0.6, 20, 200))
"""Share of the time budget; fewest and most calls of each candidate (200: ± 0.7 % of a paired ratio)."""
_LEAST_S = 0.3  # of a round
_LAST = len(_ROUNDS) - 1
"""Of a runoff, too."""
_ARENA_TRIED = 3  # finalists

Tell = Callable[[str, float, str], None]


@dataclass(frozen=True)
class Goal:
    """What a winner must hold. ``max_rss_mb``: memory of a process that runs it; None: any."""

    max_drop: float
    min_speedup: float
    max_rss_mb: float | None = None
    wait_s: float = 0.0
    """How long the search may wait for a quiet machine, in all."""
    guide: float | None = None
    """What may be lost on the search slice, where something finer than it decides afterwards (labels); None:
    ``max_drop``."""

    @property
    def searched(self) -> float:
        return self.max_drop if self.guide is None else self.guide


def search(
    bases: Sequence[Candidate],
    judge: Judging,
    confirm: Callable[[], Judging],
    goal: Goal,
    machine: TimingMachine,
    log: TuningLog,
    *,
    threads: Sequence[int] = (1,),
    seconds: float,
    known: Mapping[Arithmetic, Accuracy] | None = None,
    progress: Tell | None = None,
    left: Callable[[], float] = lambda: math.inf,
    measuring_s: float = 0.0,
) -> Choice:
    """Judge, measure, confirm and choose. ``bases``: every graph in every runtime with one thread and default
    settings, at least one of them float. ``seconds`` bounds the rounds; confirming comes on top, and who is
    still to be measured in a process of its own when ``left()`` (seconds) is over does not ship. ``known``:
    what was judged before. ``measuring_s``: what the least of measuring is expected to take: once no more is left, nothing
    more is judged but float and, of each lower precision, the first that holds the budget.

    ``progress(what, share, best)`` is told what goes on. Raises :class:`ModelError` if not even float runs.
    """
    s = _Search(
        judge,
        confirm,
        goal,
        machine,
        log,
        dict(known or {}),
        progress or (lambda what, share, best: None),
        left,
        measuring_s,
    )
    try:
        alive = s.judge(sorted(bases, key=_soonest_judged))
        for i, (share, fewest, most) in enumerate(_ROUNDS):
            if i == 1:
                alive = s.add(alive, (n for c in alive for n in with_threads(c, threads)))
            if i == _LAST:
                alive = s.add(alive, (n for c in s.arena_tried(alive) for n in without_arena(c)))
            alive = s.round(i, alive, max(_LEAST_S, seconds * share), fewest, most)
        return s.choice(threads)
    finally:
        s.close()


class _Search:
    def __init__(
        self,
        judge: Judging,
        confirm: Callable[[], Judging],
        goal: Goal,
        machine: TimingMachine,
        log: TuningLog,
        judged: dict[Arithmetic, Accuracy],
        tell: Tell,
        left: Callable[[], float],
        measuring_s: float,
    ) -> None:
        self._judge, self._confirm, self._goal, self._tell = judge, confirm, goal, tell
        self._machine, self._left, self._wait_s = machine, left, goal.wait_s
        self._measuring_s = measuring_s
        self._measurements = Measurements(machine, log)
        self._judged = judged
        self._outcomes: dict[str, CandidateOutcome] = {}
        self._confirmed: dict[Arithmetic, Accuracy | None] = {}
        self._compared: dict[str, str] = {}
        """Who was measured in processes of its own → the float candidate that it was compared with."""
        self._notes: list[str] = []
        self._busy: tuple[str, ...] = ()
        """Why the machine was too busy when something stayed undecided."""

    def close(self) -> None:
        self._measurements.close()

    def judge(self, bases: Sequence[Candidate]) -> list[Candidate]:
        """Who runs and holds the budget on the search slice."""
        alive: list[Candidate] = []
        for i, c in enumerate(bases):
            self._tell(f"judging {c.name}", 0.15 * i / len(bases), "")
            self._outcomes[c.name] = CandidateOutcome(c)
            known = self._judged.get(c.arithmetic)
            late = self._left() <= self._measuring_s
            alike = [a for a in alive if a.precision == c.precision and not a.is_float]
            if known is None and late and not c.is_float and alike:
                self._reject(c, "not judged: the time ran out", Cause.OUT_OF_TIME)
                continue
            accuracy = known or self._verdict("judged", c, self._judge)
            if accuracy is None:
                continue
            self._judged[c.arithmetic] = accuracy
            self._outcomes[c.name] = CandidateOutcome(c, accuracy)
            if not affordable(accuracy, self._goal.searched):
                self._reject(
                    c,
                    f"loses {drop_told(accuracy.drop)}, more than {self._goal.searched:g}",
                    _lossy(accuracy, self._goal.searched),
                )
            else:
                alive.append(c)
        if not any(c.is_float for c in alive):
            raise ModelError(
                "the float model does not run in any runtime",
                hint="; ".join(o.rejected or "" for o in self._outcomes.values() if o.candidate.is_float),
            )
        return alive

    def add(self, alive: Sequence[Candidate], more: Iterable[Candidate]) -> list[Candidate]:
        """Other settings of candidates that were judged."""
        new = list(more)
        for c in new:
            self._outcomes[c.name] = CandidateOutcome(c, self._judged[c.arithmetic])
        return [*alive, *new]

    def arena_tried(self, alive: Sequence[Candidate]) -> list[Candidate]:
        """The fastest, and the fastest float one: a quantized one must not be faster for a setting that
        float was not tried with."""
        order = sorted(alive, key=lambda c: _by_time(self._outcomes[c.name]))
        floats = [c for c in order if c.is_float and c.runtime == "onnxruntime"]
        return list(dict.fromkeys([*order[:_ARENA_TRIED], *floats[:1]]))

    def round(
        self, index: int, candidates: Sequence[Candidate], seconds: float, fewest: int, most: int
    ) -> list[Candidate]:
        """Measure all in turn and return who goes on; in the last round, all."""
        floats = {c.name for c in candidates if c.is_float}
        lines, failed = self._measurements.times(
            index,
            candidates,
            seconds,
            fewest,
            most,
            settled=lambda t: (
                bool(floats & t.keys()) and settled(t, floats & t.keys(), self._goal.min_speedup)
            ),
        )
        for c in candidates:
            if c.name in failed:
                self._reject(c, f"does not run: {failed[c.name]}", Cause.REFUSED)
        alive = [c for c in candidates if c.name in lines]
        times = {n: np.asarray(line.ms) for n, line in lines.items()}
        if not floats & times.keys():
            raise ModelError("the float model does not run in any runtime", hint="; ".join(failed.values()))
        reference = min(floats & times.keys(), key=lambda n: (float(np.median(times[n])), n))
        for c in alive:
            self._outcomes[c.name] = with_times(
                self._outcomes[c.name],
                times[c.name],
                times[reference],
                lines[c.name],
                self._measurements.machine,
            )
        best = min(times, key=lambda n: (float(np.median(times[n])), n))
        share = 0.15 + 0.7 * sum(r[0] for r in _ROUNDS[: index + 1])
        self._tell(
            f"measured {len(alive)} candidates", share, f"{best} {float(np.median(times[best])):.2f} ms"
        )
        if index == _LAST:
            return alive
        kept = survivors(times, {c.name: kinds(c) for c in alive})
        for c in alive:
            if c.name not in kept:
                self._reject(c, SLOWER, None)
        return [c for c in alive if c.name in kept]

    def choice(self, threads: Sequence[int]) -> Choice:
        """Measure and confirm what is to ship until all of it holds."""
        while True:
            wanted = self._wanted([o for o in self._outcomes.values() if o.possible])
            reference = wanted.reference.candidate.name
            late = [o.candidate for o in wanted.all() if not o.reached(_LAST)]
            if late and (self._left() > 0 or not all(c.is_float for c in late)):
                self._runoff(late, threads)
            elif new := [
                o.candidate for o in wanted.to_prove() if self._compared.get(o.candidate.name) != reference
            ]:
                self._tell(
                    f"{len(new)} candidates in processes of their own", 0.85, wanted.fast.candidate.name
                )
                self._fresh(new, wanted.reference.candidate, wanted.shown.candidate)
            else:
                break
        for o in wanted.all():
            self._outcomes[o.candidate.name] = replace(
                o, rejected=None, cause=None
            )  # it may have been slower than what did not hold
        fast = soonest(wanted.fast, wanted.all())
        power = least_power(wanted.all(), fast)
        plain = wanted.plain if fast.candidate.runtime != "onnxruntime" else None
        picks = picks_of({"fast": fast, "accurate": wanted.accurate, "low-power": power}, plain)
        if fast.candidate.is_float and (open_ := self._undecided()) is not None:
            picks = (*picks, Pick(open_, ()))
        for name, o in self._outcomes.items():
            if not o.candidate.is_float and o.cause is None and o.standing is None and o.possible:
                missed = Cause.UNDECIDED if self._busy else Cause.OUT_OF_TIME if self._left() <= 0 else None
                self._outcomes[name] = replace(
                    o, cause=looks(o) or (missed if fast.candidate.is_float else None)
                )
        return Choice(
            picks,
            wanted.fallback,
            tuple(self._outcomes.values()),
            self._reason(fast, wanted.all()),
            tuple(self._notes),
            self._busy,
        )

    def _undecided(self) -> CandidateOutcome | None:
        """The best one that the machine was too busy to judge: it ships behind float, for `edgectl bench
        --decide`."""
        order = sorted(
            (o for o in self._outcomes.values() if o.possible and o.standing is Standing.UNDECIDED), key=rank
        )
        return self._first(order, lambda o: True)

    def _runoff(self, late: Sequence[Candidate], threads: Sequence[int]) -> None:
        """Measure candidates that an early round left out, and their other settings, as often as the
        finalists and in turn with them."""
        finalists = [o for o in self._outcomes.values() if o.possible and o.reached(_LAST)]
        others = [n for c in late for n in with_threads(c, threads)]
        self.add([], (n for n in others if n.name not in self._outcomes))
        others = [n for n in others if self._outcomes[n.name].rejected in (None, SLOWER)]
        pool = {c.name: c for c in (*(o.candidate for o in finalists), *late, *others)}
        calls = max((o.rounds[-1].n for o in finalists), default=_ROUNDS[_LAST][1])
        self._tell(f"{', '.join(c.name for c in late)} again, in turn with the finalists", 0.85, "")
        self.round(_LAST, list(pool.values()), 0.0, calls, calls)

    def _wanted(self, possible: Sequence[CandidateOutcome]) -> Shortlist:
        if not any(o.candidate.is_float for o in possible):
            raise ModelError(
                "the float model does not run in a process of its own", hint="; ".join(self._notes)
            )
        # who was not measured in a process of its own so far cannot be
        if self._busy or self._left() <= 0:
            possible = [
                o for o in possible if o.candidate.is_float or o.standing is not None or not self._compared
            ]
        return shortlist(possible, self._goal.min_speedup, self._goal.max_drop, self._first, _LAST)

    def _first(
        self, order: Iterable[CandidateOutcome], fits: Callable[[CandidateOutcome], bool]
    ) -> CandidateOutcome | None:
        """The first that fits and holds the budget on the confirmation slice (and fits what that says,
        too)."""
        return next(
            (held for o in order if fits(o) and (held := self._held(o)) is not None and fits(held)), None
        )

    def _held(self, o: CandidateOutcome) -> CandidateOutcome | None:
        c = o.candidate
        if c.is_float or o.confirmed is not None:
            return o
        key = c.arithmetic
        if key not in self._confirmed:
            self._confirmed[key] = self._verdict("confirmed", c, self._confirm())
        accuracy = self._confirmed[key]
        if accuracy is None:
            return None
        self._outcomes[c.name] = replace(o, confirmed=accuracy)
        broken = broken_budget(o.searched, accuracy, self._goal.max_drop)
        if broken is None:
            return self._outcomes[c.name]
        whose, a = broken
        budget = self._goal.max_drop
        cause = Cause.TOO_FEW_SAMPLES if accuracy.labelled and a is not accuracy else _lossy(a, budget)
        self._reject(c, f"{whose}: loses {drop_told(a.drop)}, more than {budget:g}", cause)
        return None

    def _reason(self, winner: CandidateOutcome, shipped: Sequence[CandidateOutcome]) -> str:
        c = winner.candidate
        others = [o for o in self._outcomes.values() if o.candidate.arithmetic == c.arithmetic]
        known = [*shipped, *(o for o in others if o.reached(_LAST))]
        quicker = quicker_with_more_threads(winner, known, self._goal.min_speedup)
        return self._why(winner) + (f"; {quicker}" if quicker else "")

    def _why(self, winner: CandidateOutcome) -> str:
        fresh = winner.measured.fresh if winner.measured else None
        if not winner.candidate.is_float and fresh is not None and fresh.ratio_to_float is not None:
            against = {c.context: c.ratio for c in fresh.contexts if c.ratio}  # one float for both
            alone, paced = against.get(Context.ALONE, fresh.ratio_to_float), against.get(Context.PACED)
            return f"{1 / alone:.2f} × faster than float" + (f", {1 / paced:.2f} × paced" if paced else "")
        if winner.ratio is not None and not winner.candidate.is_float:
            return f"{1 / winner.ratio.median:.2f} × faster than float"
        first = next(iter(reasons_of_search(self._outcomes.values(), self._goal.max_drop, self._busy)), None)
        return "float is the only candidate" if first is None else first.text

    def _fresh(self, new: Sequence[Candidate], reference: Candidate, shown: Candidate) -> None:
        """Measure in new processes, in turn with the fastest float one, and reject whom that contradicts.
        ``shown``: the float one that the bundle falls back on, which figures are told against."""
        contenders = sorted({c.name: c for c in (*new, reference, shown)}.values(), key=lambda c: c.name)
        times = self._proven(contenders, reference)
        self._compared |= {c.name: reference.name for c in new}
        base = times[reference.name]
        if base.failed is not None:
            self._say(reference, f"does not run: {base.failed}", Cause.REFUSED)
            return
        busy = busy_because(evidence(base))
        for c in new:
            if (failed := times[c.name].failed) is not None:
                self._say(c, f"does not run: {failed}", Cause.REFUSED)
                continue
            self._outcomes[c.name] = with_fresh(
                self._outcomes[c.name], times, reference, shown, min_speedup=self._goal.min_speedup
            )
            plain_float = c.is_float and c.runtime == "onnxruntime"  # it ships whatever it takes
            limit = None if plain_float else self._goal.max_rss_mb
            o = self._outcomes[c.name]
            fresh = o.measured.fresh if o.measured else None
            if (found := contradiction(o, limit)) is not None:
                self._say(c, *found)
            elif o.standing is Standing.UNDECIDED:
                self._outcomes[c.name] = replace(o, cause=Cause.UNDECIDED)
                self._busy = busy
            elif (
                c.is_float
                and not busy
                and fresh is not None
                and fresh.ratio_high is not None
                and fresh.ratio_high < 1
                and self._outcomes[reference.name].possible
            ):
                why = f"in processes of its own it takes longer than {c.name} ({1 / (fresh.ratio_to_float or 1):.2f} ×)"
                self._say(reference, why, Cause.SLOWER)

    def _proven(self, contenders: Sequence[Candidate], reference: Candidate) -> dict[str, ProcessTimes]:
        """Measured in processes of their own; once more if the machine was too busy to tell and becomes
        quiet while there is time for it."""
        start = self._machine.clock()
        times = self._measurements.fresh(contenders)
        took_s = (self._machine.clock() - start) / 1e9
        base = times[reference.name]
        alive = [c for c in contenders if times[c.name].failed is None and not c.is_float]
        wait = min(self._wait_s, self._left() - took_s)
        if base.failed is not None or not busy_because(evidence(base)) or wait <= 0:
            return times
        if all(
            standing_of(times[c.name], base, min_speedup=self._goal.min_speedup) is not Standing.UNDECIDED
            for c in alive
        ):
            return times
        self._wait_s = 0.0
        self._tell(f"the machine is busy: waiting at most {wait:.0f} s for a quiet moment", 0.85, "")
        return self._measurements.fresh(contenders, again=True) if self._machine.quiet(wait) else times

    def _verdict(self, what: Literal["judged", "confirmed"], c: Candidate, judge: Judging) -> Accuracy | None:
        """None for a candidate that does not run: it is rejected. A disk that takes no more of the log is
        no candidate's fault."""
        try:
            return self._measurements.verdict(
                what, c, judge, self._goal.max_drop if what == "confirmed" else self._goal.searched
            )
        except StorageError:
            raise
        except EdgectlError as e:
            self._reject(c, f"does not run: {e.message}", Cause.REFUSED)
            return None

    def _say(self, c: Candidate, why: str, cause: Cause) -> None:
        """Reject what the search itself had found good, and let the user hear it."""
        self._notes.append(f"{c.name} was left out: {why}")
        self._reject(c, why, cause)

    def _reject(self, c: Candidate, why: str, cause: Cause | None) -> None:
        self._outcomes[c.name] = replace(self._outcomes[c.name], rejected=why, cause=cause)
        self._measurements.drop(c)


def _soonest_judged(c: Candidate) -> tuple[bool, bool, str]:
    """What is judged first, because it is still judged when time is short: float, in every float of a runtime, then int8 as
    a whole."""
    return c.graph.precision != "float32", c.graph.recipe != "full", c.name


def _lossy(a: Accuracy, budget: float) -> Cause:
    return Cause.TOO_FEW_SAMPLES if too_few(a, budget) else Cause.OVER_BUDGET


def _by_time(o: CandidateOutcome) -> tuple[float, str]:
    return (o.measured.p50_ms if o.measured else 0.0, o.candidate.name)
