"""A second detector confirms what the first found: the same label in the same place."""

from __future__ import annotations

import numpy as np
import pytest
from support.pipelines import box_task

from edgectl.pipelines.video.preprocess import LetterboxMeta
from edgectl.pipelines.video.second_stage.answers import Looked
from edgectl.pipelines.video.second_stage.by_detector import DetectorAnswers
from edgectl.pipelines.video.second_stage.config import SecondStageConfig

META = LetterboxMeta(0.5, 0.5, 0, 0, 128, 128, 64, 64)
"""Of a crop of 128 × 128."""
MIDDLE = (32.0, 32.0, 96.0, 96.0)


def answer(
    *found: tuple[tuple[float, float, float, float], int, float],
    labels: tuple[str, ...] = ("person",),
    score: float | None = None,
) -> tuple[str, float] | None:
    """Value and score. ``found``: box relative to the crop, class, score."""
    boxes, scores = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 2), np.float32)
    for i, (box, cls, p) in enumerate(found):
        boxes[0, i], scores[0, i, cls] = box, p
    config = SecondStageConfig(part="sure", score=score)
    said = DetectorAnswers(box_task(score=0.35), config)(
        {"boxes": boxes, "scores": scores}, META, Looked(labels, MIDDLE)
    )
    return None if said is None else (said.value, said.score)


HERE, AWAY = (0.25, 0.25, 0.75, 0.75), (0.8, 0.8, 1.0, 1.0)


def test_the_same_thing_in_the_same_place_is_confirmed() -> None:
    assert answer((HERE, 0, 0.8)) == ("confirmed", pytest.approx(0.8))


def test_a_box_that_is_drawn_otherwise_is_the_same_thing() -> None:
    assert answer(((0.25, 0.0, 0.75, 0.75), 0, 0.8)) == ("confirmed", pytest.approx(0.8))


@pytest.mark.parametrize("found", [(), ((AWAY, 0, 0.9),), ((HERE, 1, 0.9),)])
def test_nothing_elsewhere_or_something_else_is_a_rejection(
    found: tuple[tuple[tuple[float, ...], int, float]],
) -> None:
    assert answer(*found) == ("rejected", 1.0)  # type: ignore[arg-type]


def test_how_sure_a_rejection_is_depends_on_what_was_nearly_found() -> None:
    assert answer((HERE, 0, 0.3)) == ("rejected", pytest.approx(0.7))


def test_the_limit_is_the_tasks_or_the_streams() -> None:
    assert answer((HERE, 0, 0.36)) == ("confirmed", pytest.approx(0.36))
    assert answer((HERE, 0, 0.36), score=0.6) == ("rejected", pytest.approx(0.64))


def test_a_merged_label_is_confirmed_by_any_that_it_stands_for() -> None:
    assert answer((HERE, 1, 0.8), labels=("traffic", "vehicle", "bus")) == ("confirmed", pytest.approx(0.8))
    knows = DetectorAnswers(box_task(), SecondStageConfig(part="sure")).knows
    assert knows(("traffic", "vehicle"))
    assert not knows(("traffic", "bus"))
