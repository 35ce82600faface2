"""A camera's view on pictures that are drawn here: what is told of it, what is kept, and that nothing is told of weather."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.health.judge import HealthConfig
from edgectl.pipelines.video.health.measure import UsualView, ViewMeter
from edgectl.pipelines.video.health.watch import HealthWatch

sys.path.insert(0, str(Path(__file__).parents[4] / "bench"))

from synthetic_views import FAULTS, View

LEARN_S = 75.0


def frame(luma: Any, t: float) -> Frame:
    stamp = Stamp(round(t * 25), round(t * 1e9), 0)
    return Frame.of_bgr(np.repeat(luma[..., None], 3, axis=2), stamp)


def look(
    watch: HealthWatch, view: View, until_s: float, fault: str | None = None, after_s: float = 0.0
) -> list[Event]:
    found = []
    for t, before, now in view.pairs(until_s, fault, after_s=after_s):
        found += watch.look(frame(before, max(0.0, t - 0.04)))
        found += watch.look(frame(now, t))
    return found


@pytest.fixture(scope="module")
def learned() -> tuple[View, dict[str, Any]]:
    """A view, and what a watch keeps of it."""
    view, kept = View(31, 400), []
    watch = HealthWatch(HealthConfig(), kept.append)
    assert look(watch, view, LEARN_S) == []
    assert kept
    return view, json.loads(json.dumps(kept[-1]))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told_with_what_was_measured_and_when_it_is_over(
    learned: tuple[View, dict[str, Any]], fault: str
) -> None:
    view, kept = learned
    watch = HealthWatch(HealthConfig(), kept=kept)
    assert look(watch, view, 85, after_s=80) == []
    assert watch.view is None
    (start,) = look(watch, view, 105, fault, after_s=85)
    assert (start.type, start.phase, start.rule) == ("capability", "start", "camera")
    assert {k: start.data[k] for k in ("name", "available", "reason")} == {
        "name": "picture",
        "available": False,
        "reason": fault,
    }
    assert set(start.data["because"]) == {"what", "value", "limit", "unit"}
    assert 82 <= start.data["since_s"] <= 90
    assert watch.view == fault
    (end,) = look(watch, view, 130, after_s=105)
    assert (end.phase, end.data["available"], end.data["reason"]) == ("end", True, fault)
    assert watch.view is None


def test_light_weather_and_lorries_are_not_told() -> None:
    assert look(HealthWatch(HealthConfig()), View(41, 120), 120) == []


def test_a_view_that_is_not_known_yet_is_not_compared(learned: tuple[View, dict[str, Any]]) -> None:
    view, _ = learned
    watch = HealthWatch(HealthConfig())
    assert look(watch, view, 20) == []
    assert look(watch, view, 50, "covered", after_s=20) == []


def test_what_was_turned_away_while_nobody_looked_is_told(learned: tuple[View, dict[str, Any]]) -> None:
    view, kept = learned
    (start,) = look(HealthWatch(HealthConfig(), kept=kept), view, 120, "moved", after_s=100)
    assert start.data["reason"] == "moved"


@pytest.mark.parametrize(
    "kept",
    [
        None,
        "",
        [],
        {"schema": "other"},
        {"schema": "edgectl.view/1", "maps": "!"},
        {"schema": "edgectl.view/1", "maps": "eJw=", "seconds": 1, "sharp": 1, "share": 1},
    ],
)
def test_what_is_no_view_is_learned_anew(kept: Any) -> None:
    assert look(HealthWatch(HealthConfig(), kept=kept), View(31, 400), 3) == []


def test_a_view_is_the_same_after_it_was_kept(learned: tuple[View, dict[str, Any]]) -> None:
    _, kept = learned
    view = UsualView.of(kept)
    assert view.known
    assert view.dump() == {k: v for k, v in kept.items() if k != "schema"}
    with pytest.raises(ValueError, match="no view"):
        UsualView.of({**kept, "seconds": float("nan")})


def test_nobody_who_does_not_want_to_know_is_told(learned: tuple[View, dict[str, Any]]) -> None:
    view, kept = learned
    watch = HealthWatch(HealthConfig(), kept=kept)
    look(watch, view, 100, "dark", after_s=85)
    assert watch.view == "dark"
    watch.adopt(HealthConfig(on=False))
    (end,) = look(watch, view, 102, "dark", after_s=100)
    assert (end.phase, end.data["reason"]) == ("end", "dark")
    assert look(watch, view, 130, "dark", after_s=102) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (3000, 2), (90, 160)])
def test_pictures_of_any_size_can_be_measured(size: tuple[int, int]) -> None:
    meter = ViewMeter()
    picture = np.full(size, 128, np.uint8)
    for t in range(200):
        meter.pair(picture)
        assert meter.measure(picture, t / 2, full_range=True).bright == 128
        meter.learn()
    assert meter.measure(np.full((48, 64), 128, np.uint8), 101, full_range=False).noise is None


def test_the_usual_view_is_not_changed_by_comparing_with_it(learned: tuple[View, dict[str, Any]]) -> None:
    view, kept = learned
    usual = UsualView.of(kept)
    before = usual.edges.copy()
    meter = ViewMeter(usual)
    for t, _, now in view.pairs(90, "moved", after_s=85):
        assert (meter.measure(now, t, full_range=True).outline or 0) < 0.9
    np.testing.assert_array_equal(usual.edges, before)
