"""Decoding by hardware, on machines that have none: which device is asked for, and that the processor takes over with a
word. The listing and the probe are doubles; the decoder that fails is real where it can be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.pipelines import write_h264

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources import EndOfStream, open_source
from edgectl.pipelines.sources.media import hardware, reader
from edgectl.pipelines.sources.media.camera import Camera, LiveSource
from edgectl.pipelines.sources.media.hardware import Hardware, built_in, opens
from edgectl.pipelines.sources.media.picture import Upright, picture_of
from edgectl.pipelines.sources.media.reader import VideoReader
from edgectl.pipelines.stream.frame import Frame


def machine(monkeypatch: pytest.MonkeyPatch, built: list[str], there: list[str]) -> list[str]:
    """FFmpeg knows the ``built`` devices, and those ``there`` open. Returns what was probed."""
    probed: list[str] = []

    def probe(name: str) -> bool:
        probed.append(name)
        return name in there

    monkeypatch.setattr(hardware, "built_in", lambda: built)
    monkeypatch.setattr(hardware, "opens", probe)
    return probed


def everything(uri: str) -> tuple[list[Frame], list[tuple[str, dict[str, Any]]]]:
    """All frames, and what was told of the decoder."""
    source = open_source(uri)
    source.open()
    frames: list[Frame] = []
    try:
        while True:
            if (frame := source.read(5.0)) is not None:
                frames.append(frame)
    except EndOfStream:
        source.close()
    told = [(n.reason, dict(n.data)) for f in frames for n in f.notices if n.reason.endswith("_decode")]
    return frames, told


@pytest.mark.parametrize(
    ("choice", "built", "there", "device", "why"),
    [
        ("auto", ["qsv", "vaapi", "cuda"], ["vaapi", "qsv"], "vaapi", None),
        ("auto", ["qsv", "vaapi", "cuda"], [], None, "no_device"),
        ("auto", [], ["cuda"], None, "not_built"),
        ("auto", ["amf"], ["amf"], None, "not_built"),
        ("vaapi", ["cuda"], ["cuda"], None, "not_built"),
        ("vaapi", ["cuda", "vaapi"], ["cuda"], None, "no_device"),
        ("qsv", ["cuda", "qsv"], ["cuda", "qsv"], "qsv", None),
    ],
)
def test_the_first_device_that_opens_is_taken_and_else_there_is_a_word(
    monkeypatch: pytest.MonkeyPatch,
    choice: Any,
    built: list[str],
    there: list[str],
    device: str | None,
    why: str | None,
) -> None:
    probed = machine(monkeypatch, built, there)
    one = Hardware(choice)
    accelerator = one.accelerator()
    assert (one.device, one.why) == (device, why)
    assert (accelerator is None) == (device is None)
    assert one.told() == (
        ("software_decode", {"why": why}) if why else ("hardware_decode", {"device": device})
    )
    once = list(probed)
    one.accelerator()
    assert probed == once, "looked for at every reconnect"


def test_nobody_looks_for_hardware_who_was_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probed = machine(monkeypatch, ["cuda"], ["cuda"])
    clip = write_h264(tmp_path / "clip.mp4")
    frames, told = everything(str(clip))
    assert (len(frames), told, probed) == (40, [], [])


def test_this_very_machine_decodes_the_same_pictures_whatever_it_has(tmp_path: Path) -> None:
    clip = write_h264(tmp_path / "clip.mp4")
    plain, _ = everything(str(clip))
    frames, told = everything(f"{clip}?hw=auto")
    assert len(frames) == 40
    ((reason, data),) = told
    assert reason in ("hardware_decode", "software_decode")
    if reason == "software_decode":
        assert data["why"] in ("not_built", "no_device", "codec")
    for one, other in zip(plain, frames, strict=True):
        assert np.abs(one.bgr().astype(int) - other.bgr()).max() <= 4


def test_every_device_of_this_build_opens_or_does_not_and_raises_nothing() -> None:
    assert {opens(name) for name in built_in()} <= {True, False}
    assert not opens("no such thing") or "cuda" in built_in()


def test_a_device_that_does_not_know_the_codec_leaves_it_to_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """FFmpeg opens the container then, and does not use the device: as with the real one."""
    machine(monkeypatch, ["vaapi"], ["vaapi"])
    clip = write_h264(tmp_path / "clip.mp4", codec="mpeg4")
    frames, told = everything(f"{clip}?hw=vaapi")
    assert len(frames) == 40
    assert told == [("software_decode", {"why": "codec"})]


class Stubborn:
    """The reader of a device that takes packets and gives nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = 0
        machine(monkeypatch, ["vaapi"], ["vaapi"])
        decode, open_ = reader._decode, VideoReader._open

        def refuse(packet: Any) -> Any:
            if self.one is not None and self.one.hardware.device is not None:
                return (), av.error.InvalidDataError(1, "no surface")
            return decode(packet)

        def opening(this: VideoReader, skip: int) -> None:
            self.one = None
            device = this.hardware.device
            open_(this, skip)
            self.opened += 1
            if self.opened == 1:
                # FFmpeg would have used it
                this.hardware.device, this.hardware.why = device or "vaapi", None
            self.one = this

        self.one: VideoReader | None = None
        monkeypatch.setattr(reader, "_decode", refuse)
        monkeypatch.setattr(VideoReader, "_open", opening)


def test_hardware_that_gives_nothing_is_given_up_and_no_frame_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stubborn = Stubborn(monkeypatch)
    clip = write_h264(tmp_path / "clip.mp4", frames=60)
    frames, told = everything(f"{clip}?hw=auto")
    assert stubborn.opened == 2
    assert len(frames) == 60
    assert told == [("software_decode", {"why": "failed"})]


def test_a_camera_does_not_try_it_again_after_an_outage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stubborn = Stubborn(monkeypatch)
    clip = write_h264(tmp_path / "clip.mp4", frames=30)
    one = Hardware("auto")
    source = LiveSource(
        "rtsp://cam", Camera(lambda stop: VideoReader(str(clip), "cam", low_delay=True, hardware=one))
    )
    source.open()
    frames: list[Frame] = []
    while len(frames) < 40:
        if (frame := source.read(0.2)) is not None:
            frames.append(frame)
    source.close()
    assert [n.reason for f in frames for n in f.notices] == ["software_decode"]
    assert stubborn.opened == 3, "once by the device, once instead of it, once after the outage"


def test_pictures_that_come_back_from_a_device_are_taken_like_others() -> None:
    """They are NV12 in memory."""
    image = np.full((48, 64, 3), (200, 80, 40), np.uint8)
    plain = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")
    device = plain.reformat(format="nv12")
    one, other = (picture_of(f, 0, Upright()) for f in (plain, device))
    assert other.fmt == "I420"
    for a, b in zip(one.planes, other.planes, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_device_that_nobody_knows_and_a_pipe_are_refused_with_the_next_step(tmp_path: Path) -> None:
    clip = write_h264(tmp_path / "clip.mp4")
    with pytest.raises(SourceError, match="hw"):
        open_source(f"{clip}?hw=warp")
    with pytest.raises(SourceError, match="hw"):
        open_source("rtsp://cam/stream#hw=warp")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SourceError, match="pipe cannot be decoded by hardware"):
        open_source(f"{pipe}?hw=auto")
