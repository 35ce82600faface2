"""Inferences that fail, against a fixed bound."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from edgectl.fleet.rollouts.gates.blocks import Block
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType

__all__ = ["GATE", "ErrorTerms"]


class ErrorTerms(GateSettings):
    gate: Literal["errors"] = "errors"
    max_rate: float = Field(default=0.01, gt=0, lt=1)
    """Largest share of inferences that may fail, on average over blocks."""


def _of(terms: ErrorTerms, block: Block) -> float:
    return min(1.0, block.errors / block.attempts) if block.attempts else math.nan


GATE = GateType(
    terms=ErrorTerms,
    doc="More inferences fail than the terms allow: results that are not finite, calls that raise.",
    of=_of,
    allowed=lambda terms: float(terms.max_rate),
    shown=lambda rate: f"{rate:.2%}",
    apart=lambda rate: f"{rate:+.2%}",
    title=lambda terms: "errors",
    bets="mean",
)
