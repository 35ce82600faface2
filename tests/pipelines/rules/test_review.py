"""Many objects, one notification."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import of, play, rule_set, thing

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RuleSet

RULES = (
    {"id": "gate", "line": [0.5, 1.0, 0.5, 0.0]},
    {"id": "lurk", "loiter": {"zone": "yard", "seconds": 5}},
)
REVIEW = {"alert": ["lurk"], "detection": ["gate", "yard"], "quiet_s": 4, "pre_s": 2, "post_s": 3}


def rules() -> RuleSet:
    return rule_set(*RULES, review=REVIEW)


def group(t: float) -> list:  # type: ignore[type-arg]
    """Three that walk through together."""
    return [thing(i, 100 + 150 * t - 40 * i, 300 + 100 * i, int(i == 3)) for i in (1, 2, 3) if t < 7]


def test_three_that_walk_through_together_are_one_review() -> None:
    told = of(play(rules(), group, 20), "review")
    assert [e.phase for e in told if e.phase != "update"] == ["new", "end"]
    end = told[-1].data
    assert (end["severity"], end["objects"], end["labels"]) == ("detection", 3, ["person", "vehicle"])
    assert end["rules"] == ["yard", "gate"]
    assert end["zones"] == ["yard"]
    assert end["clip_s"] == [pytest.approx(max(0, end["start_s"] - 2)), pytest.approx(end["end_s"] + 3)]


def test_an_alert_makes_a_detection_more_severe() -> None:
    told = of(play(rules(), lambda t: [thing(1, 500, 500)] if t < 8 else [], 20), "review")
    assert [(e.phase, e.data["severity"]) for e in told] == [
        ("new", "detection"),
        ("update", "alert"),
        ("end", "alert"),
    ]


def test_it_goes_on_while_somebody_stays_and_a_second_visit_is_another() -> None:
    def where(t: float) -> list:  # type: ignore[type-arg]
        return [thing(1 if t < 30 else 2, 500, 500)] if t < 20 or t >= 30 else []

    told = of(play(rules(), where, 50), "review")
    assert [(e.phase, e.data["review"]) for e in told if e.phase != "update"] == [
        ("new", 1),
        ("end", 1),
        ("new", 2),
    ]
    assert told[2].data["end_s"] >= 19.9


def test_what_is_worth_no_notification_makes_none() -> None:
    quiet = rule_set(*RULES, review={"alert": ["lurk"]})
    assert of(play(quiet, group, 20), "review") == []
    assert of(play(rule_set(*RULES), group, 20), "review") == []


def test_a_name_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match=r"review\.alert\.0: 'door' is no rule or zone"):
        parse_config("surveillance", {"review": {"alert": ["door"]}})
    with pytest.raises(UsageError, match="both an alert and a detection"):
        rule_set(*RULES, review={"alert": ["lurk"], "detection": ["lurk"]})


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.6), st.integers(1, 15))
def test_new_and_end_take_turns_whatever_is_dropped_and_wherever_it_is_cut(
    seed: int, drop: float, cut: int
) -> None:
    first, second = rules(), rules()
    events = play(first, group, cut, drop=drop, seed=seed)
    second.restore(json.loads(json.dumps(first.snapshot())))
    events += play(second, group, 30 - cut, start=cut, drop=drop, seed=seed)
    turns = [e.phase for e in of(events, "review") if e.phase != "update"]
    assert turns == [["new", "end"][i % 2] for i in range(len(turns))]
    assert turns
