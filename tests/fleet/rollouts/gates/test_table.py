from __future__ import annotations

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from edgectl.fleet.rollouts.gates.blocks import Block
from edgectl.fleet.rollouts.gates.table import GATES, GateTerms, type_of

TERMS: TypeAdapter[GateTerms] = TypeAdapter(GateTerms)


@pytest.mark.parametrize("name", GATES)
def test_gate_is_named_by_its_terms_and_documented(name: str) -> None:
    terms = TERMS.validate_python({"gate": name})
    gate = type_of(terms)
    assert gate.name == name
    assert gate is GATES[name]
    assert gate.doc.endswith(".")
    assert name in gate.title(terms)


@pytest.mark.parametrize("name", GATES)
def test_block_in_which_nothing_happened_says_nothing_but_that_no_frame_came(name: str) -> None:
    terms = TERMS.validate_python({"gate": name})
    figure = type_of(terms).of(terms, Block(10.0))
    assert math.isnan(figure) == (name != "frames")


@pytest.mark.parametrize(
    ("terms", "block", "figure", "shown"),
    [
        ({"gate": "latency", "percentile": 95}, {"quantiles": (13.0, 13.5, 14.0, 15.0)}, 14.0, "16.4 ms"),
        ({"gate": "errors"}, {"attempts": 200.0, "errors": 3.0}, 0.015, "1.50%"),
        ({"gate": "drops"}, {"captured": 200.0, "dropped": 10.0}, 0.05, "5.00%"),
        ({"gate": "frames"}, {"attempts": 170.0, "errors": 10.0}, -4.0, "16 frames/s"),
        ({"gate": "events"}, {"events": 19.5}, -1.0, "log2 -1.00 a second"),
        ({"gate": "events", "change": "more"}, {"events": 19.5}, 1.0, "log2 +1.00 a second"),
        ({"gate": "memory"}, {"growth_mb": 0.5}, 180.0, "+180 MB/h"),
        ({"gate": "throttling"}, {"throttled": 0.25}, 0.25, "25.0% of the time"),
    ],
)
def test_figure_of_a_block(
    terms: dict[str, object], block: dict[str, float], figure: float, shown: str
) -> None:
    parsed = TERMS.validate_python(terms)
    gate = type_of(parsed)
    assert gate.of(parsed, Block(10.0, **block)) == pytest.approx(figure)  # type: ignore[arg-type]
    assert gate.shown(figure) == shown


def test_allowances_are_in_the_unit_of_the_figure() -> None:
    allowed = {name: type_of(t).allowed(t) for name in GATES for t in [TERMS.validate_python({"gate": name})]}
    assert allowed == pytest.approx(
        {
            "latency": 0.0,
            "errors": 0.01,
            "drops": 0.02,
            "frames": 0.152,
            "memory": 20.0,
            "events": 0.585,
            "throttling": 0.1,
            "golden": 0.05,
            "agreement": 0.05,
        },
        abs=1e-3,
    )
    twice = TERMS.validate_python({"gate": "latency", "max_ratio": 2.0})
    assert type_of(twice).allowed(twice) == 1.0


def test_differences_are_told_as_times_where_figures_are_logarithms() -> None:
    told = {name: GATES[name].apart(1.0) for name in GATES}
    assert told == {
        "latency": "2 times",
        "errors": "+100.00%",
        "drops": "+100.00%",
        "frames": "0.5 times",
        "memory": "+1 MB/h",
        "events": "2 times",
        "throttling": "+100.0% of the time",
        "golden": "-100.00 points",
        "agreement": "+100.00%",
    }


def test_gate_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        TERMS.validate_python({"gate": "mood"})
