from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.stream.borders import Border, Borders

MS = 1_000_000


def learned(budget_ms: float | None, engine_ms: int, analysis_ms: int = 2) -> Borders:
    """Borders that have seen frames which took so long."""
    borders = Borders(budget_ms, None)
    for _ in range(32):
        done = (engine_ms + analysis_ms) * MS
        borders.through({"pre": 0, "engine": 0, "analysis": engine_ms * MS}, done)
    return borders


@pytest.mark.parametrize(
    ("age_ms", "border", "cause"),
    [
        (49, "engine", None),
        (51, "engine", "deadline"),
        (90, "analysis", None),
        (99, "analysis", "deadline"),
        (51, "pre", "deadline"),
    ],
)
def test_a_frame_goes_when_what_is_still_to_come_takes_it_past_its_deadline(
    age_ms: int, border: Border, cause: str | None
) -> None:
    assert learned(100, engine_ms=48).cross(border, 0, age_ms * MS) == cause


def test_where_nothing_can_be_in_time_only_frames_whose_time_is_up_go() -> None:
    borders = learned(100, engine_ms=300)
    assert borders.cross("engine", 0, 90 * MS) is None
    assert borders.cross("engine", 0, 101 * MS) == "deadline"


def test_without_a_budget_nothing_is_late() -> None:
    assert learned(None, 48).cross("engine", 0, 10**15) is None


def test_too_old_is_stale_however_many_went_before() -> None:
    borders = Borders(None, 30)
    assert [borders.cross("engine", 0, 31 * MS) for _ in range(3)] == ["stale"] * 3
    assert borders.cross("engine", 0, 30 * MS) is None


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["pre", "engine", "analysis"])), max_size=50))
def test_never_two_in_a_row_go_for_the_deadline(frames: list[tuple[int, Border]]) -> None:
    borders = learned(100, engine_ms=40)
    before = None
    for age_ms, border in frames:
        cause = borders.cross(border, 0, age_ms * MS)
        assert (before, cause) != ("deadline", "deadline")
        if cause is None:
            borders.through({"pre": 0, "engine": 0, "analysis": 40 * MS}, 42 * MS)
        before = cause


def test_what_is_left_until_a_border_is_the_budget_without_age_and_rest() -> None:
    borders = learned(100, 50)
    assert borders.left_ns("analysis", 0, 30 * MS) == 100 * MS - 30 * MS - 2 * MS
    assert borders.left_ns("analysis", 0, 120 * MS) == -22 * MS
    assert learned(None, 50).left_ns("analysis", 0, 30 * MS) is None
