"""What competes: a graph in a runtime with session settings, and what became of it.

The space is kept small by rule. Every graph starts with one thread in every runtime; only what survives the
first round is tried with more threads; the arena is only taken from finalists. Threads never wait busily: a
device has other work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Literal

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.core.bundle import Precision, Preference, Runtime, SessionSettings
from edgectl.core.files import digest_of
from edgectl.core.measured import Conditions, Measured, Standing
from edgectl.engines.timing import Ratio

__all__ = [
    "LOWER_FLOATS",
    "SLOWER",
    "Arithmetic",
    "Candidate",
    "CandidateGraph",
    "CandidateOutcome",
    "Cause",
    "Choice",
    "Pick",
    "TimedRound",
    "with_threads",
    "without_arena",
]


Arithmetic = tuple[str, Runtime, str | None]
"""Recipe, runtime, and what float layers compute in (:attr:`Candidate.lower_float`)."""
LOWER_FLOATS: dict[str, Literal["bfloat16", "float16"]] = {"bf16": "bfloat16", "f16": "float16"}
"""What a runtime is told → the precision."""
SLOWER = "slower"
"""Why a candidate did not go on to the next round. It may still ship if all that were faster turn out not
to hold."""


class Cause(str, Enum):
    """Why a quantized candidate does not ship first. What came nearest to it is first here
    (:mod:`edgectl.builder.search.reasons` has the sentences)."""

    UNDECIDED = "undecided"
    """The machine was too busy to tell."""
    EQUAL = "equal"
    """As fast as float; float is more accurate."""
    SLOWER = "slower"
    MEMORY = "memory"
    TOO_FEW_SAMPLES = "too-few-samples"
    """One sample more or less would decide."""
    OVER_BUDGET = "over-budget"
    REFUSED = "refused"
    """A runtime does not run it, or it may not be placed."""
    OUT_OF_TIME = "out-of-time"
    NOTHING_TO_QUANTIZE = "nothing-to-quantize"


@dataclass(frozen=True)
class CandidateGraph:
    recipe: str
    """``float``, ``full``, ``no-head`` …; one name, one graph."""
    model: bytes = field(repr=False)
    precision: Precision
    carried_over: bool = False
    """Its codes are near those of an older release: an update takes few bytes."""
    as_received: bool = False
    """The model itself, in a precision below float32: there is no float form of it, and others are
    compared with this one."""

    @cached_property
    def digest(self) -> str:
        return digest_of(self.model)


@dataclass(frozen=True)
class Candidate:
    """One way to run the model."""

    graph: CandidateGraph
    runtime: Runtime
    settings: SessionSettings

    @property
    def name(self) -> str:
        s = self.settings
        rest = (*((s.precision_hint,) if self.lower_float else ()), *(() if s.arena else ("no-arena",)))
        return "/".join((self.graph.recipe, self.runtime, str(s.threads), *map(str, rest)))

    @property
    def lower_float(self) -> Literal["bfloat16", "float16"] | None:
        """What its float layers compute in, by order to the runtime; None: float32, or what the graph says."""
        return LOWER_FLOATS.get(self.settings.precision_hint or "")

    @property
    def precision(self) -> Precision:
        """That of most of its work."""
        return self.lower_float or "float32" if self.graph.precision == "float32" else self.graph.precision

    @property
    def is_float(self) -> bool:
        """Whether it is what others are compared with: the float model, or one that came quantized, as it
        came; in full precision."""
        return self.lower_float is None and (self.graph.precision == "float32" or self.graph.as_received)

    @property
    def arithmetic(self) -> Arithmetic:
        """What decides its answers; other settings change the time alone."""
        return self.graph.recipe, self.runtime, self.lower_float

    @cached_property
    def digest(self) -> str:
        """Of everything that decides how it behaves."""
        return digest_of(
            json.dumps([self.graph.digest, self.runtime, self.settings.model_dump()], sort_keys=True).encode()
        )


@dataclass(frozen=True)
class TimedRound:
    """How a candidate did in one round, and in what conditions."""

    index: int
    n: int
    p50_ms: float
    conditions: Conditions


@dataclass(frozen=True)
class CandidateOutcome:
    """What became of a candidate: ``rejected`` says why it was not measured to the end, or not taken."""

    candidate: Candidate
    searched: Accuracy | None = None
    """On the search slice."""
    confirmed: Accuracy | None = None
    """On the confirmation slice; only of quantized candidates that were to ship."""
    measured: Measured | None = None
    ratio: Ratio | None = None
    """Against the fastest float candidate."""
    rejected: str | None = None
    rounds: tuple[TimedRound, ...] = ()
    cause: Cause | None = None
    """The kind of ``rejected``, and of what is undecided; None for what ships first, or might have."""
    standing: Standing | None = None
    """Against the fastest float candidate, in processes of their own; None for float and for what was not
    measured there."""

    @property
    def accuracy(self) -> Accuracy | None:
        """The figure to quote: from samples that chose nothing, where there is one."""
        return self.confirmed or self.searched

    def reached(self, last_round: int) -> bool:
        """Whether it was measured in the round of this index, the last one that it was in."""
        return self.measured is not None and self.rounds[-1].index == last_round

    @property
    def possible(self) -> bool:
        """Whether it was measured and nothing but speed speaks against it."""
        return self.measured is not None and self.rejected in (None, SLOWER)


@dataclass(frozen=True)
class Pick:
    """A candidate that ships, and what it is best at."""

    outcome: CandidateOutcome
    preferences: tuple[Preference, ...]


@dataclass(frozen=True)
class Choice:
    picks: tuple[Pick, ...]
    """The winner first. No two of them are the same candidate."""
    fallback: CandidateOutcome | None
    """The best float candidate that needs nothing but ONNX Runtime; it may be a pick, too. None if float
    does not run there."""
    outcomes: tuple[CandidateOutcome, ...]
    reason: str
    notes: tuple[str, ...] = ()
    """What went against the search and was put right."""
    busy: tuple[str, ...] = ()
    """Why the machine was too busy to trust what was measured; empty if it was quiet."""

    @property
    def winner(self) -> CandidateOutcome:
        return self.picks[0].outcome


def with_threads(c: Candidate, threads: Sequence[int]) -> Iterator[Candidate]:
    """The same with more threads."""
    for t in threads:
        if t > c.settings.threads:
            yield Candidate(c.graph, c.runtime, c.settings.model_copy(update={"threads": t}))


def without_arena(c: Candidate) -> Iterator[Candidate]:
    if c.runtime == "onnxruntime" and c.settings.arena:
        yield Candidate(c.graph, c.runtime, c.settings.model_copy(update={"arena": False}))
