"""Events that are told, beside devices of the same kind that see as much."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from edgectl.fleet.rollouts.gates.blocks import Block
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType

__all__ = ["GATE", "EventTerms"]


class EventTerms(GateSettings):
    gate: Literal["events"] = "events"
    change: Literal["fewer", "more"] = "fewer"
    """Fewer: it misses things. More: it finds what is not there."""
    max_ratio: float = Field(default=1.5, gt=1, le=1000)
    """How many times as many, or as few, there may be."""


def _of(terms: EventTerms, block: Block) -> float:
    rate = math.log2((block.events + 0.5) / block.seconds)
    return rate if terms.change == "more" else -rate


GATE = GateType(
    terms=EventTerms,
    doc="The rate of events changes more than that of devices of the same kind meanwhile.",
    of=_of,
    allowed=lambda terms: math.log2(terms.max_ratio),
    shown=lambda log2: f"log2 {log2:+.2f} a second",
    apart=lambda log2: f"{2**log2:.3g} times",
    title=lambda terms: f"{terms.change} events",
    alone=False,
)
