"""Whether a new configuration is kept: failed frames, too many events, none any more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.agent.deploy.config_probation import (
    ConfigHealth,
    ConfigHealthBook,
    EventRate,
    at_least,
    at_most,
    judge_config,
)
from edgectl.core.wire import EventGate, Frames, Policy, StreamStats
from edgectl.pipelines.host.protocol import EventMessage, Stats

POLICY = Policy(probation_s=60.0, min_inferences=100)


def health(
    events: int, seconds: float, before: EventRate, *, processed: int = 1000, errors: int = 0
) -> ConfigHealth:
    return ConfigHealth(EventRate(events, seconds), before, processed, errors)


HOUR = EventRate(600, 3600.0)
"""Ten a minute."""


def test_as_many_events_as_before_are_kept_at_the_end_and_not_sooner() -> None:
    assert judge_config(POLICY, health(11, 60.0, HOUR), 59.0).outcome == "wait"
    verdict = judge_config(POLICY, health(11, 60.0, HOUR), 60.0)
    assert verdict.outcome == "healthy"
    assert verdict.reason == "11.0 events a minute over 1000 frames"


def test_too_few_frames_are_waited_for() -> None:
    verdict = judge_config(POLICY, health(1, 60.0, HOUR, processed=99), 600.0)
    assert (verdict.outcome, verdict.reason) == ("wait", "99 of 100 frames")


def test_frames_that_fail_end_it_at_once() -> None:
    verdict = judge_config(POLICY, health(0, 1.0, HOUR, processed=90, errors=10), 1.0)
    assert verdict.outcome == "unhealthy"
    assert verdict.reason.startswith("10 of 100 frames failed")


def test_storm_ends_it_as_soon_as_it_is_certain() -> None:
    assert judge_config(POLICY, health(20, 5.0, HOUR), 5.0).outcome == "unhealthy", (
        "240 a minute, 50 are allowed"
    )
    assert judge_config(POLICY, health(3, 1.0, HOUR), 1.0).outcome == "wait", "three may come at once"


def test_rule_that_tells_more_than_anybody_can_look_at_ends_it_whatever_came_before() -> None:
    busy = EventRate(18_000, 3600.0)
    storm = ConfigHealth(EventRate(700, 60.0), busy, 1000, busiest=EventRate(400, 60.0), busiest_rule="odd")
    verdict = judge_config(POLICY, storm, 60.0)
    assert (verdict.outcome, verdict.reason) == (
        "unhealthy",
        "rule odd tells 400.0 events a minute, 120 are allowed",
    )
    fine = ConfigHealth(EventRate(500, 60.0), busy, 1000, busiest=EventRate(130, 60.0), busiest_rule="odd")
    assert judge_config(POLICY, fine, 60.0).outcome == "healthy"
    any_number = POLICY.model_copy(update={"events": EventGate(rule_per_minute=None)})
    assert judge_config(any_number, storm, 60.0).outcome == "healthy"


def test_rate_that_is_fine_in_any_case_is_no_storm_where_hardly_any_event_came_before() -> None:
    quiet = EventRate(0, 3600.0)
    assert judge_config(POLICY, health(25, 60.0, quiet), 60.0).outcome == "healthy"
    assert judge_config(POLICY, health(90, 60.0, quiet), 60.0).outcome == "unhealthy"


def test_where_nothing_is_known_of_before_only_a_flood_ends_it() -> None:
    unknown = EventRate(3, 20.0)
    assert judge_config(POLICY, health(140, 60.0, unknown), 60.0).outcome == "healthy"
    assert judge_config(POLICY, health(220, 60.0, unknown), 60.0).outcome == "unhealthy"


def test_rule_that_has_gone_silent_is_found_where_chance_cannot_explain_it() -> None:
    busy = EventRate(2400, 3600.0)  # 40 a minute
    verdict = judge_config(POLICY, health(0, 60.0, busy), 60.0)
    assert verdict.outcome == "unhealthy"
    assert (
        verdict.reason
        == "0.0 events a minute, before 40.0 events a minute: at least 0.2 times as many were expected"
    )
    assert judge_config(POLICY, health(0, 60.0, HOUR), 60.0).outcome == "healthy", (
        "two were expected at least"
    )


@pytest.mark.parametrize("events", [0, 5000])
def test_events_are_not_judged_where_the_policy_does_not(events: int) -> None:
    busy = EventRate(2400, 3600.0)
    deaf = POLICY.model_copy(update={"events": None})
    assert judge_config(deaf, health(events, 60.0, busy), 60.0).outcome == "healthy"
    any_number = POLICY.model_copy(update={"events": EventGate(max_ratio=None, min_ratio=None)})
    assert judge_config(any_number, health(events, 60.0, busy), 60.0).outcome == "healthy"


@given(st.integers(0, 400), st.floats(0.01, 300.0))
def test_poisson_is_that_of_the_textbook(k: int, mean: float) -> None:
    exact = sum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(k + 1))
    assert at_most(k, mean) == pytest.approx(min(1.0, exact), abs=1e-9)
    assert at_least(k, mean) == pytest.approx(1 - (at_most(k - 1, mean) if k else 0.0), abs=1e-9)


@given(st.floats(690.0, 2000.0))
def test_large_means_go_over_into_the_normal_approximation(mean: float) -> None:
    assert at_most(int(mean), mean) == pytest.approx(0.5, abs=0.03)
    assert at_most(int(mean + 6 * mean**0.5), mean) > 1 - 1e-6
    assert at_most(int(mean - 6 * mean**0.5), mean) < 1e-6


def window(processed: int, errors: int = 0, seconds: float = 2.0) -> Stats:
    stats = StreamStats(kind="surveillance", frames=Frames(processed=processed), errors=errors)
    return Stats(stream="yard", window_s=seconds, stats=stats, rss_mb=10.0, cpu_s=1.0)


def event(kind: str, rule: str = "mid") -> EventMessage:
    return EventMessage(stream="yard", event={"type": kind, "rule": rule})


def test_book_counts_what_rules_tell_and_compares_it_with_what_came_before() -> None:
    book = ConfigHealthBook({"yard": "rules", "door": "rules"})
    for i in range(3):
        book.event("yard", event("line_crossing"))
        book.event("yard", event("tracked_object", ""))
        book.event("yard", EventMessage(stream="yard", event={"type": "configuration"}))
        book.stats("yard", window(10 * (i + 1), errors=1))
    book.start_over("rules")
    assert book.of("rules") == ConfigHealth(before=EventRate(3, 6.0), silent=("yard",))
    book.event("yard", event("zone"))
    book.stats("yard", window(50, errors=3))
    book.stats("door", window(7))
    book.stats("gate", window(1000))  # it has no such slot
    book.event("gate", event("zone"))
    found = book.of("rules")
    assert found == ConfigHealth(
        EventRate(1, 4.0),
        EventRate(3, 6.0),
        27,
        2,
        busiest=EventRate(1, 2.0),
        busiest_rule="mid",
        silent=("yard",),
    )


def test_busiest_rule_is_that_of_one_stream_and_rules_are_bounded() -> None:
    book = ConfigHealthBook({"yard": "rules", "door": "rules"})
    for stream, rule, n in (("yard", "mid", 5), ("door", "mid", 6), ("yard", "top", 7)):
        for _ in range(n):
            book.event(stream, event("zone", rule))
    for i in range(2000):
        book.event("yard", event("zone", f"r{i}"))
    book.stats("yard", window(1, seconds=4.0))
    found = book.of("rules")
    assert (found.busiest, found.busiest_rule) == (EventRate(7, 4.0), "top")
    assert len(book._counts["rules"].rules) == 1024


def test_storm_that_was_taken_back_is_no_measure_for_the_next_one() -> None:
    book = ConfigHealthBook({"yard": "rules"})
    for i in range(4):
        book.event("yard", event("zone"))
        book.stats("yard", window(i))
    book.start_over("rules")
    for _ in range(500):
        book.event("yard", event("zone"))
    book.stats("yard", window(10))
    book.event("yard", event("zone"))
    book.take_back("rules")
    book.stats("yard", window(20))
    book.start_over("rules")
    assert book.of("rules").before == EventRate(4, 10.0)


def test_worker_that_was_started_anew_counts_from_zero() -> None:
    book = ConfigHealthBook({"yard": "rules"})
    book.stats("yard", window(100, errors=5))
    book.start_over("rules")
    book.stats("yard", window(20, errors=1))
    assert (book.of("rules").processed, book.of("rules").errors) == (20, 1)


@pytest.mark.parametrize("streams", [1, 10])
def test_book_keeps_an_hour_and_no_more_however_many_streams_there_are(streams: int) -> None:
    names = [f"cam{i}" for i in range(streams)]
    now_s = 0.0
    book = ConfigHealthBook(dict.fromkeys(names, "rules"), lambda: now_s)
    for i in range(2 * 60):
        now_s = 60.0 * i
        for name in names:
            book.stats(name, window(i, seconds=60.0))
    assert len(book._counts["rules"].minutes) == 60
    book.start_over("rules")
    assert book.of("rules").before == EventRate(0, 3600.0 * streams)


def test_events_of_yesterday_are_no_measure() -> None:
    now_s = 0.0
    book = ConfigHealthBook({"yard": "rules"}, lambda: now_s)
    book.event("yard", event("zone"))
    book.stats("yard", window(1))
    now_s = 86_400.0
    book.start_over("rules")
    assert book.of("rules").before == EventRate()


def test_each_stream_that_ran_before_has_to_run_with_it() -> None:
    now_s = 0.0
    book = ConfigHealthBook(
        {"yard": "rules", "door": "rules", "shed": "rules", "hall": "other"}, lambda: now_s
    )
    book.stats("shed", window(10))  # and was switched off then
    now_s = 1000.0
    for stream in ("yard", "door", "hall"):
        book.stats(stream, window(10))
    book.start_over("rules")
    assert book.of("rules").silent == ("door", "yard")
    book.stats("yard", window(20))
    assert book.of("rules").silent == ("door", "yard"), "that window began before it"
    book.stats("yard", window(3))
    assert book.of("rules").silent == ("door",), "it was started anew"
    verdict = judge_config(POLICY, replace(book.of("rules"), processed=1000), 600.0)
    assert (verdict.outcome, verdict.reason) == ("wait", "door: no frame with it yet")
    for left_out in (5, 9):
        frames = Frames(processed=10, dropped={"gated": left_out})
        stats = StreamStats(kind="surveillance", frames=frames)
        book.stats("door", Stats(stream="door", window_s=2.0, stats=stats, rss_mb=10.0, cpu_s=1.0))
    assert book.of("rules").silent == (), "nothing moves at the door, and it looks"
