"""How many calls a frame may cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.video.regions.budget import calls_that_fit

MS = 1_000_000


def test_an_engine_that_nobody_has_timed_yet_is_called_once() -> None:
    assert calls_that_fit(4, 0, 250 * MS, 100 * MS, 1) == 1


def test_a_recording_has_as_many_as_are_allowed() -> None:
    assert calls_that_fit(4, 90 * MS, None, None, 3) == 4


def test_the_deadline_and_the_next_frame_each_limit_them() -> None:
    assert calls_that_fit(8, 10 * MS, 35 * MS, None, 1) == 3
    assert calls_that_fit(8, 10 * MS, None, 100 * MS, 1) == 7
    assert calls_that_fit(8, 10 * MS, None, 100 * MS, 2) == 3


def test_a_frame_that_is_late_already_has_one_call() -> None:
    assert calls_that_fit(4, 10 * MS, -5 * MS, 100 * MS, 1) == 1


@given(
    st.integers(1, 16),
    st.integers(0, 10**10),
    st.none() | st.integers(-(10**10), 10**10),
    st.none() | st.integers(0, 10**10),
    st.integers(0, 64),
)
def test_it_is_at_least_one_and_at_most_what_is_allowed(
    most: int, call_ns: int, left_ns: int | None, period_ns: int | None, streams: int
) -> None:
    assert 1 <= calls_that_fit(most, call_ns, left_ns, period_ns, streams) <= most
