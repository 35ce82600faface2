"""States of the scene: told when they begin and change, kept over a snapshot, pure."""

from __future__ import annotations

import dataclasses
import json

from support.rules import of, rule_set, seen

from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.attribute import Attribute


def step(rules: RuleSet, t: float, **states: str) -> list[Event]:
    scene = {part: Attribute(value, 0.9) for part, value in states.items()}
    return of(rules.step(dataclasses.replace(seen(), scene=scene), t), "scene")


def test_a_state_is_told_once_and_again_when_it_is_another_one() -> None:
    rules = rule_set()
    assert step(rules, 0) == []
    (first,) = step(rules, 1, gate="closed")
    assert (first.phase, first.rule) == ("start", None)
    assert first.data == {"part": "gate", "value": "closed", "score": 0.9}
    assert step(rules, 2, gate="closed") == []
    # undecided for a while: the state stays
    assert step(rules, 3) == []
    (second,) = step(rules, 4.5, gate="open")
    assert second.phase == "update"
    assert (second.data["was"], second.data["seconds"]) == ("closed", 3.5)


def test_states_of_several_parts_are_apart_and_come_in_order_of_their_names() -> None:
    rules = rule_set()
    assert [e.data["part"] for e in step(rules, 0, light="on", gate="open")] == ["gate", "light"]
    (changed,) = step(rules, 1, light="off", gate="open")
    assert changed.data["part"] == "light"


def test_a_snapshot_goes_on_from_the_state() -> None:
    rules, other = rule_set(), rule_set()
    step(rules, 0, gate="open")
    other.restore(json.loads(json.dumps(rules.snapshot())))
    assert step(other, 1, gate="open") == []
    (changed,) = step(other, 2, gate="closed")
    assert changed.data["seconds"] == 2
