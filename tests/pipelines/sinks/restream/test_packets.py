"""Pictures as RTP: what FFmpeg packs, FFmpeg unpacks by the description."""

from __future__ import annotations

import av
import numpy as np
import pytest

from edgectl.core.errors import EngineError
from edgectl.pipelines.sinks import encode
from edgectl.pipelines.sinks.restream.packets import RtpEncoder


def test_packets_are_small_in_order_and_described() -> None:
    encoder = RtpEncoder((320, 240), 25, 2000)
    noise = np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    first = encoder.packets(noise, 10**12)
    second = encoder.packets(noise, 10**12 + 40_000_000)
    encoder.close()
    rtp = [p for p in first if p[1] & 0x7F == 96]
    assert len(rtp) > 3
    assert max(map(len, first)) <= 1400
    numbers = [int.from_bytes(p[2:4], "big") for p in rtp]
    assert [(n - numbers[0]) % 65536 for n in numbers] == list(range(len(rtp)))
    assert [bool(p[1] & 0x80) for p in rtp] == [False] * (len(rtp) - 1) + [True]
    times = [int.from_bytes(next(p for p in ps if p[1] & 0x7F == 96)[4:8], "big") for ps in (first, second)]
    assert (times[1] - times[0]) % 2**32 == 3600
    text = encoder.description().decode()
    assert "a=rtpmap:96 H264/90000\r\n" in text
    assert "packetization-mode=1;profile-level-id=" in text
    assert ",," not in text


def test_no_more_than_its_rate_over_a_second() -> None:
    encoder = RtpEncoder((320, 240), 25, 300)
    rng = np.random.default_rng(1)
    sizes = []
    for i in range(100):
        noise = rng.integers(0, 256, (240, 320, 3), np.uint8)
        sizes.append(sum(map(len, encoder.packets(noise, i * 40_000_000))))
    encoder.close()
    assert sum(sizes[50:]) * 8 / 2 < 1.5 * 300_000


def test_a_camera_that_changes_its_size_and_time_that_stands_still_are_taken() -> None:
    encoder = RtpEncoder((320, 240), 25, 2000)
    for image in (np.zeros((240, 320, 3), np.uint8), np.zeros((90, 200, 3), np.uint8)):
        assert encoder.packets(image, 5)
    encoder.close()


def test_an_ffmpeg_without_h264_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode.av, "codecs_available", av.codecs_available - {"libx264"})
    with pytest.raises(EngineError, match=r"H\.264"):
        RtpEncoder((320, 240), 25, 2000)
