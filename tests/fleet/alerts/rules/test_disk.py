from __future__ import annotations

from support.alerts import fleet, found

from edgectl.fleet.alerts.facts import DeviceFacts


def test_disk_that_is_nearly_full_is_found_and_one_that_is_not_known_is_not() -> None:
    facts = fleet(
        DeviceFacts("a"), DeviceFacts("b", disk_free_mb=499.0), DeviceFacts("c", disk_free_mb=501.0)
    )
    assert found("disk", facts) == {"b": "499 MB of its disk are free"}
    assert found("disk", facts, disk_free_mb=10) == {}
