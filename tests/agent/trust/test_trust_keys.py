"""Stolen keys and how a fleet recovers from them; delegations; releases that were withdrawn."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from support.tuf import DIGEST, RELEASE, Device, Repository, sign

from edgectl.agent.trust.store import StaleTrust
from edgectl.core.errors import TrustError
from edgectl.core.trust import decode_trust, encode_trust

# ---- key compromise and recovery


def test_stolen_targets_key_is_worthless_once_root_revokes_it(served: Device, repository: Repository) -> None:
    thief = list(repository.signers["targets"])
    repository.rotate("targets")
    repository.bump("targets")
    served.store.update(repository.message())
    repository.name("evil@1")
    repository.bump("targets")
    with pytest.raises(TrustError, match="targets was signed by 0/1 keys"):
        served.store.update(repository.message(targets=sign(repository.targets, thief)))
    with pytest.raises(TrustError, match="does not name release evil@1"):
        served.store.check("evil@1", DIGEST)


def test_device_that_was_away_follows_every_root_in_turn(served: Device, repository: Repository) -> None:
    for roles in (("root",), ("targets", "root"), ("snapshot", "timestamp"), ("root", "director")):
        repository.rotate(*roles)
    repository.bump("targets")
    message = repository.message()
    gap = {n: d for n, d in decode_trust(message).items() if n != "3.root.json"}
    with pytest.raises(TrustError, match="was signed by 0/1 keys"):
        served.store.update(encode_trust(gap))
    served.store.update(message)
    assert served.store.check(RELEASE, DIGEST)
    assert served.boot().check(RELEASE, DIGEST)


def test_root_that_the_old_keys_did_not_sign_is_refused(served: Device, repository: Repository) -> None:
    repository.signers["root"] = [CryptoSigner.generate_ed25519()]
    repository.root.version = 2
    repository.root.roles["root"].keyids.clear()
    repository.root.add_key(repository.signers["root"][0].public_key, "root")
    repository.publish_root()
    with pytest.raises(TrustError, match="root was signed by 0/1 keys"):
        served.store.update(repository.message())


def test_revocation_counts_even_where_the_rest_of_the_set_is_old(
    served: Device, repository: Repository
) -> None:
    before = repository.message()
    director = list(repository.signers["director"])
    repository.rotate("timestamp", "director")
    repository.timestamp.expires = repository.at(-1)
    with pytest.raises(StaleTrust):
        served.store.update(repository.message())
    with pytest.raises(TrustError, match="timestamp was signed by 0/1 keys"):
        served.store.update(before)
    with pytest.raises(TrustError, match="0 of the 1 keys"):
        served.boot().accept_desired(served.desired(9, *director), "home", "gate-1")


def test_version_that_a_thief_drove_up_does_not_bind_the_new_keys(
    served: Device, repository: Repository
) -> None:
    honest = copy.deepcopy((repository.timestamp, repository.snapshot))
    repository.timestamp.version = repository.snapshot.version = 2**31
    served.store.update(repository.message())
    repository.timestamp, repository.snapshot = copy.deepcopy(honest)
    repository.bump("targets")
    with pytest.raises(TrustError, match="already seen 2147483648"):
        served.store.update(repository.message())
    repository.rotate("timestamp", "snapshot")
    served.store.update(repository.message())
    assert served.boot().check(RELEASE, DIGEST)


def test_versions_and_lists_without_bounds_are_refused_though_they_are_signed(
    served: Device, repository: Repository
) -> None:
    """The online keys are stolen: the journal must not be filled or broken by what they sign."""
    thief = copy.deepcopy(repository)
    thief.timestamp.version = thief.snapshot.version = 2**70
    with pytest.raises(TrustError, match="more than the 9007199254740991 allowed"):
        served.store.update(thief.message())
    thief = copy.deepcopy(repository)
    thief.bump()
    for i in range(600):
        thief.delegated[f"x{i}"] = thief.targets
        thief.signers[f"x{i}"] = []
    files = {n: data for n, data in thief.files().items() if not n.startswith("x")}
    with pytest.raises(TrustError, match=r"snapshot\.json lists 601 files"):
        served.store.update(encode_trust(files))


def test_refused_set_leaves_no_trace(served: Device, repository: Repository) -> None:
    """python-tuf would keep the newer timestamp and then refuse the older set that is in force."""
    half = copy.deepcopy(repository)
    half.bump("targets")
    with pytest.raises(TrustError):
        served.store.update(half.message(targets=repository.files()["targets.json"]))
    assert served.store.check(RELEASE, DIGEST)
    assert served.boot().check(RELEASE, DIGEST)


# ---- delegation


def test_delegation_counts_for_devices_of_its_profile_only(tmp_path: Path, repository: Repository) -> None:
    repository.delegate("team", "cam")
    repository.name_delegated("team", "cam", "driving@1")
    repository.name_delegated("team", "kiosk", "driving@2")  # not delegated to it
    repository.name("driving@3", targets=repository.delegated["team"])  # nor is this
    cam, kiosk = (Device(tmp_path / p, repository, profile=p) for p in ("cam", "kiosk"))
    for device in (cam, kiosk):
        device.store.update(repository.message())
        assert device.store.check(RELEASE, DIGEST), "releases for everybody stay"
        device.journal.close()
    cam = Device(tmp_path / "cam", repository, profile="cam")
    kiosk = Device(tmp_path / "kiosk", repository, profile="kiosk")
    assert cam.store.check("driving@1", DIGEST)
    for device, release in (
        (kiosk, "driving@1"),
        (kiosk, "driving@2"),
        (cam, "driving@2"),
        (cam, "driving@3"),
    ):
        with pytest.raises(TrustError, match="does not name release driving"):
            device.store.check(release, DIGEST)
    for device in (cam, kiosk):
        device.journal.close()


def test_delegation_that_is_wrong_or_expired_harms_nobody_else(
    served: Device, repository: Repository
) -> None:
    repository.delegate("team", "cam")
    repository.name_delegated("team", "cam", "driving@1")
    repository.delegated["team"].expires = repository.at(1)
    repository.bump("targets")
    served.store.update(repository.message())
    served.sleep(2)
    with pytest.raises(StaleTrust, match=r"team\.json ended"):
        served.store.check("driving@1", DIGEST)
    assert served.store.check(RELEASE, DIGEST)
    repository.bump("team")
    repository.signers["team"] = [CryptoSigner.generate_ed25519()]
    served.store.update(repository.message())
    with pytest.raises(TrustError, match="team was signed by 0/1 keys"):
        served.store.check("driving@1", DIGEST)
    assert served.store.check(RELEASE, DIGEST)


# ---- downgrade


def test_withdrawn_release_comes_back_only_with_newer_targets(served: Device, repository: Repository) -> None:
    named = repository.message()
    del repository.targets.targets["releases/gate/1"]
    repository.bump("targets")
    served.store.update(repository.message())
    with pytest.raises(TrustError, match="does not name release gate@1"):
        served.store.check(RELEASE, DIGEST)
    with pytest.raises(TrustError, match="already seen"):
        served.store.update(named)
    repository.name(RELEASE)
    repository.bump("targets")
    served.store.update(repository.message())
    assert served.store.check(RELEASE, DIGEST)
