"""A camera that pans, shakes, zooms or is covered: how its picture moved, and what tracks make of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.pipelines import detections

from edgectl.pipelines.video.camera_motion import CameraMotion, camera_view
from edgectl.pipelines.video.tracker import TrackConfig, Tracker

WIDTH, HEIGHT = 640, 360
Matrix = NDArray[np.float64]
U8 = NDArray[np.uint8]


def world(seed: int = 0) -> U8:
    """Something to look at: blurred noise, larger than the picture."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (90, 160), np.uint8)
    return np.asarray(cv2.GaussianBlur(cv2.resize(small, (2 * WIDTH, 2 * HEIGHT)), (0, 0), 3), np.uint8)


def pose(x: float, y: float, zoom: float = 1.0, roll: float = 0.0) -> Matrix:
    """World → picture."""
    turn = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    return np.column_stack([turn, middle - turn @ np.array([WIDTH + x, HEIGHT + y])])


def seen(scene: U8, camera: Matrix) -> U8:
    return np.asarray(cv2.warpAffine(scene, camera, (WIDTH, HEIGHT)), np.uint8)


def between(before: Matrix, now: Matrix) -> Matrix:
    """Picture → picture."""
    whole = np.vstack([now, [0, 0, 1]]) @ np.linalg.inv(np.vstack([before, [0, 0, 1]]))
    return np.asarray(whole[:2])


CORNERS = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]], np.float64)


def moved(camera: Matrix, points: Matrix) -> Matrix:
    return np.asarray(points @ camera[:, :2].T + camera[:, 2])


@pytest.mark.parametrize(
    "now", [pose(14, -9), pose(-40, 22), pose(4, 3, zoom=1.06), pose(0, 5, roll=0.03)], ids=str
)
def test_pan_zoom_and_roll_are_told_to_a_pixel_or_two(now: Matrix) -> None:
    scene, before = world(), pose(0, 0)
    camera = CameraMotion()
    none = np.empty((0, 4))
    assert camera.step(camera_view(seen(scene, before)), none, WIDTH, HEIGHT) is None
    found = camera.step(camera_view(seen(scene, now)), none, WIDTH, HEIGHT)
    assert found is not None
    away = moved(found, CORNERS) - moved(between(before, now), CORNERS)
    assert np.abs(away).max() < 2


def test_a_camera_that_stands_still_is_not_said_to_move() -> None:
    scene, camera = world(), CameraMotion()
    rng = np.random.default_rng(1)
    for _ in range(5):
        picture = seen(scene, pose(0, 0)).astype(float) + rng.normal(0, 4, (HEIGHT, WIDTH))
        view = camera_view(np.clip(picture, 0, 255).astype(np.uint8))
        assert camera.step(view, np.empty((0, 4)), WIDTH, HEIGHT) is None


def test_a_large_object_that_moves_is_not_taken_for_the_camera() -> None:
    """A lorry over 60 % of the picture drives by; without its box it would be the camera."""
    scene, lorry = world(), world(5)
    box = np.array([[100.0, 20.0, 580.0, 340.0]])

    def picture(shift: int) -> U8:
        out = seen(scene, pose(0, 0)).copy()
        out[20:340, 100:580] = lorry[200:520, 300 - shift : 780 - shift]
        return camera_view(out)

    told, untold = CameraMotion(), CameraMotion()
    for shift in (0, 12):
        with_boxes = told.step(picture(shift), box, WIDTH, HEIGHT)
        without = untold.step(picture(shift), np.empty((0, 4)), WIDTH, HEIGHT)
    assert with_boxes is None
    assert without is not None


@pytest.mark.parametrize("other", [np.full((HEIGHT, WIDTH), 30, np.uint8), world(9)[:HEIGHT, :WIDTH]])
def test_a_covered_camera_and_a_cut_say_nothing(other: U8) -> None:
    camera = CameraMotion()
    camera.step(camera_view(seen(world(), pose(0, 0))), np.empty((0, 4)), WIDTH, HEIGHT)
    assert camera.step(camera_view(other), np.empty((0, 4)), WIDTH, HEIGHT) is None
    assert camera.step(camera_view(other), np.empty((0, 4)), WIDTH, HEIGHT) is None


def test_another_size_of_the_picture_begins_anew() -> None:
    camera = CameraMotion()
    none = np.empty((0, 4))
    scene = world()
    camera.step(camera_view(seen(scene, pose(0, 0))), none, WIDTH, HEIGHT)
    large = np.asarray(cv2.resize(seen(scene, pose(20, 0)), (2 * WIDTH, 2 * HEIGHT)), np.uint8)
    assert camera.step(camera_view(large), none, 2 * WIDTH, 2 * HEIGHT) is None


def test_a_view_is_the_callers_own() -> None:
    """A decoder may write into its frames again."""
    luma = world()[:120, :200]
    view = camera_view(luma)
    luma = luma.copy()
    assert not np.shares_memory(view, world())
    assert view.shape == (120, 200)
    assert camera_view(world()).shape == (180, 320)


@pytest.mark.parametrize("drops", [0.0, 0.3])
@pytest.mark.parametrize("shake", ["pan", "shake"])
def test_tracks_keep_their_ids_while_the_camera_moves(shake: str, drops: float) -> None:
    """Four who stand, a camera that swings to and fro or jolts: with the option each keeps its id, without it not."""

    def ids(*, compensated: bool) -> int:
        rng = np.random.default_rng(3)
        scene, camera = world(), CameraMotion()
        # heard of at the second sight, also where nobody stays
        tracker = Tracker(TrackConfig(confirm_s=0.05))
        people = np.array([[x, y, x + 20, y + 50] for x in (560, 640) for y in (330, 400)], np.float64)
        known: set[int] = set()
        for frame in range(60):
            x = 150 * np.sin(frame / 3) if shake == "pan" else rng.uniform(-30, 30)
            y = 0.0 if shake == "pan" else rng.uniform(-15, 15)
            if frame and rng.random() < drops:
                continue
            now = pose(x, y)
            boxes = moved(now, people.reshape(-1, 2)).reshape(-1, 4) + rng.normal(0, 0.5, (4, 4))
            found = detections(*((*box, 0.9, 0) for box in boxes.tolist()))
            motion = camera.step(camera_view(seen(scene, now)), boxes, WIDTH, HEIGHT)
            out = tracker.update(found, frame / 15, WIDTH, HEIGHT, motion if compensated else None)
            known |= set(out.ids.tolist())
        return len(known)

    assert ids(compensated=True) == 4
    assert ids(compensated=False) > 4
