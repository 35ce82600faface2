"""Which detections are taken for objects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.pipelines import detections

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.video.object_filter import ObjectFilterConfig, ObjectFilters

LABELS = ("person", "vehicle")
FOUND = detections(
    (0, 0, 10, 20, 0.9, 0),  # small
    (100, 100, 200, 400, 0.9, 0),
    (100, 100, 900, 900, 0.9, 0),  # large
    (500, 100, 900, 200, 0.9, 0),  # lies
    (600, 600, 640, 700, 0.4, 0),  # doubtful
    (0, 0, 10, 20, 0.3, 1),
)


def kept(**config: Any) -> list[int]:
    filters = ObjectFilters({"person": ObjectFilterConfig(**config)}, LABELS)
    left = filters(FOUND, 1000, 1000)
    rows = [tuple(b) for b in FOUND.xyxy.tolist()]
    return sorted(
        i
        for i, row in enumerate(rows)
        if (row, FOUND.cls[i]) in [(tuple(b), c) for b, c in zip(left.xyxy.tolist(), left.cls, strict=True)]
    )


@pytest.mark.parametrize(
    ("config", "left"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"min_area": 0.001}, [1, 2, 3, 4, 5]),
        ({"max_area": 0.5}, [0, 1, 3, 4, 5]),
        ({"min_ratio": 0.35}, [0, 2, 3, 4, 5]),
        ({"max_ratio": 1.5}, [0, 1, 2, 4, 5]),
        ({"min_score": 0.5}, [0, 1, 2, 3, 5]),
        ({"masks": [[0.1, 0.35, 0.2, 0.35, 0.2, 0.45, 0.1, 0.45]]}, [0, 2, 3, 4, 5]),
        ({"masks": [[0, 0.8, 1, 0.8, 1, 1, 0, 1], [0.5, 0.6, 0.7, 0.6, 0.7, 0.8, 0.5, 0.8]]}, [0, 1, 3, 5]),
    ],
)
def test_each_setting_leaves_out_what_it_says_and_of_its_label_alone(
    config: dict[str, Any], left: list[int]
) -> None:
    assert kept(**config) == left


def test_who_stands_at_the_lower_edge_stands_in_a_mask_there() -> None:
    filters = ObjectFilters({"person": ObjectFilterConfig(masks=((0, 0.5, 1, 0.5, 1, 1, 0, 1),))}, LABELS)
    assert len(filters(detections((10, 10, 50, 100, 0.9, 0)), 100, 100)) == 0


@given(
    st.lists(
        st.tuples(*[st.floats(0, 1000, width=32)] * 4, st.floats(0, 1, width=32), st.integers(0, 1)),
        max_size=8,
    )
)
def test_what_is_left_is_some_of_it_in_its_order(rows: list[Any]) -> None:
    found = detections(*((*row[:4], i / 10, row[5]) for i, row in enumerate(rows)))
    filters = ObjectFilters({"person": ObjectFilterConfig(min_area=0.1, max_ratio=2)}, LABELS)
    left = filters(found, 1000, 1000)
    assert (left.cls == 1).sum() == (found.cls == 1).sum()
    assert len(left) == len(filters(left, 1000, 1000)), "once is enough"
    assert left.score.tolist() == sorted(left.score.tolist())


def test_a_mistake_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="'persn', which the stream does not look for") as caught:
        ObjectFilters({"persn": ObjectFilterConfig()}, LABELS)
    assert (caught.value.hint, caught.value.key) == ("did you mean 'person'?", ("filters", "persn"))
    with pytest.raises(
        UsageError, match=r"filters\.person: min_area is 0\.5, more than max_area, which is 0\.1"
    ):
        parse_config("surveillance", {"filters": {"person": {"min_area": 0.5, "max_area": 0.1}}})
    with pytest.raises(ValidationError):
        ObjectFilterConfig(min_area=float("nan"))
