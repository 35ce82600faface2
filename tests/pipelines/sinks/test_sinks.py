"""Sinks: bounded, records before pictures, a broken one alone; track logs that replay to the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.pipelines import tracks

from edgectl.core.errors import DataError, StorageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.sinks import open_sinks
from edgectl.pipelines.sinks.base import SinkContext, StreamOutput
from edgectl.pipelines.sinks.jsonl import JsonlSink
from edgectl.pipelines.sinks.pool import SinkPool
from edgectl.pipelines.sinks.snapshot import SnapshotConfig, SnapshotSink
from edgectl.pipelines.sinks.tracklog import (
    TrackLog,
    TrackLogHeader,
    encode_tracks,
    read_header,
    read_tracks,
)
from edgectl.pipelines.sinks.video import AnnotateConfig, VideoSink
from edgectl.pipelines.stream.events import Event, EventWriter
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.shown import Draw, ShownFrame


def playable(path: Path) -> int:
    """Frames that a reader gets out of a video before it finds something wrong."""
    n = 0
    with av.open(str(path)) as video, contextlib.suppress(av.error.FFmpegError):
        for _ in video.decode(video=0):
            n += 1
    return n


def shown(image: NDArray[np.uint8], seq: int, draw: Draw | None = None, fps: float = 10) -> ShownFrame:
    return ShownFrame(Frame.of_bgr(image, Stamp(seq, round(seq * 1e9 / fps), 0)), None, draw)


def frame(seq: int, size: tuple[int, int] = (64, 48), draw: Draw | None = None) -> ShownFrame:
    return shown(np.full((size[1], size[0], 3), seq % 256, np.uint8), seq, draw)


def record(i: int) -> dict[str, Any]:
    return {"id": str(i)}


def test_a_camera_that_changes_its_format_keeps_its_proportions_in_the_video(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "v.mp4", AnnotateConfig(), 10)
    for i, size in enumerate([(160, 90), (120, 90), (320, 180)]):
        image = np.full((size[1], size[0], 3), 200, np.uint8)
        sink.write(StreamOutput((), shown(image, i)))
    sink.close()
    with av.open(str(tmp_path / "v.mp4")) as video:
        first, narrow, large = (f.to_ndarray(format="gray") for f in video.decode(video=0))
    assert first.shape == narrow.shape == large.shape == (90, 160)
    assert first.mean() == pytest.approx(large.mean(), abs=2)  # another resolution fills the picture
    assert narrow[:, 30:130].mean() == pytest.approx(first.mean(), abs=4)
    assert narrow[:, :14].mean() < 30  # 4:3 in 16:9 has black on both sides
    assert narrow[:, -14:].mean() < 30


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_fills_up_leaves_whole_lines_and_a_video_that_plays(tmp_path: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow mounting a tmpfs")
    try:
        video, log = VideoSink(tmp_path / "v.mp4", AnnotateConfig(), 10), JsonlSink(tmp_path / "e.jsonl")
        noise = np.random.default_rng(0)
        pool = SinkPool("s", [log, video], wait=True)
        for i in range(200):
            image = noise.integers(0, 256, (90, 160, 3), dtype=np.uint8)
            pool.offer(StreamOutput((record(i) | {"text": "x" * 700},), shown(image, i)))
        assert pool.close(20)
        assert set(pool.errors) == {"events", "annotate"}
        assert all("the disk is full" in str(e) for e in pool.errors.values())
        lines = (tmp_path / "e.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [str(i) for i in range(len(lines))]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["e.jsonl", "v.mp4"]
        assert playable(tmp_path / "v.mp4") > 0
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(("goes_on", "files"), [(True, 2), (False, 1)])
def test_the_log_of_a_camera_is_bounded_and_that_of_a_recording_is_whole(
    tmp_path: Path, goes_on: bool, files: int
) -> None:
    path = tmp_path / "events.jsonl"
    sink = JsonlSink(path, goes_on=goes_on, max_bytes=4000)
    for i in range(300):
        sink.write(StreamOutput(({"id": i, "text": "x" * 80},)))
    sink.close()
    found = sorted(tmp_path.iterdir())
    assert [p.name for p in found] == ["events.1.jsonl", "events.jsonl"][2 - files :]
    ids = [json.loads(line)["id"] for p in found for line in p.read_text().splitlines()]
    assert ids == list(range(300 - len(ids), 300))
    if goes_on:
        assert all(p.stat().st_size < 4200 for p in found)
        assert len(ids) > 40
    else:
        assert len(ids) == 300


@pytest.mark.parametrize("torn", ["", '{"id": "2", "ty', "x" * 200_000])
def test_the_log_of_a_camera_goes_on_behind_its_last_whole_line(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "e.jsonl"
    for ids, goes_on in (((0, 1), True), ((3,), True), ((4,), False)):
        sink = JsonlSink(path, goes_on=goes_on)
        for i in ids:
            sink.write(StreamOutput((record(i),)))
        sink.close()
        if ids == (0, 1):
            # killed while it wrote
            path.write_text(path.read_text() + torn)
        elif goes_on:
            assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["0", "1", "3"]
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["4"]


@pytest.mark.parametrize("endless", [True, False])
def test_only_of_a_source_without_an_end_events_of_earlier_runs_stay(tmp_path: Path, endless: bool) -> None:
    for i in range(2):
        sinks = open_sinks(parse_config("surveillance", None), SinkContext("s", tmp_path, endless=endless))
        sinks["events"].write(StreamOutput((record(i),)))
        for sink in sinks.values():
            sink.close()
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == (2 if endless else 1)


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").symlink_to("/dev/full")
    sink = JsonlSink(tmp_path / "e.jsonl")
    with pytest.raises(StorageError, match="disk is full"):
        sink.write(StreamOutput((record(1),)))
    sink.close()


def test_a_video_keeps_capture_time(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    sink = VideoSink(path, AnnotateConfig(), 10)
    for i in (0, 1, 2, 7, 8):  # five frames were lost in between
        sink.write(StreamOutput((), frame(i, draw=lambda image: image.fill(200))))
    sink.close()
    with av.open(str(path)) as video:
        frames = list(video.decode(video=0))
    assert [round(float(f.time or 0), 2) for f in frames] == [0, 0.1, 0.2, 0.7, 0.8]
    assert abs(float(frames[0].to_ndarray(format="gray").mean()) - 200) < 8
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.sinks import open_sinks
from edgectl.pipelines.sinks.base import SinkContext, StreamOutput
from edgectl.pipelines.sinks.video import AnnotateConfig, VideoSink
from edgectl.pipelines.video.shown import ShownFrame
sink = VideoSink(Path(sys.argv[1]), AnnotateConfig(), 10)
rng = np.random.default_rng(0)
for i in range(int(sys.argv[2])):
    image = rng.integers(0, 256, (96, 160, 3), dtype=np.uint8)
    sink.write(StreamOutput((), ShownFrame(Frame.of_bgr(image, Stamp(i, i * 100_000_000, 0)))))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("frames", [25, 100])
def test_of_a_process_that_is_killed_all_but_the_last_second_of_video_plays(
    tmp_path: Path, frames: int
) -> None:
    path = tmp_path / "v.mp4"
    done = subprocess.run([sys.executable, "-c", WRITER, str(path), str(frames)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
    assert playable(path) >= frames - 11
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened()
    assert sum(1 for _ in iter(lambda: reader.read()[0], False)) >= frames - 11
    reader.release()


def test_a_video_that_was_finished_has_an_index_to_seek_by(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    sink = VideoSink(path, AnnotateConfig(), 10)
    for i in range(50):
        sink.write(StreamOutput((), frame(i)))
    sink.close()
    with av.open(str(path)) as video:
        assert video.streams.video[0].frames == 50
        video.seek(4_000_000)
        assert 2 < float(next(video.decode(video=0)).time or 0) <= 4


def test_a_wide_video_is_made_smaller_and_a_slow_one_slower(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "v.mp4", AnnotateConfig(max_width=64, fps=5), 10)
    for i in range(20):
        sink.write(StreamOutput((), frame(i, (200, 100))))
    sink.close()
    with av.open(str(tmp_path / "v.mp4")) as video:
        frames = list(video.decode(video=0))
    assert (frames[0].width, frames[0].height) == (64, 32)
    assert len(frames) == 10


def test_snapshots_are_kept_within_their_limit(tmp_path: Path) -> None:
    sink = SnapshotSink(tmp_path, SnapshotConfig(on=("gate",), limit=2))
    for i in range(4):
        sink.write(
            StreamOutput(
                (
                    {"id": f"e{i}", "type": "zone", "rule": "gate"},
                    {"id": f"x{i}", "type": "zone", "rule": "other"},
                ),
                frame(i),
            )
        )
    assert sorted(p.name for p in (tmp_path / "snapshots").iterdir()) == ["e2.jpg", "e3.jpg"]


HEADER = TrackLogHeader(kind="surveillance", stream="s", labels=("person",), rules={"update_s": 5.0})
RULES = parse_config(
    "surveillance",
    {
        "second_stage": [{"part": "gear"}],
        "zones": {"yard": {"polygon": [0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8]}},
        "rules": [
            {"id": "gate", "line": [0.5, 0, 0.5, 1]},
            {"id": "lurk", "loiter": {"zone": "yard", "seconds": 2}},
            {"id": "bare", "loiter": {"zone": "yard", "seconds": 0.5}, "attributes": {"gear": "no-helmet"}},
        ],
    },
)

GEAR = {"gear": ("helmet", "no-helmet")}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_a_replayed_track_log_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "tracks.jsonl"
    rng = np.random.default_rng(seed)
    at = rng.uniform(100, 900, (3, 2))
    live_rules, log = RuleSet(RULES, ("person",), attributes=GEAR), TrackLog(path, HEADER)
    live: list[Event] = []
    t = 0.0
    for i in range(80):
        t = round(t + float(rng.uniform(0.02, 0.3)), 6)
        at = np.clip(at + rng.normal(0, 70, at.shape), 0, 1000)
        now = tracks(*((k + 1, float(x), float(y)) for k, (x, y) in enumerate(at)))
        if i == 0:
            now = replace(now, past={2: np.array([(0.01, 480, 420, 520.125, 500)], np.float64)})
        if i % 7 == 0:
            sure = float(rng.uniform(0.5, 1))
            worn = {k: {"gear": Attribute(str(rng.choice(GEAR["gear"])), sure)} for k in (1, 3)}
        now = replace(now, attributes=worn if i > 10 else {})
        live += live_rules.step(now, t)
        log.write(StreamOutput((), None, now, Stamp(i, round(t * 1e9), 0)))
    log.close()
    again_rules = RuleSet(RULES, ("person",), attributes=GEAR)
    with path.open() as lines:
        assert read_header(lines) == HEADER
        again = [e for frame in read_tracks(lines) for e in again_rules.step(frame.tracks, frame.t)]
    assert json.dumps([asdict(e) for e in again]) == json.dumps([asdict(e) for e in live])
    assert live


def test_a_file_that_is_no_track_log_is_told_from_one() -> None:
    for line in ("", "{", '{"schema": "edgectl.event/1"}', encode_tracks(tracks(), 0.0), "x" * 2_000_000):
        with pytest.raises(DataError, match="no track log"):
            read_header(iter([line]))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"t": 1}',
        encode_tracks(tracks(), -1.0),
        encode_tracks(tracks((1, 2, 3)), 1.0).replace('"cls":[0]', '"cls":[0,1]'),
        encode_tracks(tracks((1, 2, 3)), 1.0).replace(
            '"cls"', '"attributes":{"1":{"gear":["helmet"]}},"cls"'
        ),
        "x" * 2_000_000,
    ],
)
def test_a_broken_track_log_names_its_line(line: str) -> None:
    with pytest.raises(DataError, match="line 3"):
        list(read_tracks([encode_tracks(tracks(), 0.0), line]))


def test_an_event_record_carries_what_the_edge_knows() -> None:
    writer = EventWriter("gate", releases={"detector": "yard@1"})
    stamp = Stamp(7, 5_000_000_000, 5_010_000_000, None, 1_700_000_000_000_000_000, "arrival")
    first = writer.record(Event("zone", 5.0, "enter", "yard", {"track": 1}), stamp, now_ns=5_020_000_000)
    second = writer.record(Event("zone", 5.0, "leave", "yard"), stamp)
    assert first["time"] == 1_700_000_005.0
    assert first["latency_ms"] == 10.0
    assert first["schema"] == "edgectl.event/1"
    assert first["id"] < second["id"]
    assert "latency_ms" not in second
    on_file = writer.record(Event("zone", 5.0), Stamp(7, 5, 5, None, None, "pts"))
    assert on_file["time"] is None


@pytest.mark.parametrize("frames", [1, 300, 2000])
def test_a_bounded_track_log_keeps_the_newest_frames_and_the_switches_before_them(
    tmp_path: Path, frames: int
) -> None:
    log = TrackLog(tmp_path / "tracks.jsonl", HEADER, last_kib=64)
    for i in range(frames):
        switch = {"type": "switch", "rule": "night", "on": i == 0}
        log.write(
            StreamOutput(
                (switch,) if i in (0, 5) else (),
                None,
                tracks((1, 100.125, 200.5)),
                Stamp(i, i * 100_000_000, 0),
            )
        )
        assert (tmp_path / "tracks.jsonl").stat().st_size <= 64 * 1024
    log.close()
    path = tmp_path / "tracks.jsonl"
    with path.open() as lines:
        assert read_header(lines) == HEADER
        kept = list(read_tracks(lines))
    assert kept[-1].t == pytest.approx((frames - 1) / 10)
    assert np.diff([frame.t for frame in kept]) == pytest.approx(0.1)
    asked = [one for frame in kept for one in frame.asked]
    assert dict(asked) == {"night": frames == 1}
    assert [file.name for file in tmp_path.iterdir()] == ["tracks.jsonl"]
    # more than a quarter of the room is used once it was full
    assert frames < 2000 or path.stat().st_size > 16 * 1024
