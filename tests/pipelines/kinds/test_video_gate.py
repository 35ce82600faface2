"""Which frames a stream looks at: rate, motion gate, masks, and a camera that jolts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.video_rig import Rig, middle

LOOKED_AT = {
    "zones": {"right": {"polygon": [0.5, 0, 1, 0, 1, 1, 0.5, 1]}},
    "rules": [{"id": "gate", "line": [0.4, 0, 0.4, 1]}],
}


def test_target_fps_gates_evenly(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip), {"flow": {"target_fps": 5}})  # the clip has 15
    rig.run_to_the_end()
    frames = rig.frames()
    assert frames.processed == 14
    assert frames.dropped == {"gated": 26}


def write_walk(path: Path, *, seconds: float, walk: tuple[float, float], fps: int = 15) -> Path:
    """A still scene through which a bright thing walks from left to right, between two moments."""
    ground = np.random.default_rng(5).integers(40, 160, (12, 16, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 180, "yuv420p", 4_000_000
        for i in range(round(seconds * fps)):
            image = np.asarray(cv2.resize(ground, (320, 180), interpolation=cv2.INTER_CUBIC))
            if walk[0] <= i / fps < walk[1]:
                x = round(260 * (i / fps - walk[0]) / (walk[1] - walk[0]))
                image[50:150, x : x + 60] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def white(image: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
    """The bright thing, where it is."""
    rows, columns = np.nonzero(image[0].min(axis=0) > 0.9)
    if len(rows) < 20:
        return []
    height, width = image.shape[2:]
    x1, x2 = columns.min() / width, (columns.max() + 1) / width
    return [(x1, rows.min() / height, x2, (rows.max() + 1) / height, 0.9, 0)]


def test_a_gate_leaves_an_idle_scene_out_and_no_event_of_who_walks_through_it(tmp_path: Path) -> None:
    clip = write_walk(tmp_path / "walk.mp4", seconds=40, walk=(20, 26))
    told: dict[str, Any] = {}
    for motion in (False, True, True):
        rig = Rig(tmp_path, str(clip), {**LOOKED_AT, "gate": {"motion": motion}})
        rig.boxes_at = white
        rig.run_to_the_end()
        frames = rig.frames()
        assert (frames.captured, frames.in_flight) == (600, 0)
        assert frames.processed + sum(frames.dropped.values()) == 600
        said = [(e["type"], e.get("phase"), e.get("rule"), e.get("direction")) for e in rig.events]
        if motion:
            # A second until the background is known, six of the walk, and some until its trace in the background
            # has faded; else one frame in ten seconds.
            assert frames.dropped.keys() == {"gated"}
            assert 6 * 15 <= frames.processed <= 15 * 15
            again = [(e["type"], e["seq"]) for e in rig.events]
            assert told.setdefault("gated", again) == again, "the same file gives the same events"
        assert told.setdefault("all", said) == said
    assert {"tracked_object", "zone", "line_crossing"} <= {kind for kind, *_ in said}


def write_jolting(path: Path, frames: int = 45) -> Path:
    """A white box that stands before a pattern, filmed by a camera that jolts: from one frame to the next it is another
    place in the picture."""
    rng = np.random.default_rng(4)
    world = cv2.resize(rng.integers(20, 180, (45, 80), np.uint8), (640, 360), interpolation=cv2.INTER_CUBIC)
    world = np.minimum(world, 200)
    world[160:200, 310:330] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=15)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 180, "yuv420p", 4_000_000
        for _ in range(frames):
            x, y = rng.integers(100, 220), rng.integers(60, 120)
            image = cv2.cvtColor(np.ascontiguousarray(world[y : y + 180, x : x + 320]), cv2.COLOR_GRAY2BGR)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def test_who_stands_before_a_camera_that_jolts_is_one_object_where_its_motion_is_taken_off(
    tmp_path: Path,
) -> None:
    clip = write_jolting(tmp_path / "jolts.mp4")
    new: dict[bool, int] = {}
    for camera_motion in (True, False):
        rig = Rig(tmp_path, str(clip), {"track": {"camera_motion": camera_motion}})
        rig.boxes_at = white
        rig.run_to_the_end()
        assert rig.frames().processed == 45
        new[camera_motion] = sum(e["type"] == "tracked_object" and e["phase"] == "new" for e in rig.events)
    assert new[True] == 1
    assert new[False] != 1, "and never where it is not"


def test_a_paced_source_is_gated_too(tmp_path: Path) -> None:
    clip = write_walk(tmp_path / "still.mp4", seconds=4, walk=(0, 0), fps=10)
    rig = Rig(tmp_path, f"{clip}?paced=1", {"gate": {"motion": True, "hold_s": 0}})
    rig.boxes_at = white
    rig.run_to_the_end()
    frames = rig.frames()
    assert frames.captured == frames.processed + sum(frames.dropped.values()) == 40
    assert frames.dropped["gated"] >= 20


def test_still_pictures_are_all_looked_at(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), np.full((48, 64, 3), 90, np.uint8))
    rig = Rig(tmp_path, str(tmp_path / "pictures"), {"gate": {"motion": True, "hold_s": 0}})
    rig.boxes_at = lambda image: []
    rig.run_to_the_end()
    assert (rig.frames().processed, rig.frames().dropped) == (8, {})


def test_who_walks_where_the_detector_must_not_look_opens_no_gate(tmp_path: Path) -> None:
    clip = write_walk(tmp_path / "walk.mp4", seconds=10, walk=(3, 7), fps=10)
    masks = [{"polygon": [0, 0, 1, 0, 1, 1, 0, 1], "detect": False}]
    rig = Rig(
        tmp_path, str(clip), {"privacy": {"masks": masks}, "gate": {"motion": True, "keep_alive_s": 60}}
    )
    rig.boxes_at = white
    rig.run_to_the_end()
    assert rig.frames().processed <= 22


@pytest.mark.parametrize("slow", [False, True])
def test_which_frames_of_a_file_are_looked_at_does_not_hang_on_the_speed_of_the_engine(
    tmp_path: Path, slow: bool
) -> None:
    clip = write_walk(tmp_path / "still.mp4", seconds=12, walk=(0, 0), fps=10)
    rig = Rig(tmp_path, str(clip), {"gate": {"motion": True, "hold_s": 0}, "track": {"lost_s": 3}})

    def leaves(image: NDArray[Any]) -> Any:
        """Somebody who is not seen any more once the background is known."""
        if rig.engines[0].runs < 14:
            return middle(image)
        if slow:
            time.sleep(0.15)
        return []

    rig.boxes_at = leaves
    rig.run_to_the_end()
    # one look a second until the track is given up, the next one ten seconds after the last
    assert rig.frames().processed == 15
