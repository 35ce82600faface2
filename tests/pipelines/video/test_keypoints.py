"""Keypoints on their way: from a decoder through labels, tracker, picture, events and log."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.keypoints import ENDS, ends, people, tracked
from support.pipelines import detections

from edgectl.core.errors import DataError, EngineError, ModelError, UsageError
from edgectl.core.task import TaskSpec
from edgectl.pipelines.decoders import check_decode
from edgectl.pipelines.kinds.stills import StillAnalyser, StillObjects
from edgectl.pipelines.rules import RulesConfig
from edgectl.pipelines.rules.observation import describe
from edgectl.pipelines.sinks.tracklog import TrackLogHeader, encode_tracks, read_header, read_tracks
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.decode import make_decoder
from edgectl.pipelines.video.draw import draw_tracks
from edgectl.pipelines.video.keypoints import COCO_NAMES, COCO_SKELETON, KeypointLayout
from edgectl.pipelines.video.labels import LabelConfig, LabelMap
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.privacy import Privacy, PrivacyConfig
from edgectl.pipelines.video.tracker import TrackConfig, Tracker

META = LetterboxMeta(0.5, 0.5, 0, 8, 128, 96, 64, 64)


def task(kind: str, **decode: Any) -> TaskSpec:
    decode = {"keypoints": ENDS.names, "skeleton": ENDS.skeleton, "score": 0.3, **decode}
    return TaskSpec.model_validate(
        {
            "name": "t",
            "input": {"kind": "image", "width": 64, "height": 64},
            "decode": {"kind": kind, **decode},
            "labels": ["person"],
        }
    )


def outputs(kind: str, *points: float) -> NDArray[np.float32]:
    """One person in (24, 8)–(40, 56) of the tensor, the same again less sure, and nothing."""
    box = [24, 8, 40, 56] if kind.startswith("end2end") else [32, 32, 16, 48]
    scores = [0.9, 0] if kind.startswith("end2end") else [0.9]
    less = [0.2, 0] if kind.startswith("end2end") else [0.8]
    rows = np.array(
        [[0] * (4 + len(scores) + len(points)), [*box, *less, *(0 * p for p in points)]], np.float32
    )
    rows = np.concatenate([rows, np.array([[*box, *scores, *points]], np.float32)])
    return (rows if kind.startswith("end2end") else rows.T)[None]


KINDS = ("yolov8-pose", "end2end-pose")


@pytest.mark.parametrize("kind", KINDS)
def test_keypoints_come_back_into_the_frame_and_stay_in_it(kind: str) -> None:
    found = make_decoder(task(kind))({"o": outputs(kind, 32, 10, 0.8, 70, 54, 1.5)}, META)
    assert found.xyxy.tolist() == [[48, 0, 80, 96]]
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints.points, [[[64, 4, 0.8], [128, 92, 1]]], atol=1e-5)
    assert found.keypoints.layout == ENDS


@pytest.mark.parametrize("kind", KINDS)
def test_keypoints_without_confidence_are_sure(kind: str) -> None:
    found = make_decoder(task(kind, confidence=False))({"o": outputs(kind, 32, 10, 32, 54)}, META)
    assert found.keypoints is not None
    assert found.keypoints.sure.all()
    assert found.keypoints.named(0) == {"head": [64, 4, 1], "foot": [64, 92, 1]}


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_keypoints_is_refused(kind: str) -> None:
    with pytest.raises(ModelError, match="should have shape"):
        make_decoder(task(kind))({"o": outputs(kind, 1, 2, 3)}, META)
    with pytest.raises(ModelError, match="reads one output"):
        make_decoder(task(kind))({"o": outputs(kind, 1, 2, 3), "p": np.zeros(1)}, META)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_keypoints_that_are_no_numbers_are_refused(kind: str, bad: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        make_decoder(task(kind))({"o": outputs(kind, 32, 10, 0.8, bad, 54, 0.9)}, META)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_each_detection_has_the_keypoints_of_its_own_row(kind: str, seed: int) -> None:
    """Suppression, the order of scores and boxes without size mix no rows."""
    raw = np.random.default_rng(seed).uniform(0, 64, (12, 30)).astype(np.float32)
    raw[4:] /= 64
    raw[5] = 0
    # one is a detection in any case
    raw[:5, 7] = 8, 8, 40, 40, 0.99
    raw[-3] = np.arange(30)  # x of the foot: which row it was
    if kind == "yolov8-pose":
        raw = np.delete(raw, 5, axis=0)
    out = raw[None] if kind == "yolov8-pose" else raw.T[None]
    found = make_decoder(task(kind))({"o": out}, LetterboxMeta(1, 1, 0, 0, 64, 64, 64, 64))
    assert found.keypoints is not None
    assert len(found.keypoints) == len(found) > 0
    rows = np.rint(found.keypoints.points[:, 1, 0]).astype(int)
    np.testing.assert_array_equal(raw[4, rows], found.score)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"keypoints": ["a", "a"]}, "keypoints has a name twice"),
        ({"skeleton": [["head", "tail"]]}, "skeleton names 'tail', which is no keypoint"),
        ({"keypoints": []}, "keypoints"),
        ({"keypoints": [f"p{i}" for i in range(65)]}, "keypoints"),
        ({"extra": 3}, "extra"),
    ],
)
def test_keypoints_that_do_not_fit_each_other_are_one_sentence(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_decode(task("yolov8-pose", **wrong))


def test_the_usual_keypoints_are_those_of_a_person() -> None:
    spec = task("yolov8-pose")
    spec = spec.model_copy(update={"decode": spec.decode.model_validate({"kind": "yolov8-pose"})})
    assert make_decoder(spec).layout == KeypointLayout(COCO_NAMES, COCO_SKELETON)  # type: ignore[attr-defined]
    assert len(KeypointLayout(COCO_NAMES, COCO_SKELETON).bones) == 19


def test_labels_that_are_left_out_take_their_keypoints_along() -> None:
    mixed = dataclasses.replace(people((100, 0.9), (300, 0.8), (500, 0.7)), cls=np.array([0, 1, 0], np.int32))
    kept = LabelMap(LabelConfig(classes=("car",)), ("person", "car"))(mixed)
    assert kept.keypoints is not None
    assert kept.keypoints.points[:, 0, 0].tolist() == [300]


def test_a_track_has_the_keypoints_of_its_own_detection() -> None:
    """Two people pass each other; the detector names them in any order, and one of them twice."""
    tracker = Tracker(TrackConfig())
    rng = np.random.default_rng(0)
    for frame in range(30):
        left, right = 100.0 + 10 * frame, 500.0
        rows = [(left, 0.9), (right, 0.95), (right + 1, 0.6)]
        rng.shuffle(rows)
        found = people(*rows)
        found = dataclasses.replace(found, cls=np.array([int(s == 0.6) for _, s in rows], np.int32))
        got = tracker.update(found, frame / 15, 1000, 1000)
        assert got.keypoints is not None
        for row in np.nonzero(got.seen)[0]:
            x = got.keypoints.points[row, 0, 0]
            assert abs(x - (got.xyxy[row, 0] + got.xyxy[row, 2]) / 2) < 8
    assert len(got) == 2


def test_a_track_that_is_not_seen_has_no_keypoints() -> None:
    tracker = Tracker(TrackConfig())
    for frame in range(6):
        tracker.update(people((100, 0.9), (500, 0.9)), frame / 15, 1000, 1000)
    got = tracker.update(people((500, 0.9)), 0.4, 1000, 1000)
    assert got.seen.tolist() == [False, True]
    assert got.keypoints is not None
    assert got.keypoints.sure.tolist() == [[False, False], [True, True]]
    assert got.keypoints.named(0) == {}
    nobody = tracker.update(people(), 0.5, 1000, 1000)
    assert nobody.keypoints is not None
    assert not nobody.keypoints.sure.any()


def test_an_event_names_the_keypoints_that_are_seen() -> None:
    track = dataclasses.replace(tracked((1, 100, 500)), keypoints=ends((100.04, 420, 500, 0.9)))
    assert track.keypoints is not None
    track.keypoints.points[0, 1, 2] = 0.3
    assert describe(track, 0, ("person",))["keypoints"] == {"head": [100.0, 420.0, 0.9]}
    track.keypoints.points[..., 2] = 0
    assert "keypoints" not in describe(track, 0, ("person",))


def test_a_still_picture_tells_keypoints() -> None:
    analyser = StillAnalyser(RulesConfig(), ("person",))
    objects = StillObjects(TrackConfig()).update(people((100, 0.9)), 0.0, 640, 480)
    frame = Frame(Stamp(0, 0, 0, None, None, "pts"), 640, 480, "BGR", (np.zeros((480, 640, 3), np.uint8),))
    (event,) = analyser.step(frame, objects, 0.0)
    assert event.data["objects"][0]["keypoints"]["foot"] == [100.0, 180.0, 0.9]


def test_a_skeleton_is_drawn_between_points_that_are_seen() -> None:
    def drawn(sure: float) -> NDArray[np.uint8]:
        image = np.zeros((200, 200, 3), np.uint8)
        objects = StillObjects(TrackConfig()).update(people((100, 0.9)), 0.0, 200, 200)
        assert objects.keypoints is not None
        objects.keypoints.points[0, :, 1] = 120, 160
        objects.keypoints.points[..., 2] = sure
        draw_tracks(image, objects, ("person",))
        return image

    assert drawn(0.9)[140, 100].any()
    assert not drawn(0.3)[115:165, 95:105].any()


def test_keypoints_are_logged_to_the_bit_and_read_again() -> None:
    header = TrackLogHeader(kind="surveillance", stream="gate", labels=("person",), keypoints=ENDS)
    rng = np.random.default_rng(0)
    written = dataclasses.replace(
        tracked((1, 100, 500), (7, 300, 500)), keypoints=ends(*(rng.uniform(0, 1, 4) for _ in range(2)))
    )
    lines = iter([header.encode().decode(), encode_tracks(written, 0.5)])
    layout = read_header(lines).keypoints
    assert layout == ENDS
    (frame,) = read_tracks(lines, layout)
    assert frame.tracks.keypoints is not None
    assert written.keypoints is not None
    np.testing.assert_array_equal(frame.tracks.keypoints.points, written.keypoints.points)
    assert frame.tracks.keypoints.layout == ENDS


@pytest.mark.parametrize("wrong", [[[[1, 2, 3]]], "x", None, [[[1, 2, 3], [1, 2, "a"]]]])
def test_keypoints_in_a_log_that_are_none_are_refused_with_the_line(wrong: Any) -> None:
    record = json.loads(encode_tracks(tracked((1, 100, 500)), 0.5)) | {"keypoints": wrong}
    with pytest.raises(DataError, match="line 2 of the track log"):
        list(read_tracks([json.dumps(record)], ENDS))


def test_a_log_whose_skeleton_joins_nothing_is_refused() -> None:
    header = {"schema": "edgectl.tracks/1", "kind": "surveillance", "stream": "s", "labels": ["person"]}
    header |= {"keypoints": {"names": ["head"], "skeleton": [["head", "tail"]]}}
    with pytest.raises(DataError, match="skeleton names 'tail'"):
        read_header(iter([json.dumps(header)]))


def privacy() -> Privacy:
    """The lower half of the picture is masked."""
    config = PrivacyConfig.model_validate({"masks": [{"polygon": [0, 0.5, 1, 0.5, 1, 1, 0, 1]}]})
    return Privacy(config, ("person",), LabelConfig(), ("person",), {})


def test_keypoints_in_a_mask_are_neither_logged_nor_told() -> None:
    both = tracked((1, 100, 530), (2, 300, 900))
    clean = privacy().clean_tracks(both)
    assert clean.keypoints is not None
    assert clean.ids.tolist() == [1]
    assert clean.keypoints.points.tolist() == [[[100, 450, pytest.approx(0.9)], [0, 0, 0]]]
    told = [privacy().clean_record(describe(both, row, ("person",))) for row in (0, 1)]
    assert list(told[0]["keypoints"]) == ["head"]
    assert told[1]["box"] is None
    assert "keypoints" not in told[1]
    assert privacy().clean_record(told[0] | {"keypoints": "?"})["keypoints"] == {}


def test_without_keypoints_nothing_changes() -> None:
    found = detections((0, 0, 40, 80, 0.9, 0))
    got = Tracker(TrackConfig(confirm_s=0)).update(found, 0.0, 1000, 1000)
    assert got.keypoints is None
    assert "keypoints" not in json.loads(encode_tracks(got, 0.0))
