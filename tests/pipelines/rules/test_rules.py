"""Rules: exact at any frame rate, blind to jitter, restorable, and silent about who has left."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.driving import lanes_at
from support.pipelines import detections, tracks
from support.rules import Thing, rule_set, seen, thing

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RulesConfig, RuleSet
from edgectl.pipelines.rules.observation import Observation, Rule
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.tracker import Tracker, Tracks

LABELS = ("person", "vehicle")
CONFIG = parse_config(
    "surveillance",
    {
        "zones": {
            "yard": {"polygon": [0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8], "enter_s": 0.2, "exit_s": 0.5}
        },
        "rules": [
            {"id": "gate", "line": [0.5, 0.0, 0.5, 1.0]},
            {"id": "lurk", "loiter": {"zone": "yard", "seconds": 5}},
            {"id": "crowd", "occupancy": {"zone": "yard", "high": 2}},
        ],
    },
)


def rules(config: RulesConfig = CONFIG) -> RuleSet:
    return RuleSet(config, LABELS)


def of(events: list[Event], kind: str) -> list[Event]:
    return [e for e in events if e.type == kind]


def walk(steps: list[tuple[float, Tracks]], engine: RuleSet | None = None) -> list[Event]:
    engine = engine or rules()
    return [e for t, tr in steps for e in engine.step(tr, t)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(-3, 3))
# leaves the band twice on the far side, seconds apart
@example(384, 1.0)
def test_somebody_standing_on_the_line_is_never_counted(seed: int, off: float) -> None:
    """σ 2 px, 300 frames (sv.LineZone counts 76 in and 76 out)."""
    rng = np.random.default_rng(seed)
    steps = [(f / 30, tracks((1, 500 + off + rng.normal(0, 2), 500 + rng.normal(0, 2)))) for f in range(300)]
    assert of(walk(steps), "line_crossing") == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_every_crossing_is_counted_once_with_30_percent_drops(seed: int) -> None:
    """10 objects cross to and fro; the line's right side (a → b downwards: the picture's left) is ``in``."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 6.28, 10)
    steps = []
    crossings = {"in": 0, "out": 0}
    before = np.cos(start) * 300
    for f in range(20 * 30):
        x = np.cos(start + 2 * np.pi * f / 150) * 300
        crossings["in"] += int(((before > 0) & (x <= 0)).sum())
        crossings["out"] += int(((before <= 0) & (x > 0)).sum())
        before = x
        if rng.random() > 0.3:
            steps.append(
                (f / 30, tracks(*((i + 1, 500 + x[i] + rng.normal(0, 1), 300 + 40 * i) for i in range(10))))
            )
    # A crossing within the last hold time is not decided yet.
    engine = rules()
    events = of(walk(steps, engine), "line_crossing")
    x_end, speed = np.cos(start + 2 * np.pi * 599 / 150) * 300, np.sin(start + 2 * np.pi * 599 / 150)
    undecided = int((np.abs(x_end) < 0.4 * 300 * 2 * np.pi / 5).sum()) if speed.any() else 0
    for direction in ("in", "out"):
        counted = sum(e.data["direction"] == direction for e in events)
        assert crossings[direction] - undecided <= counted <= crossings[direction]


def test_crossing_says_direction_class_and_counts() -> None:
    steps = [(f / 10, tracks((7, 700 - 40 * f, 500), cls=1)) for f in range(12)]
    (event,) = of(walk(steps), "line_crossing")
    assert event.data["direction"] == "in"
    assert event.data["label"] == "vehicle"
    assert event.data["counts"] == {"in": {"vehicle": 1}, "out": {}}


def test_going_around_the_end_of_a_line_is_no_crossing() -> None:
    config = parse_config("surveillance", {"rules": [{"id": "gate", "line": [0.5, 0.4, 0.5, 0.6]}]})
    path = [(400, 500), (400, 300), (450, 200), (550, 200), (600, 300), (600, 500)]
    steps = [(i / 2, tracks((1, x, y))) for i, (x, y) in enumerate(path)]
    assert of(walk(steps, rules(config)), "line_crossing") == []


def test_an_object_that_vanishes_right_behind_the_line_is_counted() -> None:
    steps = [(f / 30, tracks((1, 420 + 30 * f, 500))) for f in range(6)]
    steps += [(6 / 30, tracks())]
    assert len(of(walk(steps), "line_crossing")) == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.7))
def test_loitering_is_timed_to_one_frame_at_any_drop_rate(seed: int, drop: float) -> None:
    rng = np.random.default_rng(seed)
    kept = [f for f in range(15 * 12) if f == 0 or rng.random() >= drop]
    steps = [(f / 15, tracks((1, 500 + rng.normal(0, 2), 500 + rng.normal(0, 2)))) for f in kept]
    first = of(walk(steps), "loitering")[0]
    due = next(f for f in kept if f / 15 >= 5.0 - 1e-9) / 15
    assert first.phase == "start"
    assert first.t_s == pytest.approx(due)
    assert 5.0 - 1e-6 <= first.data["dwell_s"] <= 5.0 + (due - 5.0) + 1e-3


def test_a_lost_and_found_track_takes_its_time_over() -> None:
    steps = [(f / 10, tracks((1, 500, 500))) for f in range(30)]
    steps += [(3.0 + f / 10, tracks()) for f in range(8)]
    steps += [(3.8 + f / 10, tracks((2, 510, 505))) for f in range(40)]
    (event,) = of(walk(steps), "loitering")
    assert event.data["track"] == 2
    assert event.t_s == pytest.approx(5.0)


def test_somebody_else_far_away_starts_anew() -> None:
    steps = [(f / 10, tracks((1, 300, 300))) for f in range(30)]
    steps += [(3.0 + f / 10, tracks((2, 700, 700))) for f in range(40)]
    assert of(walk(steps), "loitering") == []


def test_who_walked_out_does_not_loiter_in_the_time_until_that_is_certain() -> None:
    """Just outside the border, nearer than the band that decides: whether it has left is not known yet."""
    zone = {"polygon": [0.3, 0, 0.7, 0, 0.7, 1, 0.3, 1], "enter_px": 30}
    config = {"zones": {"yard": zone}, "rules": [{"id": "lurk", "loiter": {"zone": "yard", "seconds": 2}}]}
    r = rules(parse_config("surveillance", config))
    events: list[Event] = []
    for i in range(90):
        t = i / 15
        # 1.5 s inside, then it stands 20 px outside
        x = 500 if t < 1.5 else 720
        events += r.step(tracks((1, x, 500)), t)
    assert of(events, "zone")
    assert of(events, "loitering") == []


def test_loitering_ends_with_its_dwell() -> None:
    steps = [(f / 10, tracks((1, 500, 500))) for f in range(61)]
    steps += [(6.1 + f / 10, tracks((1, 950, 500))) for f in range(10)]
    events = of(walk(steps), "loitering")
    assert [e.phase for e in events] == ["start", "end"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(20, 120), st.floats(1, 25))
def test_a_zone_event_says_how_far_was_far_enough(seed: int, speed: float, sigma: float) -> None:
    rng = np.random.default_rng(seed)
    steps = [(f / 15, tracks((1, 150 + speed * f / 15 + rng.normal(0, sigma), 500))) for f in range(120)]
    for event in of(walk(steps), "zone"):
        if event.data.get("reason") != "lost":
            assert event.data["because"]["value"] >= event.data["because"]["limit"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_jitter_on_a_zone_border_makes_one_entry_at_most(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = [(f / 15, tracks((1, 200 + rng.normal(0, 1.0), 500))) for f in range(300)]
    assert len(of(walk(steps), "zone")) <= 1


def test_entering_takes_enter_s_and_a_glimpse_is_nothing() -> None:
    steps = [(0.0, tracks((1, 100, 500))), (0.1, tracks((1, 300, 500))), (0.2, tracks((1, 100, 500)))]
    assert of(walk(steps), "zone") == []
    steps = [
        (0.0, tracks((1, 100, 500))),
        (0.1, tracks((1, 300, 500))),
        (0.2, tracks((1, 310, 500))),
        (0.3, tracks((1, 310, 500))),
    ]
    (event,) = of(walk(steps), "zone")
    assert (event.phase, event.t_s, event.data["occupancy"]) == ("enter", 0.3, 1)


def test_leaving_says_why_and_how_long() -> None:
    steps = [(f / 10, tracks((1, 500, 500), (2, 600, 500))) for f in range(20)]
    steps += [(2.0 + f / 10, tracks((1, 950, 500))) for f in range(10)]
    left = {e.data["track"]: e for e in of(walk(steps), "zone") if e.phase == "leave"}
    assert left[2].data["reason"] == "lost"
    assert left[1].data["reason"] == "left"
    # On the border at x 800, two thirds of the way between the last sighting inside and the first one outside.
    assert left[1].data["dwell_s"] == pytest.approx(1.967)
    assert left[2].data["dwell_s"] == pytest.approx(1.9)


def test_a_track_that_is_carried_on_unseen_neither_enters_nor_leaves() -> None:
    steps = [(f / 10, tracks((1, 500, 500))) for f in range(5)]
    steps += [(0.5 + f / 10, tracks((1, 950, 500), seen=False)) for f in range(10)]
    assert [e.phase for e in of(walk(steps), "zone")] == ["enter"]


def test_occupancy_has_its_own_hysteresis() -> None:
    both, one = tracks((1, 500, 500), (2, 600, 500)), tracks((1, 500, 500))
    steps = [(f / 10, both) for f in range(10)] + [(1 + f / 10, one) for f in range(10)]
    assert [(e.phase, e.data["count"]) for e in of(walk(steps), "occupancy")] == [("start", 2), ("end", 1)]


def test_the_life_of_an_object() -> None:
    steps = [(f / 10, tracks((1, 100 + 20 * f, 500))) for f in range(10)] + [(1.0, tracks())]
    life = of(walk(steps), "tracked_object")
    assert [e.phase for e in life] == ["new", "update", "end"]
    assert life[1].data["zones"] == ["yard"]
    assert life[-1].t_s == pytest.approx(0.9)


def test_state_of_the_vanished_is_dropped() -> None:
    engine = rules()
    for f in range(200):
        engine.step(tracks((f + 1, 500, 500)), f / 10)
    assert len(json.dumps(engine.snapshot())) < 8000


def late(now: Tracks, track: int, *seen: tuple[float, float, float]) -> Tracks:
    """The same, where ``track`` is confirmed now and was seen before at these times, x and y."""
    past = np.array([(t, x - 20, y - 80, x + 20, y) for t, x, y in seen], np.float64)
    return replace(now, past={track: past})


def test_who_crossed_before_the_tracker_was_sure_is_counted() -> None:
    first = late(tracks((1, 540, 500)), 1, (0.0, 440, 500), (0.1, 470, 500))
    steps = [(0.3, first), (0.5, tracks((1, 600, 500)))]
    assert [e.data["direction"] for e in of(walk(steps), "line_crossing")] == ["out"]


def test_who_was_inside_before_the_tracker_was_sure_has_entered_then() -> None:
    first = late(tracks((1, 300, 500)), 1, (0.0, 150, 500), (0.2, 250, 500))
    enter = of(walk([(0.5, first)]), "zone")
    assert [e.phase for e in enter] == ["enter"]
    left = [(1.0 + f / 10, tracks((1, 100, 500))) for f in range(10)]
    leave = of(walk([(0.5, first), *left]), "zone")[-1]
    # On the border at 0.1 s, halfway between two sightings; out again halfway between 0.5 and 1.0 s.
    assert leave.data["dwell_s"] == pytest.approx(0.65)


def test_who_was_seen_outside_before_the_track_ended_has_left() -> None:
    steps = [(f / 10, tracks((1, 500, 500))) for f in range(20)] + [
        (2.0, tracks((1, 900, 500))),
        (3.5, tracks()),
    ]
    (leave,) = [e for e in of(walk(steps), "zone") if e.phase == "leave"]
    assert leave.data["reason"] == "left"
    assert leave.data["dwell_s"] == pytest.approx(1.975)


def test_a_label_that_changes_later_is_told_once() -> None:
    steps = [(f / 10, tracks((1, 100 + f, 500), cls=int(f >= 5))) for f in range(20)]
    told = of(walk(steps), "tracked_object")
    assert [(e.phase, e.data["label"], e.data.get("label_was")) for e in told] == [
        ("new", "person", None),
        ("update", "vehicle", "person"),
    ]


def test_events_say_which_predicate_held_and_by_how_much() -> None:
    steps = [(f / 10, tracks((1, 700 - 40 * f, 500), (2, 500, 500))) for f in range(12)]
    for event in walk(steps):
        if event.type in ("line_crossing", "zone", "loitering", "occupancy"):
            why = event.data["because"]
            assert set(why) == {"what", "value", "limit", "unit"}
            assert why["value"] >= why["limit"] or event.phase == "end"


def random_walks(seed: int, n: int = 120) -> list[tuple[float, Tracks]]:
    rng = np.random.default_rng(seed)
    at = rng.uniform(100, 900, (4, 2))
    steps = []
    t = 0.0
    for _ in range(n):
        t += float(rng.uniform(0.02, 0.4))
        at = np.clip(at + rng.normal(0, 60, at.shape), 0, 1000)
        there = rng.random(4) > 0.2
        steps.append((t, tracks(*((i + 1, float(at[i, 0]), float(at[i, 1])) for i in range(4) if there[i]))))
    return steps


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 120))
def test_a_snapshot_through_json_goes_on_exactly(seed: int, at: int) -> None:
    steps = random_walks(seed)
    whole = walk(steps)
    first = rules()
    events = walk(steps[:at], first)
    second = rules()
    second.restore(json.loads(json.dumps(first.snapshot())))
    assert events + walk(steps[at:], second) == whole


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_the_same_tracks_give_the_same_events(seed: int) -> None:
    steps = random_walks(seed)
    assert walk(steps) == walk(steps)


@pytest.mark.parametrize(
    "bad",
    [
        {"zones": {"z": {"polygon": [0, 0, 1, 0, 1, 1], "classes": ["dragon"]}}},
        {"rules": [{"id": "g", "line": [0, 0, 1, 1], "classes": ["dragon"]}]},
    ],
)
def test_a_class_that_the_model_does_not_know_is_named(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="dragon"):
        RuleSet(parse_config("surveillance", bad), LABELS)


def box_tracks(*boxes: tuple[float, float, float, float], size: tuple[int, int] = (1000, 1000)) -> Tracks:
    """Tracks 1, 2, … with these boxes, xyxy, clipped to the frame as a detector's are."""
    n = len(boxes)
    xyxy = np.clip(np.array(boxes, np.float32).reshape(n, 4), 0, [*size, *size]).astype(np.float32)
    return Tracks(
        np.arange(1, n + 1),
        xyxy,
        np.full(n, 0.9, np.float32),
        np.zeros(n, np.int32),
        np.ones(n, np.bool_),
        *size,
    )


WHOLE = [0, 0, 1, 0, 1, 1, 0, 1]
CUT_OFF = {
    "bottom": (400, 700, 500, 1400),
    "top": (400, -300, 500, 0.5),
    "left": (-300, 400, 2, 500),
    "right": (998, 400, 1400, 500),
    "corner": (900, 900, 1400, 1400),
}


@pytest.mark.parametrize("anchor", ["bottom_center", "center"])
@pytest.mark.parametrize("edge", CUT_OFF)
def test_a_box_that_the_frames_edge_cuts_off_is_in_a_zone_that_touches_it(edge: str, anchor: str) -> None:
    config = parse_config(
        "surveillance",
        {
            "zones": {"all": {"polygon": WHOLE, "anchor": anchor}},
            "rules": [
                {"id": "lurk", "loiter": {"zone": "all", "seconds": 1}},
                {"id": "crowd", "occupancy": {"zone": "all", "high": 1}},
            ],
        },
    )
    r = rules(config)
    events = [e for i in range(20) for e in r.step(box_tracks(CUT_OFF[edge]), i / 10)]
    assert [(e.phase, e.t_s) for e in of(events, "zone")] == [("enter", 0.2)]
    assert [e.phase for e in of(events, "occupancy")] == ["start"]
    assert [e.phase for e in of(events, "loitering")] == ["start"]


@pytest.mark.parametrize(
    ("polygon", "edge"),
    [
        ([0.2, 0.5, 0.8, 0.5, 0.8, 1, 0.2, 1], "bottom"),
        ([0.2, 0.5, 0.8, 0.5, 0.8, 0.995, 0.2, 0.995], "bottom"),  # drawn by hand
        ([0.2, 0.5, 0.8, 0.5, 0.8, 0.99, 0.2, 0.99], "bottom"),  # 1 % from it, whatever 1 - 0.99 is in binary
        ([0.01, 0.2, 0.5, 0.2, 0.5, 0.8, 0.01, 0.8], "left"),
        ([0.5, 0.2, 0.99, 0.2, 0.99, 0.8, 0.5, 0.8], "right"),
        ([0.2, 0.5, 0.8, 0.5, 0.8, 1.3, 0.2, 1.3], "bottom"),
        ([0.2, 0, 0.8, 0, 0.8, 0.5, 0.2, 0.5], "top"),
        ([0, 0.2, 0.5, 0.2, 0.5, 0.8, 0, 0.8], "left"),
        ([0.5, 0.2, 1, 0.2, 1, 0.8, 0.5, 0.8], "right"),
        ([0.5, 0.4, 1, 1, 0, 1], "bottom"),
    ],
)
def test_a_zone_goes_on_beyond_the_edge_that_it_touches_and_beyond_no_other(
    polygon: list[float], edge: str
) -> None:
    r = rules(parse_config("surveillance", {"zones": {"z": {"polygon": polygon}}}))
    (zone,) = r.zones
    for i in range(5):
        r.step(box_tracks(CUT_OFF[edge], (100, 30, 140, 100), (560, 560, 600, 603)), i / 10)
    assert 1 in zone.inside
    assert 2 not in zone.inside
    # The borders inside the picture keep their hysteresis: 3 px deep is not deep enough.
    r = rules(parse_config("surveillance", {"zones": {"z": {"polygon": [0, 0.6, 1, 0.6, 1, 1, 0, 1]}}}))
    for i in range(5):
        r.step(box_tracks((560, 560, 600, 603)), i / 10)
    assert r.zones[0].inside == {}


def test_why_somebody_is_in_a_zone_that_is_the_whole_picture_is_json() -> None:
    """How deep they are has no end."""
    r = rules(
        parse_config("surveillance", {"zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1], "enter_s": 0}}})
    )
    [entered] = [e for e in r.step(box_tracks((400, 100, 440, 300)), 0) if e.type == "zone"]
    assert entered.data["because"]["value"] is None
    assert json.loads(json.dumps(dict(entered.data), allow_nan=False))["because"]["what"] == "inside"


def test_a_zone_outside_the_picture_and_a_thin_one_at_its_edge_are_still_zones() -> None:
    for polygon in ([1.1, 0, 1.4, 0, 1.4, 1, 1.1, 1], [0.2, 0.992, 0.8, 0.992, 0.8, 0.998, 0.2, 0.998]):
        r = rules(parse_config("surveillance", {"zones": {"z": {"polygon": polygon}}}))
        for i in range(5):
            r.step(box_tracks((400, 100, 440, 300)), i / 10)
        assert r.zones[0].inside == {}


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ([0.5, 0.99, 0.5, 0.3], [(x, 1000.0) for x in range(300, 720, 20)]),
        ([0.5, 0.3, 0.5, 0.995], [(x, 1000.0) for x in range(300, 720, 20)]),
        ([0.3, 0.995, 0.7, 0.2], [(x, 1000.0) for x in range(100, 720, 20)]),
        ([0.5, 0.01, 0.5, 0.6], [(x, 0.0) for x in range(300, 720, 20)]),
        ([0.01, 0.5, 0.6, 0.5], [(0.0, y) for y in range(300, 720, 20)]),
        ([0.99, 0.5, 0.4, 0.5], [(1000.0, y) for y in range(300, 720, 20)]),
    ],
)
def test_there_is_no_way_around_the_end_of_a_line_at_the_frames_edge(
    line: list[float], path: list[tuple[float, float]]
) -> None:
    r = rules(parse_config("surveillance", {"rules": [{"id": "gate", "line": line}]}))
    events = [e for i, (x, y) in enumerate(path) for e in r.step(tracks((1, x, y)), i / 10)]
    assert len(of(events, "line_crossing")) == 1


def test_an_end_inside_the_picture_can_be_walked_around() -> None:
    r = rules(parse_config("surveillance", {"rules": [{"id": "gate", "line": [0.5, 0.9, 0.5, 0.3]}]}))
    events = [e for i in range(21) for e in r.step(tracks((1, 300 + 20 * i, 1000)), i / 10)]
    assert of(events, "line_crossing") == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("height", [80, 200, 400])
def test_a_box_that_stands_on_the_line_and_trembles_is_no_traffic(seed: int, height: int) -> None:
    """Twelve pixels of noise on every edge, two minutes, through the tracker as in life."""
    rng = np.random.default_rng(seed)
    tracker, r = (
        Tracker(),
        rules(parse_config("surveillance", {"rules": [{"id": "gate", "line": [0.5, 1.0, 0.5, 0.0]}]})),
    )
    n = 0
    for i in range(15 * 120):
        box = np.array([640 - height / 5, 200, 640 + height / 5, 200 + height]) + rng.normal(0, 12, 4)
        found = detections((*box.tolist(), 0.9, 0))
        n += len(of(r.step(tracker.update(found, i / 15, 1280, 720), i / 15), "line_crossing"))
    assert n <= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("height", "fps"), [(85, 25), (90, 15)])
def test_a_small_box_that_trembles_as_a_whole_on_the_line_is_no_traffic(
    seed: int, height: int, fps: int
) -> None:
    """Its detections may not even overlap: several tracks that share them each tremble too little."""
    rng = np.random.default_rng((height, seed))
    tracker, r = (
        Tracker(),
        rules(parse_config("surveillance", {"rules": [{"id": "gate", "line": [0.5, 1.0, 0.5, 0.0]}]})),
    )
    n = 0
    for i in range(60 * fps):
        shift = np.tile(rng.normal(0, 12, 2), 2)
        box = np.array([640 - height / 5, 200, 640 + height / 5, 200 + height]) + shift
        found = detections((*box.tolist(), 0.9, 0))
        n += len(of(r.step(tracker.update(found, i / fps, 1280, 720), i / fps), "line_crossing"))
    assert n <= 1


@pytest.mark.parametrize("speed", [40, 160, 320])
def test_a_walk_over_the_line_counts_once_however_much_it_trembles(speed: float) -> None:
    rng = np.random.default_rng(4)
    tracker, r = (
        Tracker(),
        rules(parse_config("surveillance", {"rules": [{"id": "gate", "line": [0.5, 1.0, 0.5, 0.0]}]})),
    )
    n = 0
    for i in range(int(15 * 1000 / speed)):
        x = 140 + speed * i / 15
        box = np.array([x - 40, 200, x + 40, 400]) + rng.normal(0, 6, 4)
        found = detections((*box.tolist(), 0.9, 0))
        n += len(of(r.step(tracker.update(found, i / 15, 1280, 720), i / 15), "line_crossing"))
    assert n == 1


@pytest.mark.parametrize("at", [3, 30, 41, 60, 75])
def test_warnings_go_on_exactly_from_a_snapshot(at: int) -> None:
    """A drift over the line and an approach, cut in two at any place."""

    def steps() -> list[Observation]:
        seen = []
        for i in range(100):
            w = 1800 / (60 - 0.6 * i if i < 90 else 6)
            box = np.array([[480 - w / 2, 300 - w / 2, 480 + w / 2, 300 + w / 2]], np.float32)
            car = Tracks(
                np.array([7]), box, np.ones(1, np.float32), np.zeros(1, np.int32), np.ones(1, bool), 960, 540
            )
            lanes = lanes_at(max(0, i - 40) * 0.03)
            seen.append(Observation(car, i / 20, lanes, None if i < 2 else 25.0))
        return seen

    def rules() -> dict[str, Rule]:
        config = parse_config(
            "driving", {"rules": [{"id": "c", "collision": {}}, {"id": "l", "lane_departure": {}}]}
        )
        return RuleSet(config, ("car",)).rules

    def events(of: dict[str, Rule], seen: list[Observation]) -> list[Event]:
        return [e for s in seen for rule in of.values() for e in rule.step(s)]

    whole = events(rules(), steps())
    assert {e.type for e in whole} == {"capability", "collision_warning", "lane_departure"}
    first, second = rules(), rules()
    begun = events(first, steps()[:at])
    for name, rule in second.items():
        rule.restore(json.loads(json.dumps(first[name].snapshot())))
    assert begun + events(second, steps()[at:]) == whole


EVERY = parse_config(
    "surveillance",
    {
        "zones": {
            "yard": {"polygon": [0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8]},
            "edge": {"polygon": [0.0, 0.0, 0.3, 0.0, 0.3, 1.0, 0.0, 1.0]},
        },
        "ground": {"picture": [0, 0, 1, 0, 1, 1, 0, 1], "metres": [0, 0, 20, 0, 20, 20, 0, 20]},
        "review": {"alert": ["in"], "detection": ["yard"], "quiet_s": 2},
        "rules": [
            {"id": "gate", "line": [0.5, 0.0, 0.5, 1.0]},
            {"id": "lurk", "loiter": {"zone": "yard", "seconds": 2}},
            {"id": "full", "occupancy": {"zone": "yard", "high": 2}},
            {"id": "in", "intrusion": {"zone": "yard", "after_s": 1}},
            {"id": "crowd", "density": {"zone": "yard", "high": 0.02, "hold_s": 1}},
            {"id": "fast", "speed": {"zone": "yard", "limit_mps": 1}},
            {"id": "stands", "stationary": {"zone": "yard", "seconds": 2}},
            {
                "id": "left",
                "abandoned": {"zone": "yard", "things": ["vehicle"], "seconds": 2, "unowned_s": 3},
            },
            {"id": "against", "wrong_way": {"zone": "yard", "allowed": [0, 0.5, 1, 0.5]}},
            {"id": "no-turn", "turn": {"start": "yard", "end": "edge"}},
            {"id": "flow", "traffic": {"lanes": {"a": [0.5, 0.0, 0.5, 1.0]}, "every_s": 5, "close_s": 5}},
            {"id": "brakes", "sudden_stop": {"stay_s": 0.4}},
            {"id": "falls", "fall": {"stay_s": 0.3}},
            {"id": "runs", "running": {"hold_s": 0.2}},
        ],
    },
)
"""Every rule of surveillance."""


def stops_and_goes(seed: int, n: int = 150) -> list[tuple[float, Tracks]]:
    """Four that stand, walk, run, lie down and vanish, at random."""
    rng = np.random.default_rng(seed)
    at, speed = rng.uniform(200, 800, (4, 2)), np.zeros((4, 2))
    shape = np.tile([50.0, 150.0], (4, 1))
    first = np.arange(1, 5)
    t, steps = 0.0, []
    for _ in range(n):
        dt = float(rng.uniform(0.03, 0.2))
        t += dt
        turn = rng.random(4) < 0.05
        speed[turn] = rng.normal(0, 1, (int(turn.sum()), 2)) * rng.choice([0, 60, 300], (int(turn.sum()), 1))
        shape[rng.random(4) < 0.02] = [150.0, 50.0]
        shape[rng.random(4) < 0.04] = [50.0, 150.0]
        reborn = rng.random(4) < 0.004
        first[reborn] = first.max() + 1 + np.arange(reborn.sum())
        at = np.clip(at + speed * dt, 100, 900)
        order = np.argsort(first)
        foot, half = at + rng.normal(0, 1, at.shape), shape / [2, 1]
        boxes = np.stack(
            [foot[:, 0] - half[:, 0], foot[:, 1] - half[:, 1], foot[:, 0] + half[:, 0], foot[:, 1]], 1
        )
        there = rng.random(4) > 0.1
        cls, score = (first % 3 == 0).astype(np.int32), np.full(4, 0.9, np.float32)
        rows = (first, boxes.astype(np.float32), score, cls, there)
        steps.append((t, Tracks(*(row[order] for row in rows), 1000, 1000)))
    return steps


def test_the_walks_of_these_tests_make_every_rule_speak() -> None:
    events = [e for seed in range(12) for e in walk(stops_and_goes(seed), rules(EVERY))]
    assert {e.rule for e in events} >= {*(rule.id for rule in EVERY.rules), "yard", "edge"}
    assert {e.type for e in events} >= {"review", "tracked_object", "headway", "traffic"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 150))
def test_every_rule_goes_on_from_a_snapshot_through_json_to_the_same_bytes(seed: int, at: int) -> None:
    steps = stops_and_goes(seed)

    def told(events: list[Event]) -> str:
        return json.dumps([asdict(e) for e in events])

    whole = walk(steps, rules(EVERY))
    first, second = rules(EVERY), rules(EVERY)
    events = walk(steps[:at], first)
    second.restore(json.loads(json.dumps(first.snapshot())))
    assert told(events + walk(steps[at:], second)) == told(whole)
    assert told(walk(steps, rules(EVERY))) == told(whole)


def test_counts_outlast_the_process_and_tracks_do_not() -> None:
    steps = [(f / 10, tracks((1, 700 - 40 * f, 500))) for f in range(12)]
    first, second = rules(), rules()
    walk(steps, first)
    saved = json.loads(json.dumps(first.save()))
    assert saved["schema"] == "edgectl.rules/1"
    assert len(json.dumps(saved)) < 1000
    second.load(saved)
    (event,) = of(walk(steps, second), "line_crossing")
    assert event.data["counts"] == {"in": {"person": 2}, "out": {}}


def test_a_line_that_was_moved_counts_anew_and_says_so() -> None:
    first = rules()
    walk([(f / 10, tracks((1, 700 - 40 * f, 500))) for f in range(12)], first)
    moved = rules(parse_config("surveillance", {"rules": [{"id": "gate", "line": [0.4, 0.0, 0.4, 1.0]}]}))
    moved.load(first.save())
    (reset,) = moved.step(tracks(), 0.0)
    assert (reset.type, reset.rule, reset.data) == ("reset", "gate", {"reason": "settings_changed"})
    assert moved.step(tracks(), 0.1) == []


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"schema": "edgectl.rules/9", "rules": {}},
        {"schema": "edgectl.rules/1", "rules": 3},
        {"schema": "edgectl.rules/1", "rules": {"gate": {}}},
        {"schema": "edgectl.rules/1", "rules": {"gate": {"settings": None, "state": {"counts": 3}}}},
    ],
)
def test_a_state_that_is_not_understood_is_said_and_not_guessed(broken: Any) -> None:
    engine = rules()
    engine.load(broken)
    (reset,) = engine.step(tracks(), 0.0)
    assert (reset.type, reset.rule) == ("reset", "gate")


def test_counts_begin_anew_when_that_is_asked_for() -> None:
    engine = rules()
    walk([(f / 10, tracks((1, 700 - 40 * f, 500))) for f in range(12)], engine)
    engine.reset("gate")
    (reset,) = of(engine.step(tracks(), 2.0), "reset")
    assert reset.data == {"reason": "asked", "was": {"counts": {"in": {"person": 1}, "out": {}}}}
    with pytest.raises(UsageError, match="lurk"):
        engine.reset("lurk")


def test_rules_that_are_blind_say_so_and_so_does_what_they_make() -> None:
    rules = rule_set({"id": "full", "occupancy": {"zone": "yard", "high": 1}})

    def step(t: float, *things: Thing, blind: str | None = None) -> list[Event]:
        return rules.step(seen(*things), t, blind=blind)

    for i in range(10):
        step(i / 10, thing(1, 500, 500))
    (said,) = step(1.0, thing(1, 500, 500), blind="covered")
    assert (said.type, said.phase) == ("capability", "start")
    assert said.data == {"name": "rules", "available": False, "reason": "covered", "rules": ["yard", "full"]}
    gone = step(1.1, blind="covered")
    assert {(e.type, e.phase) for e in gone} == {
        ("zone", "leave"),
        ("occupancy", "end"),
        ("tracked_object", "end"),
    }
    assert {e.data["blind"] for e in gone} == {"covered"}
    (again,) = step(1.2)
    assert (again.phase, again.data["available"], again.data["reason"]) == ("end", True, "covered")
    assert all("blind" not in e.data for e in step(1.3, thing(2, 500, 500)))
