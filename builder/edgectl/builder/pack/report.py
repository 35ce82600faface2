"""The report layer of a bundle: every candidate that was measured and what compression did, for people to
look at later.

It holds timings, so it only lies beside variants that hold timings anyway: the digest of any other variant
stays reproducible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pydantic import Field

from edgectl.builder.compress.run import CompressionStep
from edgectl.builder.judge.labelled import LabelledFigures
from edgectl.builder.search.candidates import Candidate, CandidateOutcome, Choice
from edgectl.builder.search.reasons import Reason
from edgectl.core.bundle import (
    LAYER_REPORT,
    Precision,
    Preference,
    Runtime,
    Variant,
)
from edgectl.core.measured import Conditions, Measured
from edgectl.core.schema import Config

__all__ = [
    "CandidateReport",
    "CauseReport",
    "LabelsReport",
    "RoundReport",
    "SearchReport",
    "read_report",
    "report_of",
]


class RoundReport(Config):
    """One round (from 0) of one candidate: calls, median latency, and the state of the machine."""

    round: int
    n: int
    p50_ms: float
    conditions: Conditions


class CandidateReport(Config):
    """One candidate: what it was, what it lost, how fast it was, and why it was not chosen."""

    name: str
    recipe: str
    runtime: Runtime
    precision: Precision
    threads: int
    chosen: bool = False
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None
    """95 %."""
    accuracy: dict[str, float] = {}
    measured: Measured | None = None
    ratio: tuple[float, float, float] | None = None
    """Median of paired latency ratios to the fastest float candidate, and its 95 % interval."""
    rejected: str | None = None
    cause: str | None = None
    """The kind of ``rejected`` (:class:`edgectl.builder.search.candidates.Cause`)."""
    preferences: tuple[Preference, ...] = ()
    """What it ships as; empty if it does not ship."""
    rounds: tuple[RoundReport, ...] = Field(default=(), max_length=100)


class CauseReport(Config):
    """Why no quantized engine ships first: what, its figure, and the next step."""

    cause: str
    sentence: str
    next: str
    figure: str = ""


class LabelsReport(Config):
    """What people labelled and the variants were judged by: of ``given`` pictures (or recordings) so many judged, with so
    many objects; ``values``: float's own figures."""

    layout: str = Field(max_length=100)
    kind: str = Field(max_length=100)
    pictures: int
    given: int
    objects: int
    values: dict[str, float] = Field(max_length=16)


class SearchReport(Config):
    """``groups``: kernel family and threads → the candidates that competed there."""

    groups: dict[str, tuple[CandidateReport, ...]] = Field(default={}, max_length=64)
    compression: tuple[dict[str, str | float], ...] = Field(default=(), max_length=64)
    """One row a compression step: what it did, what it cost, what it gained."""
    causes: dict[str, tuple[CauseReport, ...]] = Field(default={}, max_length=64)
    """Group → why no quantized engine ships first there; no entry where one does."""
    left_out: tuple[str, ...] = Field(default=(), max_length=256)
    """What was not done for want of time."""
    decided: tuple[str, ...] = Field(default=(), max_length=64)
    """What ``edgectl bench --decide`` decided later."""
    labels: LabelsReport | None = None
    """None: there were no labels, and float's answers were the truth."""


def report_of(
    choices: Mapping[str, Choice],
    compression: Sequence[CompressionStep] = (),
    causes: Mapping[str, Sequence[Reason]] | None = None,
    left_out: Sequence[str] = (),
    labels: LabelledFigures | None = None,
) -> SearchReport:
    """What the layer says of a build."""
    groups = {name: tuple(_candidate(o, c) for o in c.outcomes) for name, c in choices.items()}
    why = {
        name: tuple(
            CauseReport(cause=w.cause.value, sentence=w.sentence, next=w.next, figure=w.figure) for w in found
        )
        for name, found in (causes or {}).items()
    }
    return SearchReport(
        groups=groups,
        compression=tuple(asdict(s) for s in compression),
        causes=why,
        left_out=tuple(left_out),
        labels=None if labels is None else LabelsReport(**asdict(labels)),
    )


def read_report(variant: Variant) -> SearchReport | None:
    """The report beside a variant, None if it has none. Raises :class:`BundleError` for one that is
    malformed."""
    return variant.document(LAYER_REPORT, SearchReport, "build report")


def _candidate(o: CandidateOutcome, choice: Choice) -> CandidateReport:
    c = o.candidate
    return CandidateReport(
        name=c.name,
        recipe=c.graph.recipe,
        runtime=c.runtime,
        precision=c.precision,
        threads=c.settings.threads,
        chosen=c == choice.winner.candidate,
        drop=o.accuracy.drop if o.accuracy else None,
        drop_interval=(o.accuracy.low, o.accuracy.high) if o.accuracy else None,
        accuracy=o.accuracy.values if o.accuracy else {},
        measured=o.measured,
        ratio=(round(o.ratio.median, 4), round(o.ratio.low, 4), round(o.ratio.high, 4)) if o.ratio else None,
        rejected=o.rejected,
        cause=o.cause.value if o.cause else None,
        preferences=_preferences(c, choice),
        rounds=tuple(
            RoundReport(round=r.index, n=r.n, p50_ms=r.p50_ms, conditions=r.conditions) for r in o.rounds
        ),
    )


def _preferences(c: Candidate, choice: Choice) -> tuple[Preference, ...]:
    return next((p.preferences for p in choice.picks if p.outcome.candidate == c), ())
