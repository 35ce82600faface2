"""Why no quantized engine ships first: each cause with its figure and the next step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.builder.int8.quantizable import NotQuantizable, Obstacle
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.search.candidates import Candidate, CandidateGraph, CandidateOutcome, Cause
from edgectl.builder.search.reasons import (
    Reason,
    drop_told,
    out_of_time,
    over_budget,
    reasons_of_search,
    why_not_quantizable,
)
from edgectl.core.bundle import Precision, Runtime, SessionSettings
from edgectl.core.measured import Standing
from edgectl.engines.timing import Ratio


def outcome(
    name: str,
    cause: Cause | None,
    *,
    ratio: float = 1.0,
    drop: float | None = None,
    units: int = 0,
    standing: Standing | None = None,
    precision: Precision = "int8",
    runtime: Runtime = "onnxruntime",
) -> CandidateOutcome:
    searched = None if drop is None else Accuracy(drop, {}, units=units)
    c = Candidate(CandidateGraph(name, b"", precision), runtime, SessionSettings())
    return CandidateOutcome(
        c,
        searched,
        ratio=Ratio(ratio, ratio - 0.01, ratio + 0.01, 30),
        cause=cause,
        rejected="why",
        standing=standing,
    )


OF_A_CANDIDATE = [c for c in Cause if c is not Cause.NOTHING_TO_QUANTIZE]
FLOAT = CandidateOutcome(Candidate(CandidateGraph("float", b"", "float32"), "onnxruntime", SessionSettings()))
ALL = [
    *(why_not_quantizable(NotQuantizable(o, "h, c")) for o in Obstacle),
    over_budget("full", Accuracy(0.05, {}), 0.01),
    over_budget("full", Accuracy(1 / 4, {}, units=4), 0.01),
    over_budget("full", Accuracy(0.2, {}, 0.0, 0.4, objects=12), 0.1),
    out_of_time(["reconstruction"], 0.5),
    *(
        w
        for cause in OF_A_CANDIDATE
        for w in reasons_of_search([FLOAT, outcome(f"of {cause}", cause, drop=0.05)], 0.01, ["others"])
    ),
]


@pytest.mark.parametrize("why", ALL, ids=lambda w: f"{w.cause.value}: {w.sentence[:24]}")
def test_every_cause_is_one_sentence_and_a_next_step(why: Reason) -> None:
    assert why.text == f"{why.sentence}; {why.next}"
    assert why.next
    assert "\n" not in why.text
    assert not why.sentence.endswith(".")


def test_the_causes_are_told_apart() -> None:
    assert {w.cause for w in ALL} == set(Cause)
    said = [w.sentence for w in ALL]
    assert len(set(said)) == len(said)


def test_each_has_its_own_figure() -> None:
    slower = [outcome("a", Cause.SLOWER, ratio=1.4), outcome("b", Cause.SLOWER, ratio=1.2)]
    equal, lossy = outcome("c", Cause.EQUAL, ratio=0.97), outcome("d", Cause.OVER_BUDGET, drop=0.034)
    found = reasons_of_search(
        [FLOAT, *slower, equal, lossy, outcome("e", Cause.OVER_BUDGET, drop=0.06)], 0.01
    )
    assert [w.cause for w in found] == [Cause.EQUAL, Cause.SLOWER, Cause.OVER_BUDGET]
    assert found[0].figure == "0.97 × float [0.96, 0.98] in the search"
    assert "the best of 2, b/onnxruntime/1, takes 1.20 × float" in found[1].sentence
    assert found[2].figure == "0.0340"
    assert "--max-drop 0.036" in found[2].next
    few = over_budget("full", Accuracy(1 / 4, {}, units=4), 0.01)
    assert (few.cause, few.figure) == (Cause.TOO_FEW_SAMPLES, "1 of 4")
    assert "about 399 samples in all" in few.next


def test_a_loss_that_is_there_is_never_told_as_none() -> None:
    assert [drop_told(d) for d in (0.0, 3e-7, 0.00004, 0.00012, 0.25)] == [
        "0.0000",
        "3e-07",
        "4e-05",
        "0.0001",
        "0.2500",
    ]


def test_what_was_measured_in_a_process_of_its_own_is_quoted_before_what_only_looked_faster() -> None:
    proven = outcome("proven", Cause.UNDECIDED, ratio=0.95, standing=Standing.UNDECIDED)
    [why] = reasons_of_search([outcome("looked", Cause.UNDECIDED, ratio=0.9), proven], 0.01, ["others"])
    assert "proven/onnxruntime/1 took 0.95 × float" in why.sentence
    assert "(others)" in why.sentence


@settings(derandomize=True)
@given(st.lists(st.sampled_from(OF_A_CANDIDATE), min_size=1, max_size=8))
def test_what_came_nearest_to_shipping_is_told_first_and_every_kind_once(causes: list[Cause]) -> None:
    found = reasons_of_search([outcome(f"q{i}", c, drop=0.5) for i, c in enumerate(causes)], 0.01)
    first = next(iter(found), None)
    assert first is not None
    order = list(Cause)
    assert order.index(first.cause) == min(order.index(w.cause) for w in found)
    assert len(found) == len(set(causes))


def test_float16_is_called_what_it_is_and_does_not_hide_what_became_of_int8() -> None:
    half = outcome("as-received-float16", Cause.EQUAL, ratio=0.98, precision="float16")
    found = reasons_of_search([FLOAT, half, outcome("full", Cause.SLOWER, ratio=1.3)], 0.01)
    assert [w.sentence.split(":")[0] for w in found] == ["int8 is slower", "float16 is only equal"]
    first = next(iter(found), None)
    assert first is not None
    assert "full" in first.sentence
    alone = reasons_of_search(
        [FLOAT, outcome("half", Cause.OVER_BUDGET, drop=0.3, precision="float16")], 0.01
    )
    assert alone[0].sentence.startswith("float16 loses too much: half")


def test_a_runtime_that_runs_no_float_either_says_nothing_about_int8() -> None:
    other = outcome("full", Cause.REFUSED, runtime="openvino")
    not_float = replace(FLOAT, candidate=replace(FLOAT.candidate, runtime="openvino"), cause=Cause.REFUSED)
    slower = outcome("full", Cause.SLOWER, ratio=1.3)
    assert [w.cause for w in reasons_of_search([FLOAT, not_float, other, slower], 0.01)] == [Cause.SLOWER]
    some = reasons_of_search([FLOAT, outcome("no-head", Cause.REFUSED), slower], 0.01)
    assert some[1].sentence == "1 of 2 int8 candidates do not run here: no-head/onnxruntime/1 why"
