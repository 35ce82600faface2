"""What stands still too long, however much its box trembles."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import of, phases, play, rule_set, thing

PARKED = {"id": "parked", "stationary": {"zone": "yard", "seconds": 5, "classes": ["vehicle"]}}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.6), st.floats(0, 5))
def test_a_car_that_stands_is_told_once_at_any_share_of_missing_frames(
    seed: int, drop: float, sigma: float
) -> None:
    events = play(rule_set(PARKED), lambda t: [thing(1, 500, 500, 1)], 12, drop=drop, sigma=sigma, seed=seed)
    (start,) = of(events, "stationary")
    assert start.phase == "start"
    assert 5.0 - 1e-6 <= start.t_s <= 9.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.5))
def test_a_car_that_creeps_does_not_stand(seed: int, drop: float) -> None:
    events = play(
        rule_set(PARKED), lambda t: [thing(1, 250 + 15 * t, 500, 1)], 25, drop=drop, sigma=1, seed=seed
    )
    assert of(events, "stationary") == []


def test_it_ends_when_the_car_drives_on_and_a_person_does_not_count() -> None:
    def where(t: float) -> list:  # type: ignore[type-arg]
        return [thing(1, 500 + max(0, t - 8) * 100, 500, 1), thing(2, 400, 500, 0)]

    events = play(rule_set(PARKED), where, 12)
    assert [p for p, _ in phases(events, "stationary")] == ["start", "end"]
    assert {e.data["track"] for e in of(events, "stationary")} == {1}
