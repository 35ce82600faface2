"""Why float ships first, where the search had no quantized candidate to speak of."""

from __future__ import annotations

from support.builder.models import quantized_model, trial_of
from support.builder.nets import residual_net

from edgectl.builder.int8.quantizable import NotQuantizable, Obstacle
from edgectl.builder.search.candidates import Candidate, CandidateGraph, CandidateOutcome, Cause, Choice, Pick
from edgectl.builder.search.reasons import why_not_quantizable
from edgectl.builder.variants.float_first import reasons_for_float
from edgectl.core.bundle import SessionSettings
from edgectl.engines.timing import Ratio

FLOAT = CandidateOutcome(Candidate(CandidateGraph("float", b"", "float32"), "onnxruntime", SessionSettings()))
LOWER = CandidateOutcome(
    Candidate(CandidateGraph("float", b"", "float32"), "openvino", SessionSettings(precision_hint="bf16")),
    ratio=Ratio(1.5, 1.4, 1.6, 30),
    rejected="slower",
    cause=Cause.SLOWER,
)
INT8 = CandidateOutcome(
    Candidate(CandidateGraph("full", b"", "int8"), "onnxruntime", SessionSettings()),
    ratio=Ratio(1.2, 1.1, 1.3, 30),
    rejected="slower",
    cause=Cause.SLOWER,
)
NO_LAYER = NotQuantizable(Obstacle.NO_LAYER)


def choice(won: CandidateOutcome, *others: CandidateOutcome) -> Choice:
    return Choice((Pick(won, ("fast",)),), FLOAT, (FLOAT, *others), "")


def told(found: Choice) -> list[Cause]:
    model = quantized_model(residual_net(), not_quantizable=NO_LAYER)
    return [r.cause for r in reasons_for_float(model, trial_of(model), found)]


def test_what_a_lower_float_lacks_does_not_hide_why_nothing_is_int8() -> None:
    assert told(choice(FLOAT)) == [Cause.NOTHING_TO_QUANTIZE]
    assert told(choice(FLOAT, LOWER)) == [Cause.NOTHING_TO_QUANTIZE, Cause.SLOWER]


def test_where_a_lower_float_ships_it_is_still_told_why_nothing_is_int8() -> None:
    model = quantized_model(residual_net(), not_quantizable=NO_LAYER)
    assert reasons_for_float(model, trial_of(model), choice(LOWER)) == (why_not_quantizable(NO_LAYER),)


def test_of_an_int8_candidate_the_search_knows_best() -> None:
    assert told(choice(FLOAT, INT8)) == [Cause.SLOWER]
