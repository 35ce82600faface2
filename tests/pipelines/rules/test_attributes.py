"""Rules for those of whom a second stage has decided something: nobody else is there for them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from support.rules import LABELS, SQUARE, seen, thing

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RULES, RuleSet
from edgectl.pipelines.rules.motion import MotionEstimator
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.keypoints import KeypointLayout, Keypoints
from edgectl.pipelines.video.tracker import Tracks

KNOWN = {"gear": ("helmet", "no-helmet"), "vest": ("yes", "no")}


def rules(*entries: dict[str, Any], **zone: Any) -> RuleSet:
    config = parse_config(
        "surveillance",
        {
            "second_stage": [{"part": part} for part in KNOWN],
            "zones": {"yard": {**SQUARE, "enter_s": 0, **zone}},
            "rules": list(entries),
        },
    )
    return RuleSet(config, LABELS, attributes=KNOWN)  # type: ignore[arg-type]


def at(x: float, y: float = 500, /, *more: Any, **gear: str) -> Tracks:
    """Track 1 at ``x``, and ``more``; ``gear``: what is decided of it."""
    tracks = seen(thing(1, x, y), *more)
    found = {part: Attribute(value, 0.9) for part, value in gear.items()}
    return dataclasses.replace(tracks, attributes={1: found} if found else {})


def told(
    set_: RuleSet, rule: str, *frames: Tracks, start: float = 0.0
) -> list[tuple[float, str | None, Any]]:
    said = []
    for i, tracks in enumerate(frames):
        t = start + i / 10
        said += [(round(t, 1), e.phase, e.data.get("reason")) for e in set_.step(tracks, t) if e.rule == rule]
    return said


INTRUSION = {"id": "bare", "intrusion": {"zone": "yard"}, "attributes": {"gear": ["no-helmet"]}}


def test_what_is_undecided_never_counts() -> None:
    assert told(rules(INTRUSION), "bare", *[at(500)] * 20) == []


def test_an_alarm_begins_with_the_decision_and_ends_with_another_one() -> None:
    frames = [at(500)] * 3 + [at(500, gear="no-helmet")] * 3 + [at(500, gear="helmet")] * 3
    assert told(rules(INTRUSION), "bare", *frames) == [(0.3, "start", None), (0.6, "end", "attribute")]


def test_an_alarm_of_a_track_that_ends_is_lost_as_ever() -> None:
    frames = [at(500, gear="no-helmet")] * 3 + [seen()] * 2
    assert told(rules(INTRUSION), "bare", *frames) == [(0.0, "start", None), (0.3, "end", "lost")]


def test_one_value_need_not_be_a_list_and_several_are_one_or_the_other() -> None:
    for asked in ("no-helmet", ["no-helmet"], ["no-helmet", "helmet"]):
        entry = {**INTRUSION, "attributes": {"gear": asked}}
        assert told(rules(entry), "bare", at(500, gear="no-helmet")) == [(0.0, "start", None)]


def test_of_several_parts_each_is_asked() -> None:
    entry = {**INTRUSION, "attributes": {"gear": "no-helmet", "vest": "no"}}
    assert told(rules(entry), "bare", at(500, gear="no-helmet")) == []
    assert told(rules(entry), "bare", at(500, gear="no-helmet", vest="yes")) == []
    assert told(rules(entry), "bare", at(500, gear="no-helmet", vest="no")) == [(0.0, "start", None)]


def test_who_crosses_a_line_counts_if_it_was_decided_before() -> None:
    line = {"id": "gate", "line": [0.5, 0.0, 0.5, 1.0], "attributes": {"gear": ["helmet"]}}
    walk = [300 + 20 * i for i in range(20)]
    early = told(rules(line), "gate", *(at(x, gear="helmet") for x in walk))
    late = told(rules(line), "gate", *(at(x, **({"gear": "helmet"} if x > 600 else {})) for x in walk))
    assert (len(early), late) == (1, [])


def test_how_long_somebody_stayed_counts_from_the_zone_and_not_from_the_decision() -> None:
    entry = {"id": "lurk", "loiter": {"zone": "yard", "seconds": 1}, "attributes": {"gear": "no-helmet"}}
    frames = [at(500)] * 15 + [at(500, gear="no-helmet")] * 3 + [at(500, gear="helmet")] * 3
    assert told(rules(entry), "lurk", *frames) == [(1.5, "start", None), (1.8, "end", None)]


def test_a_zone_is_entered_with_the_decision_and_left_with_another_one() -> None:
    frames = [at(500)] * 3 + [at(500, gear="no-helmet")] * 3 + [at(500, gear="helmet")] * 3
    assert told(rules(attributes={"gear": "no-helmet"}), "yard", *frames) == [
        (0.3, "enter", None),
        (0.6, "leave", "attribute"),
    ]


def test_who_is_counted_in_a_zone_is_who_is_asked_for() -> None:
    entry = {"id": "full", "occupancy": {"zone": "yard", "high": 2}, "attributes": {"gear": "no-helmet"}}
    two = at(500, 500, thing(2, 600, 500), gear="no-helmet")
    assert told(rules(entry), "full", *[two] * 20) == []
    both = dataclasses.replace(two, attributes={i: {"gear": Attribute("no-helmet", 0.9)} for i in (1, 2)})
    assert [phase for _, phase, _ in told(rules(entry), "full", *[both] * 20)] == ["start"]


def test_every_event_of_an_object_says_what_is_decided_of_it() -> None:
    entry = {"id": "lurk", "loiter": {"zone": "yard", "seconds": 0.2}}
    set_ = rules(entry)
    events: list[Event] = [e for i in range(6) for e in set_.step(at(500, gear="helmet"), i / 10)]
    assert {e.type for e in events} == {"tracked_object", "zone", "loitering"}
    for event in events:
        assert event.data["attributes"] == {"gear": {"value": "helmet", "score": 0.9}}, event.type


def test_an_object_is_told_again_when_something_is_decided_also_out_of_sight() -> None:
    set_ = rules()
    away = at(500, gear="helmet")
    away.seen[0] = False
    said = [
        (e.phase, e.data.get("attributes", {}))
        for t, tracks in enumerate((at(500), away, away, seen()))
        for e in set_.step(tracks, t / 10)
        if e.type == "tracked_object"
    ]
    shown = {"gear": {"value": "helmet", "score": 0.9}}
    assert said == [("new", {}), ("update", shown), ("end", shown)]


def test_a_restored_set_goes_on_as_if_nothing_had_happened() -> None:
    lurk = {"id": "lurk", "loiter": {"zone": "yard", "seconds": 0.5}, "attributes": {"gear": "no-helmet"}}
    frames = [at(500)] * 3 + [at(500, gear="no-helmet")] * 4 + [seen()] * 30
    for cut in (2, 5, 7):
        whole, first, second = rules(lurk, INTRUSION), rules(lurk, INTRUSION), rules(lurk, INTRUSION)
        expected = [e for i, tracks in enumerate(frames) for e in whole.step(tracks, i / 10)]
        said = [e for i, tracks in enumerate(frames[:cut]) for e in first.step(tracks, i / 10)]
        second.restore(json.loads(json.dumps(first.snapshot())))
        said += [e for i, tracks in enumerate(frames[cut:], cut) for e in second.step(tracks, i / 10)]
        assert said == expected
        assert {e.rule for e in expected} >= {"lurk", "bare"}


def test_who_was_seen_outside_before_their_track_ended_has_left_for_a_rule_that_asks_too() -> None:
    """Also where the rules were restored in between."""
    entry = {
        "id": "lurk",
        "loiter": {"zone": "yard", "seconds": 0.5, "gap_s": 5},
        "attributes": {"gear": "no-helmet"},
    }
    frames = [at(500, gear="no-helmet")] * 8 + [at(900, gear="no-helmet")] * 3 + [seen()]
    assert told(rules(entry), "lurk", *frames) == [(0.5, "start", None), (1.1, "end", None)]
    first, second = rules(entry), rules(entry)
    told(first, "lurk", *frames[:-1])
    second.restore(json.loads(json.dumps(first.snapshot())))
    assert told(second, "lurk", frames[-1], start=1.1) == [(1.1, "end", None)]


def test_motion_of_some_is_that_of_all() -> None:
    estimator = MotionEstimator()
    for i in range(8):
        motion = estimator.step(seen(thing(1, 100 + 9 * i, 500), thing(2, 800 - 5 * i, 400)), i / 10)
    some = motion.select(np.array([False, True]))
    for figure in ("velocity", "velocity_error", "jitter"):
        np.testing.assert_array_equal(getattr(some, figure), getattr(motion, figure)[1:])


def test_counts_of_a_time_before_there_were_attributes_go_on() -> None:
    line = {"id": "gate", "line": [0.5, 0.0, 0.5, 1.0]}
    first, same, other = rules(line), rules(line), rules({**line, "attributes": {"gear": "helmet"}})
    saved = first.save()
    assert "attributes" not in saved["rules"]["gate"]["settings"]
    for set_, reset in ((same, []), (other, [("reset", "settings_changed")])):
        set_.load(saved)
        assert [(e.type, e.data.get("reason")) for e in set_.step(seen(), 0) if e.rule] == reset


@pytest.mark.parametrize("name", [n for n in RULES.own if n not in ("collision", "lane_departure")])
def test_every_rule_takes_attributes(name: str) -> None:
    assert "attributes" in RULES.get(name).config.model_fields


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "which no second stage gives"),
        ({"gear": ("cap",)}, "asks for gear 'no-helmet', which the model does not know"),
    ],
)
def test_what_no_model_can_say_is_refused(known: dict[str, tuple[str, ...]], words: str) -> None:
    config = parse_config(
        "surveillance", {"second_stage": [{"part": "gear"}], "zones": {"yard": SQUARE}, "rules": [INTRUSION]}
    )
    with pytest.raises(UsageError, match=words):
        RuleSet(config, LABELS, attributes=known)  # type: ignore[arg-type]


def test_any_text_can_be_asked_of_a_model_that_reads() -> None:
    config = parse_config(
        "surveillance", {"second_stage": [{"part": "gear"}], "zones": {"yard": SQUARE}, "rules": [INTRUSION]}
    )
    set_ = RuleSet(config, LABELS, attributes={"gear": ()})  # type: ignore[arg-type]
    assert told(set_, "bare", *[at(500, gear="no-helmet")] * 4) == [(0.2, "start", None)]


def test_tracks_are_chosen_with_all_that_is_known_of_them() -> None:
    both = at(500, 500, thing(7, 600, 500), gear="helmet")
    layout = KeypointLayout(("head",))
    both = dataclasses.replace(
        both,
        past={1: np.zeros((1, 5)), 7: np.ones((1, 5))},
        keypoints=Keypoints(np.array([[[1, 1, 0.9]], [[7, 7, 0.9]]], np.float32), layout),
        attributes={1: both.attributes[1], 7: {"vest": Attribute("no", 0.7)}},
    )
    one = both.select(np.array([False, True]))
    assert one.ids.tolist() == [7]
    assert (list(one.past), list(one.attributes)) == ([7], [7])
    assert one.keypoints is not None
    assert one.keypoints.points[0, 0, 0] == 7
    assert (one.width, one.height) == (both.width, both.height)
