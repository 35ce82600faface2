"""How closely an engine reproduces its golden samples on a device, beside the engine before."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgectl.core.wire import EngineProof
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType, ProofFigures

__all__ = ["GATE", "GoldenTerms"]


class GoldenTerms(GateSettings):
    gate: Literal["golden"] = "golden"
    max_drop: float = Field(default=0.05, ge=0, le=1)
    """By how much the golden score may be below that of the engine before on the same device: 0.05 is five points. Where
    the new bundle records a wider tolerance than the old one's (int8 after float), by so much more."""


def _of(terms: GoldenTerms, proof: EngineProof, before: EngineProof | None) -> ProofFigures | str:
    """Figures are errors: 1 less the score."""
    if proof.golden is None:
        return "no golden score: it is no engine, or the agent does not tell"
    if before is None or before.golden is None:
        return "no golden score of the engine before"
    slack = max(0.0, (before.golden_least or 0.0) - (proof.golden_least or 0.0))
    return ProofFigures((1 - proof.golden,), (1 - before.golden,), slack)


GATE = GateType(
    terms=GoldenTerms,
    doc="The engine that a device made reproduces its golden samples less closely than the one before did its own.",
    of_proof=_of,
    allowed=lambda terms: float(terms.max_drop),
    shown=lambda error: f"{1 - error:.2%}",
    apart=lambda error: f"{-100 * error:+.2f} points",
    title=lambda terms: "golden",
    bets="once",
)
