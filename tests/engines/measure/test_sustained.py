"""What minutes of calls say together: made seconds in, sentences out; and a real engine in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.conftest import small_model

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError
from edgectl.core.histogram import Histogram
from edgectl.engines.measure import sustained
from edgectl.engines.measure.conditions import CpuTimes, Heat
from edgectl.engines.measure.processes import MeasuredEngine
from edgectl.engines.measure.sustained import Second, Sustained, judge, sustain, windows_of

FEEDS = [{"x": np.zeros((1, 3, 8, 8), np.float32)}, {"x": np.ones((1, 3, 8, 8), np.float32)}]


def second(i: int, ms: float, **more: object) -> Second:
    latency = Histogram()
    for _ in range(100):
        latency.record(ms * 1e3)
    made: dict[str, object] = {
        "at_s": float(i + 1),
        "p50_ms": ms,
        "latency": latency.data(),
        "first_ms": None,
        "rss_mb": 90.0,
        "heat": Heat(50.0, 2000.0, 7, False),
    }
    return Second(**(made | more))  # type: ignore[arg-type]


def run(seconds: int, ms: Callable[[int], float], **more: Callable[[int], object]) -> Sustained:
    """``ms`` and whatever else of the i-th second, with noise of 1 %."""
    rng = np.random.default_rng(1)
    noise = 1 + 0.01 * rng.standard_normal(seconds)
    return judge(
        [
            second(i, ms(i) * float(noise[i]), **{name: value(i) for name, value in more.items()})
            for i in range(seconds)
        ]
    )


def test_an_engine_that_stays_as_it_is_does_not_drift() -> None:
    found = run(120, lambda i: 4.0)
    assert found.drift is not None
    assert found.drift.low < 1 < found.drift.high
    assert found.sentences[0].startswith("no drift")
    assert found.n == 12_000
    assert found.p50_ms == pytest.approx(4.0, rel=0.01)
    assert found.p99_ms == pytest.approx(4.0, rel=0.05)


def test_heat_that_slows_an_engine_is_told_with_what_the_machine_says_of_it() -> None:
    hot = run(
        200,
        lambda i: 4.0 + i / 100,
        heat=lambda i: Heat(40.0 + i / 4, 2000.0 - 3 * i, 7 + i // 50, i > 150),
    )
    assert hot.drift is not None
    assert hot.drift.low < 5.75 / 4.28 < hot.drift.high
    assert hot.temperature_c == (40.0, 89.75)
    slower, *because = hot.sentences
    assert slower.startswith("it got slower: +3")
    assert because[:3] == [
        "the processor throttled 3 times for heat",
        "the kernel slowed the clock for heat in 49 of 200 s",
        "the clock fell from 1926 to 1476 MHz",
    ]


def test_what_a_neighbour_may_have_done_is_said_beside_a_drift() -> None:
    found = run(
        120,
        lambda i: 4.0 if i < 60 else 6.0,
        busy_because=lambda i: ("others took 1.9 of 2 cores",) * (i > 60),
    )
    assert found.sentences[0].endswith("; the machine was busy in 59 of 120 s (others took 1.9 of 2 cores)")


def test_seconds_that_scatter_too_much_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    scattered = rng.uniform(2, 8, 60)
    assert "cannot be told" in run(60, lambda i: float(scattered[i])).sentences[0]


def test_a_run_of_half_a_minute_is_too_short_for_a_drift() -> None:
    found = run(30, lambda i: 4.0 + i)
    assert found.drift is None
    assert "too short" in found.sentences[0]


@pytest.mark.parametrize(
    ("rss", "says"),
    [
        (lambda i: 90.0 + (i % 2), "memory is flat"),
        (lambda i: 90.0 + (20.0 if i > 2 else 0.0), "memory is flat"),
        (lambda i: 90.0 + i / 60, "memory grows: +60.0 MiB an hour [+60.0, +60.0], 4.0 MiB in this run"),
        (lambda i: 90.0 + i / 600, "memory grew by less than a MiB: +6.0"),
    ],
    ids=["breathes", "a step at the start", "leaks", "leaks a little"],
)
def test_memory_that_grows_is_told_from_memory_that_breathes(rss: Callable[[int], float], says: str) -> None:
    assert run(240, lambda i: 4.0, rss_mb=rss).sentences[-1].startswith(says)


def test_a_machine_that_tells_nothing_of_heat_is_said_to() -> None:
    found = run(60, lambda i: 4.0, heat=lambda i: Heat())
    assert found.sentences[1:3] == ("this machine does not tell its temperature", "nor whether it throttles")


def test_the_first_call_after_a_rest_is_in_no_other_figure() -> None:
    found = run(60, lambda i: 4.0, first_ms=lambda i: 40.0 if i in (20, 40, 50) else None)
    assert (found.first_after_rest_ms, found.rests) == (40.0, 3)
    assert found.p99_ms is not None
    assert found.p99_ms < 5
    assert "first call after a rest of 2 s: 40.000 ms, 10.0 × the median (3 rests)" in found.sentences


@given(st.integers(1, 200), st.integers(1, 40))
def test_windows_hold_every_call_once(seconds: int, most: int) -> None:
    seen = [second(i, 4.0, heat=Heat(throttles=i // 10)) for i in range(seconds)]
    windows = windows_of(seen, most)
    assert len(windows) <= most
    assert sum(w.n for w in windows) == 100 * seconds
    assert [w.start_s for w in windows[1:]] == [w.end_s for w in windows[:-1]]
    assert any(w.throttled for w in windows) == (seconds > 10)


class Child:
    """The other process: a second of calls takes a second, and a rest comes on top."""

    def __init__(self, *_: object, **__: object) -> None:
        self.now_s, self.asked = 0.0, []  # type: ignore[var-annotated]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.asked.append("closed")

    def ask(self, question: dict[str, float | None], *, timeout_s: float) -> dict[str, object]:
        if "open" in question:
            self.asked.append("open")
            return {}
        rest = question["rest_s"]
        self.asked.append(rest)
        self.now_s += 1 + (rest or 0)
        first = None if rest is None else 9.0
        latency = second(0, 4.0).latency.model_dump()
        return {"p50_ms": 4.0, "latency": latency, "first_ms": first, "cpu_s": 0.5, "rss_mb": 90.0}


def test_it_runs_for_its_time_and_rests_ten_times_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child()
    monkeypatch.setattr(sustained, "Conversation", lambda *_, **__: child)
    counters = iter(CpuTimes(i * 0.75, 0.0, 2, float(i)) for i in range(1000))
    told: list[int] = []
    found = sustain(
        contender(b""),
        seconds=40,
        clock=lambda: child.now_s,
        cpu=lambda: next(counters),
        heat=lambda: Heat(50.0),
        progress=lambda seen: told.append(len(seen)),
    )
    # four seconds of calls, then one behind a rest of two, until 40 s are over
    assert child.asked == ["open", *[None, None, None, None, 2.0] * 6, "closed"]
    assert [s.first_ms is not None for s in found] == [a is not None for a in child.asked[1:-1]]
    assert 40 <= found[-1].at_s < 43
    assert told == [*range(1, len(found) + 1)]
    assert {s.others for s in found} == {0.25}, "cores of others: what it used itself is not in it"


def contender(model: bytes) -> MeasuredEngine:
    return MeasuredEngine(model, "onnxruntime", SessionSettings(), FEEDS)


def test_a_real_engine_runs_in_a_process_of_its_own_until_it_is_stopped() -> None:
    """Like a camera, with a rest; what is asked for is an hour."""
    seen: list[Second] = []
    clock = iter(float(100 * i) for i in range(10_000))  # each look is 100 s later: a rest is due
    found = sustain(
        contender(small_model()),
        seconds=3600,
        rate=100,
        progress=lambda s: seen.append(s[-1]),
        stop=lambda: len(seen) == 2,
        clock=lambda: next(clock),
        rest_s=0.05,
    )
    assert found == seen
    assert len(found) == 2
    for s in found:
        assert Histogram.of(s.latency).n <= 101, "paced, not back to back"
        assert s.first_ms is not None
        assert s.p50_ms > 0
        assert s.rss_mb > 10


def test_an_engine_that_does_not_open_is_one_error() -> None:
    with pytest.raises(EngineError, match="cannot open"):
        sustain(contender(b"no model"), seconds=1)
