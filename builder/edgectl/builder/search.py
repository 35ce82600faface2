"""Choose the fastest candidate by measurement, inside an accuracy budget, and never one that is slower than float.

Candidates are measured in turn, call by call, in rounds of successive halving: a short look at all, a longer one at the better half. Every
round keeps the fastest float candidate as the reference. What decides (:func:`survivors`, :func:`choose`) is pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgectl.builder.accuracy import Accuracy, Judge
from edgectl.core.bundle import Measured, Precision, Runtime, SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.open import open_model
from edgectl.engines.timing import Ratio, Samples, interleave, load_1m, paired_ratio, percentile

__all__ = ["Candidate", "Choice", "Outcome", "choose", "search", "survivors"]

_ROUNDS = ((0.15, 40), (0.25, 120), (0.6, 400))
"""Share of the time budget, and calls of each candidate after which more would not tell more: ± 0.5 % of a paired ratio."""
_MIN_SECONDS = 0.3
_THREAD_WORTH = 0.9
"""More threads must take at most this share of the time of fewer ones: a core on a device has other work."""


@dataclass(frozen=True)
class Candidate:
    """One way to run the model."""

    name: str
    recipe: str
    """Which graph: ``float``, ``full``, ``no-head`` …"""
    model: bytes = field(repr=False)
    precision: Precision
    runtime: Runtime
    settings: SessionSettings


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate: ``rejected`` says why it was not measured to the end."""

    candidate: Candidate
    accuracy: Accuracy | None = None
    measured: Measured | None = None
    ratio: Ratio | None = None
    """Against the fastest float candidate."""
    rejected: str | None = None


@dataclass(frozen=True)
class Choice:
    winner: Outcome
    outcomes: tuple[Outcome, ...]
    reason: str


def search(
    candidates: Sequence[Candidate],
    feeds: Sequence[Feeds],
    judge: Judge,
    confirm: Judge,
    *,
    max_drop: float,
    min_speedup: float,
    seconds: float,
    machine: str,
    known: Mapping[tuple[str, Runtime], Accuracy] | None = None,
    progress: Callable[[str, float, str], None] | None = None,
) -> Choice:
    """Judge, measure and choose. At least one candidate is float. ``known``: recipes and runtimes judged before.

    ``progress(what, share, best)`` is told what goes on. Raises :class:`ModelError` if not even float runs.
    """
    tell = progress or (lambda what, share, best: None)
    outcomes: dict[str, Outcome] = {}
    engines: dict[str, Engine] = {}
    judged: dict[tuple[str, Runtime], Accuracy] = dict(known or {})
    for i, c in enumerate(candidates):
        tell(f"judging {c.name}", 0.2 * i / len(candidates), "")
        key = (c.recipe, c.runtime)  # threads change the time, not the answer
        try:
            if key not in judged or judged[key].drop <= max_drop:
                engines[c.name] = open_model(c.model, c.settings, runtime=c.runtime)
            if key not in judged:
                judged[key] = judge.judge(engines[c.name], limit=max_drop)
        except EdgectlError as e:
            engines.pop(c.name, None)
            outcomes[c.name] = Outcome(c, rejected=f"does not run: {e.message}")
            continue
        accuracy = judged[key]
        outcomes[c.name] = Outcome(c, accuracy)
        if accuracy.drop > max_drop:
            outcomes[c.name] = _rejected(outcomes[c.name], f"loses {accuracy.drop:.4f}, more than {max_drop:g}")
            if c.name in engines:
                engines.pop(c.name).close()
    floats = {n for n in engines if outcomes[n].candidate.precision == "float32"}
    if not floats:
        raise ModelError(
            "the float model does not run in any runtime", hint="; ".join(o.rejected or "" for o in outcomes.values())
        )

    alive = sorted(engines)
    spent = 0.2
    for round_, (share, calls) in enumerate(_ROUNDS):
        turn = iter(range(1 << 30))
        runs = {n: _caller(engines[n], feeds, next(turn)) for n in alive}
        times = interleave(runs, seconds=max(_MIN_SECONDS, seconds * share), min_rounds=20, max_rounds=calls)
        reference = min(floats & set(alive), key=lambda n: float(np.median(times[n])))
        for n in alive:
            outcomes[n] = _with_times(outcomes[n], times[n], times[reference], engines[n].runtime, machine)
        spent += 0.8 * share
        best = min(alive, key=lambda n: float(np.median(times[n])))
        tell(f"measured {len(alive)} candidates", spent, f"{best} {float(np.median(times[best])):.2f} ms")
        if round_ < len(_ROUNDS) - 1:
            kept = survivors(times, reference)
            for n in set(alive) - set(kept):
                outcomes[n] = _rejected(outcomes[n], "slower")
            alive = [n for n in alive if n in kept]
    order = choose([outcomes[n] for n in alive], min_speedup=min_speedup)
    reason, winner = "", order[0]
    for winner in order:
        name = winner.candidate.name
        if winner.candidate.precision == "float32":
            reason = reason or "no quantized candidate is faster within the accuracy budget"
            break
        confirmed = confirm.judge(engines[name], limit=max_drop)
        if confirmed.drop <= max_drop:
            winner = Outcome(winner.candidate, confirmed, winner.measured, winner.ratio)
            outcomes[name] = winner
            reason = f"{1 / winner.ratio.median:.2f} × faster than float" if winner.ratio else ""
            break
        outcomes[name] = _rejected(winner, f"confirmation slice: loses {confirmed.drop:.4f}, more than {max_drop:g}")
        reason = "what was faster lost too much on the confirmation slice"
    for engine in engines.values():
        engine.close()
    return Choice(winner, tuple(outcomes[c.name] for c in candidates), reason)


def survivors(times: Mapping[str, Samples], reference: str) -> set[str]:
    """The better half of a round, and the float reference. A candidate that may still be the best stays."""
    order = sorted(times, key=lambda n: float(np.median(times[n])))
    half = set(order[: max(2, (len(order) + 1) // 2)])
    close = {n for n in order if paired_ratio(times[n], times[order[0]]).low <= 1.01}
    return half | close | {reference}


def choose(outcomes: Sequence[Outcome], *, min_speedup: float) -> list[Outcome]:
    """Best first, down to the fastest float one. A quantized candidate is in the list only if the whole interval of its ratio to
    float says that it is ``min_speedup`` faster. Fewer threads win against more if more gain less than a tenth."""

    def cost(o: Outcome) -> float:
        assert o.measured is not None
        return o.measured.p50_ms / float(_THREAD_WORTH ** math.log2(o.candidate.settings.threads))

    measured = [o for o in outcomes if o.measured is not None]
    order = sorted(measured, key=cost)
    fast = [o for o in order if o.candidate.precision != "float32" and o.ratio is not None and o.ratio.high <= 1 / min_speedup]
    best_float = next(o for o in order if o.candidate.precision == "float32")
    return [*(o for o in fast if cost(o) <= cost(best_float)), best_float]


def _caller(engine: Engine, feeds: Sequence[Feeds], start: int) -> Callable[[], object]:
    state = [start]

    def call() -> object:
        state[0] += 1
        return engine.run(feeds[state[0] % len(feeds)])

    return call


def _with_times(o: Outcome, times: Samples, reference: Samples, runtime: str, machine: str) -> Outcome:
    ratio = paired_ratio(times, reference)
    measured = Measured(
        p10_ms=round(float(np.percentile(times, 10)), 4), p50_ms=round(float(np.median(times)), 4),
        p90_ms=None if (p90 := percentile(times, 90)) is None else round(p90, 4), n=len(times), ratio_to_float=round(ratio.median, 4),
        machine=machine, load=load_1m(), threads=o.candidate.settings.threads, runtime_version=runtime,
    )  # fmt: skip
    return Outcome(o.candidate, o.accuracy, measured, ratio)


def _rejected(o: Outcome, why: str) -> Outcome:
    return Outcome(o.candidate, o.accuracy, o.measured, o.ratio, why)
