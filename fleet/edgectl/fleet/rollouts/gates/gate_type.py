"""What a gate is made of. Each gate is a file of this folder that ends with its :class:`GateType`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict

from edgectl.core.schema import Terms
from edgectl.fleet.rollouts.gates.blocks import Block

__all__ = ["GateSettings", "GateType"]


class GateSettings(Terms):
    """What a person says of a gate: a word that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class GateType:
    """A figure of each block, and how far the new engine's may be above the old one's."""

    terms: type[GateSettings]
    """Its settings, with the literal ``gate``: its name."""
    doc: str
    """One line: what it finds."""
    of: Callable[[Any, Block], float]
    """(terms, block) → the figure; more is worse; nan: the block does not tell."""
    allowed: Callable[[Any], float]
    """(terms) → how much more the new engine's figure may be; of ``mean``: the largest mean allowed."""
    shown: Callable[[float], str]
    """A figure with its unit, for people."""
    apart: Callable[[float], str]
    """The difference of two figures, for people: ``1.3 times``."""
    title: Callable[[Any], str]
    """(terms) → its name in records: ``latency p99``."""
    alone: bool = True
    """Whether a device may be compared with itself only. Else it takes controls: the scene moves the figure more than any
    engine does."""
    bets: Literal["ranks", "mean"] = "ranks"
    """``ranks``: against the old engine's blocks (:class:`~edgectl.fleet.rollouts.gates.wealth.RankBets`). ``mean``:
    against a fixed bound, without looking at the old engine; figures are in [0, 1]."""

    @property
    def name(self) -> str:
        """As a policy says it: ``latency``."""
        return str(self.terms.model_fields["gate"].default)
