"""Masks of labels: polygons, run lengths as numbers and compressed."""

import numpy as np
import pytest

from edgectl.builder.truth import shapes
from edgectl.builder.truth.shapes import Polygons, read_polygons, read_runs, shape_bounds


def compressed(runs: list[int]) -> str:
    """COCO's own form, written anew."""
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            code = number & 31
            number >>= 5
            more = number != -1 if code & 16 else number != 0
            text += chr((code | 32 if more else code) + 48)
    return text


def runs_of(mask: np.ndarray) -> list[int]:
    flat, runs, last = mask.T.ravel().tolist(), [0], False
    for v in flat:
        if v != last:
            runs.append(0)
            last = v
        runs[-1] += 1
    return runs


def test_runs_come_as_numbers_and_compressed() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((40, 30)) < 0.5
    mask[5:35, 4:20] = True
    runs = runs_of(mask)
    for counts in (runs, compressed(runs)):
        shape = read_runs({"size": [40, 30], "counts": counts}, 30, 40)
        assert np.array_equal(shape.pixels(30, 40), mask)


def test_a_polygon_covers_the_pixels_whose_middle_it_has() -> None:
    square = read_polygons([[2, 3, 6, 3, 6, 5, 2, 5]])
    inside = square.pixels(10, 8)
    assert int(inside.sum()) == 8
    assert inside[3:5, 2:6].all()
    assert shape_bounds(square) == (2, 3, 6, 5)
    beyond = read_polygons([[-5, -5, 50, -5, 50, 50, -5, 50]])
    assert beyond.pixels(10, 8).all()


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"size": [4, 5], "counts": [20]}, "does not say size"),
        ({"size": [5, 4], "counts": [19]}, "do not add up"),
        ({"size": [5, 4], "counts": [-1, 21]}, "do not add up"),
        ({"size": [5, 4], "counts": [1.5]}, "no whole number"),
        ({"size": [5, 4], "counts": "\x7f\x7f"}, "no compressed RLE"),
        ({"size": [5, 4], "counts": "d"}, "cut off"),
        ({"size": [5, 4]}, "no counts"),
        (None, "does not say size"),
    ],
)
def test_what_is_wrong_with_runs_is_said(value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_runs(value, 4, 5)


def test_a_bomb_of_runs_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(ValueError, match="more than"):
        read_runs({"size": [1 << 16, 1 << 16], "counts": [1 << 32]}, 1 << 16, 1 << 16)
    for parts in ([], [[1, 2]], [["a"] * 6], [[0.0, float("nan")] * 3], ["x" * 6]):
        with pytest.raises(ValueError, match="segmentation"):
            read_polygons(parts)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([[0, 0, 10**400, 1, 2, 2]], "far outside"),
        ([[0, -1e308, 10, 1e308, 0, 1.0]], "far outside"),
        ([[0, 0, 97, 0, 0, 32]], "far outside"),
        ([[0, 0, 9, 0, 9, 9]] * 1001, "more than 1000 polygons"),
        ([[0, 0] * 60_000] * 2, "more than 100000 points"),
    ],
)
def test_polygons_are_bounded(parts: list[list[float]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_polygons(parts, (48, 32))
    if sentence == "far outside" and abs(parts[0][2]) < 100:
        assert read_polygons([[0, 0, 96, 0, 0, 32]], (48, 32)).pixels(48, 32)[0].all()


def test_parts_are_drawn_where_they_lie_and_the_same_as_over_the_whole_picture() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        part = rng.uniform(-20, 60, (7, 2))
        assert np.array_equal(Polygons((part,)).pixels(37, 23), shapes._filled(part, 37, 23))
