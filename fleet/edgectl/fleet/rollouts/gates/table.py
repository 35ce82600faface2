"""The gates that there are. A gate is one file of this folder: its settings, its code and one line of documentation."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from edgectl.fleet.rollouts.gates import (
    agreement,
    drops,
    errors,
    events,
    frames,
    golden,
    latency,
    memory,
    throttling,
)
from edgectl.fleet.rollouts.gates.agreement import AgreementTerms
from edgectl.fleet.rollouts.gates.drops import DropTerms
from edgectl.fleet.rollouts.gates.errors import ErrorTerms
from edgectl.fleet.rollouts.gates.events import EventTerms
from edgectl.fleet.rollouts.gates.frames import FrameTerms
from edgectl.fleet.rollouts.gates.gate_type import GateType
from edgectl.fleet.rollouts.gates.golden import GoldenTerms
from edgectl.fleet.rollouts.gates.latency import LatencyTerms
from edgectl.fleet.rollouts.gates.memory import MemoryTerms
from edgectl.fleet.rollouts.gates.throttling import ThrottlingTerms

__all__ = ["GATES", "GateTerms", "type_of"]

GATES: dict[str, GateType] = {
    "latency": latency.GATE,
    "errors": errors.GATE,
    "drops": drops.GATE,
    "frames": frames.GATE,
    "memory": memory.GATE,
    "events": events.GATE,
    "throttling": throttling.GATE,
    "golden": golden.GATE,
    "agreement": agreement.GATE,
}

GateTerms: TypeAlias = Annotated[
    LatencyTerms
    | ErrorTerms
    | DropTerms
    | FrameTerms
    | MemoryTerms
    | EventTerms
    | ThrottlingTerms
    | GoldenTerms
    | AgreementTerms,
    Field(discriminator="gate"),
]
"""Settings of any of them."""


def type_of(terms: GateTerms) -> GateType:
    return GATES[terms.gate]
