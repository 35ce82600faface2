"""Memory that the workers of a device take and do not give back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgectl.fleet.rollouts.gates.blocks import Block
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType

__all__ = ["GATE", "MemoryTerms"]


class MemoryTerms(GateSettings):
    gate: Literal["memory"] = "memory"
    max_growth_mb_h: float = Field(default=20.0, ge=0)
    """By how much faster the workers' memory may grow than with the old engine, in MB an hour."""


def _of(terms: MemoryTerms, block: Block) -> float:
    return block.growth_mb * 3600 / block.seconds


GATE = GateType(
    terms=MemoryTerms,
    doc="The workers' memory grows faster than before: a leak. Of the whole device, not of one slot.",
    of=_of,
    allowed=lambda terms: float(terms.max_growth_mb_h),
    shown=lambda mb_h: f"{mb_h:+.3g} MB/h",
    apart=lambda mb_h: f"{mb_h:+.3g} MB/h",
    title=lambda terms: "memory",
)
