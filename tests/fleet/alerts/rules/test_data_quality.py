from __future__ import annotations

from support.alerts import fleet, found

from edgectl.fleet.alerts.facts import DeviceFacts


def test_wrong_clock_lost_and_missing_messages_are_told_together() -> None:
    facts = fleet(DeviceFacts("a"), DeviceFacts("b", clock_wrong=True, missing=3, dropped=7))
    (why,) = found("data_quality", facts).values()
    assert "clock" in why
    assert "gave up 7" in why
    assert "3 messages of telemetry did not come" in why
