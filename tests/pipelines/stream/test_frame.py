"""Frames: the part of a picture in a box, without a copy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgectl.core.task import ImageInput
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.preprocess import Preprocessor

STAMP = Stamp(0, 0, 0)


def i420(width: int, height: int, across: int = 2, down: int = 2) -> Frame:
    """Each sample of brightness says where it is, and so does each of colour."""
    y = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    small = (-(-height // down), -(-width // across))
    u = np.broadcast_to(np.arange(small[1]), small).astype(np.uint8)
    v = np.broadcast_to(np.arange(small[0])[:, None], small).astype(np.uint8)
    return Frame(STAMP, width, height, "I420", (y, u, v))


def test_a_crop_of_bgr_is_exact() -> None:
    image: NDArray[np.uint8] = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    found = Frame.of_bgr(image, STAMP).crop([2.5, 3.2, 7.1, 8.0])
    assert found is not None
    part, corner = found
    assert (corner, part.width, part.height, part.fmt) == ((2, 3), 6, 5, "BGR")
    np.testing.assert_array_equal(part.bgr(), image[3:8, 2:8])
    assert np.shares_memory(part.planes[0], image)


@pytest.mark.parametrize(("across", "down"), [(2, 2), (1, 1), (2, 1), (4, 4)])
def test_a_crop_of_planes_begins_and_ends_with_whole_samples_of_colour(across: int, down: int) -> None:
    frame = i420(40, 24, across, down)
    found = frame.crop([5, 7, 18, 17])
    assert found is not None
    part, (x, y) = found
    assert x % across == y % down == 0
    assert 5 - across < x <= 5
    assert 7 - down < y <= 7
    assert part.planes[0].shape == (part.height, part.width)
    assert part.planes[0][0, 0] == x + y
    assert part.planes[1][0, 0] == x // across
    assert part.planes[2][0, 0] == y // down
    assert part.planes[1].shape == (part.height // down, part.width // across)
    assert x + part.width >= 18
    assert y + part.height >= 17


def test_a_crop_of_an_odd_picture_goes_to_its_edge() -> None:
    found = i420(41, 25).crop([30, 20, 99, 99])
    assert found is not None
    part, corner = found
    assert (corner, part.width, part.height) == ((30, 20), 11, 5)
    assert part.planes[1].shape == (3, 6)
    assert part.bgr().shape == (5, 11, 3)


def test_a_crop_of_a_grey_picture_is_as_large_as_one_of_colours() -> None:
    found = i420(40, 24, 40, 24).crop([5, 7, 18, 17])
    assert found is not None
    part, corner = found
    assert (corner, part.width, part.height) == ((5, 7), 13, 10)
    assert part.planes[1].shape == part.planes[2].shape == (1, 1)
    assert part.bgr().shape == (10, 13, 3)


@pytest.mark.parametrize(
    "box",
    [[-20, 0, -5, 10], [50, 0, 60, 10], [5, 5, 5, 20], [9, 9, 4, 4], [np.nan, 0, 5, 5], [0, 0, np.inf, 9]],
)
def test_a_box_with_nothing_of_the_picture_is_no_crop(box: list[float]) -> None:
    assert Frame.of_bgr(np.zeros((20, 40, 3), np.uint8), STAMP).crop(box) is None


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    box=st.tuples(*[st.floats(-20, 90)] * 4),
    samples=st.sampled_from([None, (2, 2), (1, 1), (2, 1), (4, 4)]),
    fit=st.sampled_from(["stretch", "letterbox"]),
)
def test_whatever_box_a_tracker_draws_its_crop_is_a_picture_for_an_engine(
    size: tuple[int, int], box: tuple[float, ...], samples: tuple[int, int] | None, fit: str
) -> None:
    frame = (
        Frame.of_bgr(np.full((size[1], size[0], 3), 90, np.uint8), STAMP)
        if samples is None
        else i420(*size, *samples)
    )
    found = frame.crop(box)
    touches = min(box[2], size[0]) > max(box[0], 0) and min(box[3], size[1]) > max(box[1], 0)
    if found is None:
        assert not touches
        return
    part, (x, y) = found
    assert 0 <= x <= x + part.width <= size[0]
    assert 0 <= y <= y + part.height <= size[1]
    spec = ImageInput.model_validate({"width": 16, "height": 8, "fit": fit})
    tensor, _ = Preprocessor(spec)(part)
    assert tensor.shape == (1, 3, 8, 16)
    assert np.isfinite(tensor).all()
