"""A machine whose clock a test sets: candidates take the time, lose the accuracy and fail as the test says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.search.candidates import Candidate, CandidateGraph
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.errors import EngineError
from edgectl.core.measured import Conditions
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.measure.processes import ProcessTimes

__all__ = ["Behaviour", "FakeJudge", "FakeMachine", "base"]

_GLANCE_CALLS = 24  # opening, warm-up and 20 timed ones


@dataclass(frozen=True)
class Behaviour:
    """Of one recipe in one runtime, with one float."""

    ms: float
    """With one thread."""
    searched: float = 0.0
    confirmed: float = 0.0
    """Drops."""
    by_labels: tuple[float, float] | None = None
    """Interval of ``confirmed`` where labels say it; None: float's answers do."""
    units: int = 0
    """How many samples a drop counts; 0: it is no count."""
    opens: bool = True
    fresh_factor: float = 1.0
    """× the latency in a process of its own."""
    paced_factor: float = 1.0
    """× that latency, when a camera paces it."""
    fresh_fails: bool = False
    rss_mb: float = 50.0
    scaling: float = 0.7
    """Share of the time that twice the threads take."""
    glance: float = 1.0
    """× the latency of the first calls: as many as the first round makes."""
    cpu: float = 1.0
    """Processor time of one inference, × latency × threads."""


def base(recipe: str, runtime: str = "onnxruntime", hint: str | None = None) -> Candidate:
    return Candidate(
        CandidateGraph(recipe, recipe.encode(), "float32" if recipe.startswith("float") else "int8"),
        runtime,
        SessionSettings(precision_hint=hint),
    )  # type: ignore[arg-type]


class FakeMachine:
    summary = "a machine"
    feeds: Sequence[Feeds] = ({"x": np.zeros(1, np.float32)},)

    def __init__(
        self,
        behaviours: dict[tuple[str, ...], Behaviour],
        *,
        noise: float = 0.0,
        seed: int = 0,
        busy: float = 0.0,
        quiet_comes: bool = False,
    ) -> None:
        self.behaviours = behaviours
        self.noise = noise
        self.seed = seed
        self.now = 0
        self.opened: list[str] = []
        self.calls: Counter[str] = Counter()
        self.fresh_calls = 0
        self.busy = busy
        """Cores that compute for others, of two."""
        self.quiet_comes = quiet_comes
        self.waited_s = 0.0

    def of(self, c: Candidate) -> Behaviour:
        told = (str(c.settings.precision_hint),) if c.lower_float else ()
        return self.behaviours[(c.graph.recipe, c.runtime, *told)]

    def ms(self, c: Candidate) -> float:
        """What a candidate really takes."""
        b, s = self.of(c), c.settings
        return float(b.ms * b.scaling ** np.log2(s.threads))

    def draws(self, c: Candidate, what: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *f"{c.name}{what}".encode()])

    def open(self, c: Candidate) -> Engine:
        self.opened.append(c.name)
        if not self.of(c).opens:
            raise EngineError(f"{c.name} does not open")
        return _FakeEngine(self, c)

    def clock(self) -> int:
        return self.now

    def fresh(self, candidates: Sequence[Candidate]) -> dict[str, ProcessTimes]:
        self.fresh_calls += 1
        return {c.name: self._fresh(c) for c in candidates}

    def _fresh(self, c: Candidate) -> ProcessTimes:
        b = self.of(c)
        if b.fresh_fails:
            return ProcessTimes(failed="it died by SIGSEGV")
        ms = self.ms(c) * b.fresh_factor * (1 + self.noise * self.draws(c, "fresh").standard_normal(132))
        cpu = self.ms(c) * c.settings.threads * b.cpu
        paced = b.paced_factor * ms[:72]
        return ProcessTimes(
            (0.1,) * 3,
            (b.rss_mb,) * 3,
            (cpu,) * 3,
            tuple(ms),
            tuple(2 * ms),
            busy=1,
            block=4,
            paced_ms=tuple(paced),
            paced_block=4,
            others=(self.busy,) * 3,
            steal=(0.0,) * 3,
            cores=2,
        )

    def quiet(self, seconds: float) -> bool:
        self.waited_s += seconds
        if self.quiet_comes:
            self.busy = 0.0
        return self.quiet_comes

    def conditions(self) -> Conditions:
        return Conditions(load=0.5)


@dataclass
class _FakeEngine:
    machine: FakeMachine
    candidate: Candidate
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    runtime: str = "fake 1"
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = self.machine.draws(self.candidate, "timed")

    def run(self, feeds: Feeds) -> Outputs:
        self.machine.calls[self.candidate.name] += 1
        ms = self.machine.ms(self.candidate) * (1 + self.machine.noise * self.rng.standard_normal())
        if self.machine.calls[self.candidate.name] <= _GLANCE_CALLS:
            ms *= self.machine.of(self.candidate).glance
        self.machine.now += round(ms * 1e6)
        return {}

    def close(self) -> None:
        pass


class FakeJudge:
    """Knows the drop of everything on one slice."""

    def __init__(self, machine: FakeMachine, which: str) -> None:
        self._machine, self._which = machine, which
        self.digest = f"digest of {which}"
        self.judged: list[str] = []

    def judge(self, candidate: Engine, *, limit: float | None = None) -> Accuracy:
        assert isinstance(candidate, _FakeEngine)
        self.judged.append(candidate.candidate.name)
        behaviour = self._machine.of(candidate.candidate)
        drop = getattr(behaviour, self._which)
        if self._which == "confirmed" and behaviour.by_labels is not None:
            return Accuracy(drop, {}, *behaviour.by_labels, 84, objects=200, labelled=True)
        return Accuracy(drop, {}, drop, drop, 10, behaviour.units)
