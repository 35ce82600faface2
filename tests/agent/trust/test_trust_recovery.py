"""Trust that has to survive what happens to a device: keys that were revoked, power cuts between two
writes, wrong clocks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from support.tuf import DIGEST, RELEASE, Device, Repository

from edgectl.agent.trust.store import StaleTrust
from edgectl.core.errors import StorageError, TrustError


@pytest.mark.parametrize("booted", [False, True], ids=["running", "after a start"])
def test_root_keys_that_were_replaced_cannot_fork_the_chain_of_roots(
    device: Device, repository: Repository, booted: bool
) -> None:
    # has every key of version 1, and signs a version 2 of his own
    thief = copy.deepcopy(repository)
    repository.rotate("root", "targets", "snapshot", "timestamp")
    repository.bump("targets")
    device.store.update(repository.message())
    if booted:
        device.boot()
    thief.rotate("targets", "snapshot", "timestamp")
    thief.name("evil@1")
    thief.targets.version = thief.snapshot.version = thief.timestamp.version = 99
    with pytest.raises(TrustError, match="was signed by 0/1 keys"):
        device.store.update(thief.message())
    with pytest.raises(TrustError, match=r"does not name release evil@1"):
        device.store.check("evil@1", DIGEST)
    repository.bump("targets")
    device.store.update(repository.message())
    assert device.store.check(RELEASE, DIGEST), "the fleet's own set still counts"


def test_floors_of_a_set_that_no_disk_took_make_the_older_one_wait_and_not_refuse(
    device: Device, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.store.update(repository.message())
    repository.bump("targets")

    def full(path: Path, data: bytes) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as m:
        m.setattr("edgectl.agent.trust.store.atomic_write", full)
        with pytest.raises(StorageError):
            device.store.update(repository.message())
    device.boot()
    with pytest.raises(StaleTrust, match="already seen 2"):
        device.store.check(RELEASE, DIGEST)
    device.store.update(repository.message())
    assert device.store.check(RELEASE, DIGEST)


def test_root_that_came_before_the_power_cut_makes_the_set_from_before_wait(
    device: Device, repository: Repository
) -> None:
    device.store.update(repository.message())
    old = (device.folder / "trust" / "trust.json").read_bytes()
    repository.rotate("timestamp")
    repository.bump()
    device.store.update(repository.message())
    (device.folder / "trust" / "trust.json").write_bytes(old)
    with pytest.raises(StaleTrust, match="timestamp was signed by 0/1 keys"):
        device.boot().check(RELEASE, DIGEST)
