"""Latency of the engine: a percentile of each block."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from edgectl.fleet.rollouts.gates.blocks import PERCENTILES, Block
from edgectl.fleet.rollouts.gates.gate_type import GateSettings, GateType

__all__ = ["GATE", "LatencyTerms"]


class LatencyTerms(GateSettings):
    gate: Literal["latency"] = "latency"
    percentile: Literal[50, 90, 95, 99] = 99
    """Of the engine's latency. The median finds small differences of the whole, 99 finds a longer tail."""
    max_ratio: float = Field(default=1.0, ge=0.1, le=1000)
    """How many times the old engine's it may be on the same device. 1: no slower at all."""


def _of(terms: LatencyTerms, block: Block) -> float:
    return block.quantiles[PERCENTILES.index(terms.percentile)]


GATE = GateType(
    terms=LatencyTerms,
    doc="The engine is slower than the old one was on the same device, at a percentile.",
    of=_of,
    allowed=lambda terms: math.log2(terms.max_ratio),
    shown=lambda log2_us: f"{2**log2_us / 1000:.3g} ms",
    apart=lambda log2: f"{2**log2:.3g} times",
    title=lambda terms: f"latency p{terms.percentile}",
)
