"""A decoder's pictures: upright whatever the metadata says, and with the colours that FFmpeg gives them."""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.pipelines import turn, write_h264

from edgectl.core.task import ImageInput
from edgectl.pipelines.sources import open_source
from edgectl.pipelines.stream.colour import Colour, to_bgr
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.preprocess import Preprocessor


def first(path: Path) -> Frame:
    source = open_source(str(path))
    source.open()
    frame = source.read(5)
    assert frame is not None
    frame.bgr()
    source.close()
    return frame


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((0, 1, -1, 0), lambda p: cv2.rotate(p, cv2.ROTATE_90_CLOCKWISE)),
        ((-1, 0, 0, -1), lambda p: cv2.rotate(p, cv2.ROTATE_180)),
        ((0, -1, 1, 0), lambda p: cv2.rotate(p, cv2.ROTATE_90_COUNTERCLOCKWISE)),
        ((-1, 0, 0, 1), lambda p: cv2.flip(p, 1)),
        ((1, 0, 0, -1), lambda p: cv2.flip(p, 0)),
        ((0, 1, 1, 0), cv2.transpose),
        ((0, -1, -1, 0), lambda p: cv2.flip(cv2.transpose(p), -1)),
    ],
)
def test_a_display_matrix_is_honoured(
    tmp_path: Path, matrix: tuple[int, int, int, int], upright: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    path = write_h264(tmp_path / "x.mp4", frames=3)
    expected = upright(first(path).bgr())
    turn(path, matrix)
    source = open_source(str(path))
    info = source.open()
    source.close()
    frame = first(path)
    assert (frame.height, frame.width) == (info.height, info.width) == expected.shape[:2]
    assert np.abs(frame.bgr().astype(int) - expected).mean() < 1


def test_a_tilt_that_is_not_made_is_told_once(tmp_path: Path) -> None:
    path = write_h264(tmp_path / "x.mp4", frames=3)
    turn(path, (46341, 46341, -46341, 46341))
    source = open_source(str(path))
    source.open()
    told: list[str] = []
    for _ in range(3):
        frame = source.read(5)
        assert frame is not None
        told += [n.reason for n in frame.notices]
    source.close()
    assert told == ["rotation_unsupported"]


MATRICES = {"bt601": 5, "bt709": 1}


def smooth(width: int = 160, height: int = 96) -> NDArray[np.uint8]:
    """Every hue and brightness, without edges that chroma subsampling would smear."""
    hue = np.linspace(0, 179, width)[None, :].repeat(height, 0)
    value = np.linspace(10, 250, height)[:, None].repeat(width, 1)
    hsv = np.stack([hue, np.full_like(hue, 140), value], axis=2).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), (9, 9), 0), np.uint8)


def write_colour(
    path: Path, image: NDArray[np.uint8], fmt: str, matrix: str, full: bool, codec: str = "ffv1"
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = image.shape[1], image.shape[0], fmt
        stream.codec_context.color_range = 2 if full else 1
        stream.codec_context.colorspace = 1 if matrix == "bt709" else 6
        frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(
            format=fmt, dst_colorspace=MATRICES[matrix], dst_color_range=2 if full else 1
        )
        frame.colorspace = stream.codec_context.colorspace
        for _ in range(2):
            frame.pts = None
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p16le"])
def test_range_and_matrix_are_what_the_stream_says(tmp_path: Path, matrix: str, full: bool, fmt: str) -> None:
    image = smooth()
    path = tmp_path / "x.mkv"
    write_colour(path, image, fmt, matrix, full)
    frame = first(path)
    assert np.abs(frame.bgr().astype(int) - image).mean() < 1.5
    # What the engine sees is the same picture.
    spec = ImageInput.model_validate(
        {"kind": "image", "width": 80, "height": 48, "fit": "stretch", "scale": 1.0, "color": "bgr"}
    )
    tensor, _ = Preprocessor(spec)(frame)
    small = cv2.resize(image, (80, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(tensor[0].transpose(1, 2, 0) - small).mean() < 2


@pytest.mark.parametrize(
    ("codec", "fmt", "name"),
    [
        ("mjpeg", "yuvj420p", "x.avi"),
        ("mjpeg", "yuvj422p", "x.avi"),
        ("png", "rgb24", "x.avi"),
        ("ffv1", "gray", "x.mkv"),
    ],
)
def test_formats_that_are_full_range_without_saying_so(
    tmp_path: Path, codec: str, fmt: str, name: str
) -> None:
    image = smooth()
    if fmt == "gray":
        image = np.asarray(
            cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8
        )
    path = tmp_path / name
    write_colour(path, image, fmt, "bt601", True, codec)
    assert np.abs(first(path).bgr().astype(int) - image).mean() < (3 if codec == "mjpeg" else 1.5)


def test_an_odd_size_keeps_its_colours(tmp_path: Path) -> None:
    image = smooth(161, 97)
    write_colour(tmp_path / "x.mkv", image, "yuv420p", "bt709", True)
    frame = first(tmp_path / "x.mkv")
    assert (frame.width, frame.height) == (161, 97)
    assert np.abs(frame.bgr().astype(int) - image).mean() < 1.5


def test_the_usual_case_takes_opencvs_own_way() -> None:
    """BT.601 limited, to the bit: bundles were calibrated on it."""
    rng = np.random.default_rng(0)
    planes = tuple(rng.integers(16, 236, shape, dtype=np.uint8) for shape in ((48, 64), (24, 32), (24, 32)))
    packed = np.concatenate([p.ravel() for p in planes]).reshape(72, 64)
    assert np.array_equal(to_bgr(planes, Colour()), cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_I420))


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (60, 40)), (3, (60, 40)), (6, (40, 60)), (8, (40, 60))]
)
def test_a_photograph_is_set_upright_by_its_exif(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30] = 255
    plain = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x112, 3, 1, orientation, 0, 0)
    (tmp_path / "x.jpg").write_bytes(
        plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    )
    frame = first(tmp_path / "x.jpg")
    assert (frame.width, frame.height) == size
    corner = {1: (10, 10), 3: (-10, -10), 6: (10, -10), 8: (-10, 10)}[orientation]
    assert frame.bgr()[corner].mean() > 200


@pytest.mark.parametrize("turned", [False, True])
def test_the_memory_of_a_frame_goes_back_to_the_decoder_at_once(tmp_path: Path, turned: bool) -> None:
    """Not when Python's garbage collector comes by, some forty frames later: 3 MB each at 1080p."""
    path = write_h264(tmp_path / "x.mp4", frames=30)
    if turned:
        turn(path, (-1, 0, 0, -1))
    source = open_source(str(path))
    source.open()
    gc.collect()
    gc.disable()
    try:
        for _ in range(25):
            assert source.read(5) is not None
        alive = sum(isinstance(o, av.VideoFrame) for o in gc.get_objects())
    finally:
        gc.enable()
        source.close()
    # the first one, and the one that is read ahead to tell a film from a picture
    assert alive <= 3
