"""What the new engine finds beside the old one, on the same frames of the same device: the shadow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgectl.core.wire import EngineProof
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType, ProofFigures

__all__ = ["GATE", "AgreementTerms"]


class AgreementTerms(GateSettings):
    gate: Literal["agreement"] = "agreement"
    of: Literal["missed", "extra"] = "missed"
    """Missed: what only the old engine finds. Extra: what only the new one finds."""
    max_share: float = Field(default=0.05, gt=0, lt=1)
    """Of all that the old engine finds (of extra: the new one), on average over blocks of the shadow."""


def _of(terms: AgreementTerms, proof: EngineProof, before: EngineProof | None) -> ProofFigures | str:
    if not proof.shadow:
        return "no shadow: the policy asks for none, or its agent does not tell"
    counted = [(b.both, b.missed if terms.of == "missed" else b.extra) for b in proof.shadow]
    found = tuple(alone / (both + alone) for both, alone in counted if both + alone)
    return ProofFigures(found) if found else "neither engine found anything in the shadow"


GATE = GateType(
    terms=AgreementTerms,
    doc="In shadow, beside the old engine, the new one misses what that finds, or finds more than that does.",
    of_proof=_of,
    allowed=lambda terms: float(terms.max_share),
    shown=lambda share: f"{share:.2%}",
    apart=lambda share: f"{share:+.2%}",
    title=lambda terms: f"agreement, {terms.of}",
    bets="mean",
)
