"""The stream runner: every frame accounted for, failures heard, files written whole."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from support.pipelines import BoxEngine, write_h264
from support.video_rig import Rig, middle

from edgectl.core.errors import DataError, EdgectlError, EngineError, SourceError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.video.capture import Capture


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


def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    before = {t.name for t in threading.enumerate()}
    bad = tmp_path / "x.mp4"
    bad.write_bytes(b"no video")
    rig = Rig(tmp_path, str(bad))
    with pytest.raises(DataError):
        rig.pipeline.start()
    rig.pipeline.stop()
    assert rig.engines[0].closed.is_set()
    assert {t.name for t in threading.enumerate()} <= before
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
    assert {t.name for t in threading.enumerate()} <= before


def test_a_rule_that_names_an_unknown_class_stops_the_start(tmp_path: Path, clip: Path) -> None:
    before = set(threading.enumerate())
    rig = Rig(tmp_path, str(clip), {"rules": [{"id": "g", "line": [0, 0, 1, 1], "classes": ["dragon"]}]})
    with pytest.raises(UsageError, match="dragon"):
        rig.pipeline.start()
    assert rig.engines[0].closed.is_set()
    # of a test before, one may be on its way out yet
    assert not [t for t in threading.enumerate() if t not in before and t.name.endswith("-gate")]


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
