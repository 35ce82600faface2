"""Blocks of simulated devices, for judges of rollouts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from edgectl.core.wire import EngineProof
from edgectl.fleet.rollouts.gates import Block, BlockHistory, GateDecision, GateJudge, GateTerms, Watched
from edgectl.fleet.rollouts.gates.blocks import BLOCK_S, COARSE, merged

__all__ = ["ASKED_S", "NEW", "OLD", "FakeBlocks", "block", "release", "still"]

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
ASKED_S = 100_000.0
"""When every device was asked."""


def block(at_s: float, ms: float = 20.0, **figures: float) -> Block:
    """All percentiles are ``ms``."""
    return Block(
        at_s, quantiles=(math.log2(ms * 1000),) * 4, **{"attempts": 300.0, "captured": 300.0, **figures}
    )


def still(chance: random.Random, ms: float = 20.0, sigma: float = 0.05) -> float:
    """The latency of a block, ms."""
    return ms * math.exp(sigma * chance.gauss(0, 1))


class FakeBlocks:
    """In the slot of a rollout: a block every 10 s."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, str], list[Block]] = {}

    def put(self, device: str, digest: str, blocks: Sequence[Block]) -> None:
        self._blocks.setdefault((device, digest), []).extend(blocks)

    def before(self, device: str, of: Callable[[int], Block | float], n: int = 400) -> None:
        """``of(i)``: a block, or its latency in ms; the last ends when the device was asked."""
        self.put(device, OLD, [_of(of(i), ASKED_S - (n - 1 - i) * BLOCK_S) for i in range(n)])

    def after(self, device: str, of: Callable[[int], Block | float], n: int = 20, digest: str = NEW) -> None:
        start = len(self._blocks.get((device, digest), ())) if digest == NEW else 0
        self.put(device, digest, [_of(of(i), ASKED_S + (start + i + 3) * BLOCK_S) for i in range(n)])

    def last_s(self, device: str, digest: str) -> float:
        blocks = self._blocks.get((device, digest))
        return blocks[-1].at_s if blocks else -math.inf

    def history(self, device: str, digest: str, until_s: float) -> BlockHistory:
        blocks = [b for b in self._blocks.get((device, digest), []) if b.at_s <= until_s]
        coarse = tuple(
            tuple(merged(blocks[i : i + m]) for i in range(len(blocks) % m, len(blocks), m)) for m in COARSE
        )
        return BlockHistory(tuple(blocks[-128:]), coarse)

    def since(self, device: str, digest: str, at_s: float) -> list[Block]:
        return [b for b in self._blocks.get((device, digest), []) if b.at_s > at_s]


def _of(made: Block | float, at_s: float) -> Block:
    if not isinstance(made, Block):
        return block(at_s, made)
    return Block(
        at_s,
        made.seconds,
        made.quantiles,
        made.attempts,
        made.errors,
        made.captured,
        made.dropped,
        made.growth_mb,
        made.events,
        made.throttled,
    )


def release(
    blocks: FakeBlocks,
    gates: Sequence[GateTerms],
    devices: Sequence[str] = ("d",),
    *,
    alpha: float = 0.01,
    stratum: str = "orin",
    site: str | None = None,
    free: Sequence[str] = (),
    proofs: Sequence[tuple[EngineProof | None, EngineProof | None]] = (),
) -> tuple[GateDecision, ...]:
    """What a judge says that looks once. ``proofs``: of each device that of the new engine, and of the one before."""
    told = proofs or [(None, None)] * len(devices)
    watched = [Watched(name, stratum, site, OLD, ASKED_S, *t) for name, t in zip(devices, told, strict=True)]
    return GateJudge(gates, NEW, alpha).look(watched, {stratum: free}, blocks, ASKED_S + 9999)
