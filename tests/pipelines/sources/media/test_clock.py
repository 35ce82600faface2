"""The clock of a recording: it only goes forward, and says where the container's does not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.sources.media.clock import MediaClock

S = 1_000_000_000
P = S // 10
WRAP = round((1 << 33) / 90_000 * S)


def run(clock: MediaClock, pts: Sequence[int | None]) -> tuple[list[int], list[tuple[int, str]]]:
    """Times, and (index, reason) of what was told."""
    times, told = [], []
    for i, value in enumerate(pts):
        t, notices = clock.step(value)
        times.append(t)
        told += [(i, n.reason) for n in notices]
    return times, told


def stretch(start_s: float, n: int) -> list[int | None]:
    return [round(start_s * S) + i * P for i in range(n)]


def test_a_good_clock_is_taken_as_it_is_from_the_containers_start() -> None:
    times, told = run(MediaClock(P, start_ns=round(1.5 * S)), stretch(1.5, 50))
    assert times == [i * P for i in range(50)]
    assert told == []


@pytest.mark.parametrize("jumps_expected", [True, False])
def test_a_clock_that_restarts_goes_on_and_is_told_each_time(jumps_expected: bool) -> None:
    clock = MediaClock(P, start_ns=round(1.4 * S), jumps_expected=jumps_expected)
    times, told = run(clock, stretch(1.4, 30) + stretch(1.4, 30) + stretch(1.4, 30))
    assert times == [i * P for i in range(90)]
    assert told == [(30, "clock_restarted"), (60, "clock_restarted")]


@pytest.mark.parametrize("untimed", [1, 2])
@pytest.mark.parametrize("start_s", [0.1, 0.4, 0.9])
def test_a_camera_whose_first_pictures_have_no_time_has_not_restarted_its_clock(
    untimed: int, start_s: float
) -> None:
    """What it says to be its start lies behind them, where it reorders pictures. A restart later is one."""
    pts = [None] * untimed + stretch(untimed * P / S, 30)
    times, told = run(MediaClock(P, start_ns=round(start_s * S), jumps_expected=True), pts + stretch(0.1, 30))
    assert times == [i * P for i in range(untimed + 60)]
    assert told == [(untimed + 30, "clock_restarted")]


def test_a_clock_that_is_set_back_a_little_goes_on_without_standing_still() -> None:
    times, told = run(MediaClock(P), stretch(0, 30) + stretch(2.2, 30))
    assert times == [i * P for i in range(60)]
    assert told == [(30, "clock_restarted")]


def test_a_picture_out_of_order_moves_nothing_behind_it_and_is_told_once_a_minute() -> None:
    pts: list[int | None] = []
    for i in range(0, 100, 5):
        pts += [i * P, (i + 1) * P, (i + 3) * P, (i + 2) * P, (i + 4) * P]
    times, told = run(MediaClock(P), pts)
    assert all(b > a for a, b in itertools.pairwise(times))
    assert times[-1] == 99 * P
    assert told == [(3, "clock_unordered")]


@pytest.mark.parametrize("hours", [1.5, 3, 30])
def test_a_jump_of_hours_is_bridged_and_told(hours: float) -> None:
    for jumps_expected in (True, False):
        clock = MediaClock(P, jumps_expected=jumps_expected)
        times, told = run(clock, stretch(0, 30) + stretch(hours * 3600, 30))
        assert times == [i * P for i in range(60)]
        assert told == [(30, "clock_jumped")]


def test_a_pause_is_kept_where_times_do_not_jump_by_design_and_told() -> None:
    times, told = run(MediaClock(P), stretch(0, 30) + stretch(63, 30))
    assert times[30] == 63 * S
    assert told == [(30, "clock_paused")]


def test_time_that_damaged_pictures_took_has_passed() -> None:
    clock = MediaClock(P, jumps_expected=True)
    run(clock, stretch(0, 10))
    assert clock.step(20 * S, missed=190) == (20 * S, ())
    assert [n.reason for n in clock.step(60 * S)[1]] == ["clock_jumped"]


def test_a_picture_a_minute_is_a_slow_clock_and_no_jump() -> None:
    times, told = run(MediaClock(60 * S, jumps_expected=True), [i * 60 * S for i in range(10)])
    assert times == [i * 60 * S for i in range(10)]
    assert told == []


def test_the_33rd_bit_wraps_without_a_word() -> None:
    start = WRAP - 10 * P
    clock = MediaClock(P, start_ns=start, jumps_expected=True)
    times, told = run(clock, [(start + i * P) % WRAP for i in range(40)])
    assert times == pytest.approx([i * P for i in range(40)], abs=2)
    assert told == []


def test_a_source_without_times_is_told_once_and_counted_by_its_period() -> None:
    times, told = run(MediaClock(P), [None] * 20)
    assert times == [i * P for i in range(20)]
    assert told == [(2, "clock_missing")]


def test_a_clock_that_stands_still_is_no_clock() -> None:
    times, told = run(MediaClock(P), [*stretch(0, 10), *[9 * P] * 20])
    assert told == [(12, "clock_missing")]
    assert times[-1] > 27 * P  # it went on without it


def test_a_clock_that_comes_back_is_told_and_goes_on_from_there() -> None:
    times, told = run(MediaClock(P), [*stretch(0, 10), *[None] * 10, *stretch(50, 10)])
    assert times == [i * P for i in range(30)]
    assert told == [(12, "clock_missing"), (20, "clock_missing")]


def test_a_loop_on_purpose_is_no_news() -> None:
    clock = MediaClock(P)
    run(clock, stretch(0, 10))
    clock.join()
    times, told = run(clock, stretch(0, 10))
    assert times == [(10 + i) * P for i in range(10)]
    assert told == []


@given(
    st.lists(st.none() | st.integers(-(1 << 62), 1 << 62) | st.integers(0, 20 * S), max_size=60),
    st.booleans(),
)
def test_whatever_the_times_are_the_clock_goes_forward(pts: list[int | None], jumps_expected: bool) -> None:
    times, _ = run(MediaClock(P, jumps_expected=jumps_expected), pts)
    assert all(t >= 0 for t in times)
    assert all(b > a for a, b in itertools.pairwise(times))
    assert all(b - a <= 3600 * S + P for a, b in itertools.pairwise(times))
