"""Where objects stand by their masks: in the tracks, in zones and lines, in the log."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.pipelines import BoxEngine, box_task, detections, make_variant, write_clip
from support.rules import of, rule_set

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.rules.motion import MotionEstimator
from edgectl.pipelines.sinks.tracklog import encode_tracks, read_tracks
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.foot import FootTracker
from edgectl.pipelines.video.masks import InstanceMasks, MaskGrid
from edgectl.pipelines.video.tracker import TrackConfig, Tracker, Tracks


def post(x: float, share: float = 0.25, *, score: float = 0.9) -> Detections:
    """A box of 80 × 80 whose foot is at ``x``, 500; all that is of the object is a post of 8 pixels that stands at
    ``share`` of the box's width, and ends a tenth of its height above the lower edge."""
    box = (x - 80 * share, 428, x - 80 * share + 80, 508)
    found = detections((*box, score, 0))
    columns = box[0] + (np.arange(20) + 0.5) * 4
    rows = box[1] + (np.arange(20) + 0.5) * 4
    values = np.minimum(4 - np.abs(columns - x)[None, :], 500 - rows[:, None]).astype(np.float16)
    masks = InstanceMasks(
        (values,), np.zeros((1, 2), np.int64), found.xyxy, (MaskGrid(box[0], box[1], 4, 4),)
    )
    return dataclasses.replace(found, masks=masks)


def nobody() -> Detections:
    empty = post(0)
    return empty.select(np.zeros(1, np.bool_))


def walk(tracker: FootTracker, t: float, x: float, share: float = 0.25) -> Tracks:
    return tracker.update(post(x, share), t, 1000, 1000)


def test_a_track_stands_where_its_mask_does() -> None:
    tracker = FootTracker(Tracker(TrackConfig()))
    for frame in range(30):
        tracks = walk(tracker, frame / 15, 300)
    assert tracks.anchor()[0] == pytest.approx((300, 499), abs=2.5)
    assert tracks.anchor("center")[0] == pytest.approx((320, 468), abs=2)
    assert tracks.select(np.array([True])).anchor().tolist() == tracks.anchor().tolist()


def test_who_is_not_seen_stands_as_before_and_a_moment_changes_little() -> None:
    tracker = FootTracker(Tracker(TrackConfig()))
    for frame in range(30):
        walk(tracker, frame / 15, 300)
    away = tracker.update(nobody(), 2.0, 1000, 1000)
    assert away.seen.tolist() == [False]
    assert away.anchor()[0] == pytest.approx((300, 499), abs=3)
    # the other foot, for one frame: the box is the same
    tracks = walk(tracker, 2 + 1 / 15, 340, 0.75)
    assert 303 < tracks.anchor()[0, 0] < 320
    for frame in range(45):
        tracks = walk(tracker, 2.2 + frame / 15, 340, 0.75)
    assert tracks.anchor()[0, 0] == pytest.approx(340, abs=3)


def test_zones_are_asked_where_somebody_stands() -> None:
    """The middle of the box is in the zone all the time, the post never is."""
    zone = {"polygon": [0.308, 0, 1, 0, 1, 1, 0.308, 1], "enter_px": 2}
    told = {}
    for foot in (True, False):
        tracker = FootTracker(Tracker(TrackConfig())) if foot else Tracker(TrackConfig())
        rules, events = rule_set(zones={"right": zone}), []
        for frame in range(90):
            t = frame / 15
            events += rules.step(tracker.update(post(290, 0.05), t, 1000, 1000), t)
        told[foot] = [e for e in of(events, "zone") if e.rule == "right"]
    assert told[True] == []
    assert len(told[False]) == 1


def test_the_log_knows_where_they_stand() -> None:
    tracker = FootTracker(Tracker(TrackConfig()))
    for frame in range(6):
        tracks = walk(tracker, frame / 15, 300)
    (frame_,) = read_tracks([encode_tracks(tracks, 0.5)])
    assert frame_.tracks.anchor().tolist() == tracks.anchor().tolist()
    plain = dataclasses.replace(tracks, foot_at=None)
    assert "foot_at" not in encode_tracks(plain, 0.5)


def test_a_model_without_masks_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=5)
    slots = {"detector": PartVariant(make_variant(tmp_path / "blobs", box_task()), "yard@1")}
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "s",
            str(clip),
            slots,
            parse_config("surveillance", {"foot": "mask"}),
            lambda record: None,
            lambda variant: BoxEngine(lambda picture: []),
        ),
    )
    with pytest.raises(UsageError, match="the model finds no masks"):
        pipeline.start()


SHARE = np.array([[0.05, 0.9]], np.float32)


def boxes(feet: list[float]) -> np.ndarray:
    """160 × 80 each, with a foot at x, 500."""
    return np.array([(x - 8, 428, x + 152, 508) for x in feet], np.float64)


def standing(foot: float, past: list[float] | None = None, t: float = 0.0) -> Tracks:
    """A track that is confirmed now, whose foot was at ``past`` in the frames before."""
    before = {}
    if past:
        times = t - np.arange(len(past), 0, -1)[:, None] / 15
        before = {1: np.concatenate([times, boxes(past)], axis=1)}
    one, box = np.ones(1, np.float32), boxes([foot]).astype(np.float32)
    ids, cls = np.array([1], np.int64), np.zeros(1, np.int32)
    return Tracks(ids, box, 0.9 * one, cls, one > 0, 1000, 1000, before, foot_at=SHARE)


def test_what_was_seen_before_a_track_was_confirmed_stood_as_it_does() -> None:
    motion = MotionEstimator().step(standing(300, [300.0] * 8, 1.0), 1.0)
    np.testing.assert_allclose(motion.velocity, 0, atol=1e-3)


def test_a_zone_and_a_line_ask_where_somebody_stood_before() -> None:
    """The middle of the box lies 72 pixels to the right of the foot, beyond the borders."""
    zone = {"polygon": [0.25, 0, 0.318, 0, 0.318, 1, 0.25, 1], "enter_px": 1, "enter_s": 0.2}
    rules = rule_set(zones={"strip": zone})
    told = of(rules.step(standing(284, [284.0] * 30, 5.0), 5.0), "zone")
    assert [e.phase for e in told if e.rule == "strip"] == ["enter"]
    line = {"id": "gate", "line": [0.5, 0, 0.5, 1]}
    rules, events = rule_set(line), []
    events += rules.step(standing(480, [450.0 + i for i in range(30)], 5.0), 5.0)
    for frame in range(1, 60):
        events += rules.step(standing(480 + 4 * frame), 5 + frame / 15)
    assert len(of(events, "line_crossing")) == 1
