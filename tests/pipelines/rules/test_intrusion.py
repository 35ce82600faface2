"""Intrusion: hours in the site's time zone, arming, and blindness without the time of day."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from support.rules import of, phases, play, rule_set, thing

from edgectl.core.errors import UsageError

BERLIN = {"time_zone": "Europe/Berlin"}
NIGHT = {"id": "night", "intrusion": {"zone": "yard", "when": "22:00-06:00"}}


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


def stands(t: float) -> list:  # type: ignore[type-arg]
    return [thing(1, 500, 500)]


def test_somebody_in_the_zone_at_night_is_told_and_by_day_is_not() -> None:
    night = play(rule_set(NIGHT, **BERLIN), stands, 2, wall=unix("2026-11-29 23:00"))
    (start,) = of(night, "intrusion")
    assert (start.phase, start.data["zone"], start.data["because"]["clock"]) == ("start", "yard", "arrival")
    day = play(rule_set(NIGHT, **BERLIN), stands, 2, wall=unix("2026-11-29 12:00"))
    assert of(day, "intrusion") == []


def test_it_ends_when_the_hours_are_over_and_when_somebody_leaves() -> None:
    rules = rule_set(NIGHT, **BERLIN)
    events = play(rules, stands, 20, fps=1, wall=unix("2026-11-30 05:59:50"))
    assert [(e.phase, e.data.get("reason")) for e in of(events, "intrusion")] == [
        ("start", None),
        ("end", "hours"),
    ]
    rules = rule_set(NIGHT, **BERLIN)
    walks = play(rules, lambda t: [thing(1, 500 + 100 * t, 500)], 6, wall=unix("2026-11-30 01:00"))
    assert [(e.phase, e.data.get("reason")) for e in of(walks, "intrusion")] == [
        ("start", None),
        ("end", "over"),
    ]


def test_without_the_time_of_day_it_says_that_it_is_blind_and_does_not_guess() -> None:
    events = play(rule_set(NIGHT, **BERLIN), stands, 2)
    assert of(events, "intrusion") == []
    (blind,) = of(events, "capability")
    assert blind.data == {"name": "night", "available": False, "reason": "wall_time_missing"}


def test_without_hours_no_time_of_day_is_needed() -> None:
    events = play(rule_set({"id": "in", "intrusion": {"zone": "yard", "after_s": 1.0}}), stands, 3)
    assert phases(events, "intrusion") == [("start", 1.0)]
    assert of(events, "capability") == []


def test_it_is_armed_and_disarmed_from_outside() -> None:
    rules = rule_set({"id": "in", "intrusion": {"zone": "yard", "armed": False}})
    assert rules.switches == {"in": False}
    events = play(rules, stands, 2)
    rules.switch("in", True)
    events += play(rules, stands, 2, start=2)
    rules.switch("in", False)
    rules.switch("in", False)
    events += play(rules, stands, 2, start=4)
    told = [(e.type, e.phase, e.data.get("on"), e.data.get("reason")) for e in events if e.rule == "in"]
    assert told == [
        ("switch", None, True, None),
        ("intrusion", "start", None, None),
        ("switch", None, False, None),
        ("intrusion", "end", None, "disarmed"),
    ]
    with pytest.raises(UsageError, match="out"):
        rules.switch("out", True)


def test_being_armed_outlasts_the_process() -> None:
    first, second = (rule_set({"id": "in", "intrusion": {"zone": "yard"}}) for _ in range(2))
    first.switch("in", False)
    play(first, stands, 1)
    second.load(first.save())
    assert second.switches == {"in": False}
