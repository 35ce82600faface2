from __future__ import annotations

import math

import pytest
from support.gate_blocks import FakeBlocks, release

from edgectl.core.wire import EngineProof
from edgectl.fleet.rollouts.gates import GateVerdict, recompute
from edgectl.fleet.rollouts.gates.golden import GoldenTerms
from edgectl.fleet.rollouts.gates.latency import LatencyTerms

FINE = EngineProof(golden=0.999, golden_least=0.986)


def proof(golden: float | None, least: float = 0.986) -> EngineProof:
    return EngineProof(golden=golden, golden_least=least)


def test_engine_that_is_five_points_further_from_its_golden_samples_than_the_one_before_is_worse() -> None:
    (d,) = release(FakeBlocks(), [GoldenTerms()], proofs=[(proof(0.94), FINE)])
    assert d.verdict is GateVerdict.WORSE
    assert d.log_wealth >= -math.log(d.alpha)
    assert d.reason == "golden on d: 94.00% after 99.90%"
    assert recompute(d) is GateVerdict.WORSE


@pytest.mark.parametrize("golden", [0.9491, 0.97, 1.0])
def test_what_the_terms_allow_stays_open(golden: float) -> None:
    (d,) = release(FakeBlocks(), [GoldenTerms()], proofs=[(proof(golden), FINE)])
    assert d.verdict is GateVerdict.OPEN
    assert d.log_wealth == 0
    assert recompute(d) is GateVerdict.OPEN


def test_wider_tolerance_of_the_bundle_is_allowed_on_top() -> None:
    """Int8 after float: the builder has seen that the two differ by so much."""
    (d,) = release(FakeBlocks(), [GoldenTerms()], proofs=[(proof(0.92, least=0.93), FINE)])
    assert d.verdict is GateVerdict.OPEN
    assert d.devices[0].slack == pytest.approx(0.056)
    (d,) = release(FakeBlocks(), [GoldenTerms()], proofs=[(proof(0.88, least=0.93), FINE)])
    assert d.verdict is GateVerdict.WORSE


@pytest.mark.parametrize(
    ("proofs", "why"),
    [
        ((EngineProof(), FINE), "d: no golden score: it is no engine, or the agent does not tell"),
        ((FINE, None), "d: no golden score of the engine before"),
        ((FINE, EngineProof()), "d: no golden score of the engine before"),
    ],
)
def test_device_that_does_not_tell_cannot_be_judged(
    proofs: tuple[EngineProof, EngineProof | None], why: str
) -> None:
    (d,) = release(FakeBlocks(), [GoldenTerms()], proofs=[proofs])
    assert d.verdict is GateVerdict.CANNOT_JUDGE
    assert d.lacking == (why,)
    assert recompute(d) is GateVerdict.CANNOT_JUDGE


def test_nothing_is_said_until_the_device_has_the_engine() -> None:
    assert release(FakeBlocks(), [GoldenTerms()]) == ()


def test_one_device_of_many_is_found_however_late_it_comes() -> None:
    names = [f"d{i}" for i in range(200)]
    proofs = [(FINE, FINE)] * 199 + [(proof(0.8), FINE)]
    (d,) = release(FakeBlocks(), [GoldenTerms()], names, proofs=proofs)
    assert d.verdict is GateVerdict.WORSE
    assert d.reason.startswith("golden on d199, first of 200 devices: 80.00%")
    assert recompute(d) is GateVerdict.WORSE


def test_no_alpha_is_spent_where_nothing_is_left_to_chance() -> None:
    blocks = FakeBlocks()
    blocks.before("d", lambda _: 20.0)
    blocks.after("d", lambda _: 20.0)
    found = release(blocks, [GoldenTerms(), LatencyTerms()], proofs=[(FINE, FINE)])
    assert {d.gate: d.alpha for d in found}["latency p99"] == 0.005
