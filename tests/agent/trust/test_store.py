"""Attacks on the signed metadata, and the ordinary life of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support.bundle import make_bundle
from support.tuf import Repository
from tuf.api.metadata import TargetFile

from edgectl.agent.state.journal import Journal
from edgectl.agent.trust.store import StaleTrust, TrustStore
from edgectl.core.bundle import Bundle
from edgectl.core.errors import TrustError
from edgectl.core.files import digest_of
from edgectl.core.plan import SharedPlan, plan_path
from edgectl.core.trust import decode_trust, encode_trust
from edgectl.fleet.keys.ceremony import init_keys
from edgectl.fleet.keys.releases import sign_plan, sign_release, withdraw
from edgectl.fleet.keys.trust import OnlineTrust


class World:
    """A host with keys, a controller, and a device."""

    def __init__(self, folder: Path, lifetime: timedelta = timedelta(days=7)) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        init_keys(self.keys)
        self.online = OnlineTrust(folder / "online", self.keys, lifetime=lifetime)
        self.bundle = Bundle(make_bundle(folder / "v1", size=2000))
        self.wall = time.time()
        self.journal = Journal(folder / "device" / "j.db")
        self.device = self.boot()

    def boot(self) -> TrustStore:
        root = (self.keys / "1.root.json").read_bytes()
        return TrustStore(self.folder / "device", root, self.journal, wall=lambda: self.wall)

    def release(self, bundle: Bundle | None = None) -> str:
        release, targets = sign_release(self.keys, bundle or self.bundle, self.online.targets_bytes)
        self.online.accept(targets)
        return release


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.journal.close()


def test_signed_release_is_accepted_with_its_length(world: World) -> None:
    release = world.release()
    world.device.update(world.online.message())
    found = world.device.check(release, world.bundle.digest)
    assert (found.digest, found.size) == (world.bundle.digest, len(world.bundle.index_bytes))
    assert world.device.version == 2


def plan(**more: object) -> SharedPlan:
    key = {"tensorrt": "10.3.0.30", "sm": "8.7", "l4t": None, "golden": "sha256:" + "e" * 64, **more}
    return SharedPlan(key=key, digest=digest_of(b"plan"), size=4, level=3)


def test_a_plan_is_found_by_its_very_key_and_goes_with_its_release(world: World) -> None:
    release = world.release()
    world.online.accept(sign_plan(world.keys, release, plan(), world.online.targets_bytes))
    world.device.update(world.online.message())
    assert world.device.plan(plan().key) == plan()
    assert world.device.plan(plan(sm="8.6").key) is None
    assert world.online.plans() == [plan().digest]
    targets = world.online.targets_bytes
    assert sign_plan(world.keys, release, plan(), targets) == targets, "again changes nothing"
    gone = withdraw(world.keys, release, targets)
    with pytest.raises(TrustError, match="lack plans/"):
        world.online.accept({"targets.json": gone}, withdraw=["other@1"])
    world.online.accept({"targets.json": gone}, withdraw=[release])
    world.device.update(world.online.message())
    assert world.device.plan(plan().key) is None


def test_a_plan_that_a_delegation_signs_or_that_lies_about_its_key_is_none(tmp_path: Path) -> None:
    fleet = Repository()
    path = plan_path(plan().key)
    custom = {"key": plan().key, "level": 3, "release": "gate@1"}
    fleet.delegate("team", paths=["plans/*"])
    fleet.delegated["team"].targets[path] = TargetFile(4, {"sha256": "ab" * 32}, path, {"custom": custom})
    journal = Journal(tmp_path / "j.db")
    device = TrustStore(tmp_path, fleet.roots["1.root.json"], journal)
    with pytest.raises(StaleTrust):
        device.plan(plan().key)
    device.update(fleet.message())
    assert device.plan(plan().key) is None
    for said in ({**custom, "key": plan(sm="8.6").key}, {}, "rubbish"):
        fleet.targets.targets[path] = TargetFile(4, {"sha256": "ab" * 32}, path, {"custom": said})
        fleet.bump("targets")
        device.update(fleet.message())
        with pytest.raises(TrustError, match="plan"):
            device.plan(plan().key)
    journal.close()


def test_device_that_has_heard_nothing_waits(world: World) -> None:
    with pytest.raises(StaleTrust):
        world.device.check("gate-detector@1.0.0", world.bundle.digest)


def test_other_digest_and_unknown_release_are_refused(world: World) -> None:
    release = world.release()
    world.device.update(world.online.message())
    with pytest.raises(TrustError, match="another digest"):
        world.device.check(release, "sha256:" + "0" * 64)
    with pytest.raises(TrustError, match="does not name"):
        world.device.check("gate-detector@9", world.bundle.digest)


def test_set_survives_a_reboot_without_the_broker(world: World) -> None:
    release = world.release()
    world.device.update(world.online.message())
    assert world.boot().check(release, world.bundle.digest)


@pytest.mark.parametrize("name", ["targets.json", "snapshot.json", "timestamp.json"])
def test_changed_metadata_is_refused_and_the_old_set_stays(world: World, name: str) -> None:
    release = world.release()
    good = world.online.message()
    world.device.update(good)
    files = decode_trust(good)
    document = json.loads(files[name])
    document["signed"]["version"] += 1
    files[name] = json.dumps(document).encode()
    with pytest.raises(TrustError):
        world.device.update(encode_trust(files))
    assert world.device.check(release, world.bundle.digest)


def test_metadata_of_another_fleet_is_refused(world: World, tmp_path: Path) -> None:
    world.release()
    world.device.update(world.online.message())
    other = World(tmp_path / "other")
    other.journal.close()
    other.release()
    with pytest.raises(TrustError):
        world.device.update(other.online.message())


def test_older_set_is_refused_even_after_everything_but_the_journal_was_lost(world: World) -> None:
    old = world.online.message()
    world.release()
    world.device.update(world.online.message())
    shutil.rmtree(world.folder / "device" / "roots")
    (world.folder / "device" / "trust.json").unlink()
    with pytest.raises(TrustError, match="has already seen"):
        world.boot().update(old)


def test_mix_of_old_and_new_files_is_refused(world: World) -> None:
    old = decode_trust(world.online.message())
    world.release()
    new = decode_trust(world.online.message())
    with pytest.raises(TrustError):
        world.device.update(encode_trust({**new, "targets.json": old["targets.json"]}))


def test_missing_file_is_refused(world: World) -> None:
    files = decode_trust(world.online.message())
    del files["snapshot.json"]
    with pytest.raises(TrustError, match="no snapshot"):
        world.device.update(encode_trust(files))


def test_expired_set_is_stale_not_wrong(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    world = World(tmp_path, lifetime=timedelta(seconds=-1))
    request.addfinalizer(world.journal.close)
    world.release()
    with pytest.raises(StaleTrust, match="expired"):
        world.device.update(world.online.message())


def test_power_cut_that_empties_what_is_kept_is_survived(world: World) -> None:
    release = world.release()
    message = world.online.message()
    world.device.update(message)
    for name in ("trust.json", "time.json", "roots/2.root.json"):
        (world.folder / "device" / name).write_bytes(b"")
    booted = world.boot()
    with pytest.raises(TrustError):
        booted.check(release, world.bundle.digest)
    booted.update(message)
    assert booted.check(release, world.bundle.digest)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{}",
        b'{"files": {}}',
        b"\xff",
        b'{"files": {"targets.json": "x", "snapshot.json": "", "timestamp.json": "{}"}}',
    ],
)
def test_rubbish_is_a_trust_error(world: World, message: bytes) -> None:
    with pytest.raises(TrustError):
        world.device.update(message)


def test_unverified_versions_never_become_floors(world: World) -> None:
    release = world.release()
    world.device.update(world.online.message())
    files = decode_trust(world.online.message())
    document = json.loads(files["targets.json"])
    document["signed"]["version"] = 1000
    with pytest.raises(TrustError):
        world.device.update(encode_trust({**files, "targets.json": json.dumps(document).encode()}))
    world.release(Bundle(make_bundle(world.folder / "v2", version="2.0.0", size=2000)))
    world.device.update(world.online.message())
    assert world.device.check(release, world.bundle.digest)


def test_root_that_is_no_root_is_refused_at_once(world: World) -> None:
    with pytest.raises(TrustError, match="root metadata of this device is not valid"):
        TrustStore(world.folder / "d2", b"{}", world.journal)
