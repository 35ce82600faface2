"""Capture time of pictures that a network or a busy machine held up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.sources.media.arrival import ArrivalClock

MS = 1_000_000
PERIOD = 40 * MS


def times(clock: ArrivalClock, pictures: list[tuple[int, int | None]]) -> list[int]:
    """Of pictures that arrived and were taken then, in ms."""
    return [clock.step(at * MS, None if pts is None else pts * MS) for at, pts in pictures]


def in_time(frames: int, since: int = 1000) -> list[tuple[int, int | None]]:
    return [(since + 40 * i, 40 * i) for i in range(frames)]


def test_pictures_that_come_in_time_have_the_time_of_their_arrival() -> None:
    jitter = [(1000, 0), (1090, 40), (1095, 80), (1110, 120), (1390, 160), (1395, 200)]
    assert times(ArrivalClock(), list(jitter)) == [at * MS for at, _ in jitter]


def test_what_a_stall_held_up_is_as_far_apart_as_it_was_taken() -> None:
    clock = ArrivalClock()
    before = times(clock, in_time(25))
    # three seconds, all at once, then in time again
    burst: list[tuple[int, int | None]] = [(4960 + 2 * i, 1000 + 40 * i) for i in range(78)]
    after = in_time(113)[-10:]
    found = [*before, *times(clock, [*burst, *after])]
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert set(steps) == {PERIOD}
    assert found[-1] == after[-1][0] * MS


def test_a_burst_may_pause_for_a_moment() -> None:
    clock = ArrivalClock()
    times(clock, in_time(25))
    pieces: list[tuple[int, int | None]] = [
        (4960 + 2 * i + 120 * (i >= 10), 1000 + 40 * i) for i in range(60)
    ]
    found = times(clock, pieces)
    assert {b - a for a, b in itertools.pairwise(found)} == {PERIOD}


def test_pictures_that_come_in_segments_are_as_far_apart_as_they_were_taken() -> None:
    """As those of HLS."""
    pictures: list[tuple[int, int | None]] = [
        (1000 + 2000 * (i // 50) + 2 * (i % 50), 40 * i) for i in range(250)
    ]
    found = times(ArrivalClock(), pictures)
    assert {b - a for a, b in itertools.pairwise(found[50:])} == {PERIOD}


def test_after_a_pause_of_the_camera_itself_time_is_that_of_the_arrival_again() -> None:
    clock = ArrivalClock()
    times(clock, in_time(25))
    # its times go on as if nothing had been, but pictures come no faster than they are taken
    late: list[tuple[int, int | None]] = [(4960 + 40 * i, 1000 + 40 * i) for i in range(50)]
    found = times(clock, late)
    arrivals = [at * MS for at, _ in late]
    assert found[0] == 2000 * MS
    assert found[25:] == arrivals[25:]


@pytest.mark.parametrize("own", [None, 0, 40 * 24, 1_000_000])
def test_without_a_time_that_goes_on_it_is_the_arrival(own: int | None) -> None:
    clock = ArrivalClock()
    times(clock, in_time(25))
    assert times(clock, [(9000, own)]) == [9000 * MS]


def test_another_connection_has_other_times() -> None:
    clock = ArrivalClock()
    times(clock, in_time(25))
    clock.join()
    assert times(clock, [(9000, 1000)]) == [9000 * MS]


@given(
    st.lists(
        st.tuples(st.integers(0, 5000), st.one_of(st.none(), st.integers(-100, 2000)), st.booleans()),
        max_size=60,
    )
)
def test_time_goes_on_and_is_never_that_of_a_picture_to_come(
    pictures: list[tuple[int, int | None, bool]],
) -> None:
    clock, at, own, last = ArrivalClock(), 1_000, 0, 0
    for later, step, again in pictures:
        at, own = at + later * MS + 1, own + (step or 0) * MS
        if again:
            clock.join()
        t = clock.step(at, None if step is None else own)
        assert last < t <= at
        last = t
