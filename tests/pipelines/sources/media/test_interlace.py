"""Interlaced video: what moves is whole again, every picture is there once with its time."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from edgectl.pipelines.sources import EndOfStream, open_source
from edgectl.pipelines.stream.frame import Frame


def write_interlaced(path: Path, *, progressive_first: bool = False) -> Path:
    """A bar that goes 6 pixels a field; 20 frames of two fields each, as an old camera films it."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.codec_context.options = {"flags": "+ilme+ildct", "qscale": "2", "g": "5"}
        stream.codec_context.flags |= 0x20000000 | 0x40000  # AV_CODEC_FLAG_INTERLACED_ME | _DCT
        for i in range(20):
            luma = np.full((64, 128), 40, np.uint8)
            for field in (0, 1):
                at = (6 * (2 * i + field)) % 100
                luma[field::2, at : at + 16] = 220
            if progressive_first and i < 5:
                luma[1::2] = luma[0::2]
            frame = av.VideoFrame.from_ndarray(
                np.vstack([luma, np.full((32, 128), 128, np.uint8)]), format="yuv420p"
            )
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def combed(luma: NDArray[np.uint8]) -> float:
    """How much neighbouring rows differ more than every second row does."""
    rows = luma.astype(float)
    return float(np.abs(rows[1:-1] - rows[:-2]).mean() - np.abs(rows[2:] - rows[:-2]).mean())


def read(path: Path) -> list[Frame]:
    source = open_source(str(path))
    source.open()
    frames = []
    try:
        while (frame := source.read(5)) is not None:
            frames.append(frame)
    except EndOfStream:
        source.close()
    return frames


def test_combs_are_gone_and_each_frame_keeps_its_time(tmp_path: Path) -> None:
    path = write_interlaced(tmp_path / "x.mpg")
    with av.open(str(path)) as raw:
        before = list(raw.decode(video=0))
        assert before[3].interlaced_frame
        torn = np.mean([combed(f.to_ndarray()[:64]) for f in before[2:18]])
    frames = read(path)
    whole = np.mean([combed(f.planes[0]) for f in frames[2:18]])
    assert torn > 5
    assert whole < torn / 10
    assert len(frames) == 20
    assert np.diff([f.stamp.t_ns for f in frames]).tolist() == pytest.approx([40_000_000] * 19, abs=20_000)
    told = [n.reason for f in frames for n in f.notices]
    assert told.count("deinterlaced") == 1


def test_a_video_that_is_not_interlaced_goes_no_way_round(tmp_path: Path) -> None:
    from support.pipelines import write_clip

    frames = read(write_clip(tmp_path / "c.mp4"))
    assert [n.reason for f in frames for n in f.notices] == []
