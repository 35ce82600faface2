"""Annotated pictures to a real RTSP server (FFmpeg's, that listens), which goes away and comes back; and to those that
hang."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import free_port
from numpy.typing import NDArray
from support.fleet import wait_until
from support.rtsp_recorder import Recorder
from support.rtsp_script import answered, scripted

from edgectl.core.errors import EngineError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.sinks.base import SinkContext, StreamOutput
from edgectl.pipelines.sinks.pool import SinkPool, SinkState
from edgectl.pipelines.sinks.restream import restream
from edgectl.pipelines.sinks.restream.packets import RtpEncoder
from edgectl.pipelines.sinks.restream.restream import RestreamConfig, RestreamSink
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame


def shown(i: int, size: tuple[int, int] = (128, 64)) -> StreamOutput:
    """Picture ``i``, 25 a second: grey, and darker on its left half."""
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    image[:, : size[0] // 2] = 50
    return StreamOutput((), ShownFrame(Frame.of_bgr(image, Stamp(i, i * 40_000_000, 0))))


@contextlib.contextmanager
def pushing(url: str, **options: Any) -> Iterator[RestreamSink]:
    sink = RestreamSink(RestreamConfig(url=url, **options), SinkContext("gate", fps=25))
    try:
        yield sink
    finally:
        sink.close()


def feed(sink: RestreamSink, recorder: Recorder, start: int = 0) -> int:
    """Write until the recorder has what it wants."""
    i = start
    while recorder.thread.is_alive() and i < start + 3000:
        sink.write(shown(i))
        i += 1
        recorder.thread.join(0.02)
    assert recorder.error is None
    return i


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restream, "_CEILING_S", 0.05)
    monkeypatch.setattr(restream, "_STEADY_S", 0.05)


@pytest.mark.usefixtures("impatient")
def test_pictures_arrive_and_again_from_a_server_that_was_away() -> None:
    port = free_port()
    with pushing(f"rtsp://127.0.0.1:{port}/yard", max_width=64) as sink:
        sink.write(shown(0))
        wait_until(lambda: sink.cause == "refused", "nobody is there")
        first = Recorder(port, 8)
        i = feed(sink, first, 1)
        second = Recorder(port, 8)
        feed(sink, second, i)
        assert sink.trouble() is None
    for recorder in (first, second):
        assert len(recorder.pictures) == 8
        picture = recorder.pictures[-1]
        # made smaller, and with both halves in their places
        assert picture.shape == (32, 64, 3)
        assert abs(picture[:, 4:28].mean() - 50) < 12
        assert abs(picture[:, 36:60].mean() - 200) < 12


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_away_is_told_with_a_code_and_without_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.feeder._TROUBLE_S", 0.1)
    monkeypatch.setattr("edgectl.pipelines.sinks.pool._WATCH_S", 0.02)
    told: list[SinkState] = []
    with pushing(f"rtsp://cam:s3cret@127.0.0.1:{free_port()}/yard") as sink:
        pool = SinkPool("gate", [sink], wait=False, tell=told.append)
        pool.offer(shown(0))
        wait_until(lambda: told, "it is told")
        assert pool.close()
    assert told[0].reason == "away"
    event = told[0].event(0.0)
    assert event.data["cause"] == "refused"
    assert "127.0.0.1" in event.data["detail"]
    assert "s3cret" not in f"{told}{event}{caplog.text}{sink.trouble()}"


def test_writing_never_waits_for_a_server_that_says_nothing_and_the_end_is_quick() -> None:
    # nobody accepts: the kernel takes the connection, and no word comes
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pushing(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/yard") as sink,
    ):
        sink.write(shown(0))
        peer, _ = silent.accept()
        with peer:
            assert peer.recv(8) == b"ANNOUNCE"
            for i in range(1, 200):
                sink.write(shown(i))
            assert sink._newest is not None
            assert sink._newest.stamp.seq == 199
            sink.close()
            assert not sink._thread.is_alive()


def test_a_name_server_that_says_nothing_does_not_keep_the_end_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, go = threading.Event(), threading.Event()

    def silent(*_: Any, **__: Any) -> Any:
        asked.set()
        go.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "no")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    with pushing("rtsp://nvr.example/yard") as sink:
        sink.write(shown(0))
        assert asked.wait(10)
        sink.close()
        assert not sink._thread.is_alive()
    go.set()


def test_a_no_of_the_server_is_asked_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[int, float]] = []

    def backoff(attempt: int, ceiling_s: float, away_s: float, jitter: float) -> float:
        waits.append((attempt, ceiling_s))
        return 0.01

    monkeypatch.setattr(restream, "backoff_s", backoff)

    def four() -> bool:
        sink.write(shown(0))
        return len(waits) >= 4

    with (
        scripted(lambda asked: answered(asked, "404 Not Found")) as server,
        pushing(f"rtsp://127.0.0.1:{server.port}/yard") as sink,
    ):
        wait_until(four, "it is asked again")
    assert waits[:4] == [(1, 60.0), (2, 60.0), (3, 60.0), (4, 60.0)]


def test_a_rate_leaves_pictures_out(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    taken: list[int] = []
    packets = RtpEncoder.packets

    def noted(encoder: RtpEncoder, image: NDArray[Any], t_ns: int) -> list[bytes]:
        taken.append(t_ns // 40_000_000)
        return packets(encoder, image, t_ns)

    monkeypatch.setattr(RtpEncoder, "packets", noted)
    recorder = Recorder(port, 5)
    recorder.listens()
    with pushing(f"rtsp://127.0.0.1:{port}/yard", fps=5) as sink:
        feed(sink, recorder)
    assert len(taken) >= 5
    assert all(i % 5 == 0 for i in taken)


def test_an_ffmpeg_without_an_encoder_closes_the_sink_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise EngineError("this FFmpeg has no H.264 encoder (libx264)")

    monkeypatch.setattr(restream, "RtpEncoder", none)
    with scripted() as server, pushing(f"rtsp://127.0.0.1:{server.port}/yard") as sink:
        sink.write(shown(0))
        wait_until(lambda: sink._failed, "it has failed")
        with pytest.raises(EngineError, match=r"H\.264"):
            sink.write(shown(1))


def test_an_encoder_that_hangs_is_told_and_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restream, "_HANGS_S", 0.05)
    monkeypatch.setattr(restream, "_LAST_S", 0.05)
    monkeypatch.setattr(restream, "_JOIN_S", 0.05)
    go = threading.Event()

    def hang(*_: Any) -> list[bytes]:
        go.wait()
        return []

    monkeypatch.setattr(RtpEncoder, "packets", hang)
    with scripted() as server, pushing(f"rtsp://127.0.0.1:{server.port}/yard") as sink:
        sink.write(shown(0))
        wait_until(lambda: "encoder" in (sink.trouble() or ""), "it is told")
        sink.close()
        go.set()


def test_an_address_alone_is_enough_and_a_wrong_one_is_named() -> None:
    config = parse_config("surveillance", {"restream": "rtsps://nvr/yard"})
    options = config.chosen()["restream"]
    assert isinstance(options, RestreamConfig)
    assert options.url == "rtsps://nvr/yard"
    with pytest.raises(UsageError, match=r"restream\.url: .*rtsp://") as failed:
        parse_config("surveillance", {"restream": {"url": "https://ann:geheim@nvr/yard"}})
    assert "geheim" not in str(failed.value)
