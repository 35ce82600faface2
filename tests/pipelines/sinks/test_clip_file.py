"""The pictures of a clip, encoded anew: nothing is shown that nobody looked at, and nothing is left behind."""

from __future__ import annotations

import errno
from pathlib import Path

import av
import pytest
from support.pipelines import write_h264

from edgectl.core.errors import StorageError
from edgectl.pipelines.sinks.clip_file import copied, encoded
from edgectl.pipelines.sources.media.reader import VideoReader
from edgectl.pipelines.sources.media.ring import Cut, PacketRing
from edgectl.pipelines.video.hidden_log import HiddenLog
from edgectl.pipelines.video.shown import Hidden


@pytest.fixture
def cut(tmp_path: Path) -> Cut:
    """Four seconds, ten pictures each."""
    ring = PacketRing(60)
    reader = VideoReader(str(write_h264(tmp_path / "clip.mp4", frames=40)), "clip")
    reader.keep_packets(ring)
    assert sum(1 for _ in reader.frames()) == 40
    reader.close()
    found = ring.cut(-1e9, 1e9)
    assert found is not None
    return found


def levels(path: Path) -> list[float]:
    with av.open(str(path)) as video:
        return [float(f.to_ndarray(format="bgr24").mean()) for f in video.decode(video=0)]


def test_what_nobody_looked_at_is_black(cut: Cut, tmp_path: Path) -> None:
    log = HiddenLog(60)
    for at_s in (1.0, 2.0, 2.3):
        log.add(at_s, Hidden((160, 96), objects=True))
    path = tmp_path / "made.mp4"
    bounds = encoded(path, cut, log.at, start_s=0.5, end_s=3.0, max_width=1920, go_on=lambda: True)
    assert bounds is not None
    assert (bounds.start_s, bounds.end_s) == (pytest.approx(0.5), pytest.approx(3.0))
    assert bounds.frames == 25
    seen = [round(bounds.start_s + i / 10, 1) for i, level in enumerate(levels(path)) if level > 40]
    assert seen == [1.0, 2.0, 2.1, 2.2, 2.3]
    assert max(level for level in levels(path) if level <= 40) < 2


def test_it_ends_where_it_is_told_to_and_one_without_pictures_is_none(cut: Cut, tmp_path: Path) -> None:
    path, asked = tmp_path / "made.mp4", iter([True, True, False])
    log = HiddenLog(60)
    bounds = encoded(path, cut, log.at, start_s=0, end_s=9, max_width=80, go_on=lambda: next(asked))
    assert bounds is not None
    assert bounds.frames == len(levels(path)) == 3
    with av.open(str(path)) as video:
        assert video.streams.video[0].codec_context.width == 80
    assert encoded(path, cut, log.at, start_s=50, end_s=60, max_width=80, go_on=lambda: True) is None


def test_what_is_decoded_before_it_begins_is_progress_too_and_may_be_the_end(
    cut: Cut, tmp_path: Path
) -> None:
    asked = []

    def go_on() -> bool:
        asked.append(True)
        return len(asked) < 25

    path = tmp_path / "made.mp4"
    bounds = encoded(path, cut, HiddenLog(60).at, start_s=1.95, end_s=9, max_width=80, go_on=go_on)
    assert bounds is not None
    assert bounds.frames == 5
    asked.clear()
    assert encoded(path, cut, HiddenLog(60).at, start_s=3.5, end_s=9, max_width=80, go_on=go_on) is None
    assert len(asked) == 25


def test_a_disk_that_takes_nothing_leaves_no_piece(cut: Cut, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError):
        encoded(
            tmp_path / "file/made.mp4",
            cut,
            HiddenLog(60).at,
            start_s=0,
            end_s=9,
            max_width=80,
            go_on=lambda: True,
        )
    (tmp_path / "out/made.mp4").mkdir(parents=True)
    with pytest.raises(StorageError):
        encoded(
            tmp_path / "out/made.mp4",
            cut,
            HiddenLog(60).at,
            start_s=0,
            end_s=9,
            max_width=80,
            go_on=lambda: True,
        )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["made.mp4"]


def test_a_disk_that_is_full_is_called_so(cut: Cut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgectl.pipelines.sinks.encode._WholeFile.write", full)
    path = tmp_path / "made.mp4"
    with pytest.raises(StorageError, match="the disk is full while writing") as caught:
        copied(path, cut)
    assert "free some space" in str(caught.value.hint)
    with pytest.raises(StorageError, match="the disk is full while writing"):
        encoded(path, cut, HiddenLog(60).at, start_s=0, end_s=9, max_width=80, go_on=lambda: True)
    assert list(tmp_path.glob("*made*")) == []
