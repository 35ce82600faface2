"""Which frames are looked at, and as what the others are booked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.frame_choice import FrameChoice
from edgectl.pipelines.video.labels import LabelConfig
from edgectl.pipelines.video.motion_gate import MotionGateConfig
from edgectl.pipelines.video.privacy import MaskConfig, Privacy, PrivacyConfig
from edgectl.pipelines.video.track_watch import Known

GROUND: NDArray[np.uint8] = np.random.default_rng(3).integers(60, 160, (180, 320, 3), dtype=np.uint8)


def frame(t_s: float, at: int | None = None) -> Frame:
    """With a bright thing whose left edge is ``at``."""
    image = GROUND.copy()
    if at is not None:
        image[60:140, at : at + 40] = 250
    return Frame.of_bgr(image, Stamp(round(t_s * 10), round(t_s * 1e9), 0))


def test_without_settings_every_frame_is_looked_at() -> None:
    choice = FrameChoice()
    assert [choice.left_out() for _ in range(20)] == [None] * 20
    assert not any(choice.idle(frame(i / 10)) for i in range(20))
    off = FrameChoice(gate=MotionGateConfig())
    assert not any(off.idle(frame(i / 10)) for i in range(100))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), min_size=1, max_size=6))
def test_one_of_n_frames_is_looked_at_and_the_gaps_are_even(rungs: list[tuple[int, int]]) -> None:
    choice = FrameChoice()
    for every, frames in rungs:
        choice.detect_every = every
        causes = [choice.left_out() for _ in range(frames)]
        assert set(causes) <= {None, "degraded"}
        looked = [i for i, cause in enumerate(causes) if cause is None]
        assert set(np.diff(looked)) <= {every}
        assert looked[:1] == [i for i in looked[:1] if i < every]
        assert len(looked) >= frames // every


def test_a_frame_while_detection_is_off_is_paused_and_not_degraded() -> None:
    choice = FrameChoice(paused=lambda: True)
    choice.detect_every = 3
    assert {choice.left_out() for _ in range(9)} == {"paused"}


def test_frames_in_which_nothing_moves_are_left_out_and_motion_is_seen_at_once() -> None:
    choice = FrameChoice(gate=MotionGateConfig(motion=True, keep_alive_s=5))
    looked = [i for i in range(300) if not choice.idle(frame(i / 10))]
    # the background is learned, then a frame now and then
    assert len([i for i in looked if i > 25]) == 5
    assert not choice.idle(frame(30.0, at=50))


def test_what_is_tracked_is_looked_at_more_often() -> None:
    choice = FrameChoice(
        gate=MotionGateConfig(motion=True),
        lost_s=0.9,
        known=lambda: Known(
            ids=np.array([1]), boxes=np.zeros((1, 4), np.float32), speed=np.zeros((1, 2)), seen_s=np.zeros(1)
        ),
    )
    looked = [i for i in range(200) if not choice.idle(frame(i / 10))]
    assert max(np.diff(looked)) <= 4
    assert len(looked) < 120


@pytest.mark.parametrize("detect", [True, False])
def test_what_is_hidden_from_the_detector_does_not_move(detect: bool) -> None:
    mask = MaskConfig.model_validate({"polygon": [0, 0, 0.5, 0, 0.5, 1, 0, 1], "detect": detect})
    privacy = Privacy(PrivacyConfig(masks=(mask,)), (), LabelConfig(), (), {})
    choice = FrameChoice(gate=MotionGateConfig(motion=True, keep_alive_s=60))
    for i in range(40):
        choice.idle(privacy.blind(frame(i / 10)))
    moved = [not choice.idle(privacy.blind(frame(4 + i / 10, at=20 + 4 * i))) for i in range(10)]
    assert any(moved) == detect


def walker(x: int) -> Known:
    """One track, exactly where the bright thing is, that goes on as it did."""
    return Known(
        0.0,
        320,
        180,
        np.array([1]),
        np.array([[x, 60, x + 40, 140]], np.float32),
        np.zeros((1, 2)),
        np.zeros(1),
        np.array([True]),
    )


@pytest.mark.parametrize(
    ("what", "all_of_them"), [("tracked", False), ("elsewhere", True), ("turns", True), ("fresh", True)]
)
def test_a_walk_that_goes_on_as_it_did_needs_only_some_looks(what: str, all_of_them: bool) -> None:
    known = Known()
    choice = FrameChoice(
        gate=MotionGateConfig(motion=True, steady_s=0.5), lost_s=3, known=lambda: replace(known)
    )
    looked = []
    for i in range(46):
        x = 20 + 5 * i
        known = walker(x if what != "elsewhere" else x + 120)
        if what == "turns":
            known = replace(known, steady=np.array([False]))
        if what == "fresh":
            known = replace(known, fresh=np.array([[0, 0, 9, 9]], np.float32))
        if not choice.idle(frame(i / 10, at=x if i > 15 else None)) and i > 20:
            looked.append(i)
    assert (len(looked) == 25) == all_of_them
    if not all_of_them:
        assert set(np.diff(looked)) == {5}


def test_motion_is_told_where_regions_are_asked_for_and_no_frame_is_left_out_for_it() -> None:
    choice = FrameChoice(small_px=20)
    assert not any(choice.idle(frame(i / 10)) for i in range(30))
    assert choice.motion is not None
    assert len(choice.motion.boxes) == 0
    assert not choice.idle(frame(3.0, at=50))
    assert len(choice.motion.boxes) == 1
