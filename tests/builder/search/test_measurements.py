"""How often candidates are called."""

from __future__ import annotations

import pytest
from support.builder.fakes import Behaviour, FakeMachine
from support.builder.searching import FLOAT, INT8

from edgectl.builder.search.candidates import Candidate, CandidateGraph
from edgectl.builder.search.measurements import Measurements
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.core.bundle import SessionSettings


@pytest.mark.parametrize(
    ("ms", "seconds", "calls"),
    [(50.0, 0.0, 200), (400.0, 0.0, 200), (400.0, 0.3, 6), (50.0, 0.3, 40), (1.0, 0.3, 200)],
)
def test_a_runoff_calls_as_often_as_it_has_to_and_a_round_of_long_calls_does_not(
    ms: float, seconds: float, calls: int
) -> None:
    machine = FakeMachine({FLOAT: Behaviour(ms), INT8: Behaviour(ms)})
    candidates = [
        Candidate(CandidateGraph(recipe, recipe.encode(), precision), runtime, SessionSettings())
        for (recipe, runtime), precision in ((FLOAT, "float32"), (INT8, "int8"))
    ]
    lines, failed = Measurements(machine, TuningLog(None, {})).times(
        2, candidates, seconds, 200, 200, settled=lambda times: False
    )
    assert not failed
    assert {len(line.ms or ()) for line in lines.values()} == {calls}
