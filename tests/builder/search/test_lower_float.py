"""Float layers in bfloat16 or float16, by order to the runtime: candidates of their own, judged and measured like any other."""

from __future__ import annotations

import math

import pytest
from support.builder.fakes import Behaviour, FakeJudge, FakeMachine, base

from edgectl.builder.search.candidates import Candidate, CandidateGraph, Cause, Choice
from edgectl.builder.search.reasons import reasons_of_search
from edgectl.builder.search.search import Goal, search
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.core.bundle import SessionSettings

FLOAT, OTHER, BF16 = ("float", "onnxruntime"), ("float", "openvino"), ("float", "openvino", "bf16")
INT8, MIXED = ("full", "openvino"), ("full", "openvino", "bf16")


def run(zoo: dict[tuple[str, ...], Behaviour]) -> Choice:
    machine = FakeMachine(zoo)
    return search(
        [base(*key) for key in zoo],
        FakeJudge(machine, "searched"),
        lambda: FakeJudge(machine, "confirmed"),
        Goal(max_drop=0.01, min_speedup=1.02),
        machine,
        TuningLog(None, {}),
        threads=(),
        seconds=5,
        left=lambda: math.inf,
    )


@pytest.mark.parametrize(
    ("graph", "hint", "name", "precision", "is_float"),
    [
        (CandidateGraph("float", b"", "float32"), None, "float/openvino/1", "float32", True),
        (CandidateGraph("float", b"", "float32"), "f32", "float/openvino/1", "float32", True),
        (CandidateGraph("float", b"", "float32"), "bf16", "float/openvino/1/bf16", "bfloat16", False),
        (CandidateGraph("float", b"", "float32"), "f16", "float/openvino/1/f16", "float16", False),
        (CandidateGraph("full", b"", "int8"), "bf16", "full/openvino/1/bf16", "int8", False),
        (CandidateGraph("given", b"", "int8", as_received=True), "f32", "given/openvino/1", "int8", True),
        (
            CandidateGraph("given", b"", "int8", as_received=True),
            "bf16",
            "given/openvino/1/bf16",
            "int8",
            False,
        ),
    ],
)
def test_what_others_are_compared_with_is_in_full_precision(
    graph: CandidateGraph, hint: str | None, name: str, precision: str, is_float: bool
) -> None:
    c = Candidate(graph, "openvino", SessionSettings(precision_hint=hint))
    assert (c.name, c.precision, c.is_float) == (name, precision, is_float)


def test_bfloat16_ships_where_it_is_faster_and_holds_on_every_slice() -> None:
    choice = run(
        {FLOAT: Behaviour(4), OTHER: Behaviour(3.9), BF16: Behaviour(2, searched=0.002, confirmed=0.004)}
    )
    winner = choice.winner
    assert (winner.candidate.name, winner.candidate.precision) == ("float/openvino/1/bf16", "bfloat16")
    assert winner.searched is not None
    assert winner.confirmed is not None
    assert (winner.searched.drop, winner.confirmed.drop) == (0.002, 0.004)
    assert winner.measured is not None
    assert winner.measured.ratio_to_float == pytest.approx(0.5)
    assert choice.fallback is not None
    assert choice.fallback.candidate.name == "float/onnxruntime/1/no-arena"


def test_one_graph_loses_what_it_loses_in_each_float() -> None:
    """The verdict on int8 beside float32 says nothing about int8 beside bfloat16."""
    lossy = Behaviour(1, searched=0.3)
    choice = run({FLOAT: Behaviour(4), INT8: Behaviour(2, searched=0.001), MIXED: lossy})
    assert choice.winner.candidate.name == "full/openvino/1"
    of = {o.candidate.name: (o.searched.drop, o.cause) for o in choice.outcomes if o.searched}
    assert of["full/openvino/1/bf16"] == (0.3, Cause.OVER_BUDGET)
    assert run({FLOAT: Behaviour(4), INT8: Behaviour(2), MIXED: Behaviour(1)}).winner.candidate.name == (
        "full/openvino/1/bf16"
    )
    confirmed = run({FLOAT: Behaviour(4), INT8: Behaviour(2), MIXED: Behaviour(1, confirmed=0.3)})
    assert confirmed.winner.candidate.name == "full/openvino/1"


def test_bfloat16_that_loses_too_much_is_told_by_its_name() -> None:
    choice = run({FLOAT: Behaviour(4), BF16: Behaviour(2, searched=0.02)})
    assert choice.winner.candidate.is_float
    (reason,) = reasons_of_search(choice.outcomes, 0.01)
    assert reason.cause is Cause.OVER_BUDGET
    assert reason.sentence.startswith("bfloat16 loses too much: float/openvino/1/bf16 0.0200")
