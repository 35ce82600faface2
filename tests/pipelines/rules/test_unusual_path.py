"""Unusual paths: blind until enough was watched, few false alarms, and what is odd is told, on sites drawn anew."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bench import BENCH, load

from edgectl.pipelines.rules.base import RuleContext
from edgectl.pipelines.rules.observation import Observation
from edgectl.pipelines.rules.unusual_path import UnusualPathConfig, UnusualPathRule
from edgectl.pipelines.stream.events import Event

DAY_S = 86400.0


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(BENCH))
    return load("unusual_path")


def rule(**settings_: float) -> UnusualPathRule:
    config = UnusualPathConfig.model_validate({"id": "odd", "unusual_path": settings_})
    return UnusualPathRule(config, RuleContext(("person", "vehicle")))


def watch(
    who: UnusualPathRule, number: int, odd: int, *, every: int = 1
) -> tuple[list[Event], dict[int, str]]:
    """A short day of a narrow pavement; ``odd``: how many walk across the lawn."""
    from synthetic_days import Site, day

    site = Site("pavement", 3)
    site.per_day, site.missing, site.fps, site.stopping, site.turners = 60, 0.1, 3.0, 0.0, 0.0
    frames, sorts = day(site, number, odd)
    return [e for tracks, t in frames for e in who.step(Observation(tracks, t))], sorts


def test_it_is_blind_until_it_has_watched_long_enough(bench: object) -> None:
    who = rule(alarms_per_day=1.0)
    events = [e for number in range(4) for e in watch(who, number, 0)[0]]
    told = [
        (e.data["available"], e.data["reason"], round(e.t_s / DAY_S, 2))
        for e in events
        if e.type == "capability"
    ]
    assert told[0] == (False, "learning", 0.0)
    assert told[1][:2] == (True, None)
    assert told[1][2] == pytest.approx(3.0, abs=0.02)
    assert all(e.t_s > 3 * DAY_S for e in events if e.type == "unusual_path")


def test_what_is_odd_is_told_with_why_and_once(bench: object) -> None:
    who = rule(alarms_per_day=1.0)
    for number in range(4):
        watch(who, number, 0)
    events, sorts = watch(who, 4, 6)
    told = [e for e in events if e.type == "unusual_path"]
    assert len({e.data["track"] for e in told} & sorts.keys()) >= 5
    assert len({e.data["track"] for e in told}) == len(told)
    assert all(e.data["because"]["value"] > e.data["because"]["limit"] for e in told)


def test_what_was_learned_outlasts_the_process_and_tracks_do_not(bench: object) -> None:
    first, second = rule(alarms_per_day=1.0), rule(alarms_per_day=1.0)
    for number in range(4):
        watch(first, number, 0)
    saved = json.dumps(first.lasting())
    assert len(saved) < 300_000
    second.recall(json.loads(saved))
    assert second.limit == pytest.approx(first.limit)
    events, sorts = watch(second, 4, 4)
    assert {e.data["track"] for e in events if e.type == "unusual_path"} & sorts.keys()


def test_an_outage_is_not_watched() -> None:
    who = rule(alarms_per_day=24.0)
    from support.pipelines import tracks

    who.step(Observation(tracks(), 0.0))
    who.step(Observation(tracks(), 30 * DAY_S))
    assert who.limit is None
    assert who.lasting()["watched_s"] <= 60


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 400))
def test_it_goes_on_from_a_snapshot_through_json_to_nearly_the_same(cut: int) -> None:
    from support.rules import seen, thing

    def where(t: float) -> list:  # type: ignore[type-arg]
        return [thing(int(t // 20) + 1, 20 + 48 * (t % 20), 500, 0, 30, 80)]

    def play(who: UnusualPathRule, begin: int, end: int) -> list[Event]:
        return [e for i in range(begin, end) for e in who.step(Observation(seen(*where(i / 5)), i / 5))]

    whole, first, second = rule(), rule(), rule()
    one = play(whole, 0, 500)
    two = play(first, 0, cut)
    second.restore(json.loads(json.dumps(first.snapshot())))
    two += play(second, cut, 500)
    assert [asdict(e) for e in two] == [asdict(e) for e in one]
    assert second.lasting()["watched_s"] == whole.lasting()["watched_s"]
