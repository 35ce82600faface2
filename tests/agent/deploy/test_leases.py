from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.agent.deploy.leases import Leases
from edgectl.agent.state.journal import Journal

DAY = 86400.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "j.db")
    yield made
    made.close()


def test_lease_runs_out_on_a_device_that_is_switched_off_each_night(journal: Journal) -> None:
    Leases(journal, Clock()).take("shift-lead", DAY, "stocktaking")
    days = 0
    while days < 10:
        clock = Clock()
        leases = Leases(journal, clock)
        held = leases.holder()
        if held is None:
            break
        assert held.owner == "shift-lead"
        while clock.now_s < 10 * 3600:  # a working day
            clock.now_s += 60
            leases.tidy()
        days += 1
    assert days == 3, "24 hours of running are three working days"
    assert journal.leases() == []


def test_restart_costs_a_lease_no_more_than_what_it_ran(journal: Journal) -> None:
    clock = Clock()
    leases = Leases(journal, clock)
    leases.take("car", 3600, "it drives")
    for _ in range(90):  # renewed each minute, for longer than it lasts
        clock.now_s += 60
        leases.take("car", 3600, "it drives")
        leases.tidy()
    again = Leases(journal, clock).holder()
    assert again is not None
    assert again.until_s - clock.now_s == pytest.approx(3600, abs=60)


def test_renewals_write_to_the_disk_every_ten_minutes_at_most(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    leases = Leases(journal, clock)
    writes = []
    monkeypatch.setattr(journal, "save_lease", lambda *a: writes.append(a))
    for _ in range(3600):
        clock.now_s += 1
        leases.take("car", 30, "it drives")
        leases.tidy()
    assert len(writes) in (6, 7)
