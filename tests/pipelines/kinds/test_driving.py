"""Driving: lanes where they are, warnings in time, silence where there is nothing to warn of, and honesty
about what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.driving.ego import EgoConfig, Speed
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.rules.base import Observation, Rule
from edgectl.pipelines.rules.collision import CollisionConfig, CollisionRule, in_path, time_to_contact
from edgectl.pipelines.rules.lane_departure import DepartureRule, LaneDepartureConfig
from edgectl.pipelines.sources import EndOfStream, open_source
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.synth import open_scene
from edgectl.pipelines.synth.road import Markings, RoadScene
from edgectl.pipelines.video.lanes import CameraConfig, LaneFinder, Lanes
from edgectl.pipelines.video.tracker import Tracks


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_lanes_of_the_synthetic_road_are_found_to_a_few_pixels(seed: int) -> None:
    scene = open_scene("road", seed=seed, fps=15)
    finder, errors, missing = LaneFinder(), [], 0
    for seq in range(150):
        image = scene.render(seq)
        lanes = finder.find(image[..., 1], seq / 15, scene.truth(seq).boxes)
        if lanes is None:
            missing += 1
            continue
        truth = scene.truth(seq).values
        left, right = lanes.at(float(scene.height))
        errors.append([abs(float(left) - truth["left_x"]), abs(float(right) - truth["right_x"])])
    assert missing <= 3
    assert np.median(errors) < 3  # pixels, of a lane some 480 wide
    assert np.quantile(errors, 0.95) < 20


def test_lanes_survive_dropped_frames() -> None:
    scene = open_scene("road", seed=3, fps=15)
    rng = np.random.default_rng(1)
    finder, errors = LaneFinder(), []
    for seq in range(150):
        if rng.random() < 0.6:
            continue
        lanes = finder.find(scene.render(seq)[..., 1], seq / 15)
        if lanes is not None:
            left, _ = lanes.at(float(scene.height))
            errors.append(abs(float(left) - scene.truth(seq).values["left_x"]))
    assert len(errors) > 50
    assert np.median(errors) < 6


def test_the_real_highway_has_its_two_lines_in_every_frame(shared: Path) -> None:
    """By eye the lines end at columns 120..220 and 800..880 of 960 at the bottom, and meet near (480,
    304)."""
    source = open_source(str(shared / "media/highway-lanes.mp4"))
    source.open()
    finder = LaneFinder()
    ends = []
    try:
        while (frame := source.read(5)) is not None:
            lanes = finder.find(frame.luma(), frame.stamp.t_s)
            assert lanes is not None
            left, right = lanes.at(540.0)
            ends.append((float(left), float(right), lanes.u0, lanes.v0))
    except EndOfStream:
        source.close()
    left, right, u0, v0 = np.array(ends).T
    assert len(ends) == 221
    assert 100 < left.min() < left.max() < 240
    assert 790 < right.min() < right.max() < 900
    assert np.abs(u0 - 480).max() < 25
    assert np.abs(v0 - 304).max() < 15
    assert np.abs(np.diff(left)).max() < 25
    assert np.abs(np.diff(right)).max() < 25


def found(scene: RoadScene, frames: int, *, every: int = 1) -> list[Lanes | None]:
    finder = LaneFinder()
    return [finder.find(scene.render(k)[..., 1], k / scene.fps) for k in range(0, frames, every)]


def road(seed: int, markings: Markings, *, clutter: bool = True) -> RoadScene:
    return RoadScene(seed=seed, width=640, height=360, fps=15, markings=markings, clutter=clutter)


@pytest.mark.parametrize("clutter", [False, True])
@pytest.mark.parametrize("markings", ["none", "left", "right"])
@pytest.mark.parametrize("seed", [1, 2, 3, 5])
def test_a_road_without_its_two_lines_has_no_lane(seed: int, markings: Markings, clutter: bool) -> None:
    """Whatever else is on it: seams, patches, a kerb, a rail, shadows, or only one of the lines."""
    assert [
        k
        for k, lanes in enumerate(found(road(seed, markings, clutter=clutter), 60, every=2))
        if lanes is not None
    ] == []


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_the_lines_are_found_among_what_looks_like_lines(seed: int) -> None:
    scene = road(seed, "lanes")
    lanes = found(scene, 60)
    assert lanes.count(None) <= 1
    errors = [
        abs(float(lane.at(360.0)[0]) - scene.truth(k).values["left_x"])
        for k, lane in enumerate(lanes)
        if lane is not None
    ]
    assert np.median(errors) < 4


@pytest.mark.parametrize("apart_m", [1.0, 8.0])
def test_two_lines_that_are_not_a_lane_apart_are_no_lane(apart_m: float) -> None:
    """A painted arrow's edges, or the two edges of a whole road."""
    scene = road(1, "none", clutter=False)
    paint = scene.paint

    def painted(t: float) -> NDArray[np.uint8]:
        image = paint(t)
        for x in (-apart_m / 2, apart_m / 2):
            scene.strip(image, t, (3.0, 90.0), x, 0.15, (220, 220, 220), 60)
        return image

    scene.paint = painted  # type: ignore[method-assign]
    assert found(scene, 30) == [None] * 30


def test_a_hairline_is_no_marking() -> None:
    """A seam that the low sun makes shine: as bright as worn paint, but three centimetres wide."""
    scene = road(1, "none", clutter=False)
    paint = scene.paint

    def seamed(t: float) -> NDArray[np.uint8]:
        image = paint(t)
        for x in (-1.8, 1.8):
            scene.strip(image, t, (3.0, 90.0), x, 0.03, (190, 190, 190), 60)
        return image

    scene.paint = seamed  # type: ignore[method-assign]
    assert found(scene, 30) == [None] * 30


def test_worn_paint_is_paint() -> None:
    scene = road(2, "lanes", clutter=False)
    strip = scene.strip

    def worn(image: Any, t: float, reach: Any, x: float, width: float, colour: Any, points: int = 8) -> None:
        strip(image, t, reach, x, width, (scene.asphalt + 40,) * 3, points)

    scene.strip = worn  # type: ignore[method-assign]
    assert found(scene, 30).count(None) <= 1


def test_a_line_that_ends_takes_the_lane_with_it_within_a_second() -> None:
    both, left = road(3, "lanes", clutter=False), road(3, "left", clutter=False)
    finder = LaneFinder()
    seen = [finder.find((both if k < 20 else left).render(k)[..., 1], k / 15) is not None for k in range(40)]
    assert seen[:20] == [True] * 20
    assert not any(seen[37:])


@pytest.mark.parametrize("grain_px", [0.0, 1.0, 2.0])
def test_gravel_has_points_everywhere_and_no_lane(grain_px: float) -> None:
    rng = np.random.default_rng(0)
    finder = LaneFinder()
    for f in range(20):
        noise = rng.normal(0, 1, (270, 480))
        noise = cv2.GaussianBlur(noise, (0, 0), grain_px) if grain_px else noise
        image = np.clip(100 + noise / noise.std() * 22, 0, 255).astype(np.uint8)
        assert finder.find(image, f / 15) is None


@pytest.mark.parametrize("picture", ["grey", "noise"])
def test_no_road_no_lane(picture: str) -> None:
    rng = np.random.default_rng(0)
    finder = LaneFinder()
    for f in range(20):
        image = (
            np.full((270, 480), 90, np.uint8)
            if picture == "grey"
            else rng.integers(80, 100, (270, 480), dtype=np.uint8)
        )
        assert finder.find(image, f / 15) is None


def test_a_lane_that_is_gone_is_forgotten_after_a_second() -> None:
    scene = open_scene("road", seed=3, fps=15)
    finder = LaneFinder()
    for seq in range(20):
        assert finder.find(scene.render(seq)[..., 1], seq / 15) is not None
    blank = np.full((scene.height, scene.width), 90, np.uint8)
    kept = [finder.find(blank, 20 / 15 + f / 15) is not None for f in range(30)]
    assert kept[5]
    assert not kept[-1]


def lanes_at(offset_m: float, *, width: int = 960, height: int = 540, support: float = 1.0) -> Lanes:
    """A straight 3.6 m lane, the camera ``offset_m`` right of its middle; 600 px wide at the bottom."""
    v0 = height * 0.55
    drop = height - v0
    centre = -offset_m / 3.6 * 600
    return Lanes(width / 2, v0, (centre - 300) / drop, (centre + 300) / drop, 0.0, (support, support))


NOBODY = Tracks(
    np.empty(0, np.int64),
    np.empty((0, 4), np.float32),
    np.empty(0, np.float32),
    np.empty(0, np.int32),
    np.empty(0, bool),
    960,
    540,
)


def drive(
    offsets: NDArray[np.float64], *, fps: float = 20, speed: float | None = 27.0, v_min: float = 16.7
) -> list[Event]:
    rule = DepartureRule(
        LaneDepartureConfig(id="ldw", lane_departure=LaneDepartureConfig.LaneDeparture(v_min_mps=v_min)),
        CameraConfig(),
    )
    return [
        e
        for i, x in enumerate(offsets)
        for e in rule.step(Observation(NOBODY, i / fps, lanes_at(float(x)), speed))
    ]


def warned(events: list[Event]) -> list[Event]:
    return [e for e in events if e.type == "lane_departure"]


@pytest.mark.parametrize(("sign", "side"), [(1, "right"), (-1, "left")])
@pytest.mark.parametrize("lateral", [0.3, 0.6, 0.9])
def test_drifting_out_is_warned_before_the_wheel_is_on_the_line(sign: int, side: str, lateral: float) -> None:
    t = np.arange(0, 2 + 1.2 / lateral, 0.05)
    offset = sign * np.maximum(0, t - 2) * lateral
    events = warned(drive(offset))
    assert events[0].phase == "start"
    assert events[0].data["side"] == side
    # EU 351/2012: 0.3 m beyond the line at the latest; wheel at 0.9 m
    assert events[0].t_s < 2 + 0.9 / lateral + 0.3
    assert events[0].t_s > 2 + 0.9 / lateral - 1.2


def test_ten_minutes_of_careful_driving_give_no_warning() -> None:
    t = np.arange(0, 600, 0.05)
    noise = np.random.default_rng(0).normal(0, 0.03, len(t))
    assert warned(drive(0.25 * np.sin(t / 3.7) + noise)) == []


def test_below_its_speed_it_is_silent() -> None:
    offset = np.concatenate([np.zeros(60), np.linspace(0, 2, 40)])
    assert warned(drive(offset, speed=10)) == []


def test_without_speed_it_says_so_once() -> None:
    events = drive(np.linspace(0, 2, 100), speed=None)
    assert [(e.type, e.data["available"], e.data["reason"]) for e in events] == [
        ("capability", False, "speed_missing")
    ]


def test_without_lanes_it_says_so_and_comes_back() -> None:
    rule = DepartureRule(
        LaneDepartureConfig(id="ldw", lane_departure=LaneDepartureConfig.LaneDeparture()), CameraConfig()
    )
    events = []
    for i in range(200):
        lanes = None if 80 <= i < 140 else lanes_at(0.0)
        events += rule.step(Observation(NOBODY, i / 20, lanes, 27.0))
    assert [(e.data["available"], e.data["reason"]) for e in events] == [
        (False, "lanes_missing"),
        (True, None),
        (False, "lanes_missing"),
        (True, None),
    ]


def test_a_lane_change_is_not_a_drift_back() -> None:
    t = np.arange(0, 10, 0.05)
    x = np.clip((t - 4) * 0.9, 0, 3.6)
    # the finder takes the new lane's lines in the middle
    events = warned(drive(np.where(x > 1.8, x - 3.6, x)))
    assert [e.phase for e in events] == ["start", "end"]


def test_speed_grows_old() -> None:
    speed = Speed(EgoConfig(max_age_ms=500))
    assert speed.at(0.0, {}) is None
    assert speed.at(1.0, {"speed_mps": 20.0}) == 20.0
    assert speed.at(1.4, {}) == 20.0
    assert speed.at(1.6, {}) is None
    assert Speed(EgoConfig(speed_mps=13.0)).at(0.0, {}) == 13.0


@settings(max_examples=40, deadline=None)
@given(st.floats(5, 20), st.floats(1.0, 6.0))
def test_time_to_contact_of_a_clean_approach(closing: float, ttc: float) -> None:
    t = np.arange(0, 0.55, 0.05)
    distance = closing * (ttc + 0.5 - t)
    result = time_to_contact(t, 1800 / distance)
    assert result is not None
    assert result[0] == pytest.approx(ttc, rel=0.06)
    assert result[1] <= result[0] <= result[2]


def test_time_to_contact_under_jitter() -> None:
    """1.5 px, 20 Hz, 0.5 s window, 27 m, 67 px: median error ≤ 0.15 s at 2.7 s."""
    rng = np.random.default_rng(0)
    t = np.arange(0, 0.55, 0.05)
    width = 1800 / (10 * (2.7 + 0.5 - t))
    errors = []
    for _ in range(500):
        result = time_to_contact(t, width + rng.normal(0, 1.5, len(t)))
        if result is not None:
            errors.append(result[0] - 2.7)
    assert len(errors) > 400
    assert abs(float(np.median(errors))) <= 0.15


def approach(
    closing: float,
    distance: float,
    *,
    seconds: float,
    speed: float | None = 25.0,
    jitter: float = 1.0,
    path: bool = True,
    fps: float = 20,
) -> list[Event]:
    """A 1.8 m car ahead, focal length 1000 px, moving towards us."""
    rng = np.random.default_rng(0)
    rule = CollisionRule(CollisionConfig(id="fcw", collision=CollisionConfig.Collision()))
    events = []
    for i in range(int(seconds * fps)):
        d = distance - closing * i / fps
        if d < 2:
            break
        w = 1800 / d + rng.normal(0, jitter)
        box = np.array([[480 - w / 2, 300 - w / 2, 480 + w / 2, 300 + w / 2]], np.float32)
        one = Tracks(
            np.array([7]),
            box,
            np.array([0.9], np.float32),
            np.array([0], np.int32),
            np.array([True]),
            960,
            540,
        )
        events += rule.step(Observation(one, i / fps, None if path else lanes_at(5.4), speed))
    return [e for e in events if e.type == "collision_warning"]


def test_an_approach_is_warned_twice_in_time() -> None:
    """NCAP wants the alert at TTC ≥ 2.1 s for a stopped car."""
    events = approach(12, 60, seconds=5)
    assert [e.phase for e in events] == ["preliminary", "imminent"]
    true_ttc = [(60 - 12 * e.t_s) / 12 for e in events]
    assert true_ttc[0] > 2.1
    assert true_ttc[1] > 1.0
    assert events[0].data["box_px"] >= 45
    low, high = events[0].data["ttc_ci_s"]
    assert low < events[0].data["ttc_s"] < high


def test_a_warning_clears_when_the_danger_is_over() -> None:
    rule = CollisionRule(CollisionConfig(id="fcw", collision=CollisionConfig.Collision()))
    phases = []
    d = 40.0
    for i in range(160):
        d -= 12 / 20 if i < 40 else 0
        w = 1800 / d
        box = np.array([[480 - w / 2, 250, 480 + w / 2, 250 + w]], np.float32)
        one = Tracks(
            np.array([7]),
            box,
            np.array([0.9], np.float32),
            np.array([0], np.int32),
            np.array([True]),
            960,
            540,
        )
        phases += [
            e.phase for e in rule.step(Observation(one, i / 20, None, 25.0)) if e.type == "collision_warning"
        ]
    assert phases[-1] == "clear"


@pytest.mark.parametrize(
    "kwargs",
    [
        {"closing": 0.0, "distance": 25.0, "seconds": 600.0},  # following
        {"closing": -1.0, "distance": 20.0, "seconds": 60.0},  # falling back
        {"closing": 12.0, "distance": 200.0, "seconds": 13.0},  # too far: below 45 px all the time
        {"closing": 12.0, "distance": 60.0, "seconds": 5.0, "path": False},  # beside us
        {"closing": 12.0, "distance": 60.0, "seconds": 5.0, "speed": 2.0},  # parking
        {"closing": 12.0, "distance": 60.0, "seconds": 5.0, "speed": None},  # unknown speed: unavailable
    ],
)
def test_nothing_to_warn_of_gives_no_warning(kwargs: dict[str, float]) -> None:
    assert approach(**kwargs) == []  # type: ignore[arg-type]


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


def test_the_path_is_between_the_lines() -> None:
    boxes = np.array([[440, 300, 520, 400], [100, 300, 180, 400], [440, 100, 520, 200]], np.float32)
    three = Tracks(
        np.arange(1, 4), boxes, np.ones(3, np.float32), np.zeros(3, np.int32), np.ones(3, bool), 960, 540
    )
    assert in_path(three, lanes_at(0.0)).tolist() == [True, False, True]
    assert in_path(three, None).tolist() == [True, False, True]
