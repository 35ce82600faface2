"""Mean IoU by counting pixels, against a count by definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.builder.judge.class_iou import IGNORED, IouCurves, class_counts

CLASSES = 4


def maps(seed: int, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, CLASSES, (5, 7)).astype(np.uint8) for _ in range(n)]
    truth = [rng.choice([0, 1, 2, 3, IGNORED], (5, 7)).astype(np.uint8) for _ in range(n)]
    return list(zip(found, truth, strict=True))


@given(st.integers(0, 1000), st.integers(1, 4))
def test_it_is_iou_by_definition(seed: int, n: int) -> None:
    pairs = maps(seed, n)
    found = np.concatenate([f.ravel() for f, _ in pairs])
    truth = np.concatenate([t.ravel() for _, t in pairs])
    judged = truth != IGNORED
    iou = []
    for c in range(CLASSES):
        a, b = (found == c) & judged, truth == c
        if b.any():
            iou.append((a & b).sum() / (a | b).sum())
    curves = IouCurves([class_counts(f, t, CLASSES) for f, t in pairs], CLASSES)
    mean, right = curves.at(np.ones(n))
    assert mean == pytest.approx(np.mean(iou))
    assert right == pytest.approx((found == truth)[judged].mean())


def test_a_picture_that_counts_twice_is_two_pictures() -> None:
    rows = [class_counts(f, t, CLASSES) for f, t in maps(3, 3)]
    twice = IouCurves([*rows, rows[0]], CLASSES).at(np.ones(4))
    assert IouCurves(rows, CLASSES).at(np.asarray([2.0, 1.0, 1.0])) == pytest.approx(twice)


def test_a_smaller_map_is_taken_by_the_nearest_pixel() -> None:
    found = np.asarray([[0, 1], [2, 3]], np.uint8)
    truth = np.kron(found, np.ones((3, 3), np.uint8)).astype(np.uint8)
    assert IouCurves([class_counts(found, truth, CLASSES)], CLASSES).at(np.ones(1)) == (1.0, 1.0)
    larger = np.kron(truth, np.ones((2, 2), np.uint8)).astype(np.uint8)
    assert IouCurves([class_counts(larger, truth, CLASSES)], CLASSES).at(np.ones(1)) == (1.0, 1.0)


def test_what_one_class_everywhere_would_reach() -> None:
    truth = np.asarray([[0, 0, 0, 1]], np.uint8)
    curves = IouCurves([class_counts(np.zeros_like(truth), truth, CLASSES)], CLASSES)
    assert curves.by_guessing == pytest.approx(0.75 / 2) == curves.at(np.ones(1))[0]
    nothing = IouCurves([class_counts(truth, np.full_like(truth, IGNORED), CLASSES)], CLASSES)
    assert nothing.at(np.ones(1)) == (0.0, 0.0)
    assert nothing.by_guessing == 0.0
