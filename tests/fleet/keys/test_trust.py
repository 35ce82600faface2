from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.bundle import make_bundle
from support.tuf import keys_in
from tuf.api.metadata import Targets

from edgectl.agent.state.journal import Journal
from edgectl.agent.trust.store import TrustStore
from edgectl.core.bundle import Bundle
from edgectl.core.errors import StorageError, TrustError, UsageError
from edgectl.core.files import atomic_write
from edgectl.core.trust import decode_trust
from edgectl.fleet.keys.ceremony import delegate, init_keys, renew
from edgectl.fleet.keys.releases import sign_release
from edgectl.fleet.keys.signing import signed
from edgectl.fleet.keys.trust import OnlineTrust


def test_private_keys_are_for_the_owner_only_and_are_never_overwritten(tmp_path: Path) -> None:
    init_keys(tmp_path / "k")
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "k").glob("*.pem")} == {0o600}
    before = (tmp_path / "k" / "root.pem").read_bytes()
    with pytest.raises(UsageError):
        init_keys(tmp_path / "k")
    assert (tmp_path / "k" / "root.pem").read_bytes() == before


def test_controller_needs_neither_root_nor_targets_key(tmp_path: Path) -> None:
    init_keys(tmp_path / "k")
    for name in ("root.pem", "targets.pem"):
        (tmp_path / "k" / name).unlink()
    trust = OnlineTrust(tmp_path / "online", tmp_path / "k")
    (tmp_path / "k" / "director.pem").unlink()
    assert set(decode_trust(trust.message())) == {
        "1.root.json",
        "snapshot.json",
        "targets.json",
        "timestamp.json",
    }


def test_online_key_cannot_sign_releases(tmp_path: Path) -> None:
    init_keys(tmp_path / "k")
    trust = OnlineTrust(tmp_path / "online", tmp_path / "k")
    forged = Targets(version=2, expires=trust.targets.expires)
    with pytest.raises(TrustError, match="not signed by the keys of this fleet"):
        trust.accept(signed(forged, keys_in(tmp_path / "k" / "online.pem")))
    (tmp_path / "k" / "targets.pem").unlink()
    with pytest.raises(TrustError, match="needs more signatures: targets 0 of 1"):
        sign_release(tmp_path / "k", Bundle(make_bundle(tmp_path / "b", size=2000)))


def test_release_name_is_never_reused_for_other_bytes(tmp_path: Path) -> None:
    init_keys(tmp_path / "k")
    sign_release(tmp_path / "k", Bundle(make_bundle(tmp_path / "a", size=2000)))
    with pytest.raises(TrustError, match="already signed with other content"):
        sign_release(tmp_path / "k", Bundle(make_bundle(tmp_path / "b", size=2001)))


def test_older_and_shrunken_targets_are_refused(tmp_path: Path) -> None:
    init_keys(tmp_path / "k")
    empty = (tmp_path / "k" / "targets.json").read_bytes()
    trust = OnlineTrust(tmp_path / "online", tmp_path / "k")
    _, one = sign_release(tmp_path / "k", Bundle(make_bundle(tmp_path / "a", size=2000)))
    trust.accept(one)
    with pytest.raises(TrustError, match="targets have version 2, the controller has 2"):
        trust.accept(one)
    (tmp_path / "k" / "targets.json").write_bytes(empty)
    sign_release(tmp_path / "k", Bundle(make_bundle(tmp_path / "b", version="2", size=2000)))
    _, other = sign_release(tmp_path / "k", Bundle(make_bundle(tmp_path / "c", version="3", size=2000)))
    with pytest.raises(TrustError, match="lack releases/gate-detector/1"):
        trust.accept(other)


def test_second_host_continues_from_what_the_controller_has(tmp_path: Path) -> None:
    init_keys(tmp_path / "k")
    stale = (tmp_path / "k" / "targets.json").read_bytes()
    trust = OnlineTrust(tmp_path / "online", tmp_path / "k")
    trust.accept(sign_release(tmp_path / "k", Bundle(make_bundle(tmp_path / "a", size=2000)))[1])
    (tmp_path / "k" / "targets.json").write_bytes(stale)
    trust.accept(
        sign_release(
            tmp_path / "k", Bundle(make_bundle(tmp_path / "b", version="2", size=2000)), trust.targets_bytes
        )[1]
    )
    assert set(trust.targets.targets) == {"releases/gate-detector/1.0.0", "releases/gate-detector/2"}


def test_metadata_is_renewed_at_half_of_its_life_and_after_a_restart(tmp_path: Path) -> None:
    init_keys(tmp_path / "k")
    trust = OnlineTrust(tmp_path / "online", tmp_path / "k")
    before = trust.message()
    assert not trust.renew()
    assert trust.message() == before
    short = OnlineTrust(tmp_path / "online", tmp_path / "k", lifetime=timedelta(days=30))
    assert short.message() != before, "seven days are less than half of thirty"


def test_controller_that_lost_its_folder_goes_on_above_what_devices_have_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_keys(tmp_path / "k")
    trust = OnlineTrust(tmp_path / "online", tmp_path / "k")
    for version in ("1", "2", "3"):
        bundle = Bundle(make_bundle(tmp_path / version, version=version, size=2000))
        trust.accept(sign_release(tmp_path / "k", bundle)[1])
    journal = Journal(tmp_path / "j.db")
    device = TrustStore(tmp_path / "device", trust.root_bytes, journal)
    device.update(trust.message())
    shutil.rmtree(tmp_path / "online")
    later = time.time() + 60
    monkeypatch.setattr("edgectl.fleet.keys.trust.time.time", lambda: later)
    device.update(OnlineTrust(tmp_path / "online", tmp_path / "k").message())
    assert device.version == 4
    journal.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_set_is_consistent_again_whatever_write_it_was_cut_off_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """Targets that the snapshot does not list, or a snapshot that the timestamp does not, are refused by
    every device."""
    init_keys(tmp_path / "k")
    delegate(tmp_path / "k", "team", ("cam",))
    shutil.copytree(tmp_path / "k", tmp_path / "copied")  # what the controller has of it
    OnlineTrust(tmp_path / "online", tmp_path / "copied")
    _, targets = sign_release(tmp_path / "k", Bundle(make_bundle(tmp_path / "b", size=2000)))
    renew(tmp_path / "k", "team")
    new = {"targets.json": targets, "team.json": (tmp_path / "k" / "team.json").read_bytes()}
    cut_off = 0
    for writes in range(6):
        folder = tmp_path / f"cut-{writes}"
        shutil.copytree(tmp_path / "online", folder)
        trust = OnlineTrust(folder, tmp_path / "copied")
        left = iter(range(writes))

        def write(path: Path, data: bytes, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise StorageError("the disk is full")
            atomic_write(path, data)

        with monkeypatch.context() as m:
            m.setattr("edgectl.fleet.keys.trust.atomic_write", write)
            try:
                trust.accept(new)
            except StorageError:
                cut_off += 1
        if restarted:
            trust = OnlineTrust(folder, tmp_path / "copied")
        else:
            trust.renew()
        journal = Journal(folder / "j.db")
        TrustStore(folder / "device", trust.root_bytes, journal).update(trust.message())
        journal.close()
    assert cut_off == 4


def test_missing_keys_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(TrustError) as e:
        OnlineTrust(tmp_path / "online", tmp_path / "none")
    assert "keys init" in (e.value.hint or "")
