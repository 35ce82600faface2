"""The stream runner: every frame accounted for, failures heard, engines swapped without losing any."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.pipelines import BoxEngine, box_task, make_variant, write_clip, write_h264

from edgectl.core.bundle import Variant
from edgectl.core.errors import DataError, EdgectlError, EngineError, ModelError, SourceError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds import analysis
from edgectl.pipelines.kinds.base import Pipeline, PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Record
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video import engine_pool
from edgectl.pipelines.video.capture import Capture
from edgectl.pipelines.video.engine_pool import EnginePool


def middle(_: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
    """Somebody in the middle of the picture, always."""
    return [(0.4, 0.3, 0.6, 0.8, 0.9, 0)]


class Rig:
    """A pipeline on a double engine, its events, and the engines it opened."""

    def __init__(
        self,
        tmp_path: Path,
        source: str,
        config: dict[str, Any] | None = None,
        *,
        out: bool = False,
        kind: Any = "surveillance",
        pool: EnginePool | None = None,
    ) -> None:
        self.folder = tmp_path
        self.events: list[Record] = []
        self.engines: list[BoxEngine] = []
        self.boxes_at: Callable[[NDArray[Any]], Any] = middle
        self.classes = 2
        self.heard = threading.Condition()
        self.out = tmp_path / "out" if out else None
        parsed = parse_config(kind, config)
        slot = PartVariant(make_variant(tmp_path / "blobs", box_task()), "yard@1", "sha256:" + "1" * 64)
        self.pipeline: Pipeline = make_pipeline(
            kind,
            PipelineArgs(
                "gate",
                source,
                {"detector": slot},
                parsed,
                self.emit,
                lambda v: self.open(v),
                self.out,
                pool=pool or EnginePool(),
            ),
        )

    def open(self, variant: Variant) -> BoxEngine:
        engine = BoxEngine(self.boxes_at, classes=self.classes)
        self.engines.append(engine)
        return engine

    def emit(self, record: Record) -> None:
        with self.heard:
            self.events.append(record)
            self.heard.notify_all()

    def hear(self, kind: str, timeout_s: float = 10) -> Record:
        def find() -> Record | None:
            return next((e for e in self.events if e["type"] == kind), None)

        with self.heard:
            assert self.heard.wait_for(lambda: find() is not None, timeout_s), f"no {kind} event"
            found = find()
        assert found is not None
        return found

    def variant(self, name: str, labels: tuple[str, ...] = ("person", "vehicle")) -> PartVariant:
        return PartVariant(
            make_variant(self.folder / name, box_task(labels), name=name), f"{name}@2", "sha256:" + "2" * 64
        )

    def wait_processed(self, n: int, timeout_s: float = 10) -> None:
        deadline = time.monotonic() + timeout_s
        while self.frames().processed < n:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def frames(self) -> Any:
        return self.pipeline.ledger.frames()  # type: ignore[attr-defined]

    def run_to_the_end(self) -> None:
        self.pipeline.start()
        assert self.pipeline.wait(30)
        self.pipeline.stop()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", frames=40)


def test_a_file_is_processed_frame_by_frame_and_nothing_is_lost(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip), {"zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}})
    rig.run_to_the_end()
    frames = rig.frames()
    assert (frames.captured, frames.processed, frames.dropped, frames.in_flight) == (40, 40, {}, 0)
    assert [(e["type"], e.get("phase")) for e in rig.events] == [
        ("tracked_object", "new"),
        ("zone", "enter"),
        ("tracked_object", "update"),
        ("capability", "start"),
    ]
    assert (rig.events[-1]["name"], rig.events[-1]["reason"]) == ("source", "ended")
    assert rig.events[0]["releases"] == {"detector": "yard@1"}
    assert rig.events[0]["time"] is None
    assert rig.engines[0].closed.is_set()
    totals = rig.pipeline.totals()
    assert {
        "wait",
        "pre",
        "engine",
        "decode",
        "track",
        "rules",
        "avail_to_event",
        "publish",
        "period",
    } <= set(totals)
    assert totals["engine"].n == 40


def test_the_same_file_gives_the_same_events(tmp_path: Path, clip: Path) -> None:
    runs = []
    for name in ("a", "b"):
        rig = Rig(tmp_path / name, str(clip), {"zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}})
        rig.run_to_the_end()
        runs.append([{k: v for k, v in e.items() if k != "latency_ms"} for e in rig.events])
    assert runs[0] == runs[1]


def test_a_slow_engine_on_a_camera_loses_old_frames_and_the_ledger_adds_up(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&seconds=1.5&width=160&height=96")

    def slow(image: NDArray[Any]) -> Any:
        time.sleep(0.05)
        return middle(image)

    rig.boxes_at = slow
    rig.run_to_the_end()
    frames = rig.frames()
    assert frames.in_flight == 0
    assert frames.captured == frames.processed + sum(frames.dropped.values())
    assert frames.dropped["superseded"] > frames.processed
    assert set(frames.dropped) <= {"superseded", "shutdown"}
    age = rig.pipeline.totals()["wait"].quantile_us(0.9)
    assert age is not None
    # a taken frame is at most one period old, not a queue old
    assert age < 60_000


def test_a_stream_whose_detection_is_off_drops_its_frames_as_paused(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    rig.pipeline._control.detect = False  # type: ignore[attr-defined]
    rig.run_to_the_end()
    assert rig.frames().dropped == {"paused": 40}
    assert rig.engines[0].runs == 2  # the warm-up's
    assert [e["type"] for e in rig.events] == ["capability"]  # the clip has ended


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


LOOKED_AT = {
    "zones": {"right": {"polygon": [0.5, 0, 1, 0, 1, 1, 0.5, 1]}},
    "rules": [{"id": "gate", "line": [0.4, 0, 0.4, 1]}],
}


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


def test_a_stream_that_is_too_much_looks_at_fewer_frames_and_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")

    def slow(image: NDArray[Any]) -> Any:
        time.sleep(0.04)
        return middle(image)

    rig.boxes_at = slow
    rig.pipeline.start()
    told = rig.hear("degradation", 60)
    before = rig.frames().processed
    rig.wait_processed(before + 20, 60)
    counters = rig.pipeline.stats().counters
    rig.pipeline.stop()
    assert (told["phase"], told["reason"]) == ("start", "overload")
    assert told["detect_every"] == {1: 2, 2: 3, 3: 5}[told["level"]]
    assert told["detect_every"] >= 3, "predicted from what the engine is asked for: 2.4 times too much"
    assert told["after_s"] >= 2
    assert counters["degradation_level"] == told["level"]
    frames = rig.frames()
    assert frames.in_flight == 0
    assert frames.captured == frames.processed + sum(frames.dropped.values())
    assert frames.dropped["degraded"] >= 40


@pytest.mark.parametrize(
    ("kind", "source", "config"),
    [
        ("surveillance", "{clip}", {}),
        ("surveillance", "{clip}?paced=1", {"govern": {"on": False}}),
        ("surveillance", "{clip}?paced=1", {"flow": {"mode": "every"}}),
        ("driving", "synth://road?fps=30&seconds=0.5&width=320&height=180", {}),
    ],
)
def test_files_and_dash_cameras_are_not_governed(
    tmp_path: Path, clip: Path, kind: str, source: str, config: dict[str, Any]
) -> None:
    rig = Rig(tmp_path, source.format(clip=clip), config, kind=kind)
    rig.run_to_the_end()
    assert "degradation_level" not in rig.pipeline.stats().counters


def test_a_failed_inference_is_an_event_and_not_an_empty_scene(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip), {"track": {"lost_s": 0.2}})
    calls = 0

    def flaky(image: NDArray[Any]) -> Any:
        nonlocal calls
        calls += 1
        if 20 < calls <= 30:
            raise EngineError("the engine stumbled")
        return middle(image)

    rig.boxes_at = flaky
    rig.run_to_the_end()
    failed = [e for e in rig.events if e["type"] == "inference_failed"]
    assert len(failed) == 1
    assert failed[0]["detail"] == "the engine stumbled"
    assert failed[0]["part"] == "detector"
    frames = rig.frames()
    assert frames.dropped == {"engine_error": 10}
    assert rig.pipeline.stats().errors == 10
    # 10 frames at 15 fps are longer than lost_s: the track ends by time, but no event was made of the failed
    # frames
    assert rig.pipeline.error is None


def test_numbers_that_are_not_finite_are_a_failed_inference(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    calls = 0

    def broken(_: NDArray[Any]) -> Any:
        nonlocal calls
        calls += 1
        return middle(_) if calls <= 3 else [(0.1, 0.1, float("nan"), 0.5, 0.9, 0)]

    rig.boxes_at = broken
    rig.run_to_the_end()
    assert rig.hear("inference_failed")["code"] == "engine"


def test_a_swap_happens_between_two_frames_of_a_running_stream(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    rig.pipeline.start()
    rig.wait_processed(10)
    gap_ms = rig.pipeline.swap("detector", rig.variant("v2"))
    assert 0 < gap_ms < 1000
    old, new = rig.engines
    assert not old.closed.is_set()
    assert rig.pipeline.stats().releases == {"detector": "v2@2"}
    before = new.runs
    rig.wait_processed(rig.frames().processed + 5)
    # two may have been run before and not been counted as processed
    assert new.runs >= before + 3
    rig.pipeline.revert("detector")
    assert new.closed.is_set()
    assert rig.pipeline.stats().releases == {"detector": "yard@1"}
    runs = old.runs
    rig.wait_processed(rig.frames().processed + 5)
    assert old.runs > runs
    rig.pipeline.swap("detector", rig.variant("v3"))
    rig.pipeline.commit("detector")
    assert old.closed.is_set()
    rig.pipeline.revert("detector")  # nothing to go back to
    rig.pipeline.stop()
    assert all(e.closed.is_set() for e in rig.engines)
    assert set(rig.frames().dropped) <= {"superseded", "shutdown"}
    assert rig.frames().in_flight == 0


def test_a_swap_to_a_broken_engine_leaves_the_old_one_running(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    rig.pipeline.start()
    rig.wait_processed(3)

    def fails(_: NDArray[Any]) -> Any:
        raise EngineError("no")

    good = rig.boxes_at
    rig.boxes_at = fails
    with pytest.raises(EngineError):
        rig.pipeline.swap("detector", rig.variant("v2"))
    assert rig.engines[1].closed.is_set()
    rig.boxes_at, rig.classes = good, 3
    with pytest.raises(ModelError, match="shape"):
        rig.pipeline.swap("detector", rig.variant("v3"))
    rig.classes = 2
    with pytest.raises(ModelError, match="labels"):
        rig.pipeline.swap("detector", rig.variant("v4", ("person", "cat")))
    with pytest.raises(UsageError, match="part"):
        rig.pipeline.swap("vad", rig.variant("v5"))
    rig.wait_processed(rig.frames().processed + 5)
    assert rig.pipeline.stats().releases == {"detector": "yard@1"}
    rig.pipeline.stop()
    assert all(e.closed.is_set() for e in rig.engines)


def test_a_swap_after_the_end_of_the_stream_is_refused(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    rig.pipeline.start()
    assert rig.pipeline.wait(30)
    with pytest.raises(EngineError, match="not running"):
        rig.pipeline.swap("detector", rig.variant("v2"))
    rig.pipeline.stop()
    assert all(e.closed.is_set() for e in rig.engines)


def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    before = {t.name for t in threading.enumerate()}
    bad = tmp_path / "x.mp4"
    bad.write_bytes(b"no video")
    rig = Rig(tmp_path, str(bad))
    with pytest.raises(DataError):
        rig.pipeline.start()
    rig.pipeline.stop()
    assert rig.engines[0].closed.is_set()
    assert {t.name for t in threading.enumerate()} == before
    with pytest.raises(SourceError):
        Rig(tmp_path, "/nowhere.mp4").pipeline.start()


def test_every_thread_is_gone_after_a_stop(tmp_path: Path) -> None:
    before = {t.name for t in threading.enumerate()}
    rig = Rig(tmp_path, "synth://yard?fps=30&width=160&height=96", out=True)
    rig.pipeline.start()
    assert {"capture-gate", "engine-double", "analysis-gate", "sinks-gate"} <= {
        t.name for t in threading.enumerate()
    }
    rig.wait_processed(3)
    rig.pipeline.stop()
    rig.pipeline.stop()
    assert {t.name for t in threading.enumerate()} == before


def test_a_rule_that_names_an_unknown_class_stops_the_start(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip), {"rules": [{"id": "g", "line": [0, 0, 1, 1], "classes": ["dragon"]}]})
    with pytest.raises(UsageError, match="dragon"):
        rig.pipeline.start()
    assert rig.engines[0].closed.is_set()
    assert not [t for t in threading.enumerate() if t.name.endswith("-gate")]


def test_files_are_written_whole(tmp_path: Path, clip: Path) -> None:
    import av

    config = {
        "zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}},
        "snapshots": {"on": ["all"]},
        "tracklog": True,
    }
    rig = Rig(tmp_path, str(clip), config, out=True)
    rig.run_to_the_end()
    out = tmp_path / "out"
    assert rig.pipeline.error is None
    assert len((out / "events.jsonl").read_text().splitlines()) == len(rig.events)
    assert len((out / "tracks.jsonl").read_text().splitlines()) == 1 + 40
    entered = next(e for e in rig.events if e["type"] == "zone")
    assert (out / entered["snapshot"]).is_file()
    with av.open(str(out / "annotated.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 40
    assert {p.name for p in out.iterdir()} == {
        "events.jsonl",
        "tracks.jsonl",
        "annotated.mp4",
        "snapshots",
        ".written",
    }


def test_a_full_disk_is_the_error_of_the_run(tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "events.jsonl").symlink_to("/dev/full")
    rig = Rig(tmp_path, str(clip), {"annotate": {"video": False}}, out=True)
    rig.run_to_the_end()
    assert isinstance(rig.pipeline.error, EdgectlError)
    assert "disk is full" in str(rig.pipeline.error)
    assert rig.frames().processed == 40


@pytest.mark.parametrize("kind", ["surveillance", "driving"])
def test_synthetic_scenes_run_through_both_video_pipelines(tmp_path: Path, kind: str) -> None:
    scene = "road" if kind == "driving" else "yard"
    rig = Rig(tmp_path, f"synth://{scene}?seconds=3&paced=0&width=320&height=192", kind=kind, out=True)
    rig.run_to_the_end()
    assert rig.pipeline.error is None
    assert rig.frames().processed == 45
    assert (tmp_path / "out/annotated.mp4").stat().st_size > 1000


def test_an_unknown_kind_or_a_missing_part_is_a_usage_error(tmp_path: Path) -> None:
    args = PipelineArgs(
        "s", "x", {}, parse_config("driving", None), lambda r: None, lambda v: BoxEngine(middle)
    )
    with pytest.raises(UsageError, match="needs an engine for the part detector"):
        make_pipeline("driving", args)
    with pytest.raises(UsageError, match="no kind of pipeline 'cooking'"):
        make_pipeline("cooking", args)


def test_an_image_of_the_wrong_size_is_refused_before_the_stream_starts(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    original = rig.open
    rig.open = lambda v: BoxEngine(middle, size=(32, 32))  # type: ignore[method-assign]
    del original
    slot = rig.variant("v")
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "s", str(clip), {"detector": slot}, parse_config("surveillance", None), rig.emit, rig.open
        ),
    )
    with pytest.raises(EngineError, match=r"takes \(1, 3, 32, 32\)"):
        pipeline.start()


def test_frames_of_several_sizes_do_not_disturb(tmp_path: Path) -> None:
    import cv2

    for i, size in enumerate([(48, 64), (96, 128), (50, 70)] * 3):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), np.full((*size, 3), 99, np.uint8))
    rig = Rig(tmp_path, str(tmp_path), {"track": {"lost_s": 5}})
    rig.run_to_the_end()
    assert rig.frames().processed == 9


def test_what_becomes_of_a_source_stands_in_the_events_in_the_order_of_the_frames(tmp_path: Path) -> None:
    part = write_h264(tmp_path / "part.ts", frames=30)
    other = write_h264(tmp_path / "other.ts", frames=30, size=(96, 64))
    path = tmp_path / "whole.ts"
    path.write_bytes(part.read_bytes() + part.read_bytes() + other.read_bytes())
    runs = []
    for name in ("a", "b"):
        rig = Rig(tmp_path / name, str(path), {"zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}})
        rig.run_to_the_end()
        told = [
            (e["seq"], e["name"], e["reason"], e["available"])
            for e in rig.events
            if e["type"] == "capability"
        ]
        assert told == [
            (30, "clock", "clock_restarted", True),
            (60, "clock", "clock_restarted", True),
            (60, "picture", "size_changed", True),
            (90, "source", "ended", False),
        ]
        assert [e["seq"] for e in rig.events] == sorted(e["seq"] for e in rig.events)
        runs.append([{k: v for k, v in e.items() if k != "latency_ms"} for e in rig.events])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("single", [True, False])
def test_one_picture_is_one_answer(tmp_path: Path, single: bool) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(folder / name), np.full((40, 60, 3), 90, np.uint8))
    config = {
        "zones": {
            "all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]},
            "left": {"polygon": [0, 0, 0.3, 0, 0.3, 1, 0, 1]},
        },
        "rules": [
            {"id": "crowd", "occupancy": {"zone": "all", "high": 1}},
            {"id": "few", "occupancy": {"zone": "all", "high": 2}},
        ],
    }
    rig = Rig(tmp_path, str(folder / "a.jpg" if single else folder), config, out=True)
    rig.run_to_the_end()
    found = [e for e in rig.events if e["type"] == "detections"]
    assert [e["picture"] for e in found] == (["a.jpg"] if single else ["a.jpg", "b.png"])
    for event in found:
        assert event["found"] == {"person": 1}
        (one,) = event["objects"]
        assert (one["label"], one["box"], one["zones"]) == ("person", [24.0, 12.0, 36.0, 32.0], ["all"])
        assert event["zones"] == {"all": 1, "left": 0}
        assert event["over"] == ["crowd"]
    assert {e["type"] for e in rig.events} == {"detections", "capability"}


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_a_still_picture_in_a_videos_format_is_one_answer_too(tmp_path: Path, name: str) -> None:
    rig = Rig(tmp_path, str(write_h264(tmp_path / name, frames=1)))
    rig.run_to_the_end()
    assert [(e["type"], e.get("found"), e.get("reason")) for e in rig.events] == [
        ("detections", {"person": 1}, None),
        ("capability", None, "ended"),
    ]
    assert rig.frames().processed == 1


def test_a_picture_without_objects_says_so(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((40, 60, 3), np.uint8))
    rig = Rig(tmp_path, str(tmp_path / "x.png"))
    rig.boxes_at = lambda _: []
    rig.run_to_the_end()
    (event,) = [e for e in rig.events if e["type"] == "detections"]
    assert (event["found"], event["objects"]) == ({}, [])


def test_a_folder_with_a_rate_is_a_film(tmp_path: Path) -> None:
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), np.full((40, 60, 3), i, np.uint8))
    rig = Rig(tmp_path, f"{tmp_path}?fps=10")
    rig.run_to_the_end()
    assert [(e["type"], e["t_s"]) for e in rig.events if e["type"] != "capability"] == [
        ("tracked_object", 0.1)
    ]


def test_a_film_of_pictures_far_apart_names_its_objects_at_once(tmp_path: Path) -> None:
    """A picture every ten seconds: nobody is seen twice in the same place."""
    path = write_h264(tmp_path / "x.mkv", frames=6, fps=1)
    rig = Rig(tmp_path, str(path), {"flow": {"target_fps": 0.4}})
    at = iter([0.0, 0.1, 0.2, 0.4, 0.6, 0.8])

    def elsewhere(_: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
        x = next(at)
        return [(x, 0.1, x + 0.05, 0.3, 0.9, 0)]

    rig.boxes_at = elsewhere
    rig.run_to_the_end()
    assert (
        sum((e["type"], e.get("phase")) == ("tracked_object", "new") for e in rig.events)
        == rig.frames().processed
        > 1
    )


def test_streams_with_one_pool_share_one_engine(tmp_path: Path) -> None:
    pool = EnginePool()
    rigs = [
        Rig(tmp_path, f"synth://yard?fps=60&seconds={seconds}&width=160&height=96", pool=pool)
        for seconds in (0.5, 60)
    ]
    rigs[1].open = rigs[0].open  # type: ignore[method-assign]
    for rig in rigs:
        rig.pipeline.start()
    (engine,) = rigs[0].engines
    assert rigs[0].pipeline.wait(30)
    rigs[0].pipeline.stop()
    rigs[1].wait_processed(rigs[1].frames().processed + 3)
    assert not engine.closed.is_set()
    rigs[1].pipeline.stop()
    assert engine.closed.is_set()
    assert not rigs[1].engines


def test_an_engine_that_hangs_is_told_and_so_is_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 0.0)
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_RUNS", 0)
    monkeypatch.setattr(analysis, "_POLL_S", 0.01)
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    inside, go_on = threading.Event(), threading.Event()

    def hang(image: NDArray[Any]) -> Any:
        if rig.engines[0].runs == 5:
            inside.set()
            assert go_on.wait(30)
            monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 60.0)
        return middle(image)

    rig.boxes_at = hang
    rig.pipeline.start()
    assert inside.wait(10)

    def told() -> list[tuple[str, bool]]:
        return [(e["reason"], e["available"]) for e in list(rig.events) if e.get("name") == "engine"]

    with rig.heard:
        assert rig.heard.wait_for(lambda: told() == [("engine_stuck", False)], 10)
    stats = rig.pipeline.stats()
    assert (stats.state, stats.reason) == ("outage", "engine_stuck")
    go_on.set()
    with rig.heard:
        assert rig.heard.wait_for(lambda: told() == [("engine_stuck", False), ("engine_stuck", True)], 10)
    rig.pipeline.stop()
    assert rig.frames().in_flight == 0


def test_the_first_call_after_a_pause_is_apart_from_the_others(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_IDLE_NS", 20_000_000)
    monkeypatch.setattr(engine_pool, "_IDLE_RATIO", 0)
    rig = Rig(tmp_path, str(clip))

    def pause(image: NDArray[Any]) -> Any:
        if rig.engines[0].runs in (10, 20):
            gone.append(rig.engines[0].runs)
        return middle(image)

    gone: list[int] = []
    rig.boxes_at = pause
    schedule = engine_pool.PooledEngine._next

    def late(self: Any) -> Any:
        jobs = schedule(self)
        if rig.engines[0].runs in (9, 19):
            time.sleep(0.05)
        return jobs

    monkeypatch.setattr(engine_pool.PooledEngine, "_next", late)
    rig.run_to_the_end()
    totals = rig.pipeline.totals()
    assert gone == [10, 20]
    assert totals["first_after_idle"].n >= 2
    assert totals["first_after_idle"].n + totals["engine"].n == 40


def test_a_shadow_that_breaks_does_not_break_the_stream(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    rig.pipeline.start()
    rig.wait_processed(3)

    def breaks(image: NDArray[Any]) -> Any:
        if rig.engines[1].runs > 2:
            raise RuntimeError("a defect")
        return middle(image)

    rig.boxes_at = breaks
    heard: list[Any] = []
    told = threading.Event()

    def done(result: Any) -> None:
        heard.append(result)
        told.set()

    rig.pipeline.shadow("detector", rig.variant("v2"), 100, 5, done)
    assert told.wait(10)
    assert "RuntimeError: a defect" in str(heard[0])
    assert rig.engines[1].closed.is_set()
    rig.wait_processed(rig.frames().processed + 5)
    rig.pipeline.stop()
    assert rig.frames().in_flight == 0
    assert len(heard) == 1


def test_a_shadow_counts_what_both_engines_found_on_the_same_frames(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    rig.pipeline.start()
    heard: list[Any] = []
    told = threading.Event()

    def done(result: Any) -> None:
        heard.append(result)
        told.set()

    rig.pipeline.shadow("detector", rig.variant("v2"), 50, 4, done)
    assert told.wait(20)
    (result,) = heard
    assert (result.frames, result.matched, result.found, result.errors) == (4, 4, 8, 0)
    assert rig.engines[1].runs == 2 + 4
    rig.pipeline.stop()


@pytest.mark.parametrize("knows", [True, False])
def test_only_a_source_that_knows_when_a_frame_was_taken_has_the_time_from_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&seconds=0.5&width=160&height=96")
    read = Capture._read

    def as_of_a_network(self: Capture) -> Any:
        frame = read(self)
        if frame is not None and not knows:
            frame.stamp = dataclasses.replace(frame.stamp, quality="arrival")
        return frame

    monkeypatch.setattr(Capture, "_read", as_of_a_network)
    rig.run_to_the_end()
    totals = rig.pipeline.totals()
    assert totals["avail_to_event"].n > 0
    assert ("glass_to_event" in totals) == knows
