"""What a gate is made of. Each gate is a file of this folder that ends with its :class:`GateType`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from edgectl.core.schema import Terms
from edgectl.core.wire import EngineProof
from edgectl.fleet.rollouts.gates.blocks import Block
from edgectl.fleet.rollouts.gates.wealth import Bettings

__all__ = ["GateSettings", "GateType", "ProofFigures"]


class GateSettings(Terms):
    """What a person says of a gate: a word that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class ProofFigures:
    """What an engine's proof says to a gate."""

    after: tuple[float, ...]
    before: tuple[float, ...] = ()
    """Of the engine before, on the same device."""
    slack: float = 0.0
    """How far ``after`` may be above ``before`` besides what the terms allow."""


def _no_figure(_terms: Any, _block: Block) -> float:
    return math.nan


@dataclass(frozen=True)
class GateType:
    """A figure of each block, and how far the new engine's may be above the old one's."""

    terms: type[GateSettings]
    """Its settings, with the literal ``gate``: its name."""
    doc: str
    """One line: what it finds."""
    allowed: Callable[[Any], float]
    """(terms) → how much more the new engine's figure may be; of ``mean``: the largest mean allowed."""
    shown: Callable[[float], str]
    """A figure with its unit, for people."""
    apart: Callable[[float], str]
    """The difference of two figures, for people: ``1.3 times``."""
    title: Callable[[Any], str]
    """(terms) → its name in records: ``latency p99``."""
    of: Callable[[Any, Block], float] = _no_figure
    """(terms, block) → the figure; more is worse; nan: the block does not tell."""
    of_proof: Callable[[Any, EngineProof, EngineProof | None], ProofFigures | str] | None = None
    """In its place, for what a device finds of an engine before it serves: (terms, of the new engine, of the one before)
    → the figures, or what is missing. None: the gate reads blocks."""
    alone: bool = True
    """Whether a device may be compared with itself only. Else it takes controls: the scene moves the figure more than any
    engine does."""
    lasting: bool = False
    """Whether its figures are of eight blocks each (the first of :data:`~edgectl.fleet.rollouts.gates.blocks.COARSE`), for
    what comes in spells that are longer than a block; such a device is compared with itself only."""
    bets: Bettings = "ranks"
    """``ranks``: against the old engine's blocks (:class:`~edgectl.fleet.rollouts.gates.wealth.RankBets`). ``mean``:
    against a fixed bound, without looking at the old engine; figures are in [0, 1]. ``once``: one figure each, which
    measured again is the same again; no chance is in it, and no α is spent on it."""

    @property
    def name(self) -> str:
        """As a policy says it: ``latency``."""
        return str(self.terms.model_fields["gate"].default)
