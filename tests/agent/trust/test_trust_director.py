"""Attacks on what a device is to run: the director, each key stolen alone, wishes that were replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from support.tuf import DIGEST, OTHER, RELEASE, Device, Repository

from edgectl.core.errors import TrustError
from edgectl.core.trust import seal_desired, set_director
from edgectl.core.wire import MAX_GEN, Desired, DesiredSlot


def test_device_obeys_what_the_director_signed_for_it(served: Device, repository: Repository) -> None:
    wish = served.wants(served.desired(3, *repository.signers["director"]))
    assert (wish.gen, wish.slots["gate"].digest, wish.slots["gate"].policy.max_latency_ratio) == (
        3,
        DIGEST,
        1.3,
    )
    assert served.wants(served.desired(3, *repository.signers["director"])).gen == 3, (
        "retained: it comes again"
    )


def test_stolen_broker_cannot_make_a_desired_state(served: Device, repository: Repository) -> None:
    plain = Desired(gen=5, slots={"gate": DesiredSlot(release=RELEASE, digest=DIGEST)}).encode()
    director = repository.signers["director"]
    for payload, reason in (
        (plain, "desired state is not signed"),
        (served.desired(5), "desired state is not signed"),
        (served.desired(5, CryptoSigner.generate_ed25519()), "signed by 0 of the 1 keys"),
        (served.desired(5, *director, device="gate-2"), "is for device 'gate-2' of fleet 'home'"),
        (served.desired(5, *director, fleet="away"), "is for device 'gate-1' of fleet 'away'"),
        (served.desired(5, *director).replace(b'"gen":5', b'"gen":6'), "signed by 0 of the 1 keys"),
        (served.desired(5, *director).replace(b":1.3", b":9.3"), "signed by 0 of the 1 keys"),
    ):
        with pytest.raises(TrustError, match=reason):
            served.wants(payload)


def test_older_desired_state_is_refused_after_a_reboot_too(served: Device, repository: Repository) -> None:
    director = repository.signers["director"]
    served.wants(served.desired(7, *director))
    for _ in range(2):
        with pytest.raises(
            TrustError, match="desired state has generation 6, this device has already seen 7"
        ):
            served.wants(served.desired(6, *director))
        served.lose_files()
        served.store.update(repository.message())


def test_one_stolen_key_installs_nothing_new(served: Device, repository: Repository) -> None:
    """Targets name what is genuine, the director what this device runs: both have to agree."""
    honest = served.wants(served.desired(1, *repository.signers["director"]))
    # the targets key is stolen: it can name, but not wish
    repository.name("evil@1", OTHER)
    repository.bump("targets")
    served.store.update(repository.message())
    evil = Desired(gen=2, slots={"gate": DesiredSlot(release="evil@1", digest=OTHER)})
    for key in ("targets", "timestamp", "snapshot", "root"):
        with pytest.raises(TrustError, match="signed by 0 of the 1 keys"):
            served.wants(seal_desired("home", "gate-1", evil, list(repository.signers[key])))
    assert honest.slots["gate"].digest == DIGEST
    # The director's key is stolen: it can wish for what was never signed, and gets nothing.
    unsigned = Desired(gen=2, slots={"gate": DesiredSlot(release="worse@1", digest=OTHER)})
    wish = served.wants(seal_desired("home", "gate-1", unsigned, list(repository.signers["director"])))
    with pytest.raises(TrustError, match="does not name release worse@1"):
        served.store.check(wish.slots["gate"].release, wish.slots["gate"].digest)


def test_revoked_director_is_not_obeyed_and_does_not_bind_the_next(
    served: Device, repository: Repository
) -> None:
    thief = repository.signers["director"]
    served.wants(served.desired(MAX_GEN, *thief))
    repository.rotate("director")
    repository.bump()
    served.store.update(repository.message())
    with pytest.raises(TrustError, match="signed by 0 of the 1 keys"):
        served.wants(served.desired(MAX_GEN, *thief))
    assert served.wants(served.desired(2, *repository.signers["director"])).gen == 2


def test_two_directors_may_have_to_agree(tmp_path: Path) -> None:
    repository = Repository()
    second = CryptoSigner.generate_ed25519()
    both = [*repository.signers["director"], second]
    set_director(repository.root, [s.public_key for s in both], 2)
    repository.publish_root()
    device = Device(tmp_path, repository)
    with pytest.raises(TrustError, match="signed by 1 of the 2 keys"):
        device.wants(device.desired(1, second, second))
    assert device.wants(device.desired(1, *both)).gen == 1
    device.journal.close()


def test_fleet_without_a_director_gets_one_by_root_and_never_goes_back(tmp_path: Path) -> None:
    repository = Repository(director=False)
    device = Device(tmp_path, repository)
    plain = Desired(gen=4).encode()
    assert device.wants(plain).gen == 4
    repository.rotate("director")
    device.store.update(repository.message())
    with pytest.raises(TrustError, match="desired state is not signed"):
        device.wants(plain)
    assert device.wants(device.desired(1, *repository.signers["director"])).gen == 1
    device.journal.close()
