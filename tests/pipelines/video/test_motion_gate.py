"""Which frames the detector sees while nothing moves."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.video.motion import SceneMotion
from edgectl.pipelines.video.motion_gate import MotionGate, MotionGateConfig

STILL = SceneMotion(np.empty((0, 4), np.float32), 0.0, True)
MOVES = SceneMotion(np.array([[0.1, 0.1, 0.2, 0.2]], np.float32), 0.01, True)
UNSETTLED = SceneMotion(np.empty((0, 4), np.float32), 1.0, False)


def test_an_idle_scene_is_looked_at_now_and_then() -> None:
    gate = MotionGate(MotionGateConfig(motion=True, keep_alive_s=10), lost_s=1)
    looked = [t for t in range(35) if gate.opens(float(t), STILL, tracked=False)]
    assert looked == [0, 10, 20, 30]


def test_motion_opens_at_once_and_for_a_while_after() -> None:
    gate = MotionGate(MotionGateConfig(motion=True, hold_s=1), lost_s=1)
    assert gate.opens(0.0, STILL, tracked=False)
    assert not gate.opens(0.5, STILL, tracked=False)
    assert gate.opens(0.6, MOVES, tracked=False)
    assert gate.opens(1.5, STILL, tracked=False)
    assert not gate.opens(1.7, STILL, tracked=False)


def test_a_tracked_thing_that_stands_still_is_not_lost() -> None:
    gate = MotionGate(MotionGateConfig(motion=True), lost_s=0.9)
    looked = [t / 10 for t in range(50) if gate.opens(t / 10, STILL, tracked=True)]
    assert max(np.diff(looked)) <= 0.45


def test_nothing_is_left_out_while_the_background_is_unknown() -> None:
    gate = MotionGate(MotionGateConfig(motion=True, hold_s=0), lost_s=1)
    assert all(gate.opens(t / 10, UNSETTLED, tracked=False) for t in range(10))


def test_what_goes_on_as_it_did_is_looked_at_now_and_then_and_anything_else_at_once() -> None:
    gate = MotionGate(MotionGateConfig(motion=True, steady_s=0.25), lost_s=3)
    looked = [t for t in range(20) if gate.opens(t / 10, MOVES, tracked=True, steady=True)]
    assert looked == [0, 3, 6, 9, 12, 15, 18]
    assert gate.opens(1.91, MOVES, tracked=True, steady=False)


def test_steady_tracks_are_seen_three_times_before_they_could_be_lost() -> None:
    gate = MotionGate(MotionGateConfig(motion=True, steady_s=60), lost_s=0.9)
    looked = [t / 10 for t in range(50) if gate.opens(t / 10, MOVES, tracked=True, steady=True)]
    assert max(np.diff(looked)) <= 0.45


def test_without_that_setting_every_motion_is_looked_at() -> None:
    gate = MotionGate(MotionGateConfig(motion=True), lost_s=3)
    assert not gate.intervals
    assert all(gate.opens(t / 10, MOVES, tracked=True, steady=True) for t in range(10))


@given(
    st.lists(st.tuples(st.floats(0.001, 3), st.booleans(), st.booleans()), max_size=80),
    st.floats(0, 5),
    st.floats(0.5, 20),
    st.floats(0.1, 30),
)
def test_every_motion_is_looked_at_and_no_gap_is_longer_than_promised(
    steps: list[tuple[float, bool, bool]], hold_s: float, keep_alive_s: float, lost_s: float
) -> None:
    gate = MotionGate(MotionGateConfig(motion=True, hold_s=hold_s, keep_alive_s=keep_alive_s), lost_s)
    t, looked_s = 0.0, None
    for dt, moves, tracked in steps:
        t += dt
        opened = gate.opens(t, MOVES if moves else STILL, tracked=tracked)
        assert opened or not moves
        if looked_s is not None and t - looked_s >= (
            min(keep_alive_s, lost_s / 3) if tracked else keep_alive_s
        ):
            assert opened
        if opened:
            looked_s = t
