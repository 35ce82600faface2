"""What is read from the controller, and how often."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from support.dashboard import DashWorld

from edgectl.fleet.control.telemetry_view import StreamRow
from edgectl.fleet.rollouts.planner import RolloutProgress, RolloutSpec
from edgectl.fleet.web.feed import Sparing
from edgectl.fleet.web.page_source import PageSource


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(world: DashWorld, clock: Clock) -> PageSource:
    return PageSource(world.controller, Sparing(clock))


def test_percentiles_are_merged_anew_only_for_who_has_sent_something(
    world: DashWorld, source: PageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        world.add_device(name)
        world.measures(name)
    asked: list[list[str]] = []
    real = world.controller.rows_of

    def rows_of(devices: Iterable[str]) -> list[StreamRow]:
        asked.append(list(devices))
        return real(asked[-1])

    monkeypatch.setattr(world.controller, "rows_of", rows_of)
    rows = source.fleet_rows().rows
    first = source.streams(rows)
    assert [line.stream for name in ("a", "b") for line in first[name]] == ["yard", "yard"]
    assert source.streams(rows) == first
    world.measures("b", 2, ms=50.0)
    second = source.streams(rows)
    assert asked == [["a", "b"], [], ["b"]]
    assert (second["b"][0].p50_ms or 0) > (first["b"][0].p50_ms or 0)


def test_a_rollout_that_is_over_is_read_seldom_and_one_under_way_at_every_look(
    world: DashWorld, source: PageSource, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_device("d")
    id_ = world.rollout("1")
    reads: list[float] = []
    real = world.controller.rollout

    def costly(rollout: str) -> tuple[RolloutSpec, RolloutProgress]:
        reads.append(clock.now)
        clock.now += 0.1
        return real(rollout)

    monkeypatch.setattr(world.controller, "rollout", costly)

    def looks(seconds: int) -> int:
        reads.clear()
        for _ in range(seconds):
            source.seen_rollout(id_, "")
            clock.now += 1.0
        return len(reads)

    assert looks(10) == 10
    world.controller.change_rollout(id_, "halt")
    looks(2)
    assert looks(9) <= 1


def test_latency_before_and_after_is_of_nobody_before_anybody_was_asked(
    world: DashWorld, source: PageSource
) -> None:
    world.publish("gate", "1")
    spec, progress = world.controller.rollout(world.rollout("1"))
    assert source.before_and_after(spec, progress) == []


def test_forms_offer_releases_newest_first_and_every_slot(world: DashWorld, source: PageSource) -> None:
    world.add_device("d")
    world.rollout("1")
    world.publish("gate", "2")
    releases, slots = source.choices()
    assert set(releases) == {"gate@1", "gate@2"}
    assert slots == ["gate"]
