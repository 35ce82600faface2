"""Measured conditions that stop a rollout. Pure.

A gate bets that the new engine is worse than its terms allow, on every device, block by block of telemetry, and stops the
rollout when it has won enough (:mod:`~edgectl.fleet.rollouts.gates.wealth`). It may be looked at at any time. The chance
that any gate of a rollout ever stops it wrongly is the rollout's ``alpha``.

``table.py`` names the gates, each a file of its own; ``judge.py`` follows the devices of a rollout; ``decision.py`` is what
is written down of it; ``failures.py`` counts devices that could not take the release at all.
"""

from __future__ import annotations

from edgectl.fleet.rollouts.gates.blocks import BLOCK_S, Block, BlockHistory
from edgectl.fleet.rollouts.gates.decision import GateDecision, GateVerdict, recompute
from edgectl.fleet.rollouts.gates.failures import at_most, bisect, failure_gate, lower_bound, upper_bound
from edgectl.fleet.rollouts.gates.judge import BlockSource, GateJudge, Watched
from edgectl.fleet.rollouts.gates.table import GATES, GateTerms

__all__ = [
    "BLOCK_S",
    "GATES",
    "Block",
    "BlockHistory",
    "BlockSource",
    "GateDecision",
    "GateJudge",
    "GateTerms",
    "GateVerdict",
    "Watched",
    "at_most",
    "bisect",
    "failure_gate",
    "lower_bound",
    "recompute",
    "upper_bound",
]
