from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gate_blocks import ASKED_S, NEW, OLD, FakeBlocks, still

from edgectl.fleet.rollouts.gates import GateDecision, GateJudge, GateVerdict, Watched, recompute
from edgectl.fleet.rollouts.gates.decision import logs_of
from edgectl.fleet.rollouts.gates.errors import ErrorTerms
from edgectl.fleet.rollouts.gates.latency import LatencyTerms


def decisions(seed: int, devices: int, slower: float) -> list[GateDecision]:
    """Of every look at a rollout."""
    chance, blocks = random.Random(seed), FakeBlocks()
    names = [f"d{i}" for i in range(devices)]
    for name in names:
        blocks.before(name, lambda _: still(chance), 200)
    judge = GateJudge([LatencyTerms(), LatencyTerms(percentile=50), ErrorTerms()], NEW, 0.01)
    watched = [Watched(n, "orin", None, OLD, ASKED_S) for n in names]
    found = []
    for _ in range(6):
        for name in names:
            blocks.after(name, lambda _: still(chance, 20.0 * slower), 1)
        found += judge.look(watched, {}, blocks, 0.0)
    return found


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 9), st.sampled_from([1.0, 1.1, 1.3, 1.6]))
def test_every_record_gives_its_verdict_again_also_from_json(seed: int, devices: int, slower: float) -> None:
    for d in decisions(seed, devices, slower):
        again = GateDecision.model_validate_json(d.encode())
        assert again == d
        assert recompute(again) is d.verdict


def test_record_whose_figures_are_others_gives_another_verdict() -> None:
    worse = next(d for d in decisions(1, 1, 1.6) if d.verdict is GateVerdict.WORSE)
    bets = worse.devices[0]
    good = bets.model_copy(update={"after": bets.before[: len(bets.after)]})
    assert recompute(worse.model_copy(update={"devices": (good,)})) is GateVerdict.OPEN
    assert recompute(worse.model_copy(update={"alpha": 1e-9})) is GateVerdict.OPEN


def test_slack_and_allowance_come_off_what_the_new_engine_did() -> None:
    bets = decisions(2, 1, 1.3)[-2].devices[0]
    as_is = max(logs_of("ranks", bets, 0.0))
    assert max(logs_of("ranks", bets, 1.0)) < as_is
    assert max(logs_of("ranks", bets.model_copy(update={"slack": bets.slack + 1.0}), 0.0)) < as_is


def test_alpha_is_split_over_the_gates_and_stays_in_all() -> None:
    found = decisions(3, 1, 1.0)[-3:]
    assert [d.gate for d in found] == ["latency p99", "latency p50", "errors"]
    assert [d.alpha for d in found] == pytest.approx([0.01 / 6] * 3)
