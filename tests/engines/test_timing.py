import itertools

import numpy as np
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
