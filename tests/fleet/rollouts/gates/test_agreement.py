from __future__ import annotations

import random

import pytest
from support.gate_blocks import ASKED_S, NEW, OLD, FakeBlocks, release

from edgectl.core.wire import EngineProof, ShadowBlock
from edgectl.fleet.rollouts.gates import GateJudge, GateVerdict, Watched, recompute
from edgectl.fleet.rollouts.gates.agreement import AgreementTerms

MISSED = AgreementTerms(max_share=0.03)
EXTRA = AgreementTerms(of="extra", max_share=0.03)


def shadow(missed: float, extra: float = 0.0, *, blocks: int = 32, seed: int = 1) -> EngineProof:
    """Blocks of 40 objects."""
    chance = random.Random(seed)

    def of(share: float) -> int:
        return sum(chance.random() < share for _ in range(40))

    told = tuple(
        ShadowBlock(frames=8, both=40 - lost, missed=lost, extra=of(extra))
        for lost in [of(missed) for _ in range(blocks)]
    )
    return EngineProof(shadow=told)


def test_engine_that_misses_what_the_old_one_finds_is_worse() -> None:
    missed, extra = release(FakeBlocks(), [MISSED, EXTRA], proofs=[(shadow(0.09), None)])
    assert (missed.gate, missed.verdict) == ("agreement, missed", GateVerdict.WORSE)
    assert "3.00% may" in missed.reason
    assert recompute(missed) is GateVerdict.WORSE
    assert extra.verdict is GateVerdict.OPEN


def test_engine_that_finds_what_is_not_there_is_worse() -> None:
    missed, extra = release(FakeBlocks(), [MISSED, EXTRA], proofs=[(shadow(0.0, 0.12), None)])
    assert missed.verdict is GateVerdict.OPEN
    assert (extra.gate, extra.verdict) == ("agreement, extra", GateVerdict.WORSE)


@pytest.mark.parametrize("seed", range(20))
def test_engine_that_differs_by_less_than_the_terms_allow_stays_open(seed: int) -> None:
    for d in release(FakeBlocks(), [MISSED, EXTRA], proofs=[(shadow(0.015, 0.015, seed=seed), None)]):
        assert d.verdict is GateVerdict.OPEN
        assert recompute(d) is GateVerdict.OPEN


def test_small_losses_of_many_devices_add_up() -> None:
    names = [f"d{i}" for i in range(8)]
    proofs = [(shadow(0.04, seed=i + 1), None) for i in range(8)]
    (one,) = release(FakeBlocks(), [MISSED], names[:1], proofs=proofs[:1])
    (all_,) = release(FakeBlocks(), [MISSED], names, proofs=proofs)
    assert (one.verdict, all_.verdict) == (GateVerdict.OPEN, GateVerdict.WORSE)
    assert recompute(all_) is GateVerdict.WORSE


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        (EngineProof(golden=1.0), "no shadow"),
        (EngineProof(shadow=(ShadowBlock(frames=8, both=0, missed=0, extra=0),)), "neither engine found"),
    ],
)
def test_without_anything_to_compare_nothing_is_judged(proof: EngineProof, why: str) -> None:
    (d,) = release(FakeBlocks(), [MISSED], proofs=[(proof, None)])
    assert d.verdict is GateVerdict.CANNOT_JUDGE
    assert why in d.lacking[0]


def test_each_block_of_the_shadow_is_bet_on_once_also_after_a_restart() -> None:
    told = shadow(0.02)
    watched = Watched("d", "orin", None, OLD, ASKED_S, told)
    judge = GateJudge([MISSED], NEW, 0.01)
    (first,) = judge.look([watched], {}, FakeBlocks(), ASKED_S)
    assert len(first.devices[0].after) == 32
    assert judge.look([watched], {}, FakeBlocks(), ASKED_S + 60) == (first,)
    again = GateJudge([MISSED], NEW, 0.01)
    again.resume([first], {"d": watched})
    assert again.look([watched], {}, FakeBlocks(), ASKED_S + 90) == (first,)
