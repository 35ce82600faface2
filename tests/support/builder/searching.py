"""The search over doubles: behaviours in, a choice out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from support.builder.fakes import Behaviour, FakeJudge, FakeMachine, base

from edgectl.builder.search.candidates import Candidate, CandidateOutcome, Choice
from edgectl.builder.search.search import Goal, search
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.core.bundle import Precision

__all__ = ["FLOAT", "GOAL", "INT8", "Zoo", "name", "run"]

FLOAT = ("float", "onnxruntime")
INT8 = ("full", "onnxruntime")
GOAL = Goal(max_drop=0.01, min_speedup=1.02, max_rss_mb=200)
Zoo = dict[tuple[str, ...], Behaviour]
"""Recipe, runtime and, if it is not float32, what float layers compute in."""


def run(
    zoo: Zoo,
    *,
    noise: float = 0.0,
    threads: Sequence[int] = (2,),
    log: Path | None = None,
    order: Sequence[int] | None = None,
    machine: FakeMachine | None = None,
    host: str = "h",
    wait_s: float = 0.0,
    guide: float | None = None,
    left: Callable[[], float] = lambda: math.inf,
    measuring_s: float = 0.0,
    received: Precision = "float32",
) -> Choice:
    """``received``: what the model came in, as which it is compared with."""
    machine = machine or FakeMachine(zoo, noise=noise)
    bases = [base(*key) for key in zoo]
    if received != "float32":
        bases = [_received(c, received) if c.is_float else c for c in bases]
    return search(
        bases if order is None else [bases[i] for i in order],
        FakeJudge(machine, "searched"),
        lambda: FakeJudge(machine, "confirmed"),
        replace(GOAL, wait_s=wait_s, guide=guide),
        machine,
        TuningLog(log, {"host": host}),
        threads=threads,
        seconds=5,
        left=left,
        measuring_s=measuring_s,
    )


def _received(c: Candidate, precision: Precision) -> Candidate:
    return replace(c, graph=replace(c.graph, precision=precision, as_received=True))


def name(o: CandidateOutcome | None) -> str:
    assert o is not None
    return o.candidate.name
