"""What a build gives back to its caller: one line a variant, what was compared, and what the user should know."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgectl.builder.compress.run import CompressionReport
from edgectl.builder.judge.labelled import LabelledFigures
from edgectl.builder.search.candidates import CandidateOutcome
from edgectl.builder.search.reasons import Reason
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.measured import ContextRun, Standing
from edgectl.core.memory import EngineMemory

__all__ = ["BuildReport", "VariantSummary", "summary_of"]


@dataclass(frozen=True)
class VariantSummary:
    """One line of the report."""

    profile: str
    variant: str
    runtime: str
    precision: str
    drop: float | None
    p50_ms: float | None
    ratio_to_float: float | None
    """Alone, in a process of its own, × the float fallback."""
    engine_bytes: int
    fallback: bool
    preferences: tuple[str, ...] = ()
    contexts: tuple[ContextRun, ...] = ()
    """Each way in which a device runs it; empty where it was not measured here."""
    standing: Standing | None = None
    memory: EngineMemory | None = None
    """What it adds to a process that opens it; None: not known."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """The figures behind the drop, and its 95 % interval; by labels, float's own beside them (``float_ap50``)."""


@dataclass(frozen=True)
class BuildReport:
    digest: str
    """Of the bundle: sha256 of its index.json."""
    out: Path
    name: str
    version: str
    seconds: float
    source_bytes: int
    variants: tuple[VariantSummary, ...]
    candidates: dict[str, tuple[CandidateOutcome, ...]] = field(repr=False)
    """Kernel family → what became of every candidate that was measured on this machine."""
    notes: tuple[str, ...]
    compression: CompressionReport
    causes: dict[str, tuple[Reason, ...]] = field(default_factory=dict)
    """Kernel family → why no quantized engine ships first there, what came nearest first; no entry where
    one does."""
    left_out: tuple[str, ...] = ()
    """What was not done for want of time."""
    licence: str | None = None
    """SPDX expression of the weights' licence; None: not known."""
    labels: LabelledFigures | None = None
    """What judged, where there were labels."""
    conversion: dict[str, Any] | None = None
    """Of a model that did not come as ONNX: source, its digest, framework, converter, and how near the outputs are."""


def summary_of(draft: VariantDraft) -> VariantSummary:
    measured = draft.measured
    return VariantSummary(
        draft.profile,
        draft.variant,
        draft.runtime,
        draft.precision,
        draft.accuracy.drop if draft.accuracy else None,
        measured.p50_ms if measured else None,
        measured.ratio_to_float if measured else None,
        len(draft.model) + sum(d.stat().st_size for _, d in draft.engine_layers if isinstance(d, Path)),
        draft.fallback,
        draft.preferences,
        measured.fresh.contexts if measured and measured.fresh else (),
        measured.standing if measured else None,
        draft.memory,
        {} if draft.accuracy is None else draft.accuracy.figures,
    )
