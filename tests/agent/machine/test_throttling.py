from __future__ import annotations

import pytest

from edgectl.agent.machine.throttling import Throttled, ThrottleMeter


def test_share_of_the_time_that_was_looked_at() -> None:
    meter = ThrottleMeter()
    for t in range(0, 11, 2):
        meter.look(t, {"too hot"} if t in (4, 6) else (), {})
    assert meter.window() == Throttled(0.4, ("too hot",))
    meter.look(12, (), {})
    assert meter.window() == Throttled(0.0, ())


def test_counter_that_grew_since_the_look_before_and_not_what_it_counted_earlier() -> None:
    meter = ThrottleMeter()
    for t, n in enumerate((100, 100, 103, 103)):
        meter.look(t, (), {"under-voltage": n})
    assert meter.window() == Throttled(pytest.approx(1 / 3), ("under-voltage",))  # type: ignore[arg-type]


def test_longest_reason_goes_first() -> None:
    meter = ThrottleMeter()
    for t in range(4):
        meter.look(t, {"a", "b"} if t > 2 else {"b"}, {})
    assert meter.window().reasons == ("b", "a")


def test_machine_that_does_not_tell_has_no_share_of_0() -> None:
    meter = ThrottleMeter()
    for t in range(4):
        meter.look(t, None, {})
    assert meter.window() == Throttled(None, ())


def test_one_look_is_no_time() -> None:
    meter = ThrottleMeter()
    meter.look(5.0, {"too hot"}, {})
    assert meter.window().share is None
