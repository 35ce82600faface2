"""Pipelines of GStreamer, in a child under the Python that has it; and the one that is made for a Jetson's camera."""

from __future__ import annotations

import numpy as np
import pytest

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources import gst, open_source
from edgectl.pipelines.sources.gst import CsiOptions, csi_pipeline
from edgectl.pipelines.sources.media.reader import reason_of


@pytest.fixture
def gstreamer() -> None:
    try:
        gst.python_with_gstreamer()
    except SourceError as e:
        pytest.skip(f"{e.message}: {e.hint}")


@pytest.mark.usefixtures("gstreamer")
@pytest.mark.parametrize(("size", "fmt"), [((322, 242), "I420"), ((321, 241), "BGR"), ((1920, 1080), "I420")])
def test_a_pipeline_gives_its_frames_until_it_ends(size: tuple[int, int], fmt: str) -> None:
    caps = f"video/x-raw,width={size[0]},height={size[1]},framerate=25/1"
    source = open_source(f"gst://videotestsrc num-buffers=25 is-live=true pattern=red ! {caps}")
    info = source.open()
    assert (info.width, info.height, info.fps, info.kind) == (*size, 25.0, "live")
    frames = []
    while source.outage is None:
        frame = source.read(1)
        frames += [] if frame is None else [frame]
    source.close()
    assert source.outage == "ended"
    assert len(frames) >= 2
    frame = frames[-1]
    assert (frame.width, frame.height, frame.fmt) == (*size, fmt)
    blue, green, red = frame.bgr().reshape(-1, 3).mean(0)
    assert red > 240
    assert max(blue, green) < 15
    assert np.diff([f.stamp.t_ns for f in frames]).min() > 0


@pytest.mark.usefixtures("gstreamer")
@pytest.mark.parametrize(
    ("pipeline", "reason", "words"),
    [
        ("thereisnosuch", "invalid", "does not take the pipeline: no element"),
        ("v4l2src device=/dev/video99", "not_found", "video99"),
    ],
)
def test_a_pipeline_that_cannot_run_is_one_sentence(pipeline: str, reason: str, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        open_source(f"gst://{pipeline}").open()
    assert reason_of(caught.value.__cause__ or caught.value) == reason
    assert "\n" not in caught.value.message


@pytest.mark.usefixtures("gstreamer")
def test_frames_that_are_too_large_are_an_outage_and_not_taken() -> None:
    with pytest.raises(SourceError, match="size of 8200x8200, which is not supported") as caught:
        open_source("gst://videotestsrc num-buffers=2 ! video/x-raw,width=8200,height=8200").open()
    assert reason_of(caught.value.__cause__ or caught.value) == "invalid"


def test_without_gstreamer_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gst, "_PYTHONS", ("/nowhere/python3",))
    gst.python_with_gstreamer.cache_clear()
    with pytest.raises(SourceError, match="has no GStreamer") as caught:
        open_source("gst://videotestsrc").open()
    gst.python_with_gstreamer.cache_clear()
    assert "python3-gi" in (caught.value.hint or "")


def test_the_pipeline_of_a_ribbon_camera_is_that_of_its_sensor_and_mode() -> None:
    assert csi_pipeline(1, CsiOptions(width=1920, height=1080, fps=60)) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=60/1"
        " ! nvvidconv"
    )


@pytest.mark.parametrize(
    "uri", ["csi://", "csi://front", "csi://123", "csi://0?width=1", "gst://", "gst:// !"]
)
def test_what_names_no_camera_is_said(uri: str) -> None:
    with pytest.raises(SourceError, match=r"names no|width"):
        open_source(uri)
