"""Time in which something slowed the device down: heat, power."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgectl.fleet.rollouts.gates.blocks import Block
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType

__all__ = ["GATE", "ThrottlingTerms"]


class ThrottlingTerms(GateSettings):
    gate: Literal["throttling"] = "throttling"
    max_increase: float = Field(default=0.1, ge=0, le=1)
    """By how much the share of the time may rise in which the device is slowed down: 0.1 is six seconds of a minute."""


def _of(terms: ThrottlingTerms, block: Block) -> float:
    return block.throttled


GATE = GateType(
    terms=ThrottlingTerms,
    doc="The device is slowed down by heat or power for more of the time. Of the whole device, not of one slot.",
    of=_of,
    allowed=lambda terms: float(terms.max_increase),
    shown=lambda share: f"{share:.1%} of the time",
    apart=lambda share: f"{share:+.1%} of the time",
    title=lambda terms: "throttling",
    lasting=True,
)
