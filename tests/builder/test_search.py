"""What decides is pure: times in, a choice out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.builder.search import Candidate, Outcome, choose, survivors
from edgectl.core.bundle import Measured, SessionSettings
from edgectl.engines.timing import Ratio


def outcome(
    name: str, p50_ms: float, *, precision: str = "int8", threads: int = 1, high: float | None = None, float_ms: float = 10.0
) -> Outcome:
    candidate = Candidate(name, name, b"", precision, "onnxruntime", SessionSettings(threads=threads))  # type: ignore[arg-type]
    ratio = p50_ms / float_ms
    measured = Measured(p10_ms=p50_ms, p50_ms=p50_ms, n=100, machine="m", load=0, threads=threads, runtime_version="r")
    return Outcome(candidate, None, measured, Ratio(ratio, ratio * 0.99, high or ratio * 1.01, 100))


FLOAT = outcome("float", 10.0, precision="float32")


def names(outcomes: list[Outcome]) -> list[str]:
    return [o.candidate.name for o in choose(outcomes, min_speedup=1.02)]


def test_the_fastest_quantized_candidate_comes_first_and_float_is_the_last_resort() -> None:
    assert names([FLOAT, outcome("a", 8.0), outcome("b", 5.0)]) == ["b", "a", "float"]


def test_never_slower_than_float_not_even_perhaps() -> None:
    assert names([FLOAT, outcome("slower", 12.0)]) == ["float"]
    assert names([FLOAT, outcome("same", 9.9)]) == ["float"]
    assert names([FLOAT, outcome("uncertain", 8.0, high=1.1)]) == ["float"]


@pytest.mark.parametrize(("two_threads_ms", "first"), [(4.9, "one"), (4.4, "two")])
def test_a_second_thread_must_be_worth_its_core(two_threads_ms: float, first: str) -> None:
    assert names([FLOAT, outcome("one", 5.0), outcome("two", two_threads_ms, threads=2)])[0] == first


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.floats(1.0, 2.0))
def test_whatever_the_times_no_slower_candidate_is_ever_before_float(times: list[float], speedup: float) -> None:
    order = choose([FLOAT, *(outcome(f"c{i}", t) for i, t in enumerate(times))], min_speedup=speedup)
    assert order[-1] is FLOAT
    for o in order[:-1]:
        assert o.measured is not None
        assert o.measured.p50_ms * 1.01 <= 10.0 / speedup * 1.001


def test_a_round_keeps_the_better_half_the_close_ones_and_float() -> None:
    rng = np.random.default_rng(0)
    machine = rng.uniform(1, 3, 200)
    speeds = {"best": 1.0, "close": 1.002, "third": 1.5, "fourth": 2.0, "slow": 3.0, "float": 9.0}
    times = {n: machine * s * rng.normal(1, 0.01, 200) for n, s in speeds.items()}
    assert survivors(times, "float") == {"best", "close", "third", "float"}
    assert survivors({n: times[n] for n in ("best", "float")}, "float") == {"best", "float"}
