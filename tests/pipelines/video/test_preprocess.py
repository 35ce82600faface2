"""Preprocessing: the same tensor whichever way a picture comes, and boxes that find their way back."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgectl.core.errors import DataError
from edgectl.core.task import ImageInput
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.preprocess import Preprocessor, unletterbox

STAMP = Stamp(0, 0, 0)


def photo(width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """A smooth colourful picture."""
    small = np.random.default_rng(5).integers(30, 220, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def as_i420(image: NDArray[np.uint8]) -> Frame:
    height, width = image.shape[:2]
    packed = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    y = packed[: width * height].reshape(height, width)
    u, v = packed[width * height :].reshape(2, height // 2, width // 2)
    return Frame(STAMP, width, height, "I420", (y, u, v))


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_the_tensor_is_what_the_formula_says(fit: str, layout: str, dtype: str, color: str) -> None:
    spec = ImageInput.model_validate(
        {
            "width": 160,
            "height": 160,
            "fit": fit,
            "layout": layout,
            "dtype": dtype,
            "color": color,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.3, 0.4],
        }
    )
    image = photo()
    tensor, meta = Preprocessor(spec)(image)
    h = 160 if fit == "stretch" else 120
    expected = np.full((160, 160, 3), spec.pad, np.uint8)
    expected[(160 - h) // 2 : (160 + h) // 2] = cv2.resize(image, (160, h))
    values = expected[..., ::-1] if color == "rgb" else expected
    if dtype == "float32":
        values = (values * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    values = values[None] if layout == "NHWC" else values.transpose(2, 0, 1)[None]
    assert tensor.dtype == np.dtype(dtype)
    np.testing.assert_allclose(tensor, values, atol=1e-5)
    assert (meta.left, meta.top) == (0, (160 - h) // 2)


@pytest.mark.parametrize("size", [(160, 160), (96, 64), (33, 33)])
def test_planes_and_bgr_give_nearly_the_same_tensor(size: tuple[int, int]) -> None:
    spec = ImageInput(width=size[0], height=size[1], fit="stretch")
    frame = as_i420(photo())
    of_planes = Preprocessor(spec)(frame)[0].copy()
    of_bgr = Preprocessor(spec)(frame.bgr())[0]
    assert np.abs(of_planes - of_bgr).mean() < 0.02


def test_a_change_of_size_leaves_nothing_of_the_old_picture() -> None:
    spec = ImageInput(width=64, height=64)
    p = Preprocessor(spec)
    p(np.full((64, 64, 3), 255, np.uint8))
    tensor, meta = p(np.full((32, 64, 3), 255, np.uint8))
    assert meta.top == 16
    np.testing.assert_allclose(tensor[0, :, :16], 114 / 255, atol=1e-6)
    np.testing.assert_allclose(tensor[0, :, 16:48], 1.0, atol=1e-6)


def test_the_tensor_is_reused() -> None:
    p = Preprocessor(ImageInput(width=32, height=32))
    assert p(photo())[0] is p(photo(64, 64))[0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(8, 700),
    st.integers(8, 700),
    st.integers(8, 400),
    st.integers(8, 400),
    st.sampled_from(["letterbox", "stretch"]),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_boxes_find_their_way_back(
    width: int, height: int, w: int, h: int, fit: str, where: list[float]
) -> None:
    p = Preprocessor(ImageInput.model_validate({"width": w, "height": h, "fit": fit}))
    _, meta = p(np.zeros((height, width, 3), np.uint8))
    xs, ys = sorted(v * width for v in where[:2]), sorted(v * height for v in where[2:])
    box = np.array([[xs[0], ys[0], xs[1], ys[1]]], np.float32)
    inside = box * [meta.sx, meta.sy, meta.sx, meta.sy] + [meta.left, meta.top, meta.left, meta.top]
    assert inside.min() >= -1e-3
    assert inside[0, 2] <= w + 1e-2
    assert inside[0, 3] <= h + 1e-2
    np.testing.assert_allclose(unletterbox(inside.astype(np.float32), meta), box, atol=0.05)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_bgr_image_is_refused(bad: NDArray[np.uint8]) -> None:
    with pytest.raises(DataError, match="uint8 BGR"):
        Preprocessor(ImageInput(width=32, height=32))(bad)


def test_luma_is_the_y_plane_without_a_copy() -> None:
    frame = as_i420(photo())
    assert frame.luma() is frame.planes[0]
    grey = Frame.of_bgr(photo(), STAMP).luma()
    assert grey.shape == (240, 320)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.485, 0.229), (0.5, 0.5), (0.0, 0.3)])
@pytest.mark.parametrize("scale", [1 / 255, 1.0, 1 / 127.5])
def test_every_grey_level_becomes_what_the_formula_says(scale: float, mean: float, std: float) -> None:
    spec = ImageInput.model_validate(
        {"width": 16, "height": 16, "scale": scale, "mean": (mean,) * 3, "std": (std,) * 3}
    )
    levels = np.arange(256).reshape(16, 16)
    image = np.repeat(levels[..., None], 3, axis=2).astype(np.uint8)
    expected = np.stack([(levels * scale - mean) / std] * 3)
    tensor, _ = Preprocessor(spec)(image)
    np.testing.assert_allclose(tensor[0], expected, rtol=0, atol=2**-22 * np.abs(expected).max())


def test_a_tensor_of_the_callers_has_its_padding_too_and_keeps_its_frame() -> None:
    p = Preprocessor(ImageInput(width=32, height=32, fit="letterbox"))
    first, second = p.staging(), p.staging()
    wide, high = np.full((16, 32, 3), 200, np.uint8), np.full((32, 16, 3), 10, np.uint8)
    p(wide, first)
    p(high, second)
    kept = first.tensor.copy()
    p(high, second)
    np.testing.assert_array_equal(first.tensor, kept)
    p(high, first)
    np.testing.assert_array_equal(first.tensor, second.tensor)
    np.testing.assert_array_equal(first.tensor, Preprocessor(p.spec)(high)[0])


@pytest.mark.parametrize("i420", [False, True])
@pytest.mark.parametrize("region", [(40, 60, 100, 80), (0, 0, 64, 64), (256, 176, 64, 64)])
def test_a_region_is_preprocessed_like_a_picture_of_its_own(
    i420: bool, region: tuple[int, int, int, int]
) -> None:
    image = photo()
    frame = as_i420(image) if i420 else Frame.of_bgr(image, STAMP)
    x, y, w, h = region
    cut = np.ascontiguousarray(image[y : y + h, x : x + w])
    alone = as_i420(cut) if i420 else Frame.of_bgr(cut, STAMP)
    p = Preprocessor(ImageInput(width=64, height=64))
    expected = p(alone)[0].copy()
    part = frame.part(*region)
    assert (part.width, part.height) == (w, h)
    # converted from the picture's own colour planes, which are the same memory
    np.testing.assert_allclose(p(part)[0], expected, atol=0.02)
    assert np.shares_memory(part.planes[0], frame.planes[0])


def test_a_part_of_a_picture_of_odd_size_has_all_of_its_colour() -> None:
    y, c = np.zeros((47, 63), np.uint8), np.zeros((24, 32), np.uint8)
    part = Frame(STAMP, 63, 47, "I420", (y, c, c)).part(32, 20, 31, 27)
    assert [p.shape for p in part.planes] == [(27, 31), (14, 16), (14, 16)]


def test_boxes_in_a_region_are_put_back_into_the_picture() -> None:
    p = Preprocessor(ImageInput(width=64, height=64))
    _, meta = p(Frame.of_bgr(photo(), STAMP).part(40, 60, 128, 128))
    meta = replace(meta, x=40, y=60)
    boxes = unletterbox(np.array([[0, 0, 32, 64], [-9, 10, 99, 20]], np.float32), meta)
    assert boxes.tolist() == [[40, 60, 104, 188], [40, 80, 168, 100]]


def test_tensors_for_regions_hold_no_rest_of_another_regions_padding() -> None:
    p = Preprocessor(ImageInput(width=64, height=64))
    frame = Frame.of_bgr(photo(), STAMP)
    staging = p.staging(whole=False)
    for region in ((0, 0, 64, 64), (0, 0, 64, 32), (0, 0, 128, 128)):
        p(frame.part(*region), staging)
        np.testing.assert_array_equal(staging.tensor, Preprocessor(p.spec)(frame.part(*region))[0])
