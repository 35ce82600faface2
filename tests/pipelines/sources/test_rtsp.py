"""A camera behind a real RTSP server: it dies, stalls, wants a password, shows a certificate."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import free_port
from support import rtsp
from support.web import own_certificate

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources import Source, open_source
from edgectl.pipelines.sources.media.reader import reason_of
from edgectl.pipelines.stream.frame import Frame


def next_frame(source: Source) -> Frame:
    while (frame := source.read(1)) is None:
        pass
    return frame


@pytest.fixture
def at() -> Iterator[int]:
    """The port of a camera that is there."""
    port = free_port()
    server = rtsp.camera(port)
    yield port
    rtsp.end(server)


def test_a_camera_that_is_killed_is_an_outage_and_is_read_again_when_it_is_back() -> None:
    port = free_port()
    server = rtsp.camera(port)
    source = open_source(f"rtsp://127.0.0.1:{port}/test")
    try:
        info = source.open()
        assert (info.width, info.height, info.realtime) == (320, 240, True)
        last = next_frame(source)
        rtsp.end(server)
        while source.outage is None:
            last = source.read(1) or last
        assert source.outage in ("ended", "refused", "timeout")
        while source.outage != "refused":
            source.read(1)
        server = rtsp.camera(port)
        again = next_frame(source)
        assert source.outage is None
        assert again.stamp.seq == last.stamp.seq + 1
        assert again.stamp.t_ns > last.stamp.t_ns
    finally:
        source.close()
        rtsp.end(server)


def test_a_stall_of_three_seconds_is_no_outage_and_what_crosses_meanwhile_is_seen_on_both_sides() -> None:
    port = free_port()
    server = rtsp.camera(port)
    source = open_source(f"rtsp://127.0.0.1:{port}/test")
    try:
        source.open()
        before = next_frame(source)
        server.send_signal(signal.SIGSTOP)
        again = threading.Timer(3, server.send_signal, (signal.SIGCONT,))
        again.start()
        while (after := next_frame(source)).stamp.avail_ns - before.stamp.avail_ns < 2e9:
            before = after
        again.join()
        assert source.outage is None
        assert source.reconnects == 0  # type: ignore[attr-defined]
        assert after.stamp.seq == before.stamp.seq + 1
        assert (after.bgr() != before.bgr()).any()
        # it was taken right behind the one before, and held up
        assert after.stamp.pts_s is not None
        assert before.stamp.pts_s is not None
        assert after.stamp.t_s - before.stamp.t_s == pytest.approx(
            after.stamp.pts_s - before.stamp.pts_s, abs=1e-6
        )
    finally:
        source.close()
        rtsp.end(server)


def refused(uri: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_source(uri).open()
    assert "secret" not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_a_wrong_password_is_told_at_once_and_the_right_one_opens() -> None:
    port = free_port()
    server = rtsp.camera(port, login="admin:secret")
    try:
        for login in ("", "admin:secret1@"):
            e = refused(f"rtsp://{login}127.0.0.1:{port}/test")
            assert reason_of(e.__cause__ or e) == "auth"
            assert not e.retryable
        source = open_source(f"rtsp://admin:secret@127.0.0.1:{port}/test")
        source.open()
        next_frame(source)
        source.close()
    finally:
        rtsp.end(server)


def test_a_path_that_the_camera_does_not_have_is_told(at: int) -> None:
    e = refused(f"rtsp://127.0.0.1:{at}/other")
    assert reason_of(e.__cause__ or e) == "not_found"


def test_a_certificate_is_checked(at: int, tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path)
    with rtsp.secured(at, certificate, key) as port:
        e = refused(f"rtsps://127.0.0.1:{port}/test")
        assert reason_of(e.__cause__ or e) == "tls"
        assert "#ca=" in (e.hint or "")
        source = open_source(f"rtsps://127.0.0.1:{port}/test#ca={certificate}")
        source.open()
        assert next_frame(source).width == 320
        source.close()
