"""Sources: every frame of a file, what does not decode, paced clips, folders, parameters, cameras that
come and go."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import free_port
from hypothesis import given
from hypothesis import strategies as st
from support.pipelines import write_clip

from edgectl.core.errors import DataError, EdgectlError, SourceError
from edgectl.pipelines.sources import EndOfStream, Source, open_source, redact, v4l2
from edgectl.pipelines.sources.file import FileSource
from edgectl.pipelines.sources.media.picture import Picture
from edgectl.pipelines.sources.media.reader import reason_of
from edgectl.pipelines.stream.frame import Frame


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4")


def drain(source: Source) -> list[Frame]:
    frames = []
    try:
        while True:
            frame = source.read(5.0)
            assert frame is not None
            frames.append(frame)
    except EndOfStream:
        source.close()
        return frames


def test_a_file_gives_every_frame_once_in_order_with_media_time(clip: Path) -> None:
    source = open_source(str(clip))
    info = source.open()
    assert (info.width, info.height, info.fps, info.realtime, info.frames) == (64, 48, 15.0, False, 30)
    frames = drain(source)
    assert [f.stamp.seq for f in frames] == list(range(30))
    assert [round(f.stamp.t_s * 15) for f in frames] == list(range(30))
    assert frames[0].fmt == "I420"
    assert [p.shape for p in frames[0].planes] == [(48, 64), (24, 32), (24, 32)]
    assert abs(float(frames[20].bgr().mean()) - 160) < 6


@pytest.mark.parametrize("uri", ["{}", "file:{}", "file://{}", "{}?paced=0"])
def test_one_file_has_several_uris(clip: Path, uri: str) -> None:
    source = open_source(uri.format(clip))
    assert source.open().frames == 30
    source.close()


def test_planes_stay_valid_after_the_source_went_on(clip: Path) -> None:
    source = open_source(str(clip))
    source.open()
    first = source.read(1)
    assert first is not None
    before = first.planes[0].copy()
    drain(source)
    assert np.array_equal(first.planes[0], before)


def test_a_paced_file_decodes_a_frame_when_it_is_due_and_not_before(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    whole = FileSource._next

    def counted(*args: Any) -> Picture:
        decoded.append(args)
        return whole(*args)

    monkeypatch.setattr(FileSource, "_next", counted)
    source = open_source(f"{clip}?paced=1&fps=0.01")
    source.open()
    assert source.read(1) is not None
    before = len(decoded)
    assert source.read(0) is None
    assert len(decoded) == before
    source.close()


def test_a_paced_file_keeps_its_pace_and_the_monotonic_clock(clip: Path) -> None:
    source = open_source(f"{clip}?paced=1&fps=100")
    assert source.open().realtime
    start = time.monotonic_ns()
    frames = drain(source)
    stamps = [f.stamp.t_ns for f in frames]
    assert np.diff(stamps).tolist() == [10_000_000] * 29
    assert start - 1e9 < stamps[0] <= time.monotonic_ns()
    assert frames[-1].stamp.avail_ns >= stamps[-1]


def test_a_looping_file_goes_on_with_growing_time(clip: Path) -> None:
    source = open_source(f"{clip}?loop=1")
    source.open()
    times = []
    for _ in range(75):
        frame = source.read(1)
        assert frame is not None
        times.append(frame.stamp.t_ns)
    source.close()
    assert np.diff(times).min() > 0
    assert times[30] - times[29] == pytest.approx(1e9 / 15, rel=0.01)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"x\.mp4 is empty"),
        (b"this is no video\n" * 100, "not a video that can be decoded"),
        (b"\x00" * 5000, "not a video that can be decoded"),
    ],
)
def test_what_is_no_video_is_said_in_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        open_source(str(path)).open()
    assert "\n" not in caught.value.message


def test_a_video_cut_short_is_an_error_or_ends_early_but_never_hangs(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    for size in (len(data) // 4, len(data) // 2, len(data) - 200):
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(data[:size])
        source = open_source(str(cut))
        try:
            source.open()
            assert len(drain(source)) <= 30
        except DataError:
            pass


def test_damaged_packets_are_counted_and_the_rest_is_seen(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 400
    data[start : start + 300] = bytes(300)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(bytes(data))
    source = open_source(str(path))
    source.open()
    frames = drain(source)
    assert 0 < len(frames) <= 30


def test_audio_alone_is_no_camera(shared: Path) -> None:
    with pytest.raises(DataError, match="no video stream"):
        open_source(str(shared / "media/jfk.flac")).open()


def test_a_real_clip_has_all_its_frames(shared: Path) -> None:
    source = open_source(str(shared / "media/highway-lanes.mp4"))
    source.open()
    assert len(drain(source)) == 221


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("/nowhere/x.mp4", "no file"),
        ("gopher://x/y.mp4", "unknown source scheme"),
        ("rtsp://cam/x#ca=1&cb=2", "cb"),
        ("https://cam/x#ca=/nowhere.pem", "no file /nowhere.pem"),
        ("http://:80/x", "host or its port"),
        ("synth://nowhere", "no synthetic scene"),
        ("synth://yard?fps=0", "fps"),
        ("synth://yard?fps=nan", "fps"),
        ("synth://yard?width=1000000", "width"),
        ("synth://yard?colour=red", "colour"),
        ("synth://yard?seed=1&seed=2", "twice"),
        ("v4l2:///dev/video0?paced=1", "paced"),
        ("x\x00y", "NUL"),
        ("a" * 5000, "too long"),
    ],
)
def test_wrong_uris_are_one_sentence(uri: str, words: str) -> None:
    with pytest.raises(EdgectlError, match=words) as caught:
        open_source(uri).open()
    assert "\n" not in caught.value.message


@given(st.text(max_size=80))
def test_any_uri_gives_a_source_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(EdgectlError):
        open_source(text)


def test_credentials_never_leave(tmp_path: Path) -> None:
    assert redact("rtsp://admin:secret@cam7:554/sub") == "rtsp://cam7:554/sub"
    with pytest.raises(SourceError) as caught:
        open_source(f"rtsp://admin:secret@127.0.0.1:{free_port()}/sub").open()
    assert "secret" not in str(caught.value)
    assert caught.value.retryable


def test_a_camera_whose_name_does_not_resolve_is_away_not_broken() -> None:
    with pytest.raises(SourceError, match="name does not resolve") as caught:
        open_source("rtsp://camera.invalid/sub").open()
    assert caught.value.retryable
    assert reason_of(caught.value.__cause__ or caught.value) == "unreachable"


def test_a_local_camera_that_is_not_plugged_in_is_waited_for_without_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v4l2, "ChildReader", None)
    uri = f"v4l2://{tmp_path}/video9"
    with pytest.raises(SourceError, match="no such device"):
        open_source(uri).open()
    source = open_source(uri, patient=True)
    source.open()
    for _ in range(3):
        assert source.read(1.2) is None
        assert source.outage == "not_found"
    source.close()


def test_a_folder_gives_its_images_in_order(tmp_path: Path) -> None:
    for name, value in (("b.png", 20), ("a.jpg", 10), ("c.bmp", 30)):
        cv2.imwrite(str(tmp_path / name), np.full((10, 14, 3), value, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    assert source.open().frames == 3
    assert [round(float(f.bgr().mean()), -1) for f in drain(source)] == [10, 20, 30]


def test_a_pipe_with_the_name_of_a_picture_is_said_to_be_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(SourceError, match="neither a picture nor a folder"):
        open_source(str(tmp_path / "pipe.jpg")).open()


def test_a_folder_without_images_or_with_broken_ones_alone_and_a_broken_image_are_errors(
    tmp_path: Path,
) -> None:
    with pytest.raises(SourceError, match="no images"):
        open_source(str(tmp_path)).open()
    (tmp_path / "x.png").write_bytes(b"\x89PNG broken")
    source = open_source(str(tmp_path))
    source.open()
    with pytest.raises(DataError, match=r"no image of folder .* can be decoded"):
        source.read(1)
    alone = open_source(str(tmp_path / "x.png"))
    alone.open()
    with pytest.raises(DataError, match=r"x\.png cannot be decoded") as of_picture:
        alone.read(1)
    assert "folder" not in (of_picture.value.hint or "folder")


def test_a_broken_picture_of_a_folder_is_counted_and_the_others_keep_their_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), np.full((8, 8, 3), 90, np.uint8))
    (tmp_path / "b.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "d.png").write_bytes(b"")
    (tmp_path / "e.heic").write_bytes(b"of a phone")
    source = open_source(str(tmp_path))
    assert source.open().frames == 4
    frames = drain(source)
    assert [(f.name, f.stamp.seq, f.stamp.t_ns) for f in frames] == [
        ("a.png", 0, 0),
        ("c.png", 1, 2_000_000_000),
    ]
    assert source.decode_errors == 2
    assert "b.png cannot be decoded" in caplog.text
    assert "1 files are left out" in caplog.text


def test_an_unpaced_scene_gives_each_of_its_frames(tmp_path: Path) -> None:
    source = open_source("synth://yard?seed=3&fps=10&seconds=1.5&paced=0&width=160&height=96")
    info = source.open()
    assert (info.frames, info.realtime, info.width) == (15, False, 160)
    frames = drain(source)
    assert [f.stamp.t_ns for f in frames] == [i * 100_000_000 for i in range(15)]


def test_a_paced_scene_does_not_wait_for_a_slow_reader() -> None:
    source = open_source("synth://yard?fps=200&seconds=0.5&width=96&height=64")
    source.open()
    ticks = []
    try:
        while (frame := source.read(1)) is not None:
            assert frame.stamp.pts_s is not None
            ticks.append(round(frame.stamp.pts_s * 200))
            time.sleep(0.03)  # the slow reader
    except EndOfStream:
        pass
    assert len(ticks) < 40
    assert max(np.diff(ticks)) > 2


def test_the_road_tells_its_speed() -> None:
    source = open_source("synth://road?seconds=1&paced=0&width=160&height=96")
    source.open()
    frame = source.read(1)
    assert frame is not None
    assert frame.sensors["speed_mps"] > 0


@pytest.mark.parametrize("password", ["pa/ss", "pa?ss", "pa#ss", "pa/s@s"])
def test_a_password_that_ends_the_address_before_its_time_is_told_how_to_be_written(password: str) -> None:
    with pytest.raises(SourceError, match="its host or its port cannot be read") as e:
        open_source(f"rtsp://admin:{password}@cam7/sub")
    assert "%2F" in (e.value.hint or "")
    assert password not in e.value.message


@pytest.mark.parametrize(
    "uri", ["rtsp:/admin:secret@cam7/sub", "rtsp:admin:secret@cam7/sub", "admin:secret@cam7/sub"]
)
def test_an_address_without_its_slashes_is_no_file_and_is_not_repeated_with_its_password(uri: str) -> None:
    with pytest.raises(SourceError, match="there is no file") as e:
        open_source(uri)
    assert "rtsp://" in (e.value.hint or "")
    assert "secret" not in e.value.message


@pytest.mark.parametrize("uri", ["rtsp://admin:p[ss@cam/stream", "rtsp://[::1/stream", "v4l2://[/dev/video0"])
def test_brackets_that_hold_no_address_are_one_sentence_without_the_password(uri: str) -> None:
    with pytest.raises(SourceError, match="its host cannot be read") as e:
        open_source(uri)
    assert "%5B" in (e.value.hint or "")
    assert "p[ss" not in e.value.message
