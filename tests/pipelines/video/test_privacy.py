"""What must not be seen: masks, classes and zones, held over missed detections; nothing of it in a picture or an
event."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.pipelines import detections

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.stream.colour import Colour
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.labels import LabelConfig
from edgectl.pipelines.video.privacy import Privacy, PrivacyConfig
from edgectl.pipelines.video.shown import Hidden, ShownFrame
from edgectl.pipelines.video.tracker import Tracks

SIZE = (160, 120)
LEFT = [0, 0, 0.5, 0, 0.5, 1, 0, 1]


def noise(seed: int = 0, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def no_tracks(*rows: tuple[int, float, float, float, float, int, bool]) -> Tracks:
    """id, x1, y1, x2, y2, class, seen."""
    a = np.array([r[:6] for r in rows], np.float64).reshape(-1, 6)
    seen = np.array([r[6] for r in rows], np.bool_)
    boxes = a[:, 1:5].astype(np.float32)
    score = np.ones(len(rows), np.float32)
    return Tracks(a[:, 0].astype(np.int64), boxes, score, a[:, 5].astype(np.int32), seen, *SIZE)


def privacy(values: dict[str, Any], labels: LabelConfig | None = None, **kw: Any) -> Privacy:
    model = ("person", "car", "face")
    zones = {"yard": [0.5, 0.5, 1, 0.5, 1, 1, 0.5, 1]}
    return Privacy(PrivacyConfig.model_validate(values), model, labels or LabelConfig(), model, zones, **kw)


def hidden_at(hidden: Hidden | None) -> NDArray[np.bool_]:
    """Where the pixels of a picture do not come through."""
    assert hidden is not None
    a, b = (ShownFrame(Frame.of_bgr(image, Stamp(0, 0, 0)), hidden).bgr() for image in (noise(1), noise(2)))
    through = (a == noise(1)).all(axis=2) & (b == noise(2)).all(axis=2)
    return ~through


PEOPLE = {"blur": {"classes": ["person"], "hold_s": 2, "margin": 0, "mode": "fill"}}
SOMEBODY = detections((40, 20, 60, 80, 0.9, 0))
NOBODY = Detections.none()


def covers(mask: NDArray[np.bool_], box: tuple[int, int, int, int]) -> bool:
    x1, y1, x2, y2 = box
    return bool(mask[y1:y2, x1:x2].all())


def test_somebody_is_hidden_at_once_and_stays_so_while_a_detection_is_missed() -> None:
    p = privacy(PEOPLE)
    first = hidden_at(p.step(SOMEBODY, no_tracks(), 0.0))
    assert covers(first, (40, 20, 60, 80))
    assert first.sum() == 20 * 60
    for t in (0.1, 1.0, 2.0):
        held = hidden_at(p.step(NOBODY, no_tracks(), t))
        assert covers(held, (40, 20, 60, 80))
    assert held.sum() > first.sum()  # he may have moved meanwhile
    assert hidden_at(p.step(NOBODY, no_tracks(), 2.1)).sum() == 0


def test_somebody_stays_hidden_where_nobody_looks() -> None:
    p = privacy(PEOPLE)
    p.step(SOMEBODY, no_tracks(), 0.0)
    elsewhere, there = [(80, 0, 80, 120)], [(80, 0, 80, 120), (0, 0, 80, 120)]
    for t in range(1, 60):
        assert covers(hidden_at(p.step(NOBODY, no_tracks(), float(t), elsewhere)), (40, 20, 60, 80))
    assert covers(hidden_at(p.step(NOBODY, no_tracks(), 60.0, there)), (40, 20, 60, 80))
    assert covers(hidden_at(p.step(NOBODY, no_tracks(), 61.0, there)), (40, 20, 60, 80))
    assert not hidden_at(p.step(NOBODY, no_tracks(), 62.1, there)).any()


def test_who_walks_on_leaves_no_trail() -> None:
    p = privacy(PEOPLE)
    for i in range(20):
        mask = hidden_at(p.step(detections((20 + 2 * i, 20, 40 + 2 * i, 80, 0.9, 0)), no_tracks(), i / 10))
        assert mask.sum() == 20 * 60


def test_one_of_two_who_is_missed_is_not_unveiled_by_the_other() -> None:
    p = privacy(PEOPLE)
    p.step(detections((40, 20, 60, 80, 0.9, 0), (50, 20, 70, 80, 0.8, 0)), no_tracks(), 0)
    mask = hidden_at(p.step(detections((45, 20, 65, 80, 0.9, 0)), no_tracks(), 0.1))
    assert covers(mask, (45, 20, 65, 80))
    assert covers(mask, (40, 20, 60, 80)) or covers(mask, (50, 20, 70, 80))
    mask = hidden_at(p.step(NOBODY, no_tracks(), 0.2))
    assert covers(mask, (45, 20, 65, 80))


def test_a_track_that_is_carried_on_is_hidden_where_it_was_and_where_it_may_be() -> None:
    p = privacy(PEOPLE)
    p.step(SOMEBODY, no_tracks((1, 40, 20, 60, 80, 0, True)), 0)
    mask = hidden_at(p.step(NOBODY, no_tracks((1, 100, 20, 120, 80, 0, False)), 0.2))
    assert covers(mask, (40, 20, 60, 80))
    assert covers(mask, (100, 20, 120, 80))


def test_a_person_that_the_model_once_calls_a_car_stays_hidden() -> None:
    p = privacy(PEOPLE)
    car = detections((40, 20, 60, 80, 0.9, 1))
    assert hidden_at(p.step(car, no_tracks(), 0)).sum() == 0
    assert covers(hidden_at(p.step(car, no_tracks((1, 40, 20, 60, 80, 0, True)), 0)), (40, 20, 60, 80))


def test_labels_that_the_stream_does_not_look_for_or_merges_are_hidden_all_the_same() -> None:
    labels = LabelConfig(classes=("thing",), merge={"thing": ("car", "person")})
    model = ("person", "car", "face")
    for name, both in (("person", False), ("thing", True)):
        config = PrivacyConfig.model_validate({"blur": {"classes": [name], "margin": 0, "mode": "fill"}})
        p = Privacy(config, model, labels, ("thing",), {})
        found = detections((0, 0, 10, 10, 0.9, 0), (100, 100, 120, 120, 0.9, 1), (50, 50, 60, 60, 0.9, 2))
        mask = hidden_at(p.step(found, no_tracks(), 0))
        assert covers(mask, (0, 0, 10, 10))
        assert covers(mask, (100, 100, 120, 120)) == both
        assert not mask[50:60, 50:60].any()


def test_a_frame_at_which_no_detector_looked_shows_nothing_recognisable() -> None:
    assert hidden_at(privacy(PEOPLE).step(None, no_tracks(), 0)).all()


def test_more_places_than_can_be_told_apart_are_the_whole_picture() -> None:
    boxes = [(float(i % 150), float(i % 110), i % 150 + 2.0, i % 110 + 2.0, 0.9, 0) for i in range(700)]
    assert hidden_at(privacy(PEOPLE).step(detections(*boxes), no_tracks(), 0)).all()


def test_a_clock_that_is_set_back_hides_nothing_for_ever() -> None:
    p = privacy(PEOPLE)
    p.step(SOMEBODY, no_tracks(), 1000.0)
    assert hidden_at(p.step(NOBODY, no_tracks(), 1.0)).any()
    assert not hidden_at(p.step(NOBODY, no_tracks(), 3.1)).any()


def test_still_pictures_have_nothing_to_do_with_each_other() -> None:
    p = privacy(PEOPLE, still=True)
    p.step(SOMEBODY, no_tracks(), 0)
    assert not hidden_at(p.step(NOBODY, no_tracks(), 1.0)).any()


def test_without_privacy_a_picture_is_what_it_was() -> None:
    p = privacy({})
    assert p.step(SOMEBODY, no_tracks(), 0) is None
    frame = Frame.of_bgr(noise(), Stamp(0, 0, 0))
    assert p.blind(frame) is frame
    assert (ShownFrame(frame).bgr() == noise()).all()


MODES = st.sampled_from(["blur", "pixelate", "fill"])
CORNER = st.floats(-0.5, 1.5)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-50, 250)] * 4), max_size=3),
    st.lists(st.lists(CORNER, min_size=6, max_size=12).map(lambda c: c[: len(c) // 2 * 2]), max_size=2),
    st.lists(st.lists(CORNER, min_size=6, max_size=12).map(lambda c: c[: len(c) // 2 * 2]), max_size=2),
    MODES,
    st.integers(1, 32),
    st.sampled_from([SIZE, (1, 1), (7, 300), (161, 121)]),
)
def test_of_what_is_hidden_no_detail_is_left_and_the_rest_is_untouched(
    boxes: list[tuple[float, ...]],
    zones: list[list[float]],
    masks: list[list[float]],
    mode: Any,
    cells: int,
    size: tuple[int, int],
) -> None:
    rows = np.array([(*sorted((b[0], b[2])), *sorted((b[1], b[3]))) for b in boxes], np.float32).reshape(
        -1, 4
    )
    hidden = Hidden(size, tuple(masks), tuple(zones), rows[:, [0, 2, 1, 3]], mode, cells)
    source = noise(3, size)
    image = source.copy()
    hidden.hide(image)
    inside = np.zeros(size[::-1], np.uint8)
    wide = np.zeros((3 * size[1], 3 * size[0]), np.uint8)
    for polygon in (*zones, *masks):
        points = np.rint(np.array(polygon).reshape(-1, 2) * size).astype(np.int32)
        cv2.fillPoly(inside, [points], 1)
        cv2.fillPoly(wide, [points + size], 1)
    near = cv2.dilate(wide, np.ones((7, 7)))
    # OpenCV paints the frame's edge, too, where a polygon lies beyond it
    outside = (near[size[1] : 2 * size[1], size[0] : 2 * size[0]] | cv2.dilate(inside, np.ones((3, 3)))) == 0
    for x1, y1, x2, y2 in hidden.boxes:
        low = np.maximum([x1, y1], 0)
        inside[int(low[1]) : max(0, int(y2)), int(low[0]) : max(0, int(x2))] = 1
        x, y = np.maximum(np.floor([x1, y1]), 0).astype(int)
        outside[y : max(0, int(np.ceil(y2))), x : max(0, int(np.ceil(x2)))] = False
    assert (image[outside] == source[outside]).all()
    # No more is known of a part than the mean of its cells: what is finer than a cell makes no difference.
    fine = source.astype(np.int16)
    checks = (np.indices(fine.shape[:2]).sum(axis=0) % 2 * 2 - 1)[..., None]
    other = np.clip(fine + 40 * checks, 0, 255).astype(np.uint8)
    hidden.hide(other)
    if min(size) > 100 and inside.sum() > 1000:
        changed = np.abs(other.astype(np.int16) - image)[inside == 1]
        assert changed.mean() < 12  # of 40 grey levels of finest detail
    for polygon in masks:
        points = np.rint(np.array(polygon).reshape(-1, 2) * size).astype(np.int32)
        black = np.zeros(size[::-1], np.uint8)
        cv2.fillPoly(black, [points], 1)
        assert not image[black == 1].any()


@pytest.mark.parametrize("mode", ["blur", "pixelate", "fill"])
def test_a_small_face_is_not_left_as_it_is_for_being_small(mode: Any) -> None:
    hidden = Hidden(SIZE, boxes=np.array([[40, 40, 52, 52]], np.float32), mode=mode, cells=32)
    image = noise()
    hidden.hide(image)
    assert image[40:52, 40:52].std() < 5  # one cell of 12 × 12; noise has 74
    assert image[60:72, 60:72].std() > 60


def test_a_mask_lies_over_what_is_drawn() -> None:
    def draw(image: NDArray[Any]) -> None:
        cv2.rectangle(image, (10, 10), (150, 110), (255, 255, 255), 3)

    shown = ShownFrame(Frame.of_bgr(noise(), Stamp(0, 0, 0)), Hidden(SIZE, (LEFT,)), draw)
    assert not shown.annotated()[:, :79].any()
    assert (shown.annotated()[60, 150] == 255).all()
    assert not (shown.bgr() == 255).all(axis=2).any()


def test_the_detector_does_not_see_a_mask_that_says_so_in_any_format_of_a_frame() -> None:
    p = privacy({"masks": [{"polygon": LEFT, "detect": False}]})
    bgr = p.blind(Frame.of_bgr(noise(), Stamp(0, 0, 0)))
    assert not bgr.planes[0][:, :79].any()
    assert (bgr.planes[0][:, 84:] == noise()[:, 84:]).all()
    planes = (noise()[..., 0], noise()[:60, :80, 1], noise()[:60, :80, 2])
    for full in (False, True):
        yuv = Frame(Stamp(0, 0, 0), *SIZE, "I420", planes, colour=Colour(full=full))
        assert p.blind(yuv).bgr()[:, :78].max() <= 2
        assert (p.blind(yuv).planes[0][:, 84:] == planes[0][:, 84:]).all()
        assert (planes[0] == noise()[..., 0]).all()  # the decoder's own memory
    seen = privacy({"masks": [{"polygon": LEFT}]})
    assert seen.blind(yuv) is yuv


def test_events_say_nothing_of_where_something_is_in_a_mask() -> None:
    p = privacy({"masks": [{"polygon": LEFT}]})
    record = {
        "type": "line_crossing",
        "box": [10.0, 10.0, 30.0, 50.0],
        "frame_size": list(SIZE),
        "objects": [{"box": [100.0, 10.0, 120.0, 50.0]}, {"box": [1, 1, 9, 9]}, {"box": "?"}],
        "target": {"box": [1, 1, 9, 9], "frame_size": [16, 12]},
    }
    clean = p.clean_record(record)
    assert clean["box"] is None
    assert [o["box"] for o in clean["objects"]] == [[100.0, 10.0, 120.0, 50.0], None, None]
    assert clean["target"]["box"] is None
    assert clean["type"] == "line_crossing"
    tracks = no_tracks((1, 10, 10, 30, 50, 0, True), (2, 100, 10, 120, 50, 0, True))
    assert p.clean_tracks(tracks).ids.tolist() == [2]
    hidden, open_ = (0.1, 10, 10, 30, 50), (0.2, 90, 10, 110, 50)
    past = {1: np.array([hidden, open_]), 2: np.array([hidden, open_])}
    clean_past = p.clean_tracks(dataclasses.replace(tracks, past=past)).past
    assert {track: seen.tolist() for track, seen in clean_past.items()} == {2: [list(open_)]}
    assert privacy(PEOPLE).clean_record(record) is record


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"blur": {"classes": ["fcae"]}}, "privacy.blur.classes names 'fcae', which the model does not know"),
    ],
)
def test_a_label_that_the_model_does_not_have_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        privacy(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"blur": {"zones": ["yrad"]}}, "privacy.blur.zones.0: 'yrad' is no zone"),
        ({"blur": {}}, "it names neither classes nor zones"),
        (
            {"masks": [{"polygon": [0, 0, 1, 1, 1, 0, 0, 1]}]},
            "privacy.masks.0.polygon: the polygon crosses itself",
        ),
        ({"masks": [{"polygon": [0, 0, 1]}]}, "3 to 256 corners"),
        ({"mask": []}, "there is no such setting"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_config("surveillance", {"privacy": values})
