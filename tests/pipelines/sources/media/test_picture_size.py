"""The size that a still picture states: that of real ones, and no error for bytes that are none."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import DataError
from edgectl.pipelines.sources import open_source
from edgectl.pipelines.sources.media.picture_size import stated_size


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("size", [(1, 1), (37, 21), (640, 360)])
def test_what_opencv_writes_is_measured(suffix: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    data = cv2.imencode(suffix, image)[1].tobytes()
    assert stated_size(data) == size
    for end in range(len(data) // 2):
        stated_size(data[:end])


@given(
    st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF0000WEBPVP8 ", b"II*\0", b""]),
    st.binary(),
)
def test_any_bytes_are_a_size_or_none(head: bytes, rest: bytes) -> None:
    size = stated_size(head + rest)
    assert size is None or len(size) == 2


def test_a_picture_of_16_thousand_by_16_thousand_is_refused_before_there_is_memory_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    (tmp_path / "a.png").write_bytes(small[:16] + struct.pack(">II", 16384, 16384) + small[24:])
    (tmp_path / "b.png").write_bytes(small)
    decoded = []
    real = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, how: (decoded.append(len(data)), real(data, how))[1])
    alone = open_source(str(tmp_path / "a.png"))
    alone.open()
    with pytest.raises(DataError, match="size of 16384x16384, which is not supported"):
        alone.read(1)
    folder = open_source(str(tmp_path))
    folder.open()
    frame = folder.read(1)
    assert frame is not None
    assert frame.name == "b.png"
    assert decoded == [len(small)]
    assert "a.png has a size of 16384x16384" in caplog.text
