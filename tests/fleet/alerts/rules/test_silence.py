from __future__ import annotations

from support.alerts import fleet, found

from edgectl.fleet.alerts.facts import DeviceFacts


def test_device_is_silent_after_three_periods_and_not_before_three_minutes() -> None:
    facts = fleet(
        DeviceFacts("new", silent_s=None),
        DeviceFacts("fine", silent_s=170.0, window_s=10.0),
        DeviceFacts("silent", silent_s=190.0, window_s=10.0),
        DeviceFacts("slow", silent_s=890.0, window_s=300.0),
        DeviceFacts("slow-and-silent", silent_s=910.0, window_s=300.0),
    )
    assert found("silence", facts).keys() == {"silent", "slow-and-silent"}


def test_device_that_was_stopped_is_not_missed() -> None:
    facts = fleet(DeviceFacts("stopped", online=False, clean=True), DeviceFacts("gone", online=False))
    assert found("silence", facts).keys() == {"gone"}


def test_nobody_is_silent_while_nobody_can_be_heard() -> None:
    assert not found("silence", fleet(DeviceFacts("a", silent_s=1e6), connected=False))
