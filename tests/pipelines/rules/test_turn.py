"""From one zone to another within seconds, in this order."""

from __future__ import annotations

from support.rules import of, play, rule_set, thing

ZONES = {
    "south": {"polygon": [0.4, 0.7, 0.6, 0.7, 0.6, 1, 0.4, 1]},
    "west": {"polygon": [0, 0.4, 0.3, 0.4, 0.3, 0.6, 0, 0.6]},
}
NO_LEFT = {"id": "no-left", "turn": {"start": "south", "end": "west", "seconds": 5}}


def left(t: float) -> list:  # type: ignore[type-arg]
    """From the south to the middle in 3 s, then to the west."""
    return [thing(1, 500 - max(0, t - 3) * 150, 900 - min(t, 3) * 130, 1)]


def test_a_turn_is_told_with_both_zones_and_how_long_it_took() -> None:
    events = play(rule_set(NO_LEFT, zones=ZONES), left, 7)
    (turn,) = of(events, "forbidden_turn")
    assert (turn.data["from"], turn.data["to"], turn.data["track"]) == ("south", "west", 1)
    assert 2.0 <= turn.data["because"]["value"] <= 3.0


def test_the_other_way_round_and_one_that_takes_too_long_are_none() -> None:
    back = play(rule_set(NO_LEFT, zones=ZONES), lambda t: left(7 - t), 7)
    assert of(back, "forbidden_turn") == []
    slow = play(rule_set(NO_LEFT, zones=ZONES), lambda t: left(t / 4), 28)
    assert of(slow, "forbidden_turn") == []
