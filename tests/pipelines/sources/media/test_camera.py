"""Cameras that come and go: found again soon, waited for without a fuss."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import free_port
from hypothesis import given
from hypothesis import strategies as st
from support.pipelines import write_clip

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources import EndOfStream, Source
from edgectl.pipelines.sources.media.camera import Camera, CameraReader, LiveSource, backoff_s
from edgectl.pipelines.sources.media.network import network_camera
from edgectl.pipelines.sources.media.reader import Away, VideoReader
from edgectl.pipelines.stream.frame import Frame


@given(st.integers(0, 10_000), st.sampled_from([0.8, 30.0, 300.0]), st.floats(0, 1e6), st.floats(-1, 1))
def test_back_off_doubles_up_to_its_ceiling(
    attempt: int, ceiling_s: float, away_s: float, jitter: float
) -> None:
    waits = [backoff_s(attempt + i, ceiling_s, away_s, 0) for i in (0, 1)]
    assert waits[0] <= waits[1] <= max(ceiling_s, 10.0 if away_s >= 600 else 0.0)
    assert 0.8 * waits[0] - 1e-9 <= backoff_s(attempt, ceiling_s, away_s, jitter) <= 1.2 * waits[0] + 1e-9
    assert backoff_s(0, ceiling_s, away_s, 0) == 0.5


def test_a_camera_is_looked_for_every_second_for_ten_minutes_and_less_often_then() -> None:
    assert backoff_s(500, 0.8, 899.0, 1) + 1.0 < 2.0
    assert backoff_s(500, 0.8, 901.0, 0) == 10.0


def sender_at(port: int) -> Camera:
    """ffmpeg as a server takes one connection alone, so nobody may look whether it is there."""
    return Camera(network_camera(f"tcp://127.0.0.1:{port}", port=port, format="mpegts").connect)


def away(reason: str) -> SourceError:
    e = SourceError("away", retryable=True)
    e.__cause__ = Away(reason)
    return e


def test_a_new_reason_is_a_new_beginning_and_a_camera_is_opened_only_where_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused a hundred times, then not ready yet: the wait for a person begins anew, and does not start at five
    minutes."""
    clip = write_clip(tmp_path / "c.mp4")
    waits: list[float] = []
    monkeypatch.setattr(
        "edgectl.pipelines.sources.media.camera.backoff_s",
        lambda attempt, ceiling_s, away_s, jitter: (
            waits.append(backoff_s(attempt, ceiling_s, away_s, 0)),
            0.0,
        )[1],
    )
    reasons = ["refused"] * 50 + ["not_found", "not_found"]
    opened = []

    def look() -> None:
        if reasons[:1] == ["refused"]:
            raise away(reasons.pop(0))

    def connect(stop: threading.Event) -> CameraReader:
        opened.append(1)
        if reasons:
            raise away(reasons.pop(0))
        return VideoReader(str(clip), "camera", low_delay=True)

    source = LiveSource("rtsp://cam/x", Camera(connect, look), patient=True)
    source.open()
    while source.read(1) is None:
        pass
    source.close()
    # the first one, both that were not found, and the last
    assert len(opened) == 4
    assert waits == [0.5] + [0.8] * 49 + [0.5, 1.0]


def serve(clip: Path, port: int) -> subprocess.Popen[bytes]:
    command = f"ffmpeg -v quiet -re -stream_loop -1 -i {clip} -c:v mpeg2video -g 5 -f mpegts tcp://127.0.0.1:{port}?listen=1"
    return subprocess.Popen(command.split(), stdin=subprocess.DEVNULL)


def next_frame(source: Source, within_s: float) -> Frame:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if (frame := source.read(0.1)) is not None:
            return frame
    raise AssertionError("no frame came")


def test_a_camera_that_dies_is_found_again(tmp_path: Path) -> None:
    """A real sender over TCP, killed and started anew: same source object, sequence and time go on, the
    reason is known."""
    clip = write_clip(tmp_path / "c.mp4", frames=60, fps=25)
    port = free_port()
    source = LiveSource("rtsp://cam/x", sender_at(port), patient=True)
    assert source.open().width is None
    assert source.outage == "refused"
    sender = serve(clip, port)
    try:
        first = next_frame(source, 20)
        assert source.outage is None
    finally:
        sender.kill()
        sender.wait()
    deadline = time.monotonic() + 20
    last = first
    while source.outage is None and time.monotonic() < deadline:
        last = source.read(0.2) or last
    assert source.outage in ("ended", "refused", "timeout")
    sender = serve(clip, port)
    try:
        again = next_frame(source, 30)
    finally:
        sender.kill()
        sender.wait()
        source.close()
    assert again.stamp.seq == last.stamp.seq + 1
    assert again.stamp.t_ns > last.stamp.t_ns
    assert source.reconnects >= 1


def test_a_camera_that_freezes_is_an_outage_by_time_out(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=60, fps=25)
    port = free_port()
    source = LiveSource("rtsp://cam/x", sender_at(port), patient=True)
    sender = serve(clip, port)
    try:
        source.open()
        next_frame(source, 20)
        os.kill(sender.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while source.outage is None and time.monotonic() < deadline:
            source.read(0.2)
        assert source.outage == "timeout"
    finally:
        sender.kill()
        sender.wait()
        source.close()


def test_an_interrupt_ends_the_wait_for_a_camera() -> None:
    source = LiveSource("rtsp://cam/x", sender_at(free_port()), patient=True)
    source.open()
    source.interrupt()
    with pytest.raises(EndOfStream):
        source.read(60)
