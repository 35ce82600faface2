"""Recordings with faults: what FFmpeg knows to be damaged is counted and never shown; what changes in the
middle is followed and told."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.pipelines import write_h264

from edgectl.core.errors import DataError
from edgectl.pipelines.sources import EndOfStream, Source, open_source
from edgectl.pipelines.sources.media import reader
from edgectl.pipelines.sources.media.camera import Camera, LiveSource
from edgectl.pipelines.sources.media.reader import VideoReader
from edgectl.pipelines.sources.media.transport import changed_table
from edgectl.pipelines.stream.frame import Frame


def recorded(path: Path) -> Camera:
    """A camera that sends what is in a file."""
    return Camera(lambda stop: VideoReader(str(path), "camera", low_delay=True))


class Read:
    """Everything that a source gave, to its end."""

    def __init__(self, source: Source) -> None:
        self.frames: list[Frame] = []
        self.told: list[tuple[int, str]] = []
        self.ending = ""
        source.open()
        try:
            while True:
                frame = source.read(5.0)
                if frame is not None:
                    self.frames.append(frame)
                    self.told += [(frame.stamp.seq, n.reason) for n in frame.notices]
        except EndOfStream as e:
            self.ending = e.notice.reason if e.notice is not None else ""
        self.errors, self.corrupt = source.decode_errors, source.corrupt_frames
        source.close()

    @property
    def times(self) -> list[float]:
        return [f.stamp.t_s for f in self.frames]


def read(path: Path, query: str = "") -> Read:
    return Read(open_source(f"{path}{query}"))


def test_two_recordings_in_one_stream_keep_one_clock_and_the_restart_is_told(tmp_path: Path) -> None:
    part = write_h264(tmp_path / "part.ts")
    whole = tmp_path / "whole.ts"
    whole.write_bytes(part.read_bytes() * 2)
    r = read(whole)
    assert np.diff(r.times) == pytest.approx([0.1] * 79, abs=1e-6)
    assert r.told == [(40, "clock_restarted")]
    assert r.ending == "ended"


def test_a_second_recording_with_another_size_is_read_on(tmp_path: Path) -> None:
    a, b = write_h264(tmp_path / "a.ts"), write_h264(tmp_path / "b.ts", size=(96, 64))
    (tmp_path / "ab.ts").write_bytes(a.read_bytes() + b.read_bytes())
    r = read(tmp_path / "ab.ts")
    assert [(f.width, f.height) for f in r.frames] == [(160, 96)] * 40 + [(96, 64)] * 40


@pytest.mark.parametrize(
    ("one", "other"), [("libx264", "mpeg2video"), ("mpeg2video", "libx264"), ("mpeg2video", "mpeg4")]
)
def test_a_second_recording_with_another_codec_is_read_on_and_told(
    tmp_path: Path, one: str, other: str
) -> None:
    a = write_h264(tmp_path / "a.ts", codec=one, frames=60)
    b = write_h264(tmp_path / "b.ts", codec=other, frames=60, size=(96, 64), gop=100)
    (tmp_path / "ab.ts").write_bytes(a.read_bytes() + b.read_bytes())
    r = read(tmp_path / "ab.ts")
    sizes = [(f.width, f.height) for f in r.frames]
    # what the old decoder still held at the joint may be lost
    assert sizes.count((160, 96)) >= 57
    assert sizes.count((96, 64)) == 60
    assert "codec_changed" in [reason for _, reason in r.told]
    assert r.errors == 0
    assert min(np.diff(r.times)) > 0


def test_a_loop_over_two_codecs_begins_again_with_the_first(tmp_path: Path) -> None:
    a = write_h264(tmp_path / "a.ts", codec="libx264")
    b = write_h264(tmp_path / "b.ts", codec="mpeg2video", size=(96, 64))
    (tmp_path / "ab.ts").write_bytes(a.read_bytes() + b.read_bytes())
    source = open_source(f"{tmp_path / 'ab.ts'}?loop=1")
    source.open()
    widths = []
    for _ in range(160):
        frame = source.read(5)
        assert frame is not None
        widths.append(frame.width)
    source.close()
    assert len([1 for x, y in itertools.pairwise(widths) if x != y]) >= 3


def test_tables_that_stay_the_same_and_tables_that_change(tmp_path: Path) -> None:
    a = write_h264(tmp_path / "a.ts").read_bytes()
    b = write_h264(tmp_path / "b.ts", codec="mpeg2video").read_bytes()
    assert changed_table(a + a) is None
    at = changed_table(a + b)
    assert at is not None
    assert at >= len(a)
    assert (a + b)[at : at + 3] == b"\x47\x40\x00"
    for junk in (b"", b"\x47", b"\x47" * 188 * 3, bytes(1000)):
        assert changed_table(junk) is None


def damage(path: Path, out: Path, *frames: int) -> Path:
    """Overwrite the middle of some frames' packets."""
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    for n in frames:
        at, length = packets[n].pos, packets[n].size
        assert at is not None
        data[at + length // 3 : at + length * 2 // 3] = rng.bytes(length * 2 // 3 - length // 3)
    out.write_bytes(data)
    return out


def test_damaged_pictures_and_what_is_built_on_them_are_counted_and_never_shown(tmp_path: Path) -> None:
    clean = write_h264(tmp_path / "clean.mp4", frames=80, size=(320, 192), detail=4)
    whole = {round(f.stamp.t_s * 10): f.planes[0].astype(int) for f in read(clean).frames}
    hurt = read(damage(clean, tmp_path / "hurt.mp4", 20, 50))
    assert hurt.errors > 0
    assert hurt.corrupt > 0
    assert len(hurt.frames) + hurt.errors + hurt.corrupt == 80
    worst = max(float(np.abs(f.planes[0] - whole[round(f.stamp.t_s * 10)]).mean()) for f in hurt.frames)
    assert worst < 1


def test_the_same_damage_gives_the_same_pictures_each_time(tmp_path: Path) -> None:
    clean = write_h264(tmp_path / "clean.mp4", frames=60, size=(320, 192), detail=4)
    path = damage(clean, tmp_path / "hurt.mp4", 13, 20, 47)
    one, two = read(path), read(path)
    assert one.times == two.times
    assert all(np.array_equal(a.planes[0], b.planes[0]) for a, b in zip(one.frames, two.frames, strict=True))


def test_a_stream_that_begins_between_key_frames_shows_nothing_grey(tmp_path: Path) -> None:
    """MPEG-4 decodes the pictures before the first key frame onto grey, and flags nothing."""
    clean = write_h264(tmp_path / "clean.avi", codec="mpeg4", frames=40, gop=15)
    late = tmp_path / "late.avi"
    with av.open(str(clean)) as source, av.open(str(late), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for n, packet in enumerate(source.demux(video=0)):
            if n >= 5 and packet.size:
                packet.stream = stream
                container.mux(packet)
    r = read(late)
    assert r.corrupt == 10
    assert len(r.frames) == 25
    last = read(clean).frames[-1].planes[0].astype(int)
    assert np.abs(r.frames[-1].planes[0] - last).mean() < 3


@pytest.mark.parametrize("name", ["x.mkv", "x.mp4", "x.flv"])
def test_a_file_that_is_cut_short_is_told(tmp_path: Path, name: str) -> None:
    options = {"movflags": "faststart"} if name == "x.mp4" else {}
    path = write_h264(
        tmp_path / name, codec="flv1" if name == "x.flv" else "libx264", frames=100, options=options
    )
    assert read(path).ending == "ended"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    r = read(path)
    assert r.ending == "truncated"
    assert 30 < len(r.frames) < 90


def test_a_file_whose_sound_goes_on_is_not_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=16000)
        assert isinstance(video, av.VideoStream)
        assert isinstance(audio, av.AudioStream)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            container.mux(
                video.encode(
                    av.VideoFrame.from_ndarray(np.full((48, 64, 3), i * 9, np.uint8), format="bgr24")
                )
            )
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000 * 8), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    assert read(path).ending == "ended"


def test_a_stream_without_times_says_that_its_clock_is_missing(tmp_path: Path) -> None:
    r = read(write_h264(tmp_path / "x.h264"))
    assert r.told == [(2, "clock_missing")]
    assert min(np.diff(r.times)) > 0.03


def test_a_container_with_decoding_times_only_gives_times_in_order(tmp_path: Path) -> None:
    """AVI with B pictures: the presentation times that come out of it go back and forth."""
    r = read(write_h264(tmp_path / "x.avi", frames=60))
    assert len(r.frames) == 60
    assert [reason for _, reason in r.told if reason != "clock_unordered"] == []
    assert r.times[-1] - r.times[0] == pytest.approx(5.9, abs=0.3)


def test_a_camera_whose_times_restart_says_so_and_keeps_its_own_clock(tmp_path: Path) -> None:
    part = write_h264(tmp_path / "part.ts").read_bytes()
    (tmp_path / "x.ts").write_bytes(part * 2)
    source = LiveSource("rtsp://cam/x", recorded(tmp_path / "x.ts"))
    source.open()
    told, times = [], []
    while source.outage is None:
        frame = source.read(1)
        if frame is not None:
            times.append(frame.stamp.t_ns)
            told += [n.reason for n in frame.notices]
    source.close()
    assert source.outage == "ended"
    assert told == ["clock_restarted"]
    assert min(np.diff(times)) > 0


def test_a_camera_that_sends_damage_alone_leaves_its_reader_in_control(tmp_path: Path) -> None:
    """A read comes back in its time whatever arrives, so that the silence can be told."""
    clean = write_h264(tmp_path / "c.mp4", frames=60, size=(320, 192), gop=20, detail=4)
    path = damage(clean, tmp_path / "x.mp4", 20)
    source = LiveSource("rtsp://cam/x", recorded(path))
    source.open()
    nothing = 0
    while source.outage is None:
        nothing += source.read(0) is None and source.outage is None
    source.close()
    assert source.corrupt_frames > 0
    assert nothing >= source.corrupt_frames + source.decode_errors


def test_nothing_but_damage_is_no_video(tmp_path: Path) -> None:
    clean = write_h264(tmp_path / "c.mp4", frames=20, gop=1, size=(320, 192), detail=4)
    path = damage(clean, tmp_path / "x.mp4", *range(20))
    with pytest.raises(DataError, match="no whole frame"):
        open_source(str(path)).open()


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_h264(tmp_path / "x.mp4", frames=2)
    monkeypatch.setattr(reader, "MAX_PIXELS", 1000)
    monkeypatch.setattr(reader, "_decode", None)
    with pytest.raises(DataError, match=r"picture size of \d+x\d+, which is not supported") as caught:
        open_source(str(path)).open()
    assert "smaller" in (caught.value.hint or "")


def test_key_frames_alone_are_decoded_where_no_more_are_wanted_and_the_others_are_counted(
    tmp_path: Path,
) -> None:
    one = VideoReader(
        str(write_h264(tmp_path / "clip.mp4", frames=60, codec="mpeg4")), "clip", low_delay=True
    )
    assert one.has_key_frames
    shown: list[int] = []
    for picture in one.frames():
        if picture is None:
            # in the middle of what is left out
            one.only_keys = one.only_keys and one.skipped < 5 + 9 + 3
            continue
        assert picture.pts_ns is not None
        shown.append(round(picture.pts_ns / 1e8))
        if shown[-1] == 14:
            one.only_keys = True
    # one in ten is a key frame; what is built on one that was left out is left out, too
    assert shown == [*range(15), 20, 30, *range(40, 60)]
    assert one.skipped == 60 - len(shown)
    assert (one.errors, one.corrupt) == (0, 0)
    one.close()


def test_where_each_picture_stands_alone_there_is_nothing_to_leave_out(tmp_path: Path) -> None:
    one = VideoReader(str(write_h264(tmp_path / "clip.avi", codec="rawvideo")), "clip")
    assert not one.has_key_frames
    one.close()


def test_a_camera_that_decodes_key_frames_alone_tells_how_many_it_left_out_and_goes_on_after_an_outage(
    tmp_path: Path,
) -> None:
    clip = write_h264(tmp_path / "clip.mp4", frames=40, codec="mpeg4")
    opened: list[VideoReader] = []

    def connect(stop: Any) -> VideoReader:
        opened.append(VideoReader(str(clip), "camera", low_delay=True))
        return opened[-1]

    source = LiveSource("rtsp://cam", Camera(connect, gives_packets=True))
    source.open()
    assert source.only_key_frames(True)
    frames = []
    while len(opened) < 3:
        if (frame := source.read(0.2)) is not None:
            frames.append(frame)
    # four of forty, twice, and the first one of the third time
    assert (len(frames), source.degraded_frames) == (9, 72)
    assert [n.reason for frame in frames for n in frame.notices] == []
    assert source.only_key_frames(False)
    while len(opened) < 4:
        if (frame := source.read(0.2)) is not None:
            frames.append(frame)
    source.close()
    assert (len(frames), source.degraded_frames) == (49, 72)


def test_a_camera_without_key_frames_says_so(tmp_path: Path) -> None:
    clip = write_h264(tmp_path / "clip.avi", codec="rawvideo")
    source = LiveSource("rtsp://cam", recorded(clip))
    source.open()
    assert not source.only_key_frames(True)
    assert source.read(1.0) is not None
    source.close()
