"""Other rules take over while a stream runs: what goes on, what begins anew, what is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from support.rules import LABELS, SQUARE, Thing, of, play, rule_set, seen, thing

from edgectl.core.errors import EngineError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RulesConfig, RuleSet
from edgectl.pipelines.stream.events import Event

LINE = {"id": "gate", "line": [0.5, 1.0, 0.5, 0.0]}
LURK = {"id": "lurk", "loiter": {"zone": "yard", "seconds": 20}}
LEFT = {"polygon": [0, 0, 0.4, 0, 0.4, 1, 0, 1]}


def config(*rules: dict[str, Any], **more: Any) -> RulesConfig:
    zones = {"yard": SQUARE, **more.pop("zones", {})}
    found = parse_config("surveillance", {"zones": zones, "rules": list(rules), **more})
    assert isinstance(found, RulesConfig)
    return found


def stands(x: float = 500, y: float = 500) -> Any:
    return lambda t: [thing(1, x, y)]


def paces(t: float) -> Iterable[Thing]:
    """From one side of the line to the other, in 4 s, and back."""
    return [thing(1, 300 + 100 * (4 - abs(t % 8 - 4)), 500)]


def change(rules: RuleSet, to: RulesConfig, **told: Any) -> None:
    rules.succeed(rules.prepare(to, told))


def told(events: Iterable[Event]) -> list[tuple[str, str | None, str | None]]:
    return [(e.type, e.phase, e.rule) for e in events if e.type != "tracked_object"]


def test_a_rule_that_stays_goes_on_counting_and_says_nothing() -> None:
    rules, undisturbed = rule_set(LINE, LURK), rule_set(LINE, LURK)
    before, expected = play(rules, paces, 30), play(undisturbed, paces, 30)
    change(rules, config(LINE, LURK, {"id": "full", "occupancy": {"zone": "yard", "high": 3}}), digest="d")
    after, more = play(rules, paces, 30, start=30), play(undisturbed, paces, 30, start=30)
    (event,) = of(after, "configuration")
    assert (event.phase, event.t_s) == ("applied", 30.0)
    assert event.data == {
        "digest": "d",
        "kept": ["yard", "gate", "lurk"],
        "begun": ["full"],
        "gone": [],
        "reset": [],
    }
    assert before == expected
    assert [e for e in after if e.type != "configuration"] == more
    assert len(of(more, "line_crossing")) > 3


def test_who_has_stayed_long_enough_for_the_new_limit_is_told_at_once() -> None:
    rules = rule_set({**LURK, "loiter": {"zone": "yard", "seconds": 100}})
    assert not of(play(rules, stands(), 30), "loitering")
    change(rules, config(LURK))
    events = rules.step(seen(thing(1, 500, 500)), 30.0)
    assert told(events) == [("configuration", "applied", None), ("loitering", "start", "lurk")]
    (start,) = of(events, "loitering")
    assert (start.t_s, start.data["reason"], start.data["dwell_s"]) == (
        30.0,
        "configuration",
        pytest.approx(20, abs=0.2),
    )
    (end,) = of(play(rules, lambda t: [], 3, start=30.1), "loitering")
    assert (end.phase, end.data["dwell_s"]) == ("end", pytest.approx(30, abs=0.2))


def test_an_alarm_that_goes_on_is_not_told_twice() -> None:
    rules = rule_set(LURK)
    assert told(play(rules, stands(), 30))[-1] == ("loitering", "start", "lurk")
    change(rules, config({**LURK, "loiter": {"zone": "yard", "seconds": 10}}))
    assert told(play(rules, stands(), 5, start=30)) == [("configuration", "applied", None)]


@pytest.mark.parametrize(
    "to",
    [
        config(),
        config({**LURK, "loiter": {"zone": "yard", "seconds": 100}}),
        config(LURK, zones={"yard": LEFT}),
    ],
    ids=["gone", "longer", "elsewhere"],
)
def test_an_alarm_that_the_new_rules_do_not_know_is_ended(to: RulesConfig) -> None:
    rules = rule_set(LURK)
    play(rules, stands(), 30)
    change(rules, to)
    events = rules.step(seen(thing(1, 500, 500)), 30.0)
    (end,) = of(events, "loitering")
    assert (end.phase, end.data["reason"], end.data["track"]) == ("end", "configuration", 1)
    assert not of(play(rules, lambda t: [], 5, start=30.1), "loitering")


def test_a_zone_that_is_moved_says_who_is_in_it_now() -> None:
    rules = rule_set()

    def two(t: float) -> list[Thing]:
        return [thing(1, 300, 500), thing(2, 600, 500)]

    play(rules, two, 5)
    change(rules, config(zones={"yard": LEFT, "right": {"polygon": [0.5, 0, 1, 0, 1, 1, 0.5, 1]}}))
    events = rules.step(seen(*two(5)), 5.0)
    zones = [(e.phase, e.rule, e.data["track"], e.data["occupancy"]) for e in of(events, "zone")]
    assert zones == [("leave", "yard", 2, 1), ("enter", "right", 2, 1)]
    assert of(events, "configuration")[0].data["begun"] == ["yard", "right"]
    (update,) = [e for e in of(events, "tracked_object") if e.data["track"] == 2]
    assert (update.phase, update.data["zones"]) == ("update", ["right"])


def test_a_line_that_is_moved_counts_anew_and_says_what_it_had() -> None:
    rules = rule_set(LINE, {"id": "other", "line": [0.4, 1.0, 0.4, 0.0]})
    crossings = of(play(rules, paces, 30), "line_crossing")
    change(
        rules, config({**LINE, "line": [0.55, 1.0, 0.55, 0.0]}, {"id": "other", "line": [0.4, 1.0, 0.4, 0.0]})
    )
    events = play(rules, paces, 30, start=30)
    (reset,) = of(events, "reset")
    last = next(e for e in reversed(crossings) if e.rule == "gate")
    assert (reset.rule, reset.data["reason"]) == ("gate", "settings_changed")
    assert reset.data["was"]["counts"]["in"] == last.data["counts"]["in"]
    first = next(e for e in of(events, "line_crossing") if e.rule == "gate")
    assert sum(n for c in first.data["counts"].values() for n in c.values()) == 1
    kept = next(e for e in of(events, "line_crossing") if e.rule == "other")
    assert sum(n for c in kept.data["counts"].values() for n in c.values()) > 5
    assert of(events, "configuration")[0].data["reset"] == ["gate"]


def test_what_a_line_has_seen_before_it_was_there_is_not_counted() -> None:
    rules = rule_set()
    play(rules, paces, 30)
    change(rules, config(LINE))
    events = rules.step(seen(*paces(30)), 30.0)
    assert told(events) == [("configuration", "applied", None)]
    (first, *_) = of(play(rules, paces, 8, start=30.1), "line_crossing")
    assert sum(n for c in first.data["counts"].values() for n in c.values()) == 1


def test_who_switched_a_rule_off_finds_it_off() -> None:
    intrusion = {"id": "night", "intrusion": {"zone": "yard"}}
    rules = rule_set(intrusion)
    rules.switch("night", False)
    play(rules, stands(), 3)
    change(rules, config({"id": "night", "intrusion": {"zone": "yard", "after_s": 0.1}}))
    assert not of(play(rules, stands(), 3, start=3), "intrusion")
    assert rules.switches == {"night": False}


def test_a_setting_of_the_stream_changes_the_rules_that_look_at_it_and_no_others() -> None:
    ground = {"picture": [0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8], "metres": [0, 10, 10, 10, 10, 0, 0, 0]}
    fast = {"id": "fast", "speed": {"zone": "yard", "limit_mps": 9}}
    rules = rule_set(LINE, fast, ground=ground)
    play(rules, paces, 10)
    change(rules, config(LINE, fast, ground={**ground, "metres": [0, 20, 10, 20, 10, 0, 0, 0]}))
    (event,) = of(rules.step(seen(*paces(10)), 10.0), "configuration")
    assert (event.data["kept"], event.data["begun"]) == (["yard", "gate"], ["fast"])


def test_a_review_that_is_open_is_over_with_its_configuration() -> None:
    rules = rule_set(LURK, review={"alert": ["lurk"]})
    play(rules, stands(), 30)
    change(rules, config(LURK, review={"detection": ["lurk"]}))
    events = rules.step(seen(thing(1, 500, 500)), 30.0)
    reviews = [(e.phase, e.data["severity"], e.data["review"], e.data["end_s"]) for e in of(events, "review")]
    assert reviews == [("end", "alert", 1, 30.0)]
    assert not of(events, "loitering")
    play(rules, lambda t: [], 3, start=30.1)
    (review,) = of(play(rules, stands(), 21, start=40), "review")
    assert (review.phase, review.data["severity"], review.data["review"]) == ("new", "detection", 2)


def test_what_is_wrong_changes_nothing() -> None:
    rules, undisturbed = rule_set(LINE), rule_set(LINE)
    before, same = play(rules, paces, 10), play(undisturbed, paces, 10)
    with pytest.raises(UsageError, match="dragon"):
        rules.prepare(config({**LINE, "classes": ["dragon"]}))
    assert (before, play(rules, paces, 10, start=10)) == (same, play(undisturbed, paces, 10, start=10))


def test_frames_that_come_while_it_is_prepared_are_not_missed() -> None:
    one, two = rule_set(), rule_set()
    play(one, stands(), 30)
    play(two, stands(), 29)
    change(one, config(LURK))
    late = two.prepare(config(LURK))
    play(two, stands(), 1, start=29)
    two.succeed(late)
    a, b = (r.step(seen(thing(1, 500, 500)), 30.0) for r in (one, two))
    assert a == b
    assert told(a)[-1] == ("loitering", "start", "lurk")


def test_what_was_prepared_long_ago_is_warmed_again() -> None:
    rules = rule_set()
    play(rules, stands(), 10)
    stale = rules.prepare(config(LURK))
    play(rules, stands(), 200, start=10)
    rules.succeed(stale)
    assert told(rules.step(seen(thing(1, 500, 500)), 210.0))[-1] == ("loitering", "start", "lurk")
    assert rules.switched is not None
    assert rules.switched.after_s == pytest.approx(149.9)


class Fails:
    """A rule that works until it is asked for."""

    def __init__(self) -> None:
        self.on = False

    def __call__(self) -> None:
        if self.on:
            raise ZeroDivisionError("no")


def test_a_new_rule_that_fails_brings_the_old_ones_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgectl.pipelines.rules.loiter import LoiterRule

    rules, fails, step = rule_set(LINE), Fails(), LoiterRule.step
    monkeypatch.setattr(LoiterRule, "step", lambda self, now: (fails(), step(self, now))[1])
    play(rules, paces, 10)
    change(rules, config(LINE, LURK, {"id": "late", "line": [0.6, 1, 0.6, 0]}), digest="new")
    play(rules, paces, 5, start=10)
    fails.on = True
    events = play(rules, paces, 20, start=15)
    (back,) = of(events, "configuration")
    assert (back.phase, back.t_s) == ("reverted", pytest.approx(15.1))
    assert back.data["detail"].startswith("rule 'lurk' failed at 15.000 s: ZeroDivisionError: no")
    assert (back.data["kept"], back.data["gone"]) == (["yard", "gate"], ["lurk", "late"])
    fails.on = False
    undisturbed = rule_set(LINE)
    play(undisturbed, paces, 15)
    expected = of(play(undisturbed, paces, 20, start=15), "line_crossing")
    assert [e for e in of(events, "line_crossing") if e.rule == "gate"] == expected


def test_a_rule_that_fails_on_the_last_minute_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgectl.pipelines.rules.loiter import LoiterRule

    rules = rule_set(LINE)
    play(rules, paces, 10)
    monkeypatch.setattr(LoiterRule, "step", lambda self, now: 1 / 0)
    with pytest.raises(EngineError, match="rule 'lurk' failed at"):
        rules.prepare(config(LINE, LURK))


def test_a_rule_that_fails_later_ends_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgectl.pipelines.rules.loiter import LoiterRule

    rules = rule_set(LINE)
    change(rules, config(LINE, LURK))
    play(rules, paces, 70)
    monkeypatch.setattr(LoiterRule, "step", lambda self, now: 1 / 0)
    with pytest.raises(EngineError, match="rule 'lurk' failed at"):
        rules.step(seen(), 71.0)


def test_what_took_over_is_there_for_the_log() -> None:
    rules = rule_set(LINE)
    play(rules, paces, 90)
    assert rules.switched is None
    change(rules, config(LURK), digest="d")
    rules.step(seen(*paces(90)), 90.0)
    switched = rules.switched
    assert switched is not None
    assert parse_config("surveillance", json.loads(json.dumps(switched.rules))) == config(LURK)
    assert (switched.after_s, switched.told, switched.phase) == (
        pytest.approx(29.9),
        {"digest": "d"},
        "applied",
    )
    rules.step(seen(*paces(90.1)), 90.1)
    assert rules.switched is None
    assert rules.labels == LABELS
