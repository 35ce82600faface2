"""Keys are made, shared out, handed over, replaced and given to teams; the controller and a device follow."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.bundle import make_bundle
from support.tuf import keys_in
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets

from edgectl.agent.state.journal import Journal
from edgectl.agent.trust.store import TrustStore
from edgectl.core.bundle import Bundle
from edgectl.core.errors import TrustError, UsageError
from edgectl.core.trust import director_keys
from edgectl.core.wire import Desired
from edgectl.fleet.keys.ceremony import KeySet, delegate, init_keys, new_key, renew, rotate, sign, status
from edgectl.fleet.keys.keyfolder import public_files, take_newer
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.keys.releases import sign_release, withdraw
from edgectl.fleet.keys.signing import signed
from edgectl.fleet.keys.trust import Director, OnlineTrust


class Site:
    """A folder of keys, a controller with its own copy of what it may have, and a device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "keys"
        self.journal = Journal(folder / "journal.db")

    def controller(self) -> OnlineTrust:
        theirs = self.folder / "theirs"
        theirs.mkdir(exist_ok=True)
        for path in (
            *self.keys.glob("*.json"),
            *self.keys.glob("online*.pem"),
            *self.keys.glob("director*.pem"),
        ):
            shutil.copy(path, theirs)
        return OnlineTrust(self.folder / "controller", theirs)

    def device(self, profile: str | None = None) -> TrustStore:
        return TrustStore(
            self.folder / f"device-{profile}",
            (self.keys / "1.root.json").read_bytes(),
            self.journal,
            profile=profile,
        )

    def root(self) -> Root:
        newest = max(self.keys.glob("*.root.json"), key=lambda p: int(p.name.split(".")[0]))
        return Metadata[Root].from_bytes(newest.read_bytes()).signed


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.journal.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(make_bundle(tmp_path_factory.mktemp("bundle") / "v1", size=2000))


def test_new_fleet_has_a_director_and_every_key_is_for_its_owner_only(site: Site) -> None:
    init_keys(site.keys)
    assert director_keys(site.root()) is not None
    assert {p.name: p.stat().st_mode & 0o777 for p in site.keys.glob("*.pem")} == {
        "root.pem": 0o600,
        "targets.pem": 0o600,
        "online.pem": 0o600,
        "director.pem": 0o600,
    }
    assert site.keys.stat().st_mode & 0o777 == 0o700


def test_root_of_three_people_is_in_force_when_two_have_signed(
    site: Site, tmp_path: Path, bundle: Bundle
) -> None:
    people = [tmp_path / name / f"{name}.pem" for name in ("ann", "ben", "cem")]
    for path in people:
        path.parent.mkdir()
        new_key(path)
    pending = init_keys(site.keys, root=KeySet(0, 2, tuple(p.with_suffix(".pub") for p in people)))
    assert pending == site.keys / "pending" / "1.root.json"
    assert not (site.keys / "1.root.json").exists()
    # Ann signs on her own machine, where nothing but the file and her key is.
    hers = people[0].parent / pending.name
    shutil.copy(pending, hers)
    first = sign(hers, people[0].parent)
    assert (first.complete, first.signatures) == (False, ("root 1 of 2",))
    assert any("root: new key" in change for change in first.changes), "she sees what she signs"
    second = sign(hers, site.keys, ring=KeyRing([people[2]]))
    assert second.complete
    assert second.path == site.keys / "1.root.json"
    assert not pending.exists()
    controller = site.controller()
    controller.accept(sign_release(site.keys, bundle)[1])
    device = site.device()
    device.update(controller.message())
    assert device.check("gate-detector@1.0.0", bundle.digest)


def test_release_waits_until_enough_targets_keys_have_signed(
    site: Site, tmp_path: Path, bundle: Bundle
) -> None:
    init_keys(site.keys, targets=KeySet(2, 2))
    safe = tmp_path / "safe"
    safe.mkdir()
    (site.keys / "targets-2.pem").rename(safe / "targets-2.pem")
    controller = site.controller()
    with pytest.raises(TrustError, match="needs more signatures: targets 1 of 2"):
        sign_release(site.keys, bundle)
    with pytest.raises(TrustError, match="not signed by the keys of this fleet"):
        controller.accept((site.keys / "pending" / "targets.json").read_bytes())
    assert sign(site.keys / "pending" / "targets.json", site.keys, ring=KeyRing([safe])).complete
    release, data = sign_release(site.keys, bundle)
    controller.accept(data)
    assert release in ("gate-detector@1.0.0",)
    assert controller.names(release)["targets"][0] == bundle.digest


def test_stolen_targets_key_is_rotated_away(site: Site, bundle: Bundle, tmp_path: Path) -> None:
    init_keys(site.keys)
    controller = site.controller()
    controller.accept(sign_release(site.keys, bundle)[1])
    device = site.device()
    device.update(controller.message())
    stolen = tmp_path / "stolen"
    shutil.copytree(site.keys, stolen)

    assert rotate(site.keys, "targets").complete
    assert (site.keys / "retired" / "targets.pem").is_file()
    controller.accept(public_files(site.keys))
    device.update(controller.message())
    assert device.check("gate-detector@1.0.0", bundle.digest), "what was released stays released"
    evil = Bundle(make_bundle(tmp_path / "evil", version="6.6.6", size=2000))
    with pytest.raises(TrustError, match="not signed by the keys of this fleet"):
        controller.accept(sign_release(stolen, evil)[1])


def test_root_rotates_with_old_and_new_keys_and_a_device_follows_from_the_first(
    site: Site, bundle: Bundle
) -> None:
    init_keys(site.keys, root=KeySet(2, 2))
    old = {p.name: p.read_bytes() for p in site.keys.glob("root*.pem")}
    assert rotate(site.keys, "root", KeySet(1, 1)).signatures == ("the root before 2 of 2", "root 1 of 1")
    rotate(site.keys, "director")
    rotate(site.keys, "root", KeySet(3, 2))
    assert site.root().version == 4
    for name, data in old.items():
        (site.keys / name).write_bytes(data)
        (site.keys / "retired" / name).unlink()
    for path in site.keys.glob("root-v4*.pem"):
        path.unlink()
    assert not rotate(site.keys, "targets").complete, "the first root keys are worth nothing now"
    controller = site.controller()
    controller.accept(sign_release(site.keys, bundle)[1])
    device = site.device()
    device.update(controller.message())
    assert device.check("gate-detector@1.0.0", bundle.digest)


def test_one_of_several_keys_is_revoked_by_the_beginning_of_its_id(site: Site) -> None:
    init_keys(site.keys, targets=KeySet(3, 2))
    gone, *kept = site.root().roles["targets"].keyids
    with pytest.raises(UsageError, match="is the beginning of 0 key ids"):
        rotate(site.keys, "targets", revoke=["zz"])
    assert rotate(site.keys, "targets", KeySet(0, 2), revoke=[gone[:12]]).complete
    assert site.root().roles["targets"].keyids == kept


def test_replaced_online_and_director_keys_reach_the_controller_first(site: Site, bundle: Bundle) -> None:
    init_keys(site.keys)
    controller = site.controller()
    controller.accept(sign_release(site.keys, bundle)[1])
    device = site.device()
    device.update(controller.message())
    rotate(site.keys, "online")
    rotate(site.keys, "director")
    with pytest.raises(TrustError, match="no online key that root version 3 names"):
        controller.accept(public_files(site.keys))
    assert controller.root.version == 1, "all or nothing"
    again = site.controller()  # the keys were copied, the service started again
    assert again.root.version == 3
    device.update(again.message())
    wish = Director("home", again, [site.folder / "theirs"]).seal("gate-1", Desired(gen=1)).payload
    assert device.accept_desired(wish, "home", "gate-1").gen == 1
    with pytest.raises(TrustError, match="none of the 1 director's keys"):
        Director("home", again, [site.keys / "retired"])


def test_root_under_which_the_controller_could_not_work_is_refused_whole(site: Site) -> None:
    init_keys(site.keys)
    controller = site.controller()
    director = Director("home", controller, [site.folder / "theirs"])
    controller.check_root = director.check
    rotate(site.keys, "director")
    with pytest.raises(TrustError, match="none of the 1 director's keys"):
        controller.accept(public_files(site.keys))
    assert controller.root.version == 1
    assert director.seal("gate-1", Desired(gen=1))


def test_set_that_no_message_could_carry_is_refused_before_it_is_in_force(site: Site) -> None:
    init_keys(site.keys)
    controller = site.controller()
    targets = Metadata[Targets].from_bytes((site.keys / "targets.json").read_bytes()).signed
    targets.version += 1
    for i in range(9000):
        path = f"releases/gate/{i}"
        targets.targets[path] = TargetFile(1000, {"sha256": f"{i:064x}"}, path)
    data = signed(targets, keys_in(site.keys / "targets.pem"))
    with pytest.raises(TrustError, match="the signed metadata would have"):
        controller.accept(data)
    assert controller.targets.version == 1


def test_team_signs_for_its_own_devices_only(site: Site, bundle: Bundle, tmp_path: Path) -> None:
    init_keys(site.keys)
    controller = site.controller()
    profile = bundle.variants[0].config.profile
    team = tmp_path / "team"
    team.mkdir()
    public = new_key(team / "team.pem")
    mine, theirs = delegate(site.keys, "team", (profile,), KeySet(0, 1, (public,)))
    assert mine.complete
    assert not theirs.complete, "the team signs its own file"
    controller.accept(public_files(site.keys))
    for name in ("1.root.json", "targets.json"):
        shutil.copy(site.keys / name, team)
    assert sign(theirs.path, team).complete
    release, data = sign_release(team, bundle, delegation="team")
    controller.accept({"team.json": data})
    device, other = site.device(profile), site.device("kiosk")
    for d in (device, other):
        d.update(controller.message())
    assert device.check(release, bundle.digest)
    with pytest.raises(TrustError, match="does not name"):
        other.check(release, bundle.digest)
    with pytest.raises(TrustError, match="needs more signatures: targets 0 of 1"):
        sign_release(team, bundle)
    delegate(site.keys, "team", ("kiosk",), KeySet(0, 1, (public,)))
    shutil.copy(site.keys / "targets.json", team)
    with pytest.raises(TrustError, match="not for the profiles of gate-detector"):
        sign_release(team, bundle, delegation="team")
    assert delegate(site.keys, "team", ())[0].complete
    controller.accept({"targets.json": (site.keys / "targets.json").read_bytes()})
    device.update(controller.message())
    with pytest.raises(TrustError, match="does not name"):
        device.check(release, bundle.digest)


def test_delegation_is_signed_by_its_own_keys_and_stays_listed_when_it_is_taken_back(site: Site) -> None:
    init_keys(site.keys)
    controller = site.controller()
    delegate(site.keys, "team", ("cam",))
    files = public_files(site.keys)
    stranger = signed(
        Metadata[Targets].from_bytes(files["team.json"]).signed, keys_in(site.keys / "targets.pem")
    )
    with pytest.raises(TrustError, match="team metadata are not signed by the keys of this fleet"):
        controller.accept(files | {"team.json": stranger})
    assert "team.json" not in controller.files()
    controller.accept(files)
    delegate(site.keys, "team", ())
    controller.accept({"targets.json": (site.keys / "targets.json").read_bytes()})
    assert "team.json" not in controller.files()
    snapshot = Metadata[Snapshot].from_bytes(controller.files()["snapshot.json"]).signed
    assert snapshot.meta["team.json"].version == 1, "python-tuf's clients refuse a snapshot that forgets"


def test_host_that_was_away_takes_what_others_signed_before_it_rotates(
    site: Site, bundle: Bundle, tmp_path: Path
) -> None:
    init_keys(site.keys)
    away = tmp_path / "away"
    shutil.copytree(site.keys, away)
    controller = site.controller()
    release, _ = sign_release(site.keys, bundle)
    delegate(site.keys, "team", ("cam",))
    renew(site.keys, "root")
    controller.accept(public_files(site.keys))
    assert sorted(take_newer(away, controller.files())) == ["2.root.json", "targets.json", "team.json"]
    assert take_newer(away, controller.files()) == []
    assert rotate(away, "targets").complete
    controller.accept(public_files(away))
    assert controller.names(release)["targets"][0] == bundle.digest
    init_keys(tmp_path / "other")
    with pytest.raises(TrustError, match="not signed by the keys of the root before it"):
        take_newer(tmp_path / "other", controller.files())
    assert not (tmp_path / "other" / "2.root.json").exists()


def test_new_root_keys_have_to_sign_too(site: Site, tmp_path: Path) -> None:
    init_keys(site.keys)
    public = new_key(tmp_path / "new.pem")
    half = rotate(site.keys, "root", KeySet(0, 1, (public,)))
    assert (half.complete, half.signatures) == (False, ("the root before 1 of 1", "root 0 of 1"))
    assert site.root().version == 1
    assert sign(half.path, site.keys, ring=KeyRing([tmp_path / "new.pem"])).complete
    assert site.root().version == 2


def test_withdrawn_release_needs_a_word_to_the_controller(site: Site, bundle: Bundle) -> None:
    init_keys(site.keys)
    controller = site.controller()
    release, data = sign_release(site.keys, bundle)
    controller.accept(data)
    without = withdraw(site.keys, release)
    with pytest.raises(TrustError, match="the new targets lack"):
        controller.accept(without)
    controller.accept({"targets.json": without}, withdraw=[release])
    assert controller.names(release) == {}
    with pytest.raises(UsageError, match="do not name"):
        withdraw(site.keys, release)


def test_what_ends_soon_is_due_and_renewing_moves_it(site: Site) -> None:
    init_keys(site.keys)
    controller = site.controller()
    now = datetime.now(timezone.utc)
    assert not [e for e in controller.expiries() if e.due]
    later = (now + timedelta(days=80)).timestamp()
    assert {e.role for e in controller.expiries(later) if e.due} == {"targets", "snapshot", "timestamp"}
    before = {s.role: s.expires for s in status(site.keys)}
    targets = Metadata[Targets].from_bytes((site.keys / "targets.json").read_bytes())
    assert renew(site.keys, "targets").complete
    assert renew(site.keys, "root").complete
    after = {s.role: (s.version, s.expires) for s in status(site.keys)}
    assert after["root"][0] == 2
    assert after["targets"][0] == targets.signed.version + 1
    assert all(a[1] is None or a[1] >= (before[r] or now) for r, a in after.items())
    controller.accept(public_files(site.keys))
    assert controller.root.version == 2
    with pytest.raises(UsageError, match="nothing that is renewed by hand"):
        renew(site.keys, "online")


def test_foreign_or_out_of_turn_roots_are_refused_by_the_controller(site: Site, tmp_path: Path) -> None:
    init_keys(site.keys)
    controller = site.controller()
    init_keys(tmp_path / "other")
    rotate(tmp_path / "other", "root")
    with pytest.raises(TrustError, match="not signed by the keys of the root before"):
        controller.accept({"2.root.json": (tmp_path / "other" / "2.root.json").read_bytes()})
    rotate(site.keys, "targets")
    rotate(site.keys, "targets")
    with pytest.raises(TrustError, match="after 1"):
        controller.accept({"3.root.json": (site.keys / "3.root.json").read_bytes()})
    with pytest.raises(TrustError, match="not delegated"):
        controller.accept({"team.json": (site.keys / "targets.json").read_bytes()})


@pytest.mark.parametrize("role", ["root", "x y", "timestamp", "a.b", "online"])
def test_names_that_would_be_other_files_cannot_be_delegations(site: Site, role: str) -> None:
    init_keys(site.keys)
    with pytest.raises(UsageError, match="cannot name a delegation"):
        delegate(site.keys, role, ("cam",))


def test_status_on_the_command_line_fails_when_something_has_expired(site: Site) -> None:
    def keys(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgectl.cli", "keys", *args, "--keys", str(site.keys), "--json"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    init_keys(site.keys)
    good = keys("status")
    assert good.returncode == 0
    assert {r["role"] for r in json.loads(good.stdout)["roles"]} == {"root", "targets", "online", "director"}
    ended = Metadata[Targets].from_bytes((site.keys / "targets.json").read_bytes())
    ended.signed.expires = datetime(2020, 1, 1, tzinfo=timezone.utc)
    (site.keys / "targets.json").write_bytes(signed(ended.signed, keys_in(site.keys / "targets.pem")))
    bad = keys("status")
    assert bad.returncode == 8
    assert "targets expired" in bad.stderr
    assert json.loads(keys("renew", "targets").stdout)[0]["complete"]
    assert keys("status").returncode == 0
