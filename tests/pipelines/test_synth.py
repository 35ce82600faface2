"""Scenes are pure functions of their seed; the burnt-in frame number survives a video encoder."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import SourceError
from edgectl.pipelines.synth import SCENES, open_scene, timecode


@pytest.mark.parametrize("name", SCENES)
def test_same_seed_gives_same_pixels_and_truth_in_any_order(name: str) -> None:
    one, two = open_scene(name, seed=5), open_scene(name, seed=5)
    frames = {seq: (one.render(seq), one.truth(seq)) for seq in (40, 7, 300)}
    for seq in (300, 40, 7):
        np.testing.assert_array_equal(two.render(seq), frames[seq][0])
        np.testing.assert_array_equal(two.truth(seq).boxes, frames[seq][1].boxes)
        np.testing.assert_array_equal(two.truth(seq).ids, frames[seq][1].ids)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("size", [(64, 64), (64, 400), (400, 64)])
def test_the_smallest_scenes_have_a_time_code_too(name: str, size: tuple[int, int]) -> None:
    scene = open_scene(name, seed=1, width=size[0], height=size[1])
    assert timecode.read(scene.render(123)) == 123


@pytest.mark.parametrize("name", SCENES)
def test_boxes_lie_in_the_frame_and_objects_move_less_than_their_size(name: str) -> None:
    scene = open_scene(name, seed=3)
    seen, last = set(), {}
    for seq in range(450):
        truth = scene.truth(seq)
        assert len(set(truth.ids.tolist())) == len(truth.ids)
        for box, ident in zip(truth.boxes, truth.ids.tolist(), strict=True):
            assert 0 <= box[0] < box[2] <= scene.width
            assert 0 <= box[1] < box[3] <= scene.height
            if ident in last:
                assert abs(box - last[ident]).max() < 0.5 * max(box[2] - box[0], box[3] - box[1]) + 2
        last = dict(zip(truth.ids.tolist(), truth.boxes, strict=True))
        seen |= set(last)
    assert len(seen) >= 4


def test_the_truth_is_what_the_pixels_show() -> None:
    scene = open_scene("yard", seed=2)
    truth = scene.truth(233)
    with_actors, background = scene.paint(233 / scene.fps).astype(int), scene._background.astype(int)
    changed = np.abs(with_actors - background).max(axis=2) > 40
    for x1, y1, x2, y2 in truth.boxes.astype(int):
        assert changed[y1:y2, x1:x2].mean() > 0.25
        changed[max(0, y1 - 8) : y2 + 12, max(0, x1 - 8) : x2 + 8] = False
    assert changed.mean() < 0.01


def test_lane_positions_are_where_the_lane_lines_are_painted() -> None:
    scene = open_scene("road", seed=1)
    found = {"left_x": 0, "right_x": 0}
    for seq in range(60):
        row = scene.paint(seq / scene.fps)[-1].mean(axis=1)
        for key in found:
            x = round(scene.truth(seq).values[key])
            found[key] += bool(row[max(0, x - 3) : x + 4].max() > 180)
    assert min(found.values()) > 15  # dashes: 6 m of every 12 m


@given(
    value=st.integers(0, 2**32 - 1),
    size=st.sampled_from([(64, 64), (71, 64), (180, 64), (64, 128), (360, 640), (1080, 1920)]),
)
def test_any_frame_number_reads_back(value: int, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 99, dtype=np.uint8)
    timecode.burn(image, value)
    assert timecode.read(image) == value
    assert timecode.read(image[..., 0]) == value


def test_a_picture_without_code_has_no_frame_number() -> None:
    rng = np.random.default_rng(0)
    assert all(timecode.read(rng.integers(0, 256, (360, 640, 3), dtype=np.uint8)) is None for _ in range(50))


def test_frame_number_survives_video_compression() -> None:
    scene = open_scene("yard", seed=1)
    with av.open(io.BytesIO(), "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=15)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = (
            scene.width,
            scene.height,
            "yuv420p",
            600_000,
        )
        packets = [
            p
            for seq in range(20)
            for p in stream.encode(av.VideoFrame.from_ndarray(scene.render(seq), "bgr24"))
        ]
        packets += stream.encode(None)
        decoder = av.CodecContext.create("mpeg4", "r")
        decoder.extradata = stream.codec_context.extradata
        frames = [f for p in packets for f in decoder.decode(p)] + decoder.decode(None)
    assert [timecode.read(f.to_ndarray(format="gray")) for f in frames] == list(range(20))


@pytest.mark.parametrize(
    ("name", "options"),
    [("moon", {}), ("yard", {"width": 10}), ("yard", {"height": 361}), ("road", {"fps": 1000.0})],
)
def test_unknown_scenes_and_sizes_out_of_range_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(SourceError, match=r"scene"):
        open_scene(name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("clutter", [False, True])
@pytest.mark.parametrize("markings", ["none", "left", "right", "lanes"])
def test_a_road_has_the_lines_that_it_is_asked_for(markings: str, clutter: bool) -> None:
    """Paint is brighter than anything else on the ground before the car."""
    scene = open_scene("road", seed=3, own={"markings": markings, "clutter": clutter})
    lines = {"left": [False, False], "right": [False, False]}
    for seq in range(0, 30, 5):
        truth, image = scene.truth(seq).values, scene.paint(seq / scene.fps)
        for side, x in (("left", round(truth["left_x"])), ("right", round(truth["right_x"]))):
            for half, rows in enumerate((slice(260, 320), slice(330, 359))):
                column = slice(max(0, x - 60), x + 60)
                lines[side][half] |= bool((image[rows, column, 1] > 200).any())
    assert any(lines["left"]) == (markings in ("left", "lanes"))
    assert any(lines["right"]) == (markings in ("right", "lanes"))


def test_clutter_is_the_same_in_any_order_and_moves_with_the_road() -> None:
    one, two = (open_scene("road", seed=5, own={"markings": "none", "clutter": True}) for _ in range(2))
    frames = {seq: one.render(seq) for seq in (40, 7)}
    np.testing.assert_array_equal(two.render(7), frames[7])
    np.testing.assert_array_equal(two.render(40), frames[40])
    assert (frames[7] != frames[40]).mean() > 0.1


def test_an_option_that_a_scene_does_not_have_is_refused() -> None:
    with pytest.raises(SourceError, match=r"yard.*markings"):
        open_scene("yard", own={"markings": "none"})
