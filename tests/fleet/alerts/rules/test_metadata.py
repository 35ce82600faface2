from __future__ import annotations

from support.alerts import NOW, fleet, found


def test_metadata_that_are_due_are_told_with_the_command_that_renews_them() -> None:
    facts = fleet(metadata={"root": NOW + 20 * 86400, "targets": NOW - 1})
    assert found("metadata", facts) == {
        "root": "ends in 20 days; edgectl keys renew root",
        "targets": "expired: devices install nothing; edgectl keys renew targets",
    }
