"""A stream that looks at regions: small things are found where they are, every frame is booked, the same file gives the
same events."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.pipelines import BoxEngine, box_task, make_variant

from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds import analysis
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Record, Sink, StreamOutput
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.motion import SceneMotion
from edgectl.pipelines.video.privacy import Privacy
from edgectl.pipelines.video.regions.choice import CallTimes, RegionChoice
from edgectl.pipelines.video.regions.cover import RegionConfig
from edgectl.pipelines.video.regions.merge import MergedDetections, merge_regions
from edgectl.pipelines.video.shadow import Shadowing
from edgectl.pipelines.video.track_watch import Known
from edgectl.pipelines.video.tracker import Tracks

SIZE = (640, 480)
NONE = np.empty((0, 4), np.float32)


def place(t_s: float) -> tuple[float, float, float, float]:
    """Of a small bright thing that walks to the right."""
    x, y = round(60 + 40 * t_s), 300
    return x, y, x + 14, y + 18


def walk(path: Path, seconds: float = 6, fps: int = 10) -> Path:
    ground = np.random.default_rng(5).integers(40, 150, (12, 16, 3), dtype=np.uint8)
    still = np.asarray(cv2.resize(ground, SIZE, interpolation=cv2.INTER_CUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 8_000_000
        for i in range(round(seconds * fps)):
            image = still.copy()
            x1, y1, x2, y2 = (int(v) for v in place(i / fps))
            image[y1:y2, x1:x2] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def bright(image: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
    """The bright thing, if it is as large as a detector needs it."""
    rows, columns = np.nonzero(image[0].min(axis=0) > 0.85)
    if len(rows) < 40:
        return []
    height, width = image.shape[2:]
    x1, x2 = columns.min() / width, (columns.max() + 1) / width
    return [(x1, rows.min() / height, x2, (rows.max() + 1) / height, 0.9, 0)]


class Watched(Sink):
    name = "watched"
    tracks = True

    def __init__(self) -> None:
        self.boxes: list[tuple[float, NDArray[np.float32]]] = []

    def write(self, output: StreamOutput) -> None:
        if output.tracks is not None and output.stamp is not None:
            self.boxes += [(output.stamp.t_s, box) for box in output.tracks.xyxy[output.tracks.seen]]


class Run:
    def __init__(self, folder: Path, source: str, config: dict[str, Any]) -> None:
        self.events: list[Record] = []
        self.watched = Watched()
        self.engines: list[BoxEngine] = []
        self.folder = folder
        self.pipeline: Any = make_pipeline(
            "surveillance",
            PipelineArgs(
                "gate",
                source,
                {"detector": PartVariant(make_variant(folder / "blobs", box_task()))},
                parse_config("surveillance", config),
                self.events.append,
                lambda variant: self.open(),
                sinks=(self.watched,),
            ),
        )

    def open(self) -> BoxEngine:
        self.engines.append(BoxEngine(bright))
        return self.engines[-1]

    def to_the_end(self) -> Run:
        self.pipeline.start()
        assert self.pipeline.wait(60)
        self.pipeline.stop()
        assert self.pipeline.error is None
        frames = self.pipeline.ledger.frames()
        assert frames.in_flight == 0
        assert frames.captured == frames.processed + sum(frames.dropped.values())
        return self


def test_what_is_too_small_in_the_whole_picture_is_found_in_regions_where_it_is(tmp_path: Path) -> None:
    clip = str(walk(tmp_path / "walk.mp4"))
    assert Run(tmp_path, clip, {}).to_the_end().watched.boxes == []
    run = Run(tmp_path, clip, {"regions": {"on": True}}).to_the_end()
    # of six seconds the first is that of the background
    assert len(run.watched.boxes) >= 45
    for t_s, box in run.watched.boxes:
        assert np.abs(box - place(t_s)).max() <= 4
    calls = run.engines[0].runs - 2
    # one of it, and one of its trace in the background, until that has faded
    assert 60 < calls <= 2 * 60


def test_the_same_file_gives_the_same_events(tmp_path: Path) -> None:
    clip = str(walk(tmp_path / "walk.mp4", seconds=4))
    config = {"regions": {"on": True}, "rules": [{"id": "line", "line": [0.2, 0, 0.2, 1]}]}
    said = [
        [
            {key: value for key, value in event.items() if key not in {"id", "ts", "age_ms", "latency_ms"}}
            for event in Run(tmp_path, clip, config).to_the_end().events
        ]
        for _ in range(2)
    ]
    assert said[0] == said[1]
    assert "line_crossing" in {event["type"] for event in said[0]}


def test_a_camera_is_looked_at_in_regions_too_and_every_frame_is_booked(tmp_path: Path) -> None:
    clip = walk(tmp_path / "walk.mp4", seconds=4)
    run = Run(tmp_path, f"{clip}?paced=1", {"regions": {"on": True}}).to_the_end()
    for t_s, box in run.watched.boxes[1:]:
        assert box[3] - box[1] < 30, t_s
    assert len(run.watched.boxes) > 0


def test_privacy_hears_where_was_looked_and_of_what_a_border_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    step = Privacy.step

    def hear(self: Privacy, found: Detections, tracks: Tracks, t: float, looked: Any = None) -> Any:
        told.append((found, t, looked))
        return step(self, found, tracks, t, looked)

    def all_cut(regions: Any, size: Any) -> MergedDetections:
        seen = merge_regions(regions, size)
        return MergedDetections(Detections.none(), seen.found.xyxy, seen.found)

    monkeypatch.setattr(Privacy, "step", hear)
    monkeypatch.setattr(analysis, "merge_regions", all_cut)
    clip = walk(tmp_path / "walk.mp4", seconds=4)
    Run(
        tmp_path, str(clip), {"regions": {"on": True}, "privacy": {"blur": {"classes": ["person"]}}}
    ).to_the_end()
    there = [(found, t, looked) for found, t, looked in told if looked is not None and len(found)]
    assert len(there) > 20
    for found, t, looked in there:
        assert np.abs(found.xyxy[0] - place(t)).max() <= 4
        x1, y1, x2, y2 = place(t)
        assert any(x <= x1 and y <= y1 and x2 <= x + w and y2 <= y + h for x, y, w, h in looked)


def test_with_a_gate_an_idle_scene_is_not_looked_at(tmp_path: Path) -> None:
    clip = walk(tmp_path / "walk.mp4", seconds=4)
    config = {"regions": {"on": True}, "gate": {"motion": True, "hold_s": 0}}
    masks = [{"polygon": [0, 0, 1, 0, 1, 1, 0, 1], "detect": False}]
    run = Run(tmp_path, str(clip), {**config, "privacy": {"masks": masks}}).to_the_end()
    assert run.pipeline.ledger.frames().dropped["gated"] >= 25


def test_a_comparison_of_engines_is_one_of_the_whole_picture(tmp_path: Path) -> None:
    clip = walk(tmp_path / "walk.mp4", seconds=6)
    run = Run(tmp_path, f"{clip}?paced=1", {"regions": {"on": True}})
    run.pipeline.start()
    heard: list[Any] = []
    told = threading.Event()

    def done(result: Any) -> None:
        heard.append(result)
        told.set()

    other = PartVariant(make_variant(tmp_path / "other", box_task(), name="other"))
    # more frames than the whole picture is looked at by itself: in the first second, and every other one
    run.pipeline.shadow("detector", other, 100, 25, done)
    assert told.wait(30)
    run.pipeline.stop()
    (result,) = heard
    assert isinstance(result, Shadowing), result
    # nobody sees so small a thing in it
    assert (result.frames, result.found, result.errors) == (25, 0, 0)


# -- how many calls a camera's frame may cost --


def frame(t_s: float) -> Frame:
    return Frame.of_bgr(
        np.zeros((480, 640, 3), np.uint8), Stamp(round(t_s * 10), round(t_s * 1e9), round(t_s * 1e9))
    )


def moving(n: int) -> SceneMotion:
    x = np.linspace(0.05, 0.9, n)
    return SceneMotion(np.stack([x, x, x + 0.02, x + 0.02], axis=1).astype(np.float32), 0.01, True)


def choice(call_ms: float, left_ms: float | None = None, streams: int = 1) -> RegionChoice:
    times = CallTimes(
        lambda _: None if left_ms is None else round(left_ms * 1e6), lambda: (round(call_ms * 1e6), streams)
    )
    return RegionChoice(RegionConfig(on=True, most=8), Known, 1.0, times)


@pytest.mark.parametrize(
    ("call_ms", "left_ms", "streams", "most"),
    [(5, None, 1, 8), (20, None, 1, 3), (20, None, 3, 1), (5, 12, 1, 2), (200, None, 1, 1)],
)
def test_a_busy_scene_does_not_cost_more_calls_than_there_is_time_for(
    call_ms: float, left_ms: float | None, streams: int, most: int
) -> None:
    one = choice(call_ms, left_ms, streams)
    parts = [one.regions(frame(i / 10), moving(8), (64, 64), whole=False) for i in range(20)]
    assert {len(p) for p in parts[2:]} == {most}
    if most < 8:
        assert all(None in p for p in parts), "what has no region is in the whole picture"


def test_frames_that_came_after_a_pause_are_not_given_more_time(tmp_path: Path) -> None:
    one = choice(20)
    times = [i / 10 for i in range(20)] + [60 + i / 10 for i in range(3)]
    parts = [one.regions(frame(t), moving(8), (64, 64), whole=False) for t in times]
    assert len(parts[-1]) <= 5


def test_until_the_background_is_known_and_when_it_is_off_the_whole_picture_is_looked_at() -> None:
    one = choice(1)
    unsettled = SceneMotion(NONE, 1.0, False)
    assert one.regions(frame(0), unsettled, (64, 64), whole=False) == (None,)
    assert one.regions(frame(0.1), None, (64, 64), whole=False) == (None,)
    one.on = False
    assert one.regions(frame(0.2), moving(3), (64, 64), whole=False) == (None,)


def test_what_stands_still_is_looked_at_before_it_is_given_up() -> None:
    boxes = np.array([[300, 200, 320, 240]], np.float32)
    known = Known(0.0, 640, 480, np.array([1]), boxes, np.zeros((1, 2)), np.array([0.0]))
    one = RegionChoice(RegionConfig(on=True, whole_s=60), lambda: known, 0.9, None)
    still = SceneMotion(NONE, 0.0, True)
    parts = [one.regions(frame(i / 10), still, (64, 64), whole=False) for i in range(6)]
    assert parts[:3] == [(None,)] * 3
    assert all(p != (None,) for p in parts[3:]), "not seen for a third of the time"
