"""Instance masks: from prototypes to pixels, on tracks, in pictures."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.pipelines import detections

from edgectl.core.errors import EngineError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.pipelines.kinds.stills import StillObjects
from edgectl.pipelines.video.decode import Detections, make_decoder
from edgectl.pipelines.video.decode import prototypes as prototypes_module
from edgectl.pipelines.video.draw import draw_tracks
from edgectl.pipelines.video.labels import LabelConfig, LabelMap
from edgectl.pipelines.video.masks import InstanceMasks, MaskGrid
from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.privacy import Privacy, PrivacyConfig
from edgectl.pipelines.video.tracker import TrackConfig, Tracker

SIDE, CELLS = 64, 16
META = LetterboxMeta(1, 1, 0, 0, SIDE, SIDE, SIDE, SIDE)
KINDS = ("yolov8-seg", "end2end-seg")
Outputs = dict[str, NDArray[np.float32]]


def task(kind: str, labels: int = 1) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "t",
            "input": {"kind": "image", "width": SIDE, "height": SIDE},
            "decode": {"kind": kind, "score": 0.3, "max_detections": 300},
            "labels": [f"c{i}" for i in range(labels)],
        }
    )


def outputs(kind: str, rows: list[tuple[float, ...]], prototypes: NDArray[np.float32]) -> Outputs:
    """Rows of xyxy, score and coefficients, one class."""
    table = np.array(rows, np.float32)
    box, score, rest = table[:, :4], table[:, 4:5], table[:, 5:]
    if kind == "end2end-seg":
        out = np.concatenate([box, score, np.zeros_like(score), rest], axis=1)
    else:
        middle, size = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
        out = np.concatenate([middle, size, score, rest], axis=1).T
    return {"o": out[None], "protos": prototypes[None].astype(np.float32)}


def disc(x: float, y: float, radius: float, cells: int = CELLS) -> NDArray[np.float32]:
    """Distance into a disc, in pixels of the input, at the middle of each cell."""
    at = (np.arange(cells) + 0.5) * SIDE / cells
    return np.asarray(radius - np.hypot(at[None, :] - x, at[:, None] - y), np.float32)


def whole(found: Detections, row: int = 0, width: int = SIDE, height: int = SIDE) -> NDArray[np.bool_]:
    assert found.masks is not None
    x, y, inside = found.masks.pixels(row, width, height)
    out = np.zeros((height, width), np.bool_)
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_mask_is_the_sum_of_prototypes_made_larger_and_cut_by_its_box(kind: str, seed: int) -> None:
    """By the definition: the whole map, as large as the input, bilinear, above 0, and in the box."""
    rng = np.random.default_rng(seed)
    prototypes = np.stack([cv2.GaussianBlur(rng.normal(0, 9, (CELLS, CELLS)), (0, 0), 1.5) for _ in range(4)])
    low = rng.uniform(-8, 44, (6, 2))
    rows = [
        (*a, *(a + rng.uniform(6, 40, 2)), 0.9 - 0.1 * i, *rng.normal(0, 1, 4)) for i, a in enumerate(low)
    ]
    spec = task(kind)
    decode = spec.decode.model_copy(update={"nms": "none"})
    found = make_decoder(spec.model_copy(update={"decode": decode}))(outputs(kind, rows, prototypes), META)
    n = 0
    for x1, y1, x2, y2, score, *coefficients in rows:
        values = np.tensordot(np.float32(coefficients), np.float32(prototypes), 1)
        large = cv2.resize(values, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        at = np.arange(SIDE)
        wanted = (large > 0) & ((at >= y1) & (at < y2))[:, None] & ((at >= x1) & (at < x2))
        match = np.nonzero(np.abs(found.score - score) < 1e-6)[0]
        assert len(match) == wanted.any()
        if len(match):
            n += 1
            # half precision moves no more than what is nearly 0
            assert not (whole(found, int(match[0])) != wanted)[np.abs(large) > 0.02].any()
    assert len(found) == n


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_lies_where_the_object_is_in_the_frame(kind: str) -> None:
    """A frame of 256 × 192 letterboxed into the input."""
    meta = LetterboxMeta(0.25, 0.25, 0, 8, 256, 192, SIDE, SIDE)
    made = outputs(kind, [(16, 20, 40, 44, 0.9, 1.0)], disc(28, 32, 8)[None])
    inside = whole(make_decoder(task(kind))(made, meta), 0, 256, 192)
    y, x = np.nonzero(inside)
    assert (x.mean(), y.mean()) == pytest.approx((28 * 4, (32 - 8) * 4), abs=1.0)
    assert inside.sum() == pytest.approx(np.pi * 32**2, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_pixel_in_its_mask_is_no_detection(kind: str) -> None:
    made = outputs(kind, [(4, 4, 20, 20, 0.9, 1.0), (36, 36, 60, 60, 0.8, 1.0)], disc(48, 48, 8)[None])
    found = make_decoder(task(kind))(made, META)
    assert found.score.tolist() == pytest.approx([0.8])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["coefficients", "prototypes"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(kind: str, where: str, bad: float) -> None:
    prototypes = disc(48, 48, 8)[None]
    if where == "prototypes":
        prototypes[0, 12, 12] = bad
    made = outputs(kind, [(36, 36, 60, 60, 0.8, bad if where == "coefficients" else 1.0)], prototypes)
    with pytest.raises(EngineError, match="not finite"):
        make_decoder(task(kind))(made, META)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_that_do_not_fit_are_refused_with_both(kind: str) -> None:
    made = outputs(kind, [(36, 36, 60, 60, 0.8, 1.0)], disc(48, 48, 8)[None])
    with pytest.raises(ModelError, match="should have shape"):
        make_decoder(task(kind))(made | {"protos": np.zeros((1, 2, 16, 16), np.float32)}, META)
    with pytest.raises(ModelError, match=r"reads boxes .* and prototypes"):
        make_decoder(task(kind))({"o": made["o"]}, META)
    with pytest.raises(ModelError, match="128x16 cells, the model's input 64x64"):
        make_decoder(task(kind))(made | {"protos": np.zeros((1, 1, 16, 128), np.float32)}, META)
    with pytest.raises(ModelError, match="0x16 cells"):
        make_decoder(task(kind))(made | {"protos": np.zeros((1, 1, 16, 0), np.float32)}, META)


def test_the_memory_of_masks_is_bounded_and_the_least_sure_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prototypes_module, "MOST_CELLS", 3 * CELLS * CELLS)
    rows = [(0, 0, 64, 64 - 0.1 * i, 0.9 - 0.01 * i, 1.0) for i in range(10)]
    found = make_decoder(task("end2end-seg"))(outputs("end2end-seg", rows, disc(32, 32, 20)[None]), META)
    assert found.masks is not None
    assert len(found) == 10
    assert sum(m.size for m in found.masks.maps) <= 3 * CELLS * CELLS
    assert [bool(m.size) for m in found.masks.maps] == [True] * 3 + [False] * 7
    assert not whole(found, 9).any()
    assert all(m.dtype == np.float16 for m in found.masks.maps)


def shapes(*places: tuple[float, float]) -> Detections:
    """Discs of 40 pixels across whose boxes have 48, in a frame of 640 × 480."""
    boxes = [(x - 24, y - 24, x + 24, y + 24, 0.9, 0) for x, y in places]
    found = detections(*boxes)
    grid = MaskGrid(0, 0, 8, 8)
    maps, corners = [], []
    for x, y in places:
        column, row = int((x - 24) // 8) - 1, int((y - 24) // 8) - 1
        at = np.arange(9)
        xs, ys = (column + at + 0.5) * 8, (row + at + 0.5) * 8
        maps.append((20 - np.hypot(xs[None] - x, ys[:, None] - y)).astype(np.float16))
        corners.append((column, row))
    masks = InstanceMasks(
        tuple(maps), np.array(corners, np.int64).reshape(-1, 2), found.xyxy, (grid,) * len(maps)
    )
    return dataclasses.replace(found, masks=masks)


def test_a_track_has_the_mask_of_its_own_detection_and_none_where_it_is_not_seen() -> None:
    tracker = Tracker(TrackConfig())
    for frame in range(6):
        order = [(100, 100), (400, 300)] if frame % 2 else [(400, 300), (100, 100)]
        got = tracker.update(shapes(*order), frame / 15, 640, 480)
    assert got.masks is not None
    for row, (x, y) in enumerate(
        [(100, 100), (400, 300)] if got.xyxy[0, 0] < 200 else [(400, 300), (100, 100)]
    ):
        left, top, inside = got.masks.pixels(row, 640, 480)
        ys, xs = np.nonzero(inside)
        assert (xs.mean() + left + 0.5, ys.mean() + top + 0.5) == pytest.approx((x, y), abs=0.5)
    got = tracker.update(shapes((400, 300)), 0.4, 640, 480)
    assert got.masks is not None
    assert [bool(m.size) for m in got.masks.maps] == got.seen.tolist()
    assert sorted(got.seen.tolist()) == [False, True]
    gone = tracker.update(shapes(), 0.5, 640, 480)
    assert gone.masks is not None
    assert not any(m.size for m in gone.masks.maps)


def test_labels_and_privacy_take_masks_along() -> None:
    found = dataclasses.replace(shapes((100, 100), (400, 300)), cls=np.array([0, 1], np.int32))
    kept = LabelMap(LabelConfig(classes=("car",)), ("person", "car"))(found)
    assert kept.masks is not None
    assert kept.masks.boxes.tolist() == kept.xyxy.tolist()
    config = PrivacyConfig.model_validate({"masks": [{"polygon": [0, 0, 0.5, 0, 0.5, 0.5, 0, 0.5]}]})
    privacy = Privacy(config, ("person",), LabelConfig(), ("person",), {})
    clean = privacy.clean_tracks(
        StillObjects(TrackConfig()).update(shapes((100, 100), (400, 300)), 0, 640, 480)
    )
    assert clean.masks is not None
    assert len(clean.masks) == len(clean) == 1


def test_a_mask_is_drawn_translucent_and_nowhere_else() -> None:
    image = np.full((480, 640, 3), 100, np.uint8)
    objects = StillObjects(TrackConfig()).update(shapes((100, 100)), 0.0, 640, 480)
    draw_tracks(image, objects, ("disc",))
    middle, corner = image[105, 100], image[84, 84]
    assert (middle != 100).any()
    assert (np.abs(middle.astype(int) - 100) < 80).all()
    assert (corner == 100).all()


def test_the_foot_of_a_mask_is_its_lowest_place() -> None:
    """A triangle that stands on its tip left of the middle of its box."""
    at = np.arange(30)
    xs, ys = np.meshgrid((at + 0.5) * 4, (at + 0.5) * 4)
    tip = np.minimum(100 - ys, (100 - ys) * 0.5 - np.abs(xs - 40)).astype(np.float16)
    masks = InstanceMasks(
        (tip,), np.zeros((1, 2), np.int64), np.array([[4, 20, 110, 110]], np.float32), (MaskGrid(0, 0, 4, 4),)
    )
    foot = masks.foot(0)
    assert foot is not None
    assert foot == pytest.approx((40, 97), abs=3)
    assert masks.of_rows(np.array([-1])).foot(0) is None


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_two_regions_of_a_frame_lie_where_their_objects_do(kind: str) -> None:
    raw = outputs(kind, [(10, 20, 40, 50, 0.9, 1.0)], disc(25, 35, 12)[None])
    # the region is shown twice as large as it is in the frame, and another one as it is
    near = dataclasses.replace(META, sx=2.0, sy=2.0, width=SIDE // 2, height=SIDE // 2, x=100, y=300)
    far = dataclasses.replace(META, x=500, y=40)
    found = Detections.joined([make_decoder(task(kind))(raw, meta) for meta in (near, far)])
    assert found.masks is not None
    for row, (x, y, radius) in enumerate([(100 + 12.5, 300 + 17.5, 6.0), (525.0, 75.0, 12.0)]):
        left, top, inside = found.masks.pixels(row, 1000, 1000)
        rows, columns = np.nonzero(inside)
        assert (left + columns.mean() + 0.5, top + rows.mean() + 0.5) == pytest.approx((x, y), abs=0.6)
        assert inside.sum() == pytest.approx(np.pi * radius**2, rel=0.15)
        foot = found.masks.foot(row)
        assert foot == pytest.approx((x, y + radius), abs=1.5)
    again = found.select(np.array([1, 0]))
    assert again.masks is not None
    assert again.masks.pixels(0, 1000, 1000)[:2] == found.masks.pixels(1, 1000, 1000)[:2]
