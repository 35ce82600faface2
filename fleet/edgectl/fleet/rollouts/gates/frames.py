"""Frames that get through: an engine that hangs, or takes its worker along, leaves gaps."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from edgectl.fleet.rollouts.gates.blocks import Block
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType

__all__ = ["GATE", "FrameTerms"]

_NONE = 0.01
"""Frames a second that count as none."""


class FrameTerms(GateSettings):
    gate: Literal["frames"] = "frames"
    max_loss: float = Field(default=0.1, ge=0, lt=1)
    """What share of the frames a second may be missing: 0.1 is one of ten."""


def _of(terms: FrameTerms, block: Block) -> float:
    return -math.log2(max(_NONE, (block.attempts - block.errors) / block.seconds))


GATE = GateType(
    terms=FrameTerms,
    doc="Fewer frames a second get through while the source is there: workers that crash and come again.",
    of=_of,
    allowed=lambda terms: -math.log2(1 - terms.max_loss),
    shown=lambda log2_s: f"{2**-log2_s:.3g} frames/s",
    apart=lambda log2: f"{2**-log2:.3g} times",
    title=lambda terms: "frames",
)
