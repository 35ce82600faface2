"""A suitcase whose owner has gone; one whose owner stays; one that nobody was seen to bring."""

from __future__ import annotations

from typing import Any

from support.rules import of, phases, play, rule_set, thing

LEFT = {"id": "left", "abandoned": {"zone": "yard", "things": ["suitcase"], "seconds": 5}}


def bag(track: int = 2, x: float = 500) -> tuple[int, float, float, int, float, float]:
    return thing(track, x, 500, 2, 30, 30)


def test_a_suitcase_whose_owner_walks_away_is_told_with_its_owner() -> None:
    events = play(rule_set(LEFT), lambda t: [thing(1, 480 - max(0, t - 3) * 60, 500), bag()], 14)
    (start,) = of(events, "abandoned")
    assert (start.data["track"], start.data["owner"]) == (2, 1)
    # 1.5 heights of 80 px are left behind at 4.7 s
    assert 9.5 <= start.t_s <= 10.5


def test_an_owner_who_stays_or_comes_back_keeps_it() -> None:
    assert of(play(rule_set(LEFT), lambda t: [thing(1, 480, 500), bag()], 14), "abandoned") == []

    def back(t: float) -> list[Any]:
        away = min(max(0, t - 3), max(0, 16 - t)) * 60
        return [thing(1, 480 - min(away, 400), 500), bag()]

    events = play(rule_set(LEFT), back, 20)
    assert [p for p, _ in phases(events, "abandoned")] == ["start", "end"]


def test_an_owner_who_goes_out_of_sight_has_gone_and_somebody_else_is_no_owner() -> None:
    def where(t: float) -> list[Any]:
        return [*([thing(1, 480, 500)] if t < 4 else []), bag(), *([thing(3, 520, 500)] if t > 5 else [])]

    (start,) = of(play(rule_set(LEFT), where, 14), "abandoned")
    assert 8.5 <= start.t_s <= 9.5


def test_a_suitcase_that_is_carried_is_not_left() -> None:
    events = play(rule_set(LEFT), lambda t: [thing(1, 220 + 30 * t, 500), bag(x=240 + 30 * t)], 16)
    assert of(events, "abandoned") == []


def test_what_nobody_was_seen_to_bring_is_told_only_if_that_is_wanted() -> None:
    assert of(play(rule_set(LEFT), lambda t: [bag()], 14), "abandoned") == []
    wanted = {"id": "left", "abandoned": {**LEFT["abandoned"], "unowned_s": 8}}  # type: ignore[dict-item]
    (start,) = of(play(rule_set(wanted), lambda t: [bag()], 14), "abandoned")
    assert (start.data["owner"], start.data["because"]["what"]) == (None, "nobody brought it")


def test_a_thing_that_is_carried_out_of_the_zone_at_once_is_told_no_longer() -> None:
    def where(t: float) -> list[Any]:
        return [*([thing(1, 480, 500)] if t < 2 else []), bag(x=500 + min(450, max(0, t - 10) * 900))]

    events = play(rule_set(LEFT), where, 20)
    assert [p for p, _ in phases(events, "abandoned")] == ["start", "end"]
    assert of(events, "abandoned")[-1].data["reason"] == "over"
