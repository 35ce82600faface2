"""Attacks on the metadata set (TUF specification): arbitrary software, rollback, freeze, partial and mixed
sets, endless data."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from support.tuf import DAY, DIGEST, OTHER, RELEASE, Device, Repository, sign

from edgectl.agent.trust.store import StaleTrust
from edgectl.core.errors import TrustError
from edgectl.core.trust import MAX_TRUST_BYTES
from edgectl.core.wire import MAX_MESSAGE_BYTES

# ---- arbitrary software


def test_release_that_nobody_signed_is_refused(served: Device) -> None:
    with pytest.raises(TrustError, match="does not name release gate@2"):
        served.store.check("gate@2", DIGEST)
    with pytest.raises(TrustError, match="names another digest for release gate@1"):
        served.store.check(RELEASE, OTHER)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_set_with_one_role_signed_by_a_stranger_is_refused(
    served: Device, repository: Repository, role: str
) -> None:
    repository.bump("targets")
    repository.signers[role] = [CryptoSigner.generate_ed25519()]
    with pytest.raises(TrustError, match=f"{role} was signed by 0/1 keys"):
        served.store.update(repository.message())
    assert served.store.check(RELEASE, DIGEST), "the set from before stays in force"


def test_too_few_signatures_for_the_threshold_are_refused(tmp_path: Path) -> None:
    repository = Repository()
    second = CryptoSigner.generate_ed25519()
    repository.root.add_key(second.public_key, "targets")
    repository.root.roles["targets"].threshold = 2
    repository.publish_root()
    device = Device(tmp_path, repository)
    with pytest.raises(TrustError, match="targets was signed by 1/2 keys"):
        device.store.update(repository.message())
    twice = [repository.signers["targets"][0]] * 2
    with pytest.raises(TrustError, match="targets was signed by 1/2 keys"):
        device.store.update(repository.message(targets=sign(repository.targets, twice)))
    repository.signers["targets"].append(second)
    device.store.update(repository.message())
    device.journal.close()


# ---- rollback


def test_replayed_older_set_is_refused(served: Device, repository: Repository) -> None:
    old = repository.message()
    repository.bump("targets")
    served.store.update(repository.message())
    with pytest.raises(TrustError, match=r"timestamp\.json has version 1, this device has already seen 2"):
        served.store.update(old)
    served.lose_files()
    with pytest.raises(TrustError, match=r"timestamp\.json has version 1, this device has already seen 2"):
        served.store.update(old)


@pytest.mark.parametrize("lost", [False, True], ids=["running", "after a power cut"])
def test_older_snapshot_under_a_new_timestamp_is_refused(
    served: Device, repository: Repository, lost: bool
) -> None:
    old = copy.deepcopy(repository.snapshot)
    repository.bump("targets")
    served.store.update(repository.message())
    repository.timestamp.version += 1
    repository.snapshot = old
    repository.targets.version = 1
    if lost:
        served.lose_files()
    with pytest.raises(TrustError, match=r"snapshot\.json has version 1, this device has already seen 2"):
        served.store.update(repository.message())


@pytest.mark.parametrize("name", ["targets", "team"])
def test_older_targets_and_delegations_under_a_new_snapshot_are_refused(
    served: Device, repository: Repository, name: str
) -> None:
    repository.delegate("team", "cam")
    repository.bump("targets", "team")
    served.store.update(repository.message())
    repository.bump()
    (repository.targets if name == "targets" else repository.delegated["team"]).version = 1
    served.lose_files()
    with pytest.raises(TrustError, match=rf"{name}\.json has version 1, this device has already seen 2"):
        served.store.update(repository.message())


def test_older_root_is_refused_once_a_newer_one_was_verified(served: Device, repository: Repository) -> None:
    old = repository.message()
    repository.rotate("targets", "timestamp", "snapshot")
    repository.bump("targets")
    served.store.update(repository.message())
    with pytest.raises(TrustError, match="was signed by 0/1 keys"):
        # its root chain is too short, but the device knows the rest of it
        served.store.update(old)
    served.lose_files()
    with pytest.raises(TrustError, match="root metadata have version 1, this device has already seen 2"):
        served.store.update(old)
    with pytest.raises(TrustError, match="root metadata have version 1, this device has already seen 2"):
        served.wants(served.desired(1, *repository.signers["director"]))
    served.store.update(repository.message())
    assert served.store.check(RELEASE, DIGEST)


# ---- freeze, slow and partial sets


def test_set_that_expires_blocks_installs_until_a_newer_one_comes(
    served: Device, repository: Repository
) -> None:
    served.sleep(8)
    with pytest.raises(StaleTrust, match=r"timestamp\.json ended .*, it is at least"):
        served.store.check(RELEASE, DIGEST)
    repository.bump()
    repository.timestamp.expires = repository.snapshot.expires = repository.at(14)
    repository.signed_at_s = int(repository.now + 8 * DAY)
    served.store.update(repository.message())
    assert served.store.check(RELEASE, DIGEST)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_each_expired_role_is_named(device: Device, repository: Repository, role: str) -> None:
    getattr(repository, role).expires = repository.at(-1)
    repository.publish_root()
    device.root = repository.roots["1.root.json"]
    device.boot()
    with pytest.raises(StaleTrust, match=f"expired: .*{role}"):
        device.store.update(repository.message())


def test_clock_that_stands_still_does_not_keep_old_metadata_fresh(served: Device) -> None:
    served.sleep(8, clock=False)
    assert not served.store.clock_trusted
    with pytest.raises(StaleTrust, match="the clock of this device is behind"):
        served.store.check(RELEASE, DIGEST)


@pytest.mark.parametrize("name", ["timestamp", "snapshot", "targets"])
def test_part_of_a_set_changes_nothing(served: Device, repository: Repository, name: str) -> None:
    repository.bump("targets")
    repository.name("gate@2")
    with pytest.raises(TrustError, match=rf"the trust message has no {name}\.json"):
        served.store.update(repository.message(**{name: None}))
    assert served.store.check(RELEASE, DIGEST)
    served.store.update(repository.message())
    assert served.store.check("gate@2", DIGEST)


# ---- mix and match


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("targets", "Expected targets v2, got v1"),
        ("snapshot", "Expected snapshot version 2, got 1"),
        ("team", "Expected team v2, got v1"),
    ],
)
def test_files_of_two_sets_are_refused(
    served: Device, repository: Repository, name: str, reason: str
) -> None:
    repository.delegate("team", "cam")
    repository.name_delegated("team", "cam", "extra@1")
    old = repository.files()
    repository.bump("targets", "team")
    message = repository.message(**{name: old[f"{name}.json"]})
    # a delegation is looked at when one of its releases is wanted
    if name == "team":
        served.store.update(message)
    with pytest.raises(TrustError, match=reason):
        served.store.check("extra@1", DIGEST) if name == "team" else served.store.update(message)


# ---- endless data


def test_too_much_of_anything_is_refused_before_it_is_parsed(served: Device, repository: Repository) -> None:
    with pytest.raises(TrustError, match=f"more than the {MAX_TRUST_BYTES} allowed"):
        served.store.update(b" " * (MAX_TRUST_BYTES + 1))
    with pytest.raises(TrustError, match="exceeding the maximum"):
        served.store.update(repository.message(timestamp=repository.files()["timestamp.json"] + b" " * 16384))
    with pytest.raises(TrustError, match="files: it may have at most 512 entries"):
        served.store.update(json.dumps({"files": {f"{i}.root.json": "" for i in range(1, 600)}}).encode())
    with pytest.raises(TrustError, match=f"more than the {MAX_MESSAGE_BYTES} allowed"):
        served.wants(b" " * (MAX_MESSAGE_BYTES + 1))
    assert served.store.check(RELEASE, DIGEST)
