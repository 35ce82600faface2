"""Choose the fastest candidate by measurement, inside an accuracy budget, and never one that is slower than float.

Candidates are measured in turn, call by call, in rounds of successive halving: a short look at every graph in every runtime with one
thread, a longer one at the better half with other settings, and the last until the order is clear. What is to ship is confirmed on
samples that chose nothing, and in processes of its own, in turn with float; whoever does not hold there is replaced by the next. One
that a short look had left out comes back only through a runoff: measured again as long as the finalists, in turn with them.
The rules are in :mod:`edgectl.builder.rules`; what measures is a :class:`~edgectl.builder.lab.Lab`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgectl.builder.accuracy import Accuracy
from edgectl.builder.candidates import SLOWER, Candidate, Choice, Outcome, Round, with_threads, without_arena
from edgectl.builder.lab import Lab
from edgectl.builder.rig import Judging, Rig
from edgectl.builder.rules import (
    choose,
    contradiction,
    eligible,
    fastest,
    frugal,
    is_accurate,
    kinds,
    least_power,
    picks_of,
    quicker_with_more_threads,
    rank,
    settled,
    soonest,
    survivors,
)
from edgectl.builder.tuning import Line, TuningLog
from edgectl.core.bundle import Runtime
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.measured import Measured
from edgectl.engines.fresh import summarise_fresh
from edgectl.engines.timing import Samples, paired_ratio, percentile

__all__ = ["Goal", "search"]

_ROUNDS = ((0.15, 20, 20), (0.25, 20, 40), (0.6, 20, 200))
"""Share of the time budget; fewest and most calls of each candidate (200: ± 0.7 % of a paired ratio)."""
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


def search(
    bases: Sequence[Candidate],
    judge: Judging,
    confirm: Callable[[], Judging],
    goal: Goal,
    lab: Lab,
    log: TuningLog,
    *,
    threads: Sequence[int] = (1,),
    seconds: float,
    known: Mapping[tuple[str, Runtime], Accuracy] | None = None,
    progress: Tell | None = None,
) -> Choice:
    """Judge, measure, confirm and choose. ``bases``: every graph in every runtime with one thread and default settings, at least one
    of them float. ``seconds`` bounds the rounds; confirming comes on top. ``known``: recipes and runtimes judged before.

    ``progress(what, share, best)`` is told what goes on. Raises :class:`ModelError` if not even float runs.
    """
    s = _Search(judge, confirm, goal, lab, log, dict(known or {}), progress or (lambda what, share, best: None))
    try:
        alive = s.judge(sorted(bases, key=lambda c: c.name))
        for i, (share, fewest, most) in enumerate(_ROUNDS):
            if i == 1:
                alive = s.add(alive, (n for c in alive for n in with_threads(c, threads)))
            if i == _LAST:
                alive = s.add(alive, (n for c in s.fastest(alive, _ARENA_TRIED) for n in without_arena(c)))
            alive = s.round(i, alive, seconds * share, fewest, most)
        return s.choice(threads)
    finally:
        s.close()


class _Search:
    def __init__(
        self, judge: Judging, confirm: Callable[[], Judging], goal: Goal, lab: Lab, log: TuningLog,
        judged: dict[tuple[str, Runtime], Accuracy], tell: Tell,
    ) -> None:  # fmt: skip
        self._judge, self._confirm, self._goal, self._tell = judge, confirm, goal, tell
        self._rig = Rig(lab, log)
        self._judged = judged
        self._outcomes: dict[str, Outcome] = {}
        self._confirmed: dict[tuple[str, Runtime], Accuracy | None] = {}
        self._compared: dict[str, str] = {}
        """Who was measured in processes of its own → the float candidate that it was compared with."""
        self._notes: list[str] = []

    def close(self) -> None:
        self._rig.close()

    def judge(self, bases: Sequence[Candidate]) -> list[Candidate]:
        """Who runs and holds the budget on the search slice."""
        alive = []
        for i, c in enumerate(bases):
            self._tell(f"judging {c.name}", 0.15 * i / len(bases), "")
            self._outcomes[c.name] = Outcome(c)
            known = self._judged.get((c.graph.recipe, c.runtime))
            accuracy = known or self._verdict("judged", c, self._judge)
            if accuracy is None:
                continue
            self._judged[c.graph.recipe, c.runtime] = accuracy  # settings change the time, not the answer
            self._outcomes[c.name] = Outcome(c, accuracy)
            if accuracy.drop > self._goal.max_drop:
                self._reject(c, f"loses {accuracy.drop:.4f}, more than {self._goal.max_drop:g}")
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
            self._outcomes[c.name] = Outcome(c, self._judged[c.graph.recipe, c.runtime])
        return [*alive, *new]

    def fastest(self, alive: Sequence[Candidate], count: int) -> list[Candidate]:
        return sorted(alive, key=lambda c: _by_time(self._outcomes[c.name]))[:count]

    def round(self, index: int, candidates: Sequence[Candidate], seconds: float, fewest: int, most: int) -> list[Candidate]:
        """Measure all in turn and return who goes on; in the last round, all."""
        floats = {c.name for c in candidates if c.is_float}
        lines, failed = self._rig.times(
            index,
            candidates,
            seconds,
            fewest,
            most,
            settled=lambda t: bool(floats & t.keys()) and settled(t, floats & t.keys(), self._goal.min_speedup),
        )
        for c in candidates:
            if c.name in failed:
                self._reject(c, f"does not run: {failed[c.name]}")
        alive = [c for c in candidates if c.name in lines]
        times = {n: np.asarray(line.ms) for n, line in lines.items()}
        if not floats & times.keys():
            raise ModelError("the float model does not run in any runtime", hint="; ".join(failed.values()))
        reference = min(floats & times.keys(), key=lambda n: (float(np.median(times[n])), n))
        for c in alive:
            self._outcomes[c.name] = _with_times(
                self._outcomes[c.name], times[c.name], times[reference], lines[c.name], self._rig.machine
            )
        best = min(times, key=lambda n: (float(np.median(times[n])), n))
        share = 0.15 + 0.7 * sum(r[0] for r in _ROUNDS[: index + 1])
        self._tell(f"measured {len(alive)} candidates", share, f"{best} {float(np.median(times[best])):.2f} ms")
        if index == _LAST:
            return alive
        kept = survivors(times, {c.name: kinds(c) for c in alive})
        for c in alive:
            if c.name not in kept:
                self._reject(c, SLOWER)
        return [c for c in alive if c.name in kept]

    def choice(self, threads: Sequence[int]) -> Choice:
        """Measure and confirm what is to ship until all of it holds."""
        while True:
            wanted = self._wanted([o for o in self._outcomes.values() if o.possible])
            reference = wanted.reference.candidate.name
            if late := [o.candidate for o in wanted.all() if not _measured_to_the_end(o)]:
                self._runoff(late, threads)
            elif new := [o.candidate for o in wanted.all() if self._compared.get(o.candidate.name) != reference]:
                self._tell(f"{len(new)} candidates in processes of their own", 0.85, wanted.fast.candidate.name)
                self._fresh(new, wanted.reference.candidate)
            else:
                break
        for o in wanted.all():
            self._outcomes[o.candidate.name] = replace(o, rejected=None)  # it may have been slower than what did not hold
        fast = soonest(wanted.fast, wanted.all())
        power = least_power(wanted.all(), fast)
        plain = wanted.plain if fast.candidate.runtime != "onnxruntime" else None
        picks = picks_of({"fast": fast, "accurate": wanted.accurate, "low-power": power}, plain)
        return Choice(
            picks, wanted.fallback, tuple(self._outcomes.values()), self._reason(fast, wanted.all()), tuple(self._notes)
        )

    def _runoff(self, late: Sequence[Candidate], threads: Sequence[int]) -> None:
        """Measure candidates that an early round left out, and their other settings, as often as the finalists and in turn with them."""
        finalists = [o for o in self._outcomes.values() if o.possible and _measured_to_the_end(o)]
        others = [n for c in late for n in with_threads(c, threads)]
        self.add([], (n for n in others if n.name not in self._outcomes))
        others = [n for n in others if self._outcomes[n.name].rejected in (None, SLOWER)]
        pool = {c.name: c for c in (*(o.candidate for o in finalists), *late, *others)}
        calls = max((o.rounds[-1].n for o in finalists), default=_ROUNDS[_LAST][1])
        self._tell(f"{', '.join(c.name for c in late)} again, in turn with the finalists", 0.85, "")
        self.round(_LAST, list(pool.values()), 0.0, calls, calls)

    def _wanted(self, possible: Sequence[Outcome]) -> _Wanted:
        if not any(o.candidate.is_float for o in possible):
            raise ModelError("the float model does not run in a process of its own", hint="; ".join(self._notes))
        ranking = choose(possible, min_speedup=self._goal.min_speedup)
        fast = self._first(ranking, lambda o: True)
        accurate = self._first(ranking, lambda o: is_accurate(o, self._goal.max_drop))
        assert fast is not None  # the ranking ends with float, which holds
        assert accurate is not None
        plain = self._first(ranking, _in_ort_int8) if fast.candidate.runtime != "onnxruntime" else None
        lean = [o for o in possible if eligible(o, self._goal.min_speedup) and frugal(o.candidate)]
        floats = [o for o in possible if o.candidate.is_float]
        fallback = min((o for o in floats if o.candidate.runtime == "onnxruntime"), key=rank, default=None)
        return _Wanted(fast, accurate, fastest(floats), plain, self._first(sorted(lean, key=rank), lambda o: True), fallback)

    def _first(self, order: Iterable[Outcome], fits: Callable[[Outcome], bool]) -> Outcome | None:
        """The first that fits and holds the budget on the confirmation slice (and fits what that says, too)."""
        return next((held for o in order if fits(o) and (held := self._held(o)) is not None and fits(held)), None)

    def _held(self, o: Outcome) -> Outcome | None:
        c = o.candidate
        if c.is_float or o.confirmed is not None:
            return o
        key = (c.graph.recipe, c.runtime)
        if key not in self._confirmed:
            self._confirmed[key] = self._verdict("confirmed", c, self._confirm())
        accuracy = self._confirmed[key]
        if accuracy is None:
            return None
        self._outcomes[c.name] = replace(o, confirmed=accuracy)
        if accuracy.drop > self._goal.max_drop:
            self._reject(c, f"confirmation slice: loses {accuracy.drop:.4f}, more than {self._goal.max_drop:g}")
            return None
        return self._outcomes[c.name]

    def _reason(self, winner: Outcome, shipped: Sequence[Outcome]) -> str:
        c = winner.candidate
        others = [o for o in self._outcomes.values() if (o.candidate.graph, o.candidate.runtime) == (c.graph, c.runtime)]
        known = [*shipped, *(o for o in others if _measured_to_the_end(o))]
        quicker = quicker_with_more_threads(winner, known, self._goal.min_speedup)
        return self._why(winner) + (f"; {quicker}" if quicker else "")

    def _why(self, winner: Outcome) -> str:
        if winner.ratio is not None and not winner.candidate.is_float:
            return f"{1 / winner.ratio.median:.2f} × faster than float"
        if any(o.confirmed is not None and o.confirmed.drop > self._goal.max_drop for o in self._outcomes.values()):
            return "what was faster lost too much on the confirmation slice"
        return "no quantized candidate is faster within the accuracy budget"

    def _fresh(self, new: Sequence[Candidate], reference: Candidate) -> None:
        """Measure in new processes, in turn with the fastest float one, and reject whom that contradicts."""
        contenders = sorted({c.name: c for c in (*new, reference)}.values(), key=lambda c: c.name)
        times = self._rig.fresh(contenders)
        self._compared |= {c.name: reference.name for c in new}
        base = times[reference.name]
        if base.failed is not None:
            self._say(reference, f"does not run: {base.failed}")
            return
        for c in new:
            if (failed := times[c.name].failed) is not None:
                self._say(c, f"does not run: {failed}")
                continue
            o = self._outcomes[c.name]
            assert o.measured is not None
            fresh = summarise_fresh(times[c.name], None if c.name == reference.name else base)
            self._outcomes[c.name] = replace(o, measured=o.measured.model_copy(update={"fresh": fresh}))
            plain_float = c.is_float and c.runtime == "onnxruntime"  # it ships whatever it takes
            limit = None if plain_float else self._goal.max_rss_mb
            if (why := contradiction(self._outcomes[c.name], self._goal.min_speedup, limit)) is not None:
                self._say(c, why)
            elif c.is_float and fresh.ratio_high is not None and fresh.ratio_high < 1 and self._outcomes[reference.name].possible:
                self._say(
                    reference, f"in processes of its own it takes longer than {c.name} ({1 / (fresh.ratio_to_float or 1):.2f} ×)"
                )

    def _verdict(self, what: Literal["judged", "confirmed"], c: Candidate, judge: Judging) -> Accuracy | None:
        """None for a candidate that does not run: it is rejected."""
        try:
            return self._rig.verdict(what, c, judge, self._goal.max_drop)
        except EdgectlError as e:
            self._reject(c, f"does not run: {e.message}")
            return None

    def _say(self, c: Candidate, why: str) -> None:
        """Reject what the search itself had found good, and let the user hear it."""
        self._notes.append(f"{c.name} was left out: {why}")
        self._reject(c, why)

    def _reject(self, c: Candidate, why: str) -> None:
        self._outcomes[c.name] = replace(self._outcomes[c.name], rejected=why)
        self._rig.drop(c)


@dataclass(frozen=True)
class _Wanted:
    """Who is to ship, as far as is known before processes of their own were tried."""

    fast: Outcome
    accurate: Outcome
    reference: Outcome
    """The fastest float one, whatever it takes: who is to ship is compared with it."""
    plain: Outcome | None
    """The best quantized one that ONNX Runtime alone can run, if ``fast`` is not in it."""
    lean: Outcome | None
    """The fastest that takes one thread: who may be the low-power one."""
    fallback: Outcome | None
    """The best float one in ONNX Runtime."""

    def all(self) -> list[Outcome]:
        each = (self.fast, self.accurate, self.reference, self.plain, self.lean, self.fallback)
        return list({o.candidate.name: o for o in each if o is not None}.values())


def _measured_to_the_end(o: Outcome) -> bool:
    return o.measured is not None and o.rounds[-1].index == _LAST


def _in_ort_int8(o: Outcome) -> bool:
    return o.candidate.runtime == "onnxruntime" and not o.candidate.is_float


def _by_time(o: Outcome) -> tuple[float, str]:
    return (o.measured.p50_ms if o.measured else 0.0, o.candidate.name)


def _with_times(o: Outcome, times: Samples, reference: Samples, line: Line, machine: str) -> Outcome:
    ratio = paired_ratio(times, reference)
    fresh = o.measured.fresh if o.measured else None
    p50 = round(float(np.median(times)), 5)
    measured = Measured(
        p10_ms=round(float(np.percentile(times, 10)), 5), p50_ms=p50,
        p90_ms=None if (p90 := percentile(times, 90)) is None else round(p90, 5), n=len(times), ratio_to_float=round(ratio.median, 4),
        machine=machine, threads=o.candidate.settings.threads, runtime_version=line.runtime, conditions=line.conditions,
        fresh=fresh,
    )  # fmt: skip
    rounds = (*o.rounds, Round(line.round, len(times), p50, line.conditions))
    return replace(o, measured=measured, ratio=ratio, rounds=rounds)
