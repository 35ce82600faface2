import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.engines.timing import interleave, paired_ratio, percentile, summarise


class Clock:
    """A clock that only moves when a candidate runs: no test waits."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def runner(self, milliseconds: float, log: list[str], name: str):
        def run() -> None:
            log.append(name)
            self.now += int(milliseconds * 1e6)

        return run


def test_candidates_run_in_turn_and_each_follows_every_other() -> None:
    clock, log = Clock(), []
    runs = {n: clock.runner(ms, log, n) for n, ms in {"a": 1, "b": 2, "c": 3}.items()}
    times = interleave(runs, seconds=0.06, min_rounds=5, warm_up=1, clock=clock)
    rounds = [log[i : i + 3] for i in range(3, len(log), 3)]
    assert len(rounds) == 10  # 60 ms at 6 ms a round
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({*itertools.pairwise(log[3:])} - {(n, n) for n in "abc"}) == 6
    assert {n: set(t) for n, t in times.items()} == {"a": {1.0}, "b": {2.0}, "c": {3.0}}


def test_rounds_are_bounded_both_ways() -> None:
    clock, log = Clock(), []
    runs = {"a": clock.runner(1, log, "a")}
    assert len(interleave(runs, seconds=0, min_rounds=7, clock=clock)["a"]) == 7
    assert len(interleave(runs, seconds=1e9, min_rounds=1, max_rounds=9, clock=clock)["a"]) == 9


def test_percentiles_come_only_from_enough_samples() -> None:
    assert percentile(np.ones(63), 90) is None
    assert percentile(np.ones(64), 90) == 1.0
    few = summarise(np.ones(12))
    assert (few.n, few.p10_ms, few.p50_ms, few.p90_ms, few.p99_ms) == (12, None, 1.0, None, None)


@given(st.floats(0.2, 5), st.integers(20, 60), st.integers(0, 1000))
def test_a_ratio_survives_a_machine_that_changes_its_speed(ratio: float, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    machine = np.array(list(itertools.islice(itertools.cycle([1.0, 3.0, 0.5]), n)))  # clock, neighbours
    reference = machine * rng.normal(1, 0.01, n)
    r = paired_ratio(machine * ratio * rng.normal(1, 0.01, n), reference)
    assert r.low <= r.median <= r.high
    assert abs(r.median / ratio - 1) < 0.02


def test_short_calls_take_turns_in_blocks_and_the_first_of_each_is_not_timed() -> None:
    """0.25 ms: after another candidate the caches are its own. The first call takes ten times as long, and
    counts for nobody."""
    clock, log = Clock(), []

    def call(name: str):
        def run() -> None:
            ms = 2.5 if log and log[-1] != name else 0.25
            log.append(name)
            clock.now += int(ms * 1e6)

        return run

    times = interleave({"a": call("a"), "b": call("b")}, seconds=0, min_rounds=6, clock=clock)
    assert {n: set(t) for n, t in times.items()} == {"a": {0.25}, "b": {0.25}}
    blocks = [len(list(g)) for _, g in itertools.groupby(log[6:])]
    # one and four more; twice as many where a round ends as the next begins
    assert set(blocks) <= {5, 10}


def test_calls_of_a_millisecond_take_turns_one_by_one() -> None:
    clock, log = Clock(), []
    interleave({n: clock.runner(1, log, n) for n in "ab"}, seconds=0, min_rounds=6, warm_up=1, clock=clock)
    assert len(log) == 2 + 12


def test_when_a_round_is_long_the_fewest_calls_that_tell_something_are_enough() -> None:
    clock, log = Clock(), []

    def rounds(ms: float, long_s: float) -> int:
        runs = {n: clock.runner(ms, log, n) for n in "ab"}
        times = interleave(runs, seconds=0.3, min_rounds=20, max_rounds=200, long_s=long_s, clock=clock)
        return len(times["a"])

    assert rounds(1000, math.inf) == 20
    assert rounds(1000, 4.0) == 6, "the least, though two would have filled the time"
    assert rounds(250, 4.0) == 8, "as many as there is time for"
    assert rounds(90, 0.5) == 10, "short calls: ten"
    assert rounds(100, 0.1) == 6
    assert rounds(10, 4.0) == 20


def test_the_interval_of_few_pairs_is_their_range() -> None:
    few = paired_ratio(np.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 9.0]), np.ones(6))
    assert (few.low, few.median, few.high) == (1.0, 3.5, 9.0)


@pytest.mark.parametrize(("pairs", "whole_range"), [(9, True), (10, False)])
def test_ten_pairs_are_enough_to_be_drawn_from_again(pairs: int, whole_range: bool) -> None:
    ratios = np.arange(1.0, pairs + 1)
    found = paired_ratio(ratios, np.ones(pairs))
    assert ((found.low, found.high) == (1.0, pairs)) is whole_range


def test_without_time_for_more_there_are_three_rounds_of_each_however_many_were_asked_for() -> None:
    asked = []

    def enough() -> bool:
        asked.append(1)
        return len(asked) > 2

    times = interleave({"a": lambda: 0, "b": lambda: 0}, seconds=60, min_rounds=20, enough=enough)
    assert {n: len(t) for n, t in times.items()} == {"a": 5, "b": 5}
    times = interleave({"a": lambda: 0}, seconds=60, min_rounds=20, enough=lambda: True)
    assert len(times["a"]) == 3
