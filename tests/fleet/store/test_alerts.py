from __future__ import annotations

from pathlib import Path

import pytest
from support.postgres import postgres, store_url  # noqa: F401, fixtures

from edgectl.fleet.alerts.book import Alert
from edgectl.fleet.store import alerts
from edgectl.fleet.store.inventory import Inventory

A = Alert(rule="silence", site="north", severity="ticket", since_s=1.0, count=2, about={"a": "away"})


def test_what_fires_is_kept_and_notices_come_in_order(
    tmp_path: Path, store_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "NOTICES_KEPT", 2)
    inventory = Inventory(tmp_path, store_url)
    assert (inventory.firing(), inventory.oldest_notice()) == ([], None)
    for i in range(3):
        inventory.save_alerts([A, A.model_copy(update={"site": ""})], f"notice {i}", float(i))
    inventory.close()
    inventory = Inventory(tmp_path, store_url)
    assert sorted(a.site for a in inventory.firing()) == ["", "north"]
    assert inventory.oldest_notice() == (2, "notice 1"), "the oldest made way"
    inventory.drop_notice(2)
    assert inventory.oldest_notice() == (3, "notice 2")
    inventory.save_alerts([], None, 9.0)
    assert inventory.firing() == []
    inventory.close()
