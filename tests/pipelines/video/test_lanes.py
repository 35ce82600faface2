"""Lanes where they are, and none where there is only something like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgectl.pipelines.sources import EndOfStream, open_source
from edgectl.pipelines.synth import open_scene
from edgectl.pipelines.synth.road import Markings, RoadScene
from edgectl.pipelines.video.lanes import LaneFinder, Lanes


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
