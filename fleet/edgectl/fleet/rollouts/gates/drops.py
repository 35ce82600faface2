"""Frames that are dropped, against the device's own share before."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from edgectl.fleet.rollouts.gates.blocks import Block
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType

__all__ = ["GATE", "DropTerms"]


class DropTerms(GateSettings):
    gate: Literal["drops"] = "drops"
    max_increase: float = Field(default=0.02, ge=0, le=1)
    """By how much the share of dropped frames may rise: 0.02 is two frames of a hundred."""


def _of(terms: DropTerms, block: Block) -> float:
    return min(1.0, block.dropped / block.captured) if block.captured else math.nan


GATE = GateType(
    terms=DropTerms,
    doc="A larger share of the frames is dropped than before, whatever the cause.",
    of=_of,
    allowed=lambda terms: float(terms.max_increase),
    shown=lambda rate: f"{rate:.2%}",
    apart=lambda rate: f"{rate:+.2%}",
    title=lambda terms: "drops",
)
