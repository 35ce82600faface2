"""What was learned of a place: neighbours count nearly the same, counts fade, and what is no state is refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.rules.usual import STOOD_S, UsualPaths, Visit

VISITS = st.builds(
    Visit,
    st.floats(-0.2, 1.2),
    st.floats(-0.2, 1.2),
    st.floats(-30, 30),
    st.floats(-30, 30),
    st.none() | st.integers(0, len(STOOD_S) - 1),
)
EAST = Visit(0.4, 0.6, 0.8, 0.0)


def learned(visit: Visit = EAST, n: int = 200) -> UsualPaths:
    usual = UsualPaths()
    for _ in range(n):
        usual.learn([visit])
    return usual


def test_what_everybody_does_is_no_surprise_and_the_rest_is() -> None:
    usual = learned()
    assert usual.surprise(EAST) < 0.01
    for other in (
        Visit(0.4, 0.6, -0.8, 0.0),
        Visit(0.4, 0.6, 0.0, 0.8),
        Visit(0.4, 0.6, 3.0, 0.0),
        Visit(0.4, 0.2, 0.8, 0.0),
        Visit(0.4, 0.6, stood=2),
    ):
        assert usual.surprise(other) > 0.95


def test_a_neighbour_is_nearly_the_same() -> None:
    usual = learned()
    for near in (Visit(0.415, 0.6, 0.8, 0.0), Visit(0.4, 0.62, 0.8, 0.1), Visit(0.4, 0.6, 0.9, 0.0)):
        assert usual.surprise(near) < 0.3


def test_what_fades_becomes_a_surprise_again() -> None:
    usual = learned()
    usual.learn([Visit(0.1, 0.1, 1.0, 0.0)])
    for _ in range(300):
        usual.learn([Visit(0.1, 0.1, 1.0, 0.0)])
        usual.fade(0.97)
    assert usual.surprise(EAST) > 0.9
    assert usual.tracks < 40


def test_what_counts_as_less_is_learned_as_less() -> None:
    one, quarter = learned(n=50), learned(n=50)
    odd = Visit(0.8, 0.2, 0.5, 0.5)
    one.learn([odd])
    quarter.learn([odd], 0.25)
    assert one.surprise(odd) < quarter.surprise(odd) < 1


@given(st.lists(VISITS, max_size=20), VISITS)
def test_any_visit_has_a_surprise_and_a_state_goes_through_json(visits: list[Visit], one: Visit) -> None:
    usual = UsualPaths()
    usual.learn(visits)
    again = UsualPaths.of(json.loads(json.dumps(usual.dump())))
    assert 0 <= usual.surprise(one) <= 1
    assert math.isclose(again.surprise(one), usual.surprise(one), abs_tol=1e-4)


def test_a_state_is_small_and_one_that_is_none_is_refused() -> None:
    usual = learned(n=3)
    state = usual.dump()
    assert len(json.dumps(state)) < 20_000
    for broken in (
        {**state, "counts": state["counts"][:40]},
        {**state, "tracks": -1},
        {**state, "counts": "AAAA"},
    ):
        with pytest.raises(ValueError):
            UsualPaths.of(broken)
