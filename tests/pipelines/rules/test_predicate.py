"""Rules that explain themselves: what they say they asked is what they decided by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rules import Thing, rule_set, seen, thing

from edgectl.pipelines.rules import RULES
from edgectl.pipelines.rules.observation import Wall
from edgectl.pipelines.rules.predicate import Explains

GROUND = {"picture": [0, 0, 1, 0, 1, 1, 0, 1], "metres": [0, 0, 10, 0, 10, 10, 0, 10]}
EAST = {"polygon": [0.6, 0, 1, 0, 1, 1, 0.6, 1]}
EVERY: dict[str, dict[str, Any]] = {
    "line": {"line": [0.5, 0.9, 0.5, 0.1], "classes": ["person", "vehicle"]},
    "loiter": {"loiter": {"zone": "yard", "seconds": 2}},
    "occupancy": {"occupancy": {"zone": "yard", "high": 2}},
    "intrusion": {"intrusion": {"zone": "yard", "when": "00:00-00:01", "after_s": 0.5}},
    "density": {"density": {"zone": "yard", "area_m2": 1.0, "high": 2, "hold_s": 0.5}},
    "speed": {"speed": {"zone": "yard"}},
    "stationary": {"stationary": {"zone": "yard", "seconds": 2, "classes": ["person", "vehicle"]}},
    "abandoned": {"abandoned": {"zone": "yard", "things": ["suitcase"], "seconds": 1, "unowned_s": 2}},
    "wrong_way": {"wrong_way": {"zone": "yard", "allowed": [0, 0, 1, 0]}},
    "turn": {"turn": {"start": "yard", "end": "east", "seconds": 2}},
    "traffic": {"traffic": {"lanes": {"one": [0.5, 1, 0.5, 0]}}},
    "sudden_stop": {"sudden_stop": {"zone": "yard", "stay_s": 0.5}},
    "fall": {"fall": {"zone": "yard", "stay_s": 0.4}},
    "running": {"running": {"faster_mps": 1.5}},
    "unusual_path": {"unusual_path": {}},
}
TELLS = {"loiter": "loitering", "density": "crowd", "turn": "forbidden_turn", "line": "line_crossing"}
"""Where events are not called like the rule."""
NO_PREDICATES = {"collision", "lane_departure"}
"""Of the own car: they need lanes and speed, which no track log holds."""


def crowd(seed: int, seconds: float) -> list[list[Thing]]:
    """Up to five things that stand, walk, run, turn and lie down, at 10 frames a second."""
    rng = np.random.default_rng(seed)
    now: dict[int, list[float]] = {}
    frames, number = [], 0
    for _ in range(round(seconds * 10)):
        if len(now) < 5 and rng.random() < 0.2:
            number += 1
            now[number] = [*rng.uniform(100, 900, 2), 0, 0, rng.integers(0, 3), 0]
        for track, (x, y, vx, vy, cls, flat) in list(now.items()):
            if rng.random() < 0.12:
                way, speed = rng.uniform(0, 2 * math.pi), rng.choice([0, 0, 60, 250])
                vx, vy = speed * math.cos(way), speed * math.sin(way)
            if rng.random() < 0.03:
                flat = 1 - flat
            x, y = np.clip(x + vx / 10, 0, 1000), np.clip(y + vy / 10, 100, 1000)
            now[track] = [x, y, vx, vy, cls, flat]
            if rng.random() < 0.01:
                del now[track]
        noise = rng.normal(0, 1.0, (len(now), 2))
        frames.append(
            [
                thing(
                    track,
                    x + dx,
                    y + dy,
                    int(cls),
                    *((100, 45) if flat and cls == 0 else (40, 90)),
                )
                for (track, (x, y, _, _, cls, flat)), (dx, dy) in zip(now.items(), noise, strict=True)
                if rng.random() < 0.85
            ]
        )
    return frames


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EVERY, "yard"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), switched=st.booleans())
def test_a_rule_tells_exactly_when_all_that_it_says_it_asked_holds(
    name: str, seed: int, switched: bool
) -> None:
    config = [{"id": "it", **EVERY[name]}] if name in EVERY else []
    rules = rule_set(*config, zones={"east": EAST}, ground=GROUND)
    id_ = "it" if config else name
    was_on: set[int | None] = set()
    for i, things in enumerate(crowd(seed, 20)):
        if name == "intrusion" and switched and i in (60, 120):
            rules.switch("it", i == 120)
        t = i / 10
        # 50 s to the end of the minute in which the intrusion rule is in force
        events = rules.step(seen(*things), t, wall=Wall(50 + t, "arrival"))
        type_ = "zone" if not config else TELLS.get(name, name)
        begun = {
            e.data.get("track")
            for e in events
            if e.rule == id_ and e.type == type_ and e.phase in (None, "start", "enter")
        }
        explained = rules.explain()[id_]
        for one in explained:
            if one.failed is None:
                assert one.on, f"{t}: all holds of {one.track}, and it is not told"
            if one.track in begun:
                assert one.on
                assert one.failed is None, f"{t}: told of {one.track}"
        asked = {one.track for one in explained}
        assert name == "traffic" or begun <= asked
        on = {one.track for one in explained if one.on}
        # an alarm begins with an event, or (loiter) is taken over by who is found again
        assert name in ("traffic", "loiter") or on - was_on <= begun
        was_on = on | (was_on - asked)


def test_every_rule_of_tracks_explains_itself() -> None:
    assert set(RULES.own) == EVERY.keys() | NO_PREDICATES
    for name, entry in EVERY.items():
        rules = rule_set({"id": "it", **entry}, zones={"east": EAST}, ground=GROUND)
        assert isinstance(rules.rules["it"], Explains), name


def test_the_first_that_failed_is_named_with_its_value_and_its_limit() -> None:
    rules = rule_set({"id": "lurk", "loiter": {"zone": "yard", "seconds": 5}})
    for i in range(40):
        rules.step(seen(thing(7, 500, 500)), i / 10)
    (one,) = rules.explain()["lurk"]
    failed = one.failed
    assert failed is not None
    assert not one.on
    assert (one.track, failed.what, failed.limit, failed.unit) == (7, "stayed", 5, "s")
    assert failed.value == pytest.approx(3.9)
    assert failed.since == 0
    assert [p.what for p in one.asked] == ["in zone yard", "stayed"]


def test_a_thing_of_a_class_that_does_not_count_is_told_so() -> None:
    rules = rule_set({"id": "parked", "stationary": {"zone": "yard", "seconds": 1, "classes": ["vehicle"]}})
    for i in range(30):
        rules.step(seen(thing(1, 500, 500, 0)), i / 10)
    (one,) = rules.explain()["parked"]
    assert one.failed is not None
    assert one.failed.what == "person counts"
