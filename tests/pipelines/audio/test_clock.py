"""The sound card's clock against ours: drift is learnt, lateness of any kind is not taken for drift."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.pipelines.audio.clock import ClockFit, SampleClock

START = 10**15  # ns: a machine that has been up for eleven days
BLOCK = 256


def arrivals(
    rate: float, seconds: float, late_ns: np.ndarray | int, *, block: int = BLOCK
) -> list[tuple[int, int]]:
    """When the blocks of a card that gives ``rate`` samples a second are here: taken, plus so much
    lateness, in order."""
    end = np.arange(1, int(seconds * rate / block) + 1, dtype=np.int64) * block
    ns = START + np.rint(end / rate * 1e9).astype(np.int64) + late_ns
    return list(zip(end.tolist(), np.maximum.accumulate(ns).tolist(), strict=True))


def learn(points: list[tuple[int, int]], clock: SampleClock | None = None) -> ClockFit:
    clock = clock or SampleClock(16_000)
    return [clock.arrived(*point) for point in points][-1]


def error_ms(fit: ClockFit, rate: float, sample: int) -> float:
    return (fit.at(sample) - START - sample / rate * 1e9) / 1e6


@pytest.mark.parametrize("rate", [16_160, 15_840, 16_000.8, 15_200, 17_000])
@pytest.mark.parametrize("seconds", [30, 60, 400])
def test_a_fast_or_slow_card_is_followed(rate: float, seconds: float) -> None:
    fit = learn(arrivals(rate, seconds, 0))
    assert abs(error_ms(fit, rate, round(seconds * rate))) < 1
    assert fit.rate == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("rate", [16_160, 16_000, 15_840])
@pytest.mark.parametrize("seconds", [30, 60, 240])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_jitter_and_stalls_do_not_move_it(rate: float, seconds: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(seconds * rate / BLOCK)
    late = rng.exponential(8e6, n)  # a busy machine: 8 ms on average …
    late[rng.random(n) < 0.02] += 150e6  # … and now and then a lot more
    for at in rng.integers(0, n, 5):  # five times nothing is read for a second
        late[at : at + 60] += 1e9
    fit = learn(arrivals(rate, seconds, late.astype(np.int64)))
    assert abs(error_ms(fit, rate, round(seconds * rate))) < 10


def test_a_card_that_hands_over_eighths_of_a_second_is_followed() -> None:
    fit = learn(
        arrivals(16_160, 40, np.random.default_rng(0).exponential(2e6, 323).astype(np.int64), block=2000)
    )
    assert abs(error_ms(fit, 16_160, 40 * 16_160)) < 10


def test_a_minute_of_a_busy_machine_changes_nothing() -> None:
    n = int(180 * 16_160 / BLOCK)
    late = np.zeros(n, np.int64)
    late[n // 2 :] = np.random.default_rng(0).uniform(0, 60e6, n - n // 2)
    assert abs(error_ms(learn(arrivals(16_160, 180, late)), 16_160, 180 * 16_160)) < 10


def test_a_crystal_that_warms_up_is_followed() -> None:
    """50 per million in an hour, and the line is never more than a millisecond off."""
    clock, sample, taken = SampleClock(16_000), 0, float(START)
    for second in range(3600):
        sample, taken = sample + 16_000, taken + 1e9 / (1 + 50e-6 * second / 3600)
        fit = clock.arrived(sample, round(taken))
    assert abs(fit.at(sample) - taken) < 1e6


def test_before_anything_is_learnt_the_nominal_rate_holds() -> None:
    fit = learn(arrivals(16_160, 2, 0))
    assert fit.rate == 16_000
    assert abs(error_ms(fit, 16_160, 2 * 16_160)) < 25


def test_after_a_restart_the_rate_is_still_known() -> None:
    clock = SampleClock(16_000)
    learn(arrivals(16_160, 30, 0), clock)
    clock.restart()
    fit = clock.arrived(10**7, START + 10**12)
    assert fit.rate == pytest.approx(16_160, rel=1e-5)
    assert fit.at(10**7) == START + 10**12


def test_positions_beyond_two_to_the_31_are_as_good() -> None:
    points = [(sample + 2**40, ns) for sample, ns in arrivals(16_160, 30, 0)]
    fit = learn(points)
    assert abs(fit.at(points[-1][0]) - points[-1][1]) < 1e6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 10**9)), min_size=1, max_size=300))
def test_the_line_rises_and_never_lies_above_what_has_arrived(steps: list[tuple[int, int]]) -> None:
    clock = SampleClock(16_000)
    points = list(
        zip(itertools.accumulate(s for s, _ in steps), itertools.accumulate(n for _, n in steps), strict=True)
    )
    for sample, ns in points:
        fit = clock.arrived(sample, ns)
    assert fit.rate > 0
    assert fit.at(sample) < fit.at(sample + 16_000)


def test_index_is_the_inverse() -> None:
    fit = ClockFit(1000, START, 16_160.0)
    assert [fit.index(fit.at(s)) for s in (0, 1000, 10**9)] == [0, 1000, 10**9]
