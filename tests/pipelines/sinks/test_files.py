"""Old files go by age and size, oldest first; what sinks did not write stays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.sinks.files import OutFiles, Written, too_many
from edgectl.pipelines.sinks.retention import RetentionConfig, RetentionSink
from edgectl.pipelines.sinks.video import AnnotateConfig, VideoSink
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame

DAY = 86400.0
FILES = st.lists(
    st.builds(Written, st.text("abc", min_size=1), st.floats(0, 20 * DAY), st.integers(0, 100)), max_size=20
)


@given(FILES, st.none() | st.floats(0.1, 20), st.none() | st.integers(0, 500))
def test_what_stays_is_young_and_small_enough_and_no_younger_file_went_for_an_older_one(
    files: list[Written], days: float | None, max_bytes: int | None
) -> None:
    now = 20 * DAY
    gone = too_many(files, now, days=days, max_bytes=max_bytes)
    left = list(files)
    for file in gone:
        left.remove(file)
    assert days is None or all(now - f.mtime_s <= days * DAY for f in left)
    assert max_bytes is None or sum(f.size for f in left) <= max_bytes
    if gone and left:
        assert max(f.mtime_s for f in gone) <= min(f.mtime_s for f in left)
    if gone and (days is None or now - gone[-1].mtime_s <= days * DAY):
        assert max_bytes is not None
        assert sum(f.size for f in [*left, gone[-1]]) > max_bytes  # not one too many


def make(folder: Path, name: str, size: int = 10, age_days: float = 0.0) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (1e9 - age_days * DAY,) * 2)
    return path


def test_a_later_run_deletes_what_an_earlier_one_wrote_and_nothing_of_anybody_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = OutFiles(out)
    mine = [make(out, f"snapshots/{i}.jpg", age_days=i) for i in range(5)]
    for path in mine:
        first.wrote(path)
    others = [
        make(out, "snapshots/holiday.jpg", age_days=99),
        make(tmp_path, "far", age_days=99),
        make(tmp_path, "near", age_days=99),
    ]
    with (out / ".written").open("a") as f:
        f.write(f"../near\n{tmp_path}/far\n.written\n\n")
    second = OutFiles(out)
    assert second.sweep(1e9, days=2.5, max_bytes=None) == 2
    assert [p.exists() for p in mine] == [True, True, True, False, False]
    assert all(p.exists() for p in others)
    assert OutFiles(out).sweep(1e9, days=None, max_bytes=25) == 1
    assert [p.exists() for p in mine] == [True, True, False, False, False]


def test_a_file_that_is_being_written_stays(tmp_path: Path) -> None:
    files = OutFiles(tmp_path)
    path = make(tmp_path, "annotated/a.mp4", age_days=9)
    files.wrote(path, still=True)
    files.keep(0, "annotated")
    assert files.sweep(1e9, days=1, max_bytes=0) == 0
    files.wrote(path)
    assert files.sweep(1e9, days=1, max_bytes=0) == 1


def test_a_limit_of_one_folder_leaves_the_others_alone(tmp_path: Path) -> None:
    files = OutFiles(tmp_path)
    clip = make(tmp_path, "clips/a.mp4")
    files.wrote(clip)
    for i in range(4):
        files.wrote(make(tmp_path, f"snapshots/{i}.jpg"))
    files.keep(2, "snapshots")
    assert sorted(p.name for p in (tmp_path / "snapshots").iterdir()) == ["2.jpg", "3.jpg"]
    assert clip.exists()


def test_the_video_is_cut_into_parts_and_old_parts_go(tmp_path: Path) -> None:
    files = OutFiles(tmp_path)
    sink = VideoSink(tmp_path / "annotated.mp4", AnnotateConfig(rotate_s=1), 10, files)
    image = np.zeros((48, 64, 3), np.uint8)
    for i in range(35):
        sink.write(StreamOutput((), ShownFrame(Frame.of_bgr(image, Stamp(i, i * 100_000_000, 0)))))
    assert files.sweep(4e9, days=1, max_bytes=None) == 3  # the fourth is open
    assert (
        tmp_path / ".written"
    ).read_text() == "annotated/000003.000.mp4\n"  # a kill leaves it to the next run
    sink.close()
    assert [p.name for p in (tmp_path / "annotated").iterdir()] == ["000003.000.mp4"]
    retention = RetentionSink(files, RetentionConfig(days=1))
    os.utime(tmp_path / "annotated/000003.000.mp4", (0, 0))
    retention.write(StreamOutput(()))
    assert list((tmp_path / "annotated").iterdir()) == []


def test_a_video_of_a_camera_is_named_by_the_time_of_day_and_cut_by_size(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "annotated.mp4", AnnotateConfig(rotate_mib=1), 10)
    noise = np.random.default_rng(0)
    for i in range(60):
        image = noise.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        stamp = Stamp(i, i * 1_000_000_000, 0, None, 1_700_000_000_000_000_000)
        sink.write(StreamOutput((), ShownFrame(Frame.of_bgr(image, stamp))))
    sink.close()
    names = sorted(p.name for p in (tmp_path / "annotated").iterdir())
    assert len(names) > 2
    assert names[0] == "20231114T221320Z.mp4"
    assert all(p.stat().st_size < 3 << 20 for p in (tmp_path / "annotated").iterdir())


def test_retention_without_a_measure_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="retention: it needs days, mib or both"):
        parse_config("surveillance", {"retention": True})
