"""What moves in a picture: things, not noise and not the light."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgectl.pipelines.video.motion import MotionDetector, SceneMotion

Picture = NDArray[np.uint8]
FPS = 15
SIZE = (360, 640)


def background(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.float32]:
    """Smooth grey shapes, nothing that repeats."""
    rough = np.random.default_rng(seed).uniform(60, 190, (9, 16)).astype(np.float32)
    return cv2.resize(rough, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)


def pictures(
    seconds: float,
    *,
    noise: float = 2.0,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    change: Callable[[NDArray[np.float32], float], None] = lambda image, t: None,
) -> Iterator[tuple[Picture, float]]:
    """``change(image, t)`` draws into each picture; ``noise`` is sigma in grey levels."""
    rng = np.random.default_rng(seed)
    still = background(seed, size)
    for n in range(round(seconds * FPS)):
        image, t = still.copy(), n / FPS
        change(image, t)
        image += rng.normal(0, noise, size).astype(np.float32) if noise else 0
        yield np.clip(image, 0, 255).astype(np.uint8), t


def run(frames: Iterator[tuple[Picture, float]]) -> list[tuple[float, SceneMotion]]:
    detector = MotionDetector(threshold=15, min_area=0.0005)
    return [(t, detector.step(image, t)) for image, t in frames]


def moved(seen: list[tuple[float, SceneMotion]], after_s: float = 1.5) -> list[float]:
    return [t for t, motion in seen if t >= after_s and (len(motion.boxes) or not motion.settled)]


@pytest.mark.parametrize("noise", [0.0, 2.0, 12.0, 25.0])
def test_an_empty_scene_does_not_move_however_grainy_it_is(noise: float) -> None:
    seen = run(pictures(20, noise=noise, seed=3))
    assert len(moved(seen)) <= 0.01 * len(seen)
    assert not seen[0][1].settled
    assert seen[-1][1].settled


def test_blocks_that_flicker_are_learned_as_noise() -> None:
    """Compression: whole blocks change their brightness, more than the threshold and all the time."""
    rng = np.random.default_rng(7)

    def flicker(image: NDArray[np.float32], t: float) -> None:
        blocks = rng.normal(0, 8, (12, 20)).astype(np.float32)
        image += cv2.resize(blocks, image.shape[::-1], interpolation=cv2.INTER_NEAREST)

    seen = run(pictures(60, change=flicker))
    early, late = [t for t in moved(seen) if t < 5], [t for t in moved(seen) if t >= 45]
    assert len(early) > 30
    assert len(late) <= 0.2 * 15 * FPS


def test_a_walking_person_moves_in_every_frame_and_the_box_holds_it() -> None:
    def walk(image: NDArray[np.float32], t: float) -> None:
        if t >= 4:
            x = int(40 + 60 * (t - 4))
            image[200:260, x : x + 24] = 230

    seen = run(pictures(12, change=walk))
    assert not [t for t in moved(seen) if t < 4]
    for t, motion in seen:
        if t >= 4.2:
            x = (52 + 60 * (t - 4)) / 640
            assert any(b[0] <= x <= b[2] and b[1] <= 230 / 360 <= b[3] for b in motion.boxes), t
            assert motion.share < 0.1


def test_a_light_that_changes_slowly_or_at_once_is_not_motion() -> None:
    def dusk(image: NDArray[np.float32], t: float) -> None:
        image -= 3 * t
        if t >= 10:
            image += 40

    assert moved(run(pictures(20, change=dusk))) == []


def test_a_camera_that_turns_is_another_picture_and_settles() -> None:
    other = background(99)

    def turn(image: NDArray[np.float32], t: float) -> None:
        if t >= 5:
            image[:] = other

    seen = run(pictures(12, change=turn))
    assert moved(seen)[0] == pytest.approx(5, abs=1 / FPS)
    assert moved(seen)[-1] < 6.5


def test_what_stands_still_fades_into_the_background() -> None:
    def park(image: NDArray[np.float32], t: float) -> None:
        if t >= 3:
            image[100:220, 100:300] += 100

    seen = run(pictures(60, change=park))
    assert moved(seen)[0] == pytest.approx(3, abs=1 / FPS)
    assert 6 < moved(seen)[-1] < 25


def test_another_size_is_another_picture() -> None:
    detector = MotionDetector(15, 0.0005)
    for image, t in pictures(3):
        detector.step(image, t)
    assert not detector.step(background(1, (1080, 1920)).astype(np.uint8), 3.0).settled


@pytest.mark.parametrize("size", [(1, 1), (2, 2000), (2000, 2), (89, 160)])
def test_odd_sizes_are_pictures_too(size: tuple[int, int]) -> None:
    seen = run(pictures(2, size=size))
    assert seen[-1][1].settled


def test_rows_may_be_strided() -> None:
    wide = np.zeros((360, 704), np.uint8)
    detector, other = MotionDetector(15, 0.0005), MotionDetector(15, 0.0005)
    for image, t in pictures(3):
        wide[:, :640] = image
        np.testing.assert_array_equal(detector.step(image, t).boxes, other.step(wide[:, :640], t).boxes)


def test_things_of_twenty_pixels_in_a_large_picture_are_seen_where_they_are_asked_for() -> None:
    size = (1080, 1920)

    def walker(image: NDArray[np.float32], t: float) -> None:
        if t >= 1.2:
            x = 300 + round(60 * t)
            image[500:520, x : x + 8] = 240

    fine, coarse = MotionDetector(15, 0.0005, 20), MotionDetector(15, 0.0005)
    found, coarsely = 0, 0
    for image, t in pictures(3, size=size, change=walker):
        motion = fine.step(image, t)
        coarsely += len(coarse.step(image, t).boxes)
        if t < 1.5:
            continue
        assert len(motion.boxes) >= 1, t
        x1, y1, x2, y2 = motion.boxes[0] * np.array([1920, 1080, 1920, 1080])
        x = 300 + round(60 * t)
        assert x1 - 8 <= x
        assert x + 8 <= x2 + 8
        assert y1 - 8 <= 500
        assert y2 + 8 >= 520
        found += 1
    assert found >= 20
    assert coarsely == 0


def test_noise_moves_nothing_in_the_finer_picture_either() -> None:
    detector = MotionDetector(15, 0.0005, 20)
    seen = [(t, detector.step(image, t)) for image, t in pictures(5, noise=8, size=(1080, 1920))]
    assert len(moved(seen)) <= 0.02 * len(seen)
