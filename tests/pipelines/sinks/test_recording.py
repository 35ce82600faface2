"""The recording: everything, bit by bit, in files that play; what is too much goes, and nothing else."""

from __future__ import annotations

import calendar
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pipelines.sinks.test_clips import run
from support.fleet import wait_until
from support.pipelines import write_h264, write_reordered

from edgectl.core.errors import StorageError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sinks.pool import SinkPool
from edgectl.pipelines.sinks.recording import RecordingConfig, RecordingSink
from edgectl.pipelines.sinks.recording_file import RecordingFile
from edgectl.pipelines.sources.media.reader import VideoReader
from edgectl.pipelines.sources.media.ring import PacketRing
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Stamp
from edgectl.pipelines.video.tracker import Tracks

Luma = list[np.ndarray[Any, Any]]
NOON_S = calendar.timegm((2026, 3, 1, 12, 0, 0))


def decoded(path: Path) -> Luma:
    with av.open(str(path)) as video:
        return [f.to_ndarray(format="yuv420p") for f in video.decode(video=0)]


def same(a: Luma, b: Luma) -> bool:
    return len(a) == len(b) and all((x == y).all() for x, y in zip(a, b, strict=True))


class Recorder:
    """A sink, and a camera that sends a clip of a group of pictures a second."""

    def __init__(self, folder: Path, ring_s: float = 600, free_mib: float = 1e6, **config: Any) -> None:
        self.out = folder / "out"
        self.out.mkdir(exist_ok=True)
        self.ring = PacketRing(ring_s)
        self.told: list[Event] = []
        self.free_bytes = free_mib * 2**20
        self.files = OutFiles(self.out)
        self.sink = RecordingSink(
            self.out,
            RecordingConfig(**config),
            self.files,
            self.ring,
            self._say,
            free_bytes=lambda _: int(self.free_bytes),
            wall_s=lambda: NOON_S,
        )

    def send(self, clip: Path, look: Callable[[int], None] = lambda i: None) -> None:
        reader = VideoReader(str(clip), clip.name)
        reader.keep_packets(self.ring)
        for i, _ in enumerate(reader.frames()):
            look(i)
        reader.close()

    def see(self, pts_s: float, tracks: int = 0, *, utc_s: float = NOON_S, rule: str | None = None) -> None:
        """One frame was looked at. ``utc_s``: of the time 0 in the clip."""
        stamp = Stamp(0, 0, 0, pts_s, round((utc_s + pts_s) * 1e9), "arrival")
        ids = np.arange(1, tracks + 1)
        boxes = np.zeros((tracks, 4), np.float32)
        found = Tracks(ids, boxes, boxes[:, 0], ids.astype(np.int32), ids > 0, 160, 96)
        records = () if rule is None else ({"rule": rule},)
        self.sink.write(StreamOutput(records, tracks=found, stamp=stamp))

    def end(self) -> None:
        for event in self.sink.finish():
            self._say(event)
        self.sink.close()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.out.glob("recording/*"))

    def _say(self, event: Callable[[float], Event]) -> None:
        self.told.append(event(1.0))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_h264(tmp_path / "clip.ts", frames=80)


def test_files_are_what_the_camera_sent_bit_by_bit_and_begin_at_full_minutes(
    tmp_path: Path, clip: Path
) -> None:
    r = Recorder(tmp_path, file_s=3)
    r.send(clip, lambda i: r.see(i / 10 + 1.4, utc_s=NOON_S + 0.6))
    r.end()
    assert len(r.names()) in (3, 4)
    files = [decoded(r.out / "recording" / name) for name in r.names()]
    assert same([f for file in files for f in file], decoded(clip))
    assert all(len(file) % 10 == 0 for file in files)
    # from the second on they begin within a group of pictures after a multiple of 3 s
    assert {int(name[13:15]) % 3 for name in r.names()[1:]} <= {0, 1}
    assert all(name.startswith("20260301T1200") for name in r.names())
    assert [e.data["recording"] for e in r.told] == [f"recording/{name}" for name in r.names()]
    assert sum(e.data["frames"] for e in r.told) == 80
    assert sum(e.data["seconds"] for e in r.told) == pytest.approx(8, abs=0.1)
    assert not any(e.data["lost_groups"] for e in r.told)


def test_a_file_plays_while_it_is_written_but_for_its_last_second(tmp_path: Path, clip: Path) -> None:
    r = Recorder(tmp_path)
    r.send(clip)
    groups = r.ring.since(0)
    file = RecordingFile(tmp_path / "now.mp4", groups[0])
    for group in groups[:5]:
        file.add(group.cut)
    so_far = (tmp_path / "now.mp4").read_bytes()
    file.close()
    (tmp_path / "killed.mp4").write_bytes(so_far)
    got = decoded(tmp_path / "killed.mp4")
    assert 35 <= len(got) <= 50
    assert same(got, decoded(clip)[: len(got)])


def test_pictures_that_are_decoded_in_another_order_are_all_there(tmp_path: Path) -> None:
    path = write_reordered(tmp_path / "b.mkv", 60)
    r = Recorder(tmp_path, file_s=2)
    r.send(path, lambda i: r.see(i / 10))
    r.end()
    got = [f for name in r.names() for f in decoded(r.out / "recording" / name)]
    assert same(got, decoded(path))


@pytest.mark.parametrize("keep", ["tracks", "events"])
def test_files_in_which_nothing_was_seen_and_around_do_not_stay(tmp_path: Path, keep: str) -> None:
    r = Recorder(tmp_path, file_s=2, keep=keep)
    clip = write_h264(tmp_path / "long.ts", frames=300)
    # a picture is looked at 3 s after it was sent
    looked = [(t / 10, int(142 <= t <= 145)) for t in range(300)]

    def look(i: int) -> None:
        for pts_s, somebody in looked[max(0, i - 30) : max(0, i - 29)]:
            r.see(pts_s + 1.4, tracks=somebody, rule="yard" if somebody and keep == "events" else None)

    r.send(clip, look)
    r.end()
    assert sum(e.data["frames"] for e in r.told) == 300
    kept = [e.data for e in r.told if e.data["kept"]]
    assert [e["recording"] for e in kept] == [f"recording/{name}" for name in r.names()]
    # 5 s around, and the last ones, of which nobody knows
    known = [e for e in kept if e["start_pts_s"] < 21]
    assert 4 <= len(known) <= 7
    assert known[0]["start_pts_s"] >= 15.6 - 5 - 2.1
    assert known[-1]["start_pts_s"] <= 15.9 + 5
    assert len(r.told) - len(kept) >= 5


def test_a_camera_that_begins_anew_begins_a_file_and_nothing_is_lost_between(
    tmp_path: Path, clip: Path
) -> None:
    r = Recorder(tmp_path, ring_s=30, file_s=3600)
    for _ in range(3):
        r.send(clip)
        r.sink.beat()
    r.end()
    assert [e.data["frames"] for e in r.told] == [80, 80, 80]
    assert not any(e.data["lost_groups"] for e in r.told)


def test_what_a_slow_disk_missed_is_counted(tmp_path: Path, clip: Path) -> None:
    r = Recorder(tmp_path, ring_s=2)
    r.send(clip)
    r.end()
    assert (
        sum(e.data["lost_groups"] for e in r.told)
        == 8 - len(decoded(r.out / "recording" / r.names()[0])) / 10
    )
    assert r.told[0].data["lost_groups"] > 0


def test_the_oldest_recordings_go_where_the_disk_is_full_and_nothing_else(tmp_path: Path, clip: Path) -> None:
    r = Recorder(tmp_path, file_s=1)
    mine = r.out / "recording" / "holiday.mp4"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"x" * 1000)
    snapshot = r.out / "snapshots" / "a.jpg"
    snapshot.parent.mkdir()
    snapshot.write_bytes(b"x")
    r.files.wrote(snapshot)
    r.send(clip, lambda i: r.see(i / 10 + 1.4))
    r.sink.beat()
    before = r.names()
    sizes = [(r.out / "recording" / name).stat().st_size for name in before]
    r.free_bytes = (1024 << 20) - sizes[0] - sizes[1] + 10
    r.sink._swept_s = float("-inf")
    r.sink.beat()
    assert r.names() == before[2:]
    r.free_bytes = 0
    r.sink._swept_s = float("-inf")
    r.sink.beat()
    # the one that is being written, and what we did not write
    assert len(r.names()) == 2
    assert "holiday.mp4" in r.names()
    assert snapshot.exists()
    r.end()


def test_a_disk_that_takes_nothing_is_tried_again_with_another_file(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = Recorder(tmp_path)
    r.send(clip)
    add, full = RecordingFile.add, True

    def sometimes(self: RecordingFile, cut: Any) -> None:
        if full and self.frames >= 20:
            raise StorageError("the disk is full")
        add(self, cut)

    monkeypatch.setattr(RecordingFile, "add", sometimes)
    with pytest.raises(StorageError) as caught:
        r.sink.beat()
    assert caught.value.retryable
    full = False
    r.sink.beat()
    r.end()
    assert [e.data["frames"] for e in r.told] == [20, 50]
    assert sum(e.data["lost_groups"] for e in r.told) == 1
    assert sum(len(decoded(r.out / "recording" / name)) for name in r.names()) == 70


def test_it_goes_on_while_nobody_looks_at_pictures(tmp_path: Path, clip: Path) -> None:
    r = Recorder(tmp_path)
    pool = SinkPool("gate", [r.sink], wait=False)
    try:
        r.send(clip)
        wait_until(lambda: r.names(), "a file, without any output of the stream")
    finally:
        assert pool.finish()
        assert pool.close()
    assert same(decoded(r.out / "recording" / r.names()[0]), decoded(clip))


def test_what_is_looked_at_is_written_before_it_leaves_memory_and_a_run_that_is_only_closed_loses_nothing(
    tmp_path: Path, clip: Path
) -> None:
    """Frames come without a beat between them, as on a busy disk; then the run is given up."""
    r = Recorder(tmp_path, ring_s=2)
    r.send(clip, lambda i: r.see(i / 10))
    r.sink.close()
    assert same([f for name in r.names() for f in decoded(r.out / "recording" / name)], decoded(clip))


def test_a_run_that_is_only_closed_keeps_what_was_seen_and_nothing_else(tmp_path: Path, clip: Path) -> None:
    r = Recorder(tmp_path, keep="tracks", file_s=1)
    r.send(clip, lambda i: r.see(i / 10))
    assert r.names()
    r.sink.close()
    assert r.names() == []


def test_why_nothing_is_recorded_is_told_until_something_is(tmp_path: Path, clip: Path) -> None:
    r = Recorder(tmp_path)
    assert r.sink.trouble() is None
    r.ring.trouble = "its codec does not go into an MP4"
    assert r.sink.trouble() == "nothing is recorded: its codec does not go into an MP4"
    r.send(clip)
    assert r.sink.trouble() is None


def test_a_stream_records_what_it_looks_at(tmp_path: Path, clip: Path) -> None:
    events = run(tmp_path, str(clip), {}, recording={"file_s": 3})
    told = [e for e in events if e["type"] == "recording"]
    names = [e["recording"] for e in told]
    assert sorted(f"recording/{p.name}" for p in (tmp_path / "out/recording").iterdir()) == names
    assert same([f for name in names for f in decoded(tmp_path / "out" / name)], decoded(clip))


def test_it_is_refused_where_something_must_not_be_seen() -> None:
    mask = {"polygon": [0, 0, 0.5, 0, 0.5, 1]}
    with pytest.raises(UsageError, match="recording"):
        parse_config("surveillance", {"recording": True, "privacy": {"masks": [mask]}})


def test_a_disk_that_hangs_does_not_hold_up_the_source(tmp_path: Path, clip: Path) -> None:
    r, come_back = Recorder(tmp_path), threading.Event()
    r.sink._free_bytes = lambda _: int(come_back.wait(60))
    pool = SinkPool("gate", [r.sink], wait=False)
    r.send(clip)
    wait_until(lambda: pool._feeders[0].is_busy, "the disk is asked")
    r.send(clip)
    assert r.ring.since(0)
    come_back.set()
    pool.finish()
    assert pool.close()
