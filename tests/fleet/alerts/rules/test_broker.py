from __future__ import annotations

from support.alerts import fleet, found


def test_broker_that_is_away_is_one_thing_that_is_wrong() -> None:
    assert list(found("broker", fleet(connected=False))) == ["broker"]
    assert not found("broker", fleet())
