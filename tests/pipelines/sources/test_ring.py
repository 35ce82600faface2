"""The last seconds of a source as they came: whole groups of pictures, bounded, playable without what came before."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.pipelines import write_clip, write_h264, write_reordered

from edgectl.pipelines.sources.media.reader import VideoReader
from edgectl.pipelines.sources.media.ring import PacketRing


def read(path: Path, ring: PacketRing) -> list[np.ndarray[Any, Any]]:
    reader = VideoReader(str(path), path.name)
    reader.keep_packets(ring)
    luma = [picture.planes[0].copy() for picture in reader.frames() if picture is not None]
    reader.close()
    return luma


def frames(data: bytes) -> list[np.ndarray[Any, Any]]:
    with av.open(io.BytesIO(data)) as video:
        return [f.to_ndarray(format="yuv420p")[: f.height] for f in video.decode(video=0)]


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_cut_is_what_the_source_had_from_the_key_frame_on(tmp_path: Path, suffix: str) -> None:
    ring = PacketRing(60)
    whole = read(write_h264(tmp_path / f"clip{suffix}", frames=40), ring)
    first = ring.cut(-1e9, 1e9)
    assert first is not None
    assert len(frames(first.data)) == 40
    start = first.start_s
    cut = ring.cut(start + 1.5, start + 2.5)
    assert cut is not None
    assert (cut.start_s, cut.end_s) == (pytest.approx(start + 1.0), pytest.approx(start + 3.0, abs=0.11))
    got = frames(cut.data)
    assert len(got) == 20
    for a, b in zip(got, whole[10:30], strict=True):
        assert (a == b).all()  # not one bit is encoded anew


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_source_whose_pictures_are_decoded_in_another_order_loses_none(tmp_path: Path, suffix: str) -> None:
    """Matroska states no times of decoding: the first packets have none."""
    ring, path = PacketRing(60), write_reordered(tmp_path / f"clip{suffix}", 40)
    whole = read(path, ring)
    cut = ring.cut(-1e9, 1e9)
    assert cut is not None
    got = frames(cut.data)
    assert len(got) == len(whole) == 40
    for a, b in zip(got, whole, strict=True):
        assert (a == b).all()
    assert cut.start_s == pytest.approx(cut.key_s)
    assert cut.end_s - cut.start_s == pytest.approx(4.0)


def test_it_keeps_its_seconds_and_its_bytes(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "clip.mp4", frames=200)
    ring = PacketRing(3)
    read(path, ring)
    cut = ring.cut(0, 1e9)
    assert cut is not None
    assert 3 <= cut.end_s - cut.start_s <= 5
    assert ring.cut(0, 10) is None
    small = PacketRing(1e9, max_bytes=10_000)
    read(path, small)
    cut = small.cut(0, 1e9)
    assert cut is not None
    assert len(cut.data) < 12_000
    assert len(frames(cut.data)) >= 10


def test_another_source_has_nothing_to_do_with_the_one_before(tmp_path: Path) -> None:
    ring = PacketRing(60)
    read(write_h264(tmp_path / "a.mp4", frames=40), ring)
    read(write_clip(tmp_path / "b.mp4", frames=15, size=(64, 48)), ring)
    cut = ring.cut(-1e9, 1e9)
    assert cut is not None
    assert {f.shape for f in frames(cut.data)} == {(48, 64)}
    # and what is asked of that is there yet
    before = ring.cut(-1e9, 1e9, 1)
    assert before is not None
    assert [f.shape for f in frames(before.data)] == [(96, 160)] * 40
    assert ring.newest_s(1) == pytest.approx(before.end_s)
    assert ring.is_over(1)


def test_what_was_before_goes_first(tmp_path: Path) -> None:
    ring, path = PacketRing(5), write_h264(tmp_path / "a.mp4", frames=40)
    read(path, ring)
    read(path, ring)
    assert ring.cut(-1e9, 1e9, 1) is not None
    read(path, ring)
    assert ring.cut(-1e9, 1e9, 1) is None
    assert ring.cut(-1e9, 1e9, 3) is not None


def test_a_first_packet_without_any_time_is_kept(tmp_path: Path) -> None:
    """As of an RTSP server that does not say when its stream began."""
    ring = PacketRing(60)
    with av.open(str(write_h264(tmp_path / "a.mp4", frames=25, codec="mpeg4"))) as video:
        stream = video.streams.video[0]
        packets = list(video.demux(stream))
        base = float(packets[0].pts * packets[0].time_base)
        packets[0].pts = packets[0].dts = None
        ring.begin(stream)
        for packet in packets:
            ring.add(packet)
        ring.end()
    cut = ring.cut(-1e9, 1e9)
    assert cut is not None
    assert len(frames(cut.data)) == 25
    assert cut.start_s == pytest.approx(base)


def test_a_clip_that_is_played_in_a_loop_begins_anew(tmp_path: Path) -> None:
    ring = PacketRing(60)
    reader = VideoReader(str(write_h264(tmp_path / "a.mp4", frames=20)), "a.mp4")
    reader.keep_packets(ring)
    assert sum(1 for _ in reader.frames()) == 20
    reader.rewind()
    assert sum(1 for _ in reader.frames()) == 20
    reader.close()
    cut = ring.cut(-1e9, 1e9)
    assert cut is not None
    assert len(frames(cut.data)) == 20


def test_a_codec_that_goes_into_no_mp4_is_said_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb8"
        for i in range(5):
            image = np.full((32, 32, 3), 40 * i, np.uint8)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="rgb8")
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    ring = PacketRing(60)
    assert len(read(path, ring)) == 5
    assert ring.trouble is not None
    assert ring.cut(-1e9, 1e9) is None


def test_a_source_without_key_frames_is_told_and_not_kept_without_end(tmp_path: Path) -> None:
    clip = write_h264(tmp_path / "clip.mp4", frames=200, gop=80, detail=2)
    ring = PacketRing(60, max_bytes=20_000)
    troubles: list[str | None] = []
    reader = VideoReader(str(clip), clip.name)
    reader.keep_packets(ring)
    for _ in reader.frames():
        troubles.append(ring.trouble)
        assert ring._group_bytes <= 40_000
    reader.close()
    # after the first key frame, and again after each of the next two
    changes = [b for a, b in itertools.pairwise(troubles) if a != b]
    assert changes[:3] == ["no key frame comes within 0 MiB", None, "no key frame comes within 0 MiB"]
