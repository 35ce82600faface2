from __future__ import annotations

import pytest

from edgectl.agent.deploy.probation import EngineHealth, HealthBook, judge
from edgectl.core.histogram import Histogram
from edgectl.core.wire import Frames, Policy, StreamStats
from edgectl.pipelines.host.protocol import Stats


def latency(ms: float, n: int) -> Histogram:
    h = Histogram()
    for i in range(n):
        h.record(ms * 1000 * (1 + i % 7 / 100))
    return h


POLICY = Policy(probation_s=10, min_inferences=200, percentile=95, max_latency_ratio=1.3, max_error_rate=0.01)


@pytest.mark.parametrize(
    ("live", "baseline", "elapsed", "outcome", "words"),
    [
        (EngineHealth(latency(5, 199), 199), latency(5, 500), 99, "wait", "199 of 200"),
        (EngineHealth(latency(5, 200), 200), latency(5, 500), 9, "wait", "9 of 10 s"),
        (EngineHealth(latency(5, 200), 200), latency(5, 500), 10, "healthy", "times the engine before"),
        (EngineHealth(latency(6.4, 200), 200), latency(5, 500), 10, "healthy", "1.2"),
        (EngineHealth(latency(7, 200), 200), latency(5, 500), 1, "unhealthy", "times are allowed"),
        # too little is known of the engine before
        (EngineHealth(latency(7, 200), 200), latency(5, 20), 10, "healthy", "p95"),
        (EngineHealth(latency(7, 200), 200), None, 10, "healthy", "p95"),
        (EngineHealth(latency(5, 10), 10, errors=3), None, 0, "unhealthy", "3 of 13"),
        (EngineHealth(latency(5, 10), 10, errors=2), None, 0, "wait", "of 200"),
        (EngineHealth(latency(5, 999), 999, errors=9), None, 10, "healthy", "p95"),
    ],
)
def test_gates(
    live: EngineHealth, baseline: Histogram | None, elapsed: float, outcome: str, words: str
) -> None:
    verdict = judge(POLICY, live, baseline, elapsed)
    assert verdict.outcome == outcome, verdict.reason
    assert words in verdict.reason


def test_absolute_limits_need_no_engine_before() -> None:
    policy = POLICY.model_copy(update={"max_latency_ms": 4.0, "max_rss_mb": 100.0})
    assert judge(policy, EngineHealth(latency(5, 200), 200), None, 1).outcome == "unhealthy"
    assert "MiB" in judge(policy, EngineHealth(latency(3, 10), 10, rss_mb=101), None, 1).reason


def test_p99_is_not_judged_from_too_few_samples_whatever_the_policy_says() -> None:
    policy = POLICY.model_copy(update={"percentile": 99, "min_inferences": 10})
    assert "of 662" in judge(policy, EngineHealth(latency(500, 600), 600), latency(5, 5000), 99).reason


def stats(processed: int, bundle: str, ms: float = 5, errors: int = 0) -> Stats:
    s = StreamStats(
        kind="surveillance",
        slots={"detector": bundle},
        stages={"engine": latency(ms, 10).data()},
        frames=Frames(processed=processed),
        errors=errors,
    )
    return Stats(stream="yard", window_s=1, stats=s, rss_mb=10, cpu_s=0)


def test_book_gives_each_engine_its_own_windows() -> None:
    book = HealthBook()
    book.record("yard", stats(10, "old"), {"detector": "gate"})
    book.record("yard", stats(20, "old", errors=2), {"detector": "gate"})
    book.record("yard", stats(30, "new", ms=9, errors=2), {"detector": "gate"})
    old, new = book.of("gate", "old"), book.of("gate", "new")
    assert (old.latency.n, old.processed, old.errors) == (20, 20, 2)
    assert (new.latency.n, new.processed, new.errors) == (10, 10, 0)
    book.start_over("gate", "new")
    assert book.of("gate", "new").processed == 0


def test_the_latency_of_a_lighter_variant_is_not_the_engines() -> None:
    book, window = HealthBook(), stats(10, "old")
    light = window.stats.model_copy(update={"stand_ins": {"detector": "low-power"}})
    book.record("yard", window.model_copy(update={"stats": light}), {"detector": "gate"})
    assert book.of("gate", "old").latency.n == 0
    assert book.of("gate", "old").processed == 10
    book.record("yard", stats(20, "old"), {"detector": "gate"})
    assert book.of("gate", "old").latency.n == 10


def test_book_understands_a_worker_that_started_anew() -> None:
    book = HealthBook()
    book.record("yard", stats(1000, "a", errors=5), {"detector": "gate"})
    book.record("yard", stats(10, "a"), {"detector": "gate"})
    assert book.of("gate", "a").processed == 1010
    assert book.of("gate", "a").errors == 5


def test_book_is_bounded() -> None:
    book = HealthBook()
    for i in range(20):
        book.record("yard", stats(10 * i + 10, f"engine-{i}"), {"detector": "gate"})
    assert len(book._live["gate"]) <= 3


def crops(processed: int, failed: int, frames: int) -> Stats:
    """A detector that does well, beside a classifier."""
    s = StreamStats(
        kind="surveillance",
        slots={"detector": "yard", "gear": "gear"},
        stages={
            "engine": latency(5, 10).data(),
            **({"engine:gear": latency(1, 2).data()} if processed else {}),
        },
        frames=Frames(processed=frames),
        crops={"gear": Frames(processed=processed, dropped={"engine_error": failed} if failed else {})},
    )
    return Stats(stream="yard", window_s=1, stats=s, rss_mb=10, cpu_s=0)


def test_a_second_stage_is_judged_by_its_crops_and_not_by_the_frames() -> None:
    book, parts = HealthBook(), {"detector": "gate", "gear": "gate-gear"}
    book.record("yard", crops(0, 0, 10), parts)
    assert book.of("gate-gear", "gear").latency.n == 0
    book.record("yard", crops(4, 3, 20), parts)
    gear, detector = book.of("gate-gear", "gear"), book.of("gate", "yard")
    assert (gear.processed, gear.errors, gear.latency.n) == (4, 3, 2)
    assert (detector.processed, detector.errors, detector.latency.n) == (20, 0, 20)
    assert judge(POLICY, gear, None, 1).outcome == "unhealthy"
    assert judge(POLICY, detector, None, 1).outcome == "wait"
