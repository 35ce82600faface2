"""Every attack of the TUF specification, and those on the director, against the device's own store. Each is refused with its reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from support_tuf import DAY, DIGEST, OTHER, RELEASE, Device, Repository, sign
from tuf.api.metadata import MetaFile

from edgectl.agent.trust import StaleTrust, TrustStore
from edgectl.core.errors import EdgectlError, TrustError
from edgectl.core.trust import MAX_TRUST_BYTES, decode_trust, encode_trust, seal_desired
from edgectl.core.wire import MAX_GEN, MAX_MESSAGE_BYTES, Desired, DesiredSlot


@pytest.fixture
def repository() -> Repository:
    made = Repository()
    made.name(RELEASE)
    return made


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> Iterator[Device]:
    made = Device(tmp_path, repository)
    yield made
    made.journal.close()


@pytest.fixture
def served(device: Device, repository: Repository) -> Device:
    """A device that has verified the first set."""
    device.store.update(repository.message())
    assert device.store.check(RELEASE, DIGEST).size == 100
    return device


# ---- arbitrary software


def test_release_that_nobody_signed_is_refused(served: Device) -> None:
    with pytest.raises(TrustError, match="does not name release gate@2"):
        served.store.check("gate@2", DIGEST)
    with pytest.raises(TrustError, match="names another digest for release gate@1"):
        served.store.check(RELEASE, OTHER)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_set_with_one_role_signed_by_a_stranger_is_refused(served: Device, repository: Repository, role: str) -> None:
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
def test_older_snapshot_under_a_new_timestamp_is_refused(served: Device, repository: Repository, lost: bool) -> None:
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
        served.store.update(old)  # its root chain is too short, but the device knows the rest of it
    served.lose_files()
    with pytest.raises(TrustError, match="root metadata have version 1, this device has already seen 2"):
        served.store.update(old)
    with pytest.raises(TrustError, match="root metadata have version 1, this device has already seen 2"):
        served.wants(served.desired(1, *repository.signers["director"]))
    served.store.update(repository.message())
    assert served.store.check(RELEASE, DIGEST)


# ---- freeze, slow and partial sets


def test_set_that_expires_blocks_installs_until_a_newer_one_comes(served: Device, repository: Repository) -> None:
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
def test_files_of_two_sets_are_refused(served: Device, repository: Repository, name: str, reason: str) -> None:
    repository.delegate("team", "cam")
    repository.name_delegated("team", "cam", "extra@1")
    old = repository.files()
    repository.bump("targets", "team")
    message = repository.message(**{name: old[f"{name}.json"]})
    if name == "team":  # a delegation is looked at when one of its releases is wanted
        served.store.update(message)
    with pytest.raises(TrustError, match=reason):
        served.store.check("extra@1", DIGEST) if name == "team" else served.store.update(message)


# ---- endless data


def test_too_much_of_anything_is_refused_before_it_is_parsed(served: Device, repository: Repository) -> None:
    with pytest.raises(TrustError, match=f"more than the {MAX_TRUST_BYTES} allowed"):
        served.store.update(b" " * (MAX_TRUST_BYTES + 1))
    with pytest.raises(TrustError, match="exceeding the maximum"):
        served.store.update(repository.message(timestamp=repository.files()["timestamp.json"] + b" " * 16384))
    with pytest.raises(TrustError, match="at most 512"):
        served.store.update(json.dumps({"files": {f"{i}.root.json": "" for i in range(1, 600)}}).encode())
    with pytest.raises(TrustError, match=f"more than the {MAX_MESSAGE_BYTES} allowed"):
        served.wants(b" " * (MAX_MESSAGE_BYTES + 1))
    assert served.store.check(RELEASE, DIGEST)


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


def test_revocation_counts_even_where_the_rest_of_the_set_is_old(served: Device, repository: Repository) -> None:
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


def test_version_that_a_thief_drove_up_does_not_bind_the_new_keys(served: Device, repository: Repository) -> None:
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


def test_versions_and_lists_without_bounds_are_refused_though_they_are_signed(served: Device, repository: Repository) -> None:
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
    for device, release in ((kiosk, "driving@1"), (kiosk, "driving@2"), (cam, "driving@2"), (cam, "driving@3")):
        with pytest.raises(TrustError, match="does not name release driving"):
            device.store.check(release, DIGEST)
    for device in (cam, kiosk):
        device.journal.close()


def test_delegation_that_is_wrong_or_expired_harms_nobody_else(served: Device, repository: Repository) -> None:
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


# ---- the clock


def test_clock_far_ahead_blocks_until_it_is_right_again(served: Device, repository: Repository) -> None:
    served.wall += 20 * 365 * DAY
    with pytest.raises(StaleTrust, match="expired"):
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


# ---- the director


def test_device_obeys_what_the_director_signed_for_it(served: Device, repository: Repository) -> None:
    wish = served.wants(served.desired(3, *repository.signers["director"]))
    assert (wish.gen, wish.slots["gate"].digest, wish.slots["gate"].policy.max_latency_ratio) == (3, DIGEST, 1.3)
    assert served.wants(served.desired(3, *repository.signers["director"])).gen == 3, "retained: it comes again"


def test_stolen_broker_cannot_make_a_wish(served: Device, repository: Repository) -> None:
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


def test_older_wish_is_refused_after_a_reboot_too(served: Device, repository: Repository) -> None:
    director = repository.signers["director"]
    served.wants(served.desired(7, *director))
    for _ in range(2):
        with pytest.raises(TrustError, match="desired state has generation 6, this device has already seen 7"):
            served.wants(served.desired(6, *director))
        served.lose_files()
        served.store.update(repository.message())


def test_one_stolen_key_installs_nothing_new(served: Device, repository: Repository) -> None:
    """Targets name what is genuine, the director what this device runs: both have to agree."""
    honest = served.wants(served.desired(1, *repository.signers["director"]))
    repository.name("evil@1", OTHER)  # the targets key is stolen: it can name, but not wish
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


def test_revoked_director_is_not_obeyed_and_does_not_bind_the_next(served: Device, repository: Repository) -> None:
    thief = repository.signers["director"]
    served.wants(served.desired(MAX_GEN, *thief))
    repository.rotate("director")
    repository.bump()
    served.store.update(repository.message())
    with pytest.raises(TrustError, match="signed by 0 of the 1 keys"):
        served.wants(served.desired(MAX_GEN, *thief))
    assert served.wants(served.desired(2, *repository.signers["director"])).gen == 2


def test_two_directors_may_have_to_agree(tmp_path: Path) -> None:
    from edgectl.core.trust import set_director

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


# ---- any bytes


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["signed", "signatures", "files", "keyid", "_type", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
_FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.binary(max_size=200) | _JSON.map(lambda v: json.dumps(v).encode()))
@_FUZZ
def test_any_bytes_are_one_trust_error(served: Device, payload: bytes) -> None:
    for take in (served.store.update, served.wants):
        with pytest.raises(TrustError):
            take(payload)
    with pytest.raises(TrustError):
        TrustStore(served.folder / "trust", payload, served.journal)


@given(st.sampled_from(["timestamp.json", "snapshot.json", "targets.json", "2.root.json"]), _JSON)
@_FUZZ
def test_any_json_in_the_place_of_a_file_is_one_trust_error(
    served: Device, repository: Repository, name: str, value: object
) -> None:
    files = repository.files() | {name: json.dumps(value).encode()}
    with pytest.raises(TrustError):
        served.store.update(encode_trust(files))


@given(st.data())
@_FUZZ
def test_flipped_byte_never_changes_what_is_trusted(served: Device, repository: Repository, data: st.DataObject) -> None:
    message, wish = repository.message(), served.desired(5, *repository.signers["director"])
    for payload, take in ((message, served.store.update), (wish, served.wants)):
        at = data.draw(st.integers(0, len(payload) - 1))
        changed = bytearray(payload)
        changed[at] ^= data.draw(st.integers(1, 255))
        try:
            found = take(bytes(changed))
        except TrustError:
            continue
        except EdgectlError as e:
            raise AssertionError(f"not a trust error: {e!r}") from e
        if take is served.wants:  # the key id of a second signature, white space …
            assert found == served.wants(wish)
    assert served.store.check(RELEASE, DIGEST)


def test_deeply_nested_documents_are_refused(served: Device) -> None:
    for payload in (b"[" * 100_000, b'{"signed":' * 20_000, b'{"signed":{"x":' + b"[" * 700 + b"]" * 700 + b'},"signatures":[]}'):
        for take in (served.store.update, served.wants):
            with pytest.raises(TrustError):
                take(payload)


def test_meta_file_lengths_and_hashes_are_checked_where_they_are_given(served: Device, repository: Repository) -> None:
    repository.bump("targets")
    files = repository.files()
    repository.snapshot.meta["targets.json"] = MetaFile(repository.targets.version, length=10)
    bad = {**files, "snapshot.json": sign(repository.snapshot, repository.signers["snapshot"])}
    with pytest.raises(TrustError, match="exceeding the maximum allowed length of 10"):
        served.store.update(encode_trust(bad))
