"""What decides is pure: times in, an order out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.search.candidates import (
    Candidate,
    CandidateGraph,
    CandidateOutcome,
    Cause,
    Choice,
    Pick,
    TimedRound,
)
from edgectl.builder.search.rules import (
    choose,
    contradiction,
    fastest,
    kinds,
    least_power,
    looks,
    may_be_faster,
    picks_of,
    quicker_with_more_threads,
    settled,
    slower_carried_over,
    soonest,
    survivors,
)
from edgectl.core.bundle import SessionSettings
from edgectl.core.measured import Conditions, Context, ContextRun, Measured, ProcessRun, Standing
from edgectl.engines.timing import Ratio

CALM = Conditions(load=0)


def outcome(
    name: str,
    p50_ms: float,
    *,
    precision: str = "int8",
    threads: int = 1,
    high: float | None = None,
    float_ms: float = 10.0,
    cpu_ms: float | None = None,
    rss_mb: float = 50,
    reached: int = 2,
    runtime: str = "onnxruntime",
    carried_over: bool = False,
    standing: Standing | None = None,
    drop: float | None = None,
) -> CandidateOutcome:
    candidate = Candidate(
        CandidateGraph(name, b"", precision, carried_over), runtime, SessionSettings(threads=threads)
    )  # type: ignore[arg-type]
    ratio = p50_ms / float_ms
    fresh = ProcessRun(
        runs=3,
        cold_start_s=0.1,
        rss_mb=rss_mb,
        cpu_ms=cpu_ms or p50_ms,
        gap_ms=20,
        p50_ms=p50_ms,
        busy=1,
        n=132,
        ratio_to_float=ratio,
        ratio_low=ratio * 0.99,
        contexts=(ContextRun(context=Context.ALONE, p50_ms=p50_ms, ratio=ratio),),
    )
    measured = Measured(
        p10_ms=p50_ms,
        p50_ms=p50_ms,
        n=100,
        machine="m",
        threads=threads,
        runtime_version="r",
        conditions=CALM,
        fresh=fresh,
    )
    interval = Ratio(ratio, ratio * 0.99, high or ratio * 1.01, 100)
    searched = None if drop is None else Accuracy(drop, {})
    rounds = (TimedRound(reached, 100, p50_ms, CALM),)
    return CandidateOutcome(
        candidate, searched, measured=measured, ratio=interval, rounds=rounds, standing=standing
    )


FLOAT = outcome("float", 10.0, precision="float32")


def names(outcomes: list[CandidateOutcome]) -> list[str]:
    return [o.candidate.graph.recipe for o in choose(outcomes, min_speedup=1.02)]


def test_the_fastest_quantized_candidate_comes_first_and_float_is_the_last_resort() -> None:
    assert names([FLOAT, outcome("a", 8.0), outcome("b", 5.0)]) == ["b", "a", "float"]


def test_never_slower_than_float_and_what_is_equal_is_not_faster() -> None:
    assert names([FLOAT, outcome("slower", 12.0)]) == ["float"]
    assert names([FLOAT, outcome("same", 9.7)]) == ["float"]
    uncertain = outcome("uncertain", 8.0, high=1.1)
    # to be measured in a process of its own, which decides
    assert names([FLOAT, uncertain]) == ["uncertain", "float"]
    for standing in (Standing.EQUAL, Standing.SLOWER, Standing.UNDECIDED):
        assert names([FLOAT, outcome("uncertain", 8.0, standing=standing)]) == ["float"]
    assert names([FLOAT, outcome("proven", 9.7, standing=Standing.FASTER), uncertain]) == [
        "uncertain",
        "proven",
        "float",
    ]


def test_among_equals_the_more_accurate_one_comes_first() -> None:
    lossy, exact = outcome("lossy", 5.0, drop=0.008), outcome("exact", 5.2, drop=0.001)
    assert names([FLOAT, lossy, exact, outcome("slower", 5.4, drop=0.0)]) == [
        "exact",
        "lossy",
        "slower",
        "float",
    ]
    assert names([FLOAT, lossy, outcome("hardly", 5.2, drop=0.0079)]) == ["lossy", "hardly", "float"]


def test_the_best_that_the_search_ruled_out_is_measured_again_unless_it_is_far_off() -> None:
    assert may_be_faster(outcome("same", 10.2))
    assert may_be_faster(outcome("slower", 13.0))
    assert not may_be_faster(outcome("far", 14.0))
    assert not may_be_faster(outcome("told", 10.2, standing=Standing.EQUAL))
    assert [looks(outcome("a", ms)) for ms in (9.0, 10.2, 12.0)] == [None, Cause.EQUAL, Cause.SLOWER]


@pytest.mark.parametrize(("two_threads_ms", "first"), [(4.9, "one"), (4.4, "two")])
def test_a_second_thread_must_be_worth_its_core(two_threads_ms: float, first: str) -> None:
    assert names([FLOAT, outcome("one", 5.0), outcome("two", two_threads_ms, threads=2)])[0] == first


def test_who_was_measured_longer_goes_before_who_looked_faster_for_a_moment() -> None:
    assert names([FLOAT, outcome("lucky", 3.0, reached=0), outcome("sure", 5.0)]) == [
        "sure",
        "lucky",
        "float",
    ]


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.floats(1.0, 2.0))
def test_whatever_the_times_no_slower_candidate_is_ever_before_float(
    times: list[float], speedup: float
) -> None:
    order = choose([FLOAT, *(outcome(f"c{i}", t) for i, t in enumerate(times))], min_speedup=speedup)
    assert order[-1] is FLOAT
    for o in order[:-1]:
        assert o.measured is not None
        assert o.measured.p50_ms * 0.99 <= 10.0 * min(0.95, 1 / speedup)


def drawn(speeds: dict[str, float], n: int = 200, noise: float = 0.01) -> dict[str, np.ndarray]:
    """Times on a machine that changes its speed from round to round, for all alike."""
    rng = np.random.default_rng(0)
    machine = rng.uniform(1, 3, n)
    return {name: machine * s * rng.normal(1, noise, n) for name, s in speeds.items()}


def test_a_round_keeps_the_better_half_the_close_ones_and_the_fastest_of_each_kind() -> None:
    times = drawn({"best": 1.0, "close": 1.002, "third": 1.5, "fourth": 2.0, "slow": 3.0, "float": 9.0})
    of_kind: dict[str, set[str]] = {n: set() for n in times} | {"float": {"float"}}
    assert survivors(times, of_kind) == {"best", "close", "third", "float"}
    assert survivors(times, of_kind | {"slow": {"int8"}, "fourth": {"int8"}}) == {
        "best",
        "close",
        "third",
        "fourth",
        "float",
    }
    assert survivors({n: times[n] for n in ("best", "float")}, of_kind) == {"best", "float"}


def test_at_most_five_go_on_for_their_speed() -> None:
    times = drawn({f"c{i:02}": 1 + i / 1000 for i in range(30)})
    assert survivors(times, {n: set() for n in times}) <= {f"c{i:02}" for i in range(12)}
    assert len(survivors(times, {n: set() for n in times})) == 5


def test_every_float_candidate_and_int8_in_onnxruntime_is_of_a_kind() -> None:
    assert kinds(FLOAT.candidate) == {"float", "float in onnxruntime"}
    assert kinds(outcome("a", 1).candidate) == {"int8 in onnxruntime"}
    assert kinds(outcome("a", 1, runtime="openvino").candidate) == set()


def test_a_round_is_over_when_the_order_is_clear() -> None:
    assert settled(drawn({"best": 1.0, "other": 1.2, "float": 3.0}, 40), {"float"}, 1.02)
    assert not settled(drawn({"best": 1.0, "other": 1.01, "float": 3.0}, 40, noise=0.2), {"float"}, 1.02)
    # equal, and known to be
    assert settled(drawn({"best": 1.0, "other": 1.0, "float": 3.0}, 200, noise=0.005), {"float"}, 1.02)


def test_it_must_be_clear_whether_float_is_beaten() -> None:
    assert not settled(drawn({"best": 0.975, "float": 1.0}, 40, noise=0.05), {"float"}, 1.02)
    assert settled(drawn({"float": 1.0, "best": 1.5}, 40), {"float"}, 1.02)


def test_new_processes_contradict_by_where_a_candidate_stands_and_by_memory() -> None:
    for standing, cause in ((Standing.EQUAL, Cause.EQUAL), (Standing.SLOWER, Cause.SLOWER)):
        said = contradiction(outcome("a", 9.9, standing=standing), 100)
        assert said is not None
        assert said[1] is cause
        assert "0.99 × alone" in said[0]
    for standing in (Standing.FASTER, Standing.UNDECIDED):
        assert contradiction(outcome("a", 9.9, standing=standing), 100) is None
    assert contradiction(outcome("a", 9.9, precision="float32"), 100) is None
    assert contradiction(outcome("a", 5, rss_mb=120), 100) == (
        "takes 120 MiB of memory, 100 are allowed",
        Cause.MEMORY,
    )
    assert contradiction(outcome("a", 5, rss_mb=120), None) is None


def test_what_is_called_fast_is_at_most_five_percent_slower_than_any_that_takes_no_more_threads() -> None:
    fast, other, two = outcome("fast", 5.0), outcome("other", 4.7), outcome("two", 4.0, threads=2)
    assert soonest(fast, [fast, other, two]) is other
    assert soonest(fast, [two, outcome("same", 4.8)]) is fast
    assert soonest(two, [fast, other]) is two
    assert (
        quicker_with_more_threads(fast, [other, two], 1.02)
        == "1 thread; two/onnxruntime/2 with 2 would be 1.25 × faster"
    )
    assert (
        quicker_with_more_threads(
            fast, [other, outcome("unsure", 4.0, threads=2, standing=Standing.UNDECIDED)], 1.02
        )
        == ""
    )


def test_the_reference_is_the_fastest_float_whatever_it_takes() -> None:
    one, two = (
        outcome("float", 10.0, precision="float32"),
        outcome("float", 9.5, precision="float32", threads=2),
    )
    assert fastest([one, two]) is two
    assert fastest([one, outcome("float", 1.0, precision="float32", reached=0)]) is one


def test_low_power_is_the_least_processor_time_that_is_not_much_slower() -> None:
    fast = outcome("fast", 4, threads=2, cpu_ms=8)
    lean = outcome("lean", 5.9, cpu_ms=5.9)
    assert least_power([fast, lean], fast) is lean
    assert least_power([fast, outcome("too slow", 6.1, cpu_ms=1)], fast) is fast
    assert least_power([fast, outcome("hardly less", 4, cpu_ms=7.7)], fast) is fast


def test_a_candidate_ships_once_with_all_its_preferences() -> None:
    a, b, c = outcome("a", 4), outcome("b", 5), outcome("c", 6)
    picks = picks_of({"fast": a, "accurate": b, "low-power": b}, None)
    assert [(p.outcome, p.preferences) for p in picks] == [(a, ("fast",)), (b, ("accurate", "low-power"))]
    picks = picks_of({"fast": a, "accurate": c, "low-power": b}, b)
    assert [(p.outcome, p.preferences) for p in picks] == [
        (a, ("fast",)),
        (b, ("fast", "low-power")),
        (c, ("accurate",)),
    ]


def test_what_is_carried_over_from_an_older_release_wins_among_equals_and_only_there() -> None:
    near = outcome("follow-full", 5.05, carried_over=True)
    assert names([FLOAT, outcome("full", 5.0), near]) == ["follow-full", "full", "float"]
    assert names([FLOAT, outcome("full", 4.8), near]) == ["full", "follow-full", "float"]
    assert soonest(near, [outcome("full", 5.0)]) is near
    assert soonest(near, [outcome("full", 4.8)]) is near
    assert soonest(near, [faster := outcome("full", 4.6)]) is faster
    assert names([FLOAT, outcome("follow-full", 9.9, carried_over=True)]) == ["float"]
    assert kinds(near.candidate) == {"int8 in onnxruntime", "carried_over in onnxruntime"}


def test_the_report_says_when_nothing_that_ships_is_carried_over() -> None:
    fast, near = outcome("full", 4.0), outcome("follow-full", 5.0, carried_over=True)
    choice = Choice((Pick(fast, ("fast",)),), FLOAT, (FLOAT, fast, near), "")
    assert slower_carried_over(choice).startswith(
        "no variant follows the older release: follow-full/onnxruntime/1 takes 0.50 × the time of float, full/onnxruntime/1 0.40 ×"
    )
    assert slower_carried_over(Choice((Pick(near, ("fast",)),), FLOAT, (FLOAT, fast, near), "")) == ""
    assert slower_carried_over(Choice((Pick(fast, ("fast",)),), FLOAT, (FLOAT, fast), "")) == ""
