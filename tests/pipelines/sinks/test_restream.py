"""Annotated pictures to a real RTSP server (FFmpeg's, that listens), which goes away and comes back."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest
from conftest import free_port
from numpy.typing import NDArray
from support.rtsp_recorder import Recorder

from edgectl.core.errors import LinkError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.sinks.restream import RestreamConfig, RestreamSink
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame


def shown(i: int, size: tuple[int, int] = (128, 64)) -> StreamOutput:
    """Picture ``i``, 25 a second: grey, and darker on its left half."""
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    image[:, : size[0] // 2] = 50
    return StreamOutput((), ShownFrame(Frame.of_bgr(image, Stamp(i, i * 40_000_000, 0))))


def feed(sink: RestreamSink, recorder: Recorder, start: int = 0) -> int:
    """Write until the recorder has what it wants. Before it listens the sink fails, and is simply asked again."""
    i = start
    while recorder.thread.is_alive() and i < start + 3000:
        with contextlib.suppress(LinkError):
            sink.write(shown(i))
        i += 1
        recorder.thread.join(0.02)
    assert recorder.error is None
    return i


def test_pictures_arrive_and_again_from_a_server_that_was_away() -> None:
    port = free_port()
    sink = RestreamSink(RestreamConfig(url=f"rtsp://127.0.0.1:{port}/yard", max_width=64), 25)
    first = Recorder(port, 5)
    i = feed(sink, first)
    second = Recorder(port, 5)
    feed(sink, second, i)
    sink.close()
    for recorder in (first, second):
        assert len(recorder.pictures) == 5
        picture = recorder.pictures[-1]
        # made smaller, and with both halves in their places
        assert picture.shape == (32, 64, 3)
        assert abs(picture[:, 4:28].mean() - 50) < 12
        assert abs(picture[:, 36:60].mean() - 200) < 12


def test_a_server_that_is_away_is_told_without_the_password_and_asked_again() -> None:
    sink = RestreamSink(RestreamConfig(url=f"rtsp://cam:s3cret@127.0.0.1:{free_port()}/yard"), 25)
    with pytest.raises(LinkError) as failed:
        sink.write(shown(0))
    assert failed.value.retryable
    assert "s3cret" not in str(failed.value)
    assert failed.value.__cause__ is None
    sink.close()


def test_a_rate_leaves_pictures_out(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    sink = RestreamSink(RestreamConfig(url=f"rtsp://127.0.0.1:{port}/yard", fps=5), 25)
    sent: list[int] = []
    annotated = ShownFrame.annotated

    def noted(frame: ShownFrame) -> NDArray[Any]:
        sent.append(frame.stamp.seq)
        return annotated(frame)

    monkeypatch.setattr(ShownFrame, "annotated", noted)
    recorder = Recorder(port, 3)
    recorder.listens()
    feed(sink, recorder)
    sink.close()
    assert [b - a for a, b in itertools.pairwise(sent)] == [5] * (len(sent) - 1)


def test_an_address_alone_is_enough_and_a_wrong_one_is_named() -> None:
    config = parse_config("surveillance", {"restream": "rtsp://nvr/yard"})
    options = config.chosen()["restream"]
    assert isinstance(options, RestreamConfig)
    assert options.url == "rtsp://nvr/yard"
    with pytest.raises(UsageError, match=r"restream\.url: .*rtsp://"):
        parse_config("surveillance", {"restream": {"url": "https://nvr/yard"}})
