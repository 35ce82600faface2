"""Clocks that are behind, ahead, or lied to."""

from __future__ import annotations

import copy
import time

import pytest
from support.tuf import DAY, DIGEST, RELEASE, Device, Repository

from edgectl.agent.trust.store import StaleTrust


def test_clock_far_ahead_blocks_until_it_is_right_again(served: Device, repository: Repository) -> None:
    served.wall += 20 * 365 * DAY
    year = time.gmtime(served.wall).tm_year
    with pytest.raises(StaleTrust, match=f"^[^;]*this machine's clock says {year}-.*expired"):
        served.store.check(RELEASE, DIGEST)
    served.sleep(1)
    served.store.save_time()
    repository.bump()
    with pytest.raises(StaleTrust, match="expired"):
        served.store.update(repository.message())
    served.wall -= 20 * 365 * DAY
    assert served.boot().check(RELEASE, DIGEST), "nothing remembers the wrong year"
    served.store.update(repository.message())


def test_device_without_a_clock_installs_by_attested_time(served: Device, repository: Repository) -> None:
    served.wall = 0.0
    served.steady = 5.0
    served.boot()
    assert not served.store.clock_trusted
    assert served.store.check(RELEASE, DIGEST), "the set is as old as its own attestation"
    served.sleep(6.9, clock=False)
    assert served.store.check(RELEASE, DIGEST)
    served.sleep(0.2, clock=False)
    with pytest.raises(StaleTrust):
        served.store.check(RELEASE, DIGEST)
    repository.bump()
    repository.timestamp.expires = repository.snapshot.expires = repository.at(15)
    repository.signed_at_s = int(repository.now + 8 * DAY)
    served.store.update(repository.message())
    assert served.store.check(RELEASE, DIGEST)


def test_uptime_that_was_saved_counts_after_a_reboot(served: Device) -> None:
    served.sleep(6)
    served.store.save_time()
    served.wall, served.steady = 0.0, 1.0
    served.boot()
    served.sleep(0.9, clock=False)
    assert served.store.check(RELEASE, DIGEST)
    served.sleep(0.2, clock=False)
    with pytest.raises(StaleTrust, match="clock of this device is behind"):
        served.store.check(RELEASE, DIGEST)


def test_controller_that_was_years_ahead_takes_its_word_back(served: Device, repository: Repository) -> None:
    wrong = copy.deepcopy(repository)
    wrong.bump()
    wrong.signed_at_s = int(repository.now + 3 * 365 * DAY)
    wrong.root.version = 1
    for role in (wrong.timestamp, wrong.snapshot):
        role.expires = repository.at(3 * 365 + 7)
    with pytest.raises(StaleTrust, match=r"root\.json ended"):
        served.store.update(wrong.message())
    wrong.signed_at_s = int(repository.now + 60 * DAY)
    served.store.update(wrong.message())
    assert not served.store.clock_trusted
    repository.timestamp.version = repository.snapshot.version = wrong.timestamp.version
    repository.bump()
    served.store.update(repository.message())
    assert served.store.clock_trusted
    assert served.boot().check(RELEASE, DIGEST)


def test_time_that_a_thief_attested_goes_with_his_key(served: Device, repository: Repository) -> None:
    thief = copy.deepcopy(repository)
    thief.bump()
    thief.signed_at_s = int(repository.now + 80 * DAY)
    for role in (thief.timestamp, thief.snapshot):
        role.expires = repository.at(85)
    served.store.update(thief.message())
    repository.timestamp.version = thief.timestamp.version
    repository.bump()
    repository.signed_at_s = None
    with pytest.raises(StaleTrust, match="expired"):
        served.store.update(repository.message())
    repository.signed_at_s = int(repository.now)
    repository.rotate("timestamp", "snapshot")
    served.store.update(repository.message())
    assert served.boot().clock_trusted
    assert served.store.check(RELEASE, DIGEST)
