"""The tracker: one id per object, also at low and irregular frame rates, on synthetic truth and on
TUD-Campus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lap
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from support.pipelines import detections

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.tracker import TrackConfig, Tracker

Rows = list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]]


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.maximum(corner, 0).prod(axis=2)
    area = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)]
    return np.asarray(shared / (area[0][:, None] + area[1][None, :] - shared))


def score(rows: Rows) -> tuple[int, float, int]:
    """CLEAR-MOT in short: id switches, share of true boxes that were matched, boxes that match nothing."""
    owner: dict[int, int] = {}
    switches = matched = truth = false = 0
    for ids, boxes, track_ids, track_boxes in rows:
        truth += len(ids)
        if not len(ids) or not len(track_ids):
            false += len(track_ids)
            continue
        _, to, _ = lap.lapjv(1 - iou(boxes, track_boxes), extend_cost=True, cost_limit=0.5)
        for i, j in enumerate(to):
            if j >= 0:
                matched += 1
                switches += owner.get(int(ids[i]), track_ids[j]) != track_ids[j]
                owner[int(ids[i])] = int(track_ids[j])
        false += len(track_ids) - int((to >= 0).sum())
    return switches, matched / truth, false


def crowd(keep: Callable[[int, np.random.Generator], bool], seed: int = 0) -> tuple[int, float, int]:
    """12 objects moving for 15 s at 30 fps, 5 % missed, 15 % of low score, 2 px of jitter; frames kept as
    told."""
    rng = np.random.default_rng(seed)
    at = rng.uniform([50, 50], [1230, 670], (12, 2))
    speed = rng.uniform(-160, 160, (12, 2))
    size = rng.uniform(40, 90, (12, 1)) * [1, 1.6]
    tracker, rows = Tracker(), []
    for f in range(450):
        at = at + speed / 30
        bounce = (at < 40) | (at > [1240, 680])
        speed[bounce] *= -1
        at = np.clip(at, 40, [1240, 680])
        kept = keep(f, rng)
        boxes = np.concatenate([at - size / 2, at + size / 2], axis=1)
        seen = rng.random(12) > 0.05
        scores = np.where(rng.random(12) < 0.15, 0.3, 0.85)
        noisy = boxes + rng.normal(0, 2, boxes.shape)
        if kept:
            n = int(seen.sum())
            found = Detections(
                noisy[seen].astype(np.float32), scores[seen].astype(np.float32), np.zeros(n, np.int32)
            )
            out = tracker.update(found, f / 30, 1280, 720)
            rows.append((np.arange(12), boxes, out.ids[out.seen], out.xyxy[out.seen].astype(np.float64)))
    return score(rows)


def irregular() -> Callable[[int, np.random.Generator], bool]:
    until = 0

    def keep(f: int, rng: np.random.Generator) -> bool:
        nonlocal until
        if f < until:
            return False
        until = f + 1 + int(rng.integers(0, 12))
        return True

    return keep


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("every", "most"), [(1, 2), (2, 4), (3, 8)])
def test_a_crowd_keeps_its_ids_at_a_third_of_the_frame_rate(every: int, most: int, seed: int) -> None:
    switches, matched, false = crowd(lambda f, _: f % every == 0, seed)
    assert switches <= most
    assert matched > 0.88
    assert false == 0


@pytest.mark.parametrize("seed", range(3))
def test_irregular_drops_of_up_to_12_frames_cost_few_ids(seed: int) -> None:
    """A tracker that counts frames makes hundreds of switches here (reference: 417 for ByteTrack without
    time stamps)."""
    switches, matched, _ = crowd(irregular(), seed)
    assert switches <= 20
    assert matched > 0.8


@pytest.mark.parametrize(("every", "most"), [(1, 4), (2, 6), (3, 6)])
def test_tud_campus(shared: Path, every: int, most: int) -> None:
    det = np.loadtxt(shared / "tracking/TUD-Campus/det.txt", delimiter=",")
    truth = np.loadtxt(shared / "tracking/TUD-Campus/gt.txt", delimiter=",")
    tracker, rows = Tracker(), []
    for f in range(1, int(truth[:, 0].max()) + 1, every):
        d, g = det[det[:, 0] == f], truth[truth[:, 0] == f]
        boxes = np.concatenate([d[:, 2:4], d[:, 2:4] + d[:, 4:6]], axis=1)
        real = np.concatenate([g[:, 2:4], g[:, 2:4] + g[:, 4:6]], axis=1)
        found = Detections(boxes.astype(np.float32), d[:, 6].astype(np.float32), np.zeros(len(d), np.int32))
        out = tracker.update(found, f / 25, 640, 480)
        rows.append(
            (g[:, 1].astype(np.int64), real, out.ids[out.seen], out.xyxy[out.seen].astype(np.float64))
        )
    switches, matched, false = score(rows)
    assert switches <= most
    assert matched > 0.5
    assert false <= 33


def test_a_track_is_heard_of_after_confirm_s_and_ends_after_lost_s() -> None:
    tracker = Tracker(TrackConfig(confirm_s=0.3, lost_s=1.0))
    heard = [len(tracker.update(detections((10, 10, 50, 90, 0.9, 0)), t / 10, 100, 100)) for t in range(5)]
    assert heard == [0, 0, 0, 1, 1]
    carried = [len(tracker.update(Detections.none(), t / 10, 100, 100)) for t in range(5, 17)]
    assert carried == [1] * 10 + [0] * 2


def test_one_detection_is_no_track_however_long_ago() -> None:
    tracker = Tracker(TrackConfig(confirm_s=0.0))
    assert len(tracker.update(detections((10, 10, 50, 90, 0.9, 0)), 0.0, 100, 100)) == 0
    assert len(tracker.update(Detections.none(), 0.5, 100, 100)) == 0


def test_a_low_score_keeps_a_track_but_starts_none() -> None:
    tracker = Tracker(TrackConfig(confirm_s=0.1))
    for t in range(3):
        tracker.update(detections((10, 10, 50, 90, 0.9, 0)), t / 10, 200, 100)
    both = detections((10, 10, 50, 90, 0.2, 0), (120, 10, 160, 90, 0.2, 0))
    for t in range(3, 30):
        out = tracker.update(both, t / 10, 200, 100)
        assert out.ids.tolist() == [1]
        assert out.seen.all()


@pytest.mark.parametrize(("drops", "least"), [(0.3, 19), (0.5, 19), (0.7, 15)])
def test_something_that_crosses_the_picture_in_two_seconds_is_one_track_with_most_frames_gone(
    drops: float, least: int
) -> None:
    """Boxes that do not touch: 43 pixels a frame, 80 wide, three of ten frames left."""
    whole = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        tracker, ids, seen = Tracker(), set(), []
        for i in range(30):
            x = 1280 * i / 30
            if rng.random() >= drops:
                box = np.clip(
                    np.array([x - 40, 300, x + 40, 500]) + rng.normal(0, 2, 4), 0, [1280, 720, 1280, 720]
                )
                out = tracker.update(detections((*box.tolist(), 0.9, 0)), i / 15, 1280, 720)
                ids |= set(out.ids.tolist())
                seen.append(bool(out.seen.any()))
        whole += ids == {1} and seen[-1]
    assert whole >= least


def test_a_track_is_confirmed_with_what_was_seen_of_it_before() -> None:
    tracker = Tracker(TrackConfig(confirm_s=0.25))
    out = [
        tracker.update(detections((10 + 4 * t, 10, 50 + 4 * t, 90, 0.9, 0)), t / 10, 200, 100)
        for t in range(5)
    ]
    assert [list(tracks.past) for tracks in out] == [[], [], [], [1], []]
    past = out[3].past[1]
    assert past[:, 0].tolist() == [0.0, 0.1, 0.2]
    assert past[0, 1:].tolist() == [10, 10, 50, 90]


def test_a_long_past_keeps_its_first_and_its_latest_sightings() -> None:
    tracker = Tracker(TrackConfig(confirm_s=10))
    for t in range(102):
        out = tracker.update(detections((10, 10, 50, 90, 0.9, 0)), t / 10, 200, 100)
        if len(out):
            break
    times = out.past[1][:, 0]
    assert len(times) == 64
    assert (times[0], times[-1]) == (0.0, 9.9)


def test_somebody_who_stood_and_walks_off_in_a_gap_stays_one_track() -> None:
    """A second without pictures, and their box is beside the old one."""
    tracker = Tracker()
    for t in range(20):
        out = tracker.update(detections((100, 100, 180, 300, 0.9, 0)), t / 10, 1280, 720)
    for t in range(5):
        x = 290 + 24 * t
        out = tracker.update(detections((x, 100, x + 80, 300, 0.9, 0)), 2.8 + t / 10, 1280, 720)
    assert out.ids.tolist() == [1]


@pytest.mark.parametrize(("fps", "most"), [(8, 36), (15, 18), (25, 18)])
def test_a_box_that_trembles_by_half_of_its_width_is_not_split_into_many_tracks(fps: int, most: int) -> None:
    """Its detections overlap by chance. Six times half a minute; each once was some ten numbers."""
    numbers = 0
    for seed in range(6):
        rng = np.random.default_rng((fps, seed))
        tracker, last = Tracker(), 0
        for f in range(30 * fps):
            x, y = rng.normal([300, 200], 12)
            out = tracker.update(detections((x - 17, y - 85, x + 17, y, 0.9, 0)), f / fps, 640, 360)
            last = max(last, *out.ids.tolist(), 0)
        numbers += last
    assert numbers <= most


def test_in_a_crowd_no_leap_is_guessed() -> None:
    """Two that may have come to the same place: neither is taken for it."""
    tracker = Tracker(TrackConfig(confirm_s=0.0))
    tracker.update(detections((100, 100, 140, 200, 0.9, 0), (260, 100, 300, 200, 0.9, 0)), 0.0, 640, 360)
    out = tracker.update(detections((180, 100, 220, 200, 0.9, 0)), 0.5, 640, 360)
    assert len(out) == 0


def test_one_object_with_two_labels_is_one_track() -> None:
    tracker = Tracker()
    rng = np.random.default_rng(2)
    ids, labels = set(), set()
    for f in range(60):
        x = 20.0 + 5 * f
        a, b = rng.normal(0, 1.5, (2, 4))
        rows = [
            (x + a[0], 100 + a[1], x + 60 + a[2], 180 + a[3], 0.8, 0),
            (x + b[0], 100 + b[1], x + 60 + b[2], 180 + b[3], 0.7, 1),
        ]
        out = tracker.update(detections(*rows), f / 10, 640, 360)
        ids |= set(out.ids.tolist())
        labels |= set(out.cls.tolist())
    assert (ids, labels) == ({1}, {0})


@pytest.mark.parametrize("seed", range(5))
def test_a_label_that_flickers_is_voted_on_and_the_track_goes_on(seed: int) -> None:
    """Car in two frames of three, truck in the third: one track, a car."""
    tracker = Tracker()
    rng = np.random.default_rng(seed)
    ids, last = set(), -1
    for f in range(90):
        x = 20.0 + 5 * f
        jitter = rng.normal(0, 1.5, 4)
        row = (x + jitter[0], 100 + jitter[1], x + 60 + jitter[2], 180 + jitter[3], 0.8, int(f % 3 == 2))
        out = tracker.update(detections(row), f / 10, 640, 360)
        ids |= set(out.ids.tolist())
        last = int(out.cls[0]) if len(out) else last
    assert (ids, last) == ({1}, 0)


def test_a_rider_and_a_bicycle_are_two_objects() -> None:
    tracker = Tracker()
    for f in range(20):
        x = 20.0 + 5 * f
        out = tracker.update(
            detections((x, 60, x + 50, 180, 0.8, 0), (x - 20, 110, x + 70, 190, 0.8, 1)), f / 10, 640, 360
        )
    assert out.ids.tolist() == [1, 2]
    assert sorted(out.cls.tolist()) == [0, 1]


def test_a_person_who_walks_past_a_car_stays_a_person() -> None:
    tracker = Tracker()
    for f in range(60):
        x = 10.0 + 6 * f
        out = tracker.update(
            detections((150, 90, 290, 180, 0.9, 1), (x, 100, x + 40, 190, 0.8, 0)), f / 10, 640, 360
        )
    assert out.ids.tolist() == [1, 2]
    assert out.cls[out.xyxy[:, 0] > 300].tolist() == [0]


def test_pictures_far_apart_need_no_second_look() -> None:
    slow = Tracker(period_s=5.0)
    assert slow.update(detections((10, 10, 50, 90, 0.9, 0)), 0.0, 640, 360).ids.tolist() == [1]
    assert slow.update(detections((500, 10, 540, 90, 0.9, 0)), 5.0, 640, 360).ids.tolist() == [2]
    usual = Tracker(period_s=0.1)
    assert usual.update(detections((10, 10, 50, 90, 0.9, 0)), 0.0, 100, 100).ids.tolist() == []


def test_where_labels_do_not_mix_another_class_in_the_same_place_is_another_object() -> None:
    tracker = Tracker(TrackConfig(confirm_s=0.1, one_object_iou=None))
    for t in range(4):
        out = tracker.update(detections((10, 10, 50, 90, 0.9, 0), (12, 10, 50, 90, 0.9, 1)), t / 10, 100, 100)
    assert sorted(out.cls.tolist()) == [0, 1]


def test_an_object_is_found_behind_an_occlusion() -> None:
    tracker = Tracker()
    ids = set()
    for f in range(60):
        hidden = 25 <= f < 40
        x = 20.0 + 8 * f
        found = Detections.none() if hidden else detections((x, 100, x + 40, 180, 0.9, 0))
        ids |= set(tracker.update(found, f / 30, 640, 480).ids.tolist())
    assert ids == {1}


@pytest.mark.parametrize("speed", [0, 60, 160])
@pytest.mark.parametrize("outage_s", [0.3, 0.6, 0.9])
def test_who_was_there_before_an_outage_shorter_than_lost_s_is_found_again(
    outage_s: float, speed: int
) -> None:
    """No frame comes at all (a camera that reconnects); they stand or walk on, two of them, well apart."""
    tracker, ids = Tracker(TrackConfig(lost_s=1.0)), []
    for f in range(40):
        t = f / 15 + (outage_s if f >= 20 else 0)
        x = 20 + speed * t
        out = tracker.update(
            detections((x, 100, x + 40, 200, 0.9, 0), (x, 250, x + 40, 350, 0.9, 0)), t, 1280, 720
        )
        ids.append(out.ids[out.seen].tolist())
    assert ids[19:21] == [[1, 2], [1, 2]]
    assert ids[-1] == [1, 2]


def test_after_an_outage_of_more_than_twice_lost_s_who_is_there_gets_a_number_of_its_own() -> None:
    """Nobody knows that it is the same one."""
    tracker = Tracker(TrackConfig(lost_s=1.0))
    for f in range(20):
        t = f / 15 + (2.1 if f >= 10 else 0)
        out = tracker.update(detections((100, 100, 140, 200, 0.9, 0)), t, 640, 360)
        assert set(out.ids.tolist()) <= ({1} if f < 10 else {2})
    assert out.ids.tolist() == [2]


def test_a_number_that_is_gone_never_comes_back() -> None:
    """Many who come and go, with gaps of all lengths: a number ends once."""
    rng = np.random.default_rng(8)
    tracker, t = Tracker(TrackConfig(confirm_s=0.0, lost_s=0.5)), 0.0
    alive: set[int] = set()
    gone: set[int] = set()
    for _ in range(600):
        t += rng.choice([0.05, 0.1, 0.4, 0.7], p=[0.6, 0.3, 0.07, 0.03])
        xy = rng.choice([50, 250, 450, 650], (rng.integers(0, 5), 2)) + rng.normal(0, 3, 2)
        out = tracker.update(detections(*((x, y, x + 60, y + 120, 0.9, 0) for x, y in xy)), t, 900, 900)
        now = set(out.ids.tolist())
        gone |= alive - now
        alive = now
        assert not now & gone
    assert len(gone) > 50


def test_time_must_grow() -> None:
    tracker = Tracker()
    tracker.update(Detections.none(), 1.0, 10, 10)
    with pytest.raises(ValueError, match="grow"):
        tracker.update(Detections.none(), 1.0, 10, 10)


def test_low_above_high_is_refused() -> None:
    with pytest.raises(ValidationError, match="low must not be above high"):
        TrackConfig(low=0.6, high=0.5)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_is_detected_ids_are_unique_ordered_and_boxes_inside(data: st.DataObject) -> None:
    tracker = Tracker()
    t, highest = 0.0, 0
    for _ in range(data.draw(st.integers(1, 12))):
        t += data.draw(st.floats(0.001, 3))
        n = data.draw(st.integers(0, 6))
        rng = np.random.default_rng(data.draw(st.integers(0, 999)))
        xy = rng.uniform(0, 300, (n, 2))
        boxes = np.concatenate([xy, xy + rng.uniform(1, 80, (n, 2))], axis=1)
        found = Detections(
            boxes.astype(np.float32), rng.random(n).astype(np.float32), rng.integers(0, 2, n).astype(np.int32)
        )
        out = tracker.update(found, t, 320, 240)
        assert (np.diff(out.ids) > 0).all()
        assert ((out.xyxy >= 0) & (out.xyxy <= [320, 240, 320, 240])).all()
        assert np.isfinite(out.xyxy).all()
        new = out.ids[out.ids > highest]
        assert new.tolist() == list(range(highest + 1, highest + 1 + len(new)))
        highest = max(highest, *out.ids.tolist(), 0)


def test_a_camera_that_changes_its_resolution_keeps_its_tracks() -> None:
    tracker = Tracker()
    ids = set()
    for k in range(20):
        scale, width, height = (1.0, 640, 360) if k < 10 else (2.0, 1280, 720)
        x = (100 + 6 * k) * scale
        found = detections((x, 100 * scale, x + 30 * scale, 180 * scale, 0.9, 0))
        ids |= set(tracker.update(found, k / 10, width, height).ids.tolist())
    assert ids == {1}
