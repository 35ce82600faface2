"""Private keys with passphrases: who is asked, for which, how often, and who is not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from support.bundle import make_bundle

from edgectl.core.errors import TrustError, UsageError
from edgectl.core.licence import LicencePolicy
from edgectl.core.wire import Desired
from edgectl.fleet.client.publish import publish_bundle
from edgectl.fleet.keys.ca import FleetCa
from edgectl.fleet.keys.ceremony import KeySet, delegate, init_keys, new_key, renew, rotate, sign, status
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.keys.pkcs8 import TRIES, open_private, private_pem
from edgectl.fleet.keys.trust import Director, OnlineTrust

SECRET = b"correct horse battery"


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgectl.fleet.keys.pkcs8.SCRYPT_N", 16)


class Owner:
    """Answers from a list, the last answer for ever; ``asked`` are the names of the files."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers or (SECRET,))
        self.asked: list[str] = []

    def __call__(self, path: Path, wrong: int) -> bytes | None:
        assert wrong == len([a for a in self.asked if a == path.name]) or len(self.answers) == 1
        self.asked.append(path.name)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def ring(self, *places: Path) -> KeyRing:
        return KeyRing(places, self)


def everyone(folder: Path) -> Iterable[tuple[list[str], int]]:
    return [([f.keyid], 1) for f in KeyRing().lying_in(folder) if f.keyid]


# ---- the file


@pytest.mark.parametrize(
    "key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())], ids=["ed", "ec"]
)
@pytest.mark.parametrize("secret", [b"x", "Käse und Wein".encode(), b"z" * 1000])
@pytest.mark.usefixtures("cheap")
def test_encrypted_file_is_what_the_library_reads(key: ec.EllipticCurvePrivateKey, secret: bytes) -> None:
    pem = private_pem(key, secret)
    opened = load_pem_private_key(pem, secret)
    assert opened.public_key() == key.public_key()
    assert private_pem(key, secret) != pem, "each file has a salt of its own"
    # of 256 wrong passphrases one gives bytes whose padding is right: they are no key either
    with pytest.raises(ValueError, match=r"Incorrect password|Could not deserialize"):
        load_pem_private_key(pem, secret + b"!")


def test_openssl_opens_what_is_written_and_a_guess_is_dear(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "k.pem").write_bytes(private_pem(key, SECRET))
    (tmp_path / "p").write_bytes(SECRET)
    shown = subprocess.run(
        [openssl, "pkey", "-in", tmp_path / "k.pem", "-passin", f"file:{tmp_path / 'p'}"],
        capture_output=True,
        check=True,
    )
    assert load_pem_private_key(shown.stdout, None).public_key() == key.public_key()
    parsed = subprocess.run(
        [openssl, "asn1parse", "-in", tmp_path / "k.pem"], capture_output=True, check=True, text=True
    ).stdout
    assert "scrypt" in parsed
    assert "INTEGER           :4000" in parsed, "2^14, with r = 8 and p = 5"


@pytest.mark.usefixtures("cheap")
def test_three_wrong_passphrases_are_enough(tmp_path: Path) -> None:
    pem = private_pem(ec.generate_private_key(ec.SECP256R1()), SECRET)
    path = tmp_path / "k.pem"
    owner = Owner(b"wrong", b"wrong again", SECRET)
    assert open_private(path, pem, owner) is not None
    assert len(owner.asked) == TRIES
    owner = Owner(b"wrong")
    with pytest.raises(TrustError, match=r"that is not the passphrase of .*k\.pem"):
        open_private(path, pem, owner)
    assert len(owner.asked) == TRIES
    assert open_private(path, pem, Owner(None)) is None
    for junk in (b"", b"x", pem.replace(b"ENCRYPTED ", b""), pem[:60]):
        with pytest.raises(TrustError, match="is not a private key"):
            open_private(path, junk, Owner())


# ---- who is asked


@pytest.mark.usefixtures("cheap")
def test_keys_of_people_are_encrypted_and_those_of_services_are_not(tmp_path: Path) -> None:
    init_keys(tmp_path, root=KeySet(passphrase=SECRET), targets=KeySet(passphrase=SECRET))
    locked = {f.path.name for f in KeyRing().lying_in(tmp_path) if f.locked}
    assert locked == {"root.pem", "targets.pem"}
    assert all(b"ENCRYPTED" in (tmp_path / name).read_bytes() for name in locked)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.glob("*.pem")} == {0o600}
    trust = OnlineTrust(tmp_path / "theirs", tmp_path)
    assert Director("home", trust, [tmp_path]).seal("gate-1", Desired(gen=1)).missing == 0
    assert {s.role: s.here for s in status(tmp_path)} == {"root": 1, "targets": 1, "online": 1, "director": 1}


@pytest.mark.usefixtures("cheap")
def test_only_the_key_that_has_to_sign_is_asked_for_and_only_once(tmp_path: Path) -> None:
    init_keys(tmp_path, root=KeySet(passphrase=SECRET), targets=KeySet(passphrase=SECRET))
    owner = Owner()
    assert renew(tmp_path, "targets", ring=owner.ring()).complete
    assert owner.asked == ["targets.pem"]
    owner = Owner()
    ring = owner.ring()
    assert rotate(tmp_path, "targets", KeySet(passphrase=b"another one"), ring=ring).complete
    assert owner.asked == ["root.pem"], (
        "targets are signed anew in the same step, with the key that was just made"
    )
    assert renew(tmp_path, "root", ring=ring).complete
    assert owner.asked == ["root.pem"]
    assert {p.name for p in (tmp_path / "retired").iterdir()} == {"targets.pem", "targets.pub"}
    with pytest.raises(UsageError, match=r"root\.pem has a passphrase, and nobody can be asked"):
        renew(tmp_path, "root")
    assert not (tmp_path / "pending").exists(), "nothing is half-written"


@pytest.mark.usefixtures("cheap")
def test_nobody_is_asked_for_more_signatures_than_are_missing(tmp_path: Path) -> None:
    people = [tmp_path / f"{name}.pem" for name in ("ann", "ben", "cem")]
    for person in people:
        new_key(person, SECRET)
    keys = tmp_path / "keys"
    pending = init_keys(keys, root=KeySet(0, 2, tuple(p.with_suffix(".pub") for p in people)))
    owner = Owner()
    assert sign(pending, keys, ring=owner.ring(people[1])).signatures == ("root 1 of 2",)
    assert sign(pending, keys, ring=owner.ring(people[1])).signatures == ("root 1 of 2",)
    assert owner.asked == ["ben.pem"], "his signature is there already"
    owner = Owner()
    assert sign(pending, keys, ring=owner.ring(tmp_path)).complete
    assert owner.asked == ["ann.pem"], "one is missing"
    owner = Owner(None, SECRET)
    assert renew(keys, "root", ring=owner.ring(tmp_path)).complete
    assert owner.asked == ["ann.pem", "ben.pem", "cem.pem"], "Ann is not here: the others will do"


@pytest.mark.usefixtures("cheap")
def test_key_without_its_public_half_is_opened_last_to_see_whose_it_is(tmp_path: Path) -> None:
    new_key(tmp_path / "a-stranger.pem", SECRET)
    (tmp_path / "a-stranger.pub").unlink()
    keys = tmp_path / "keys"
    init_keys(keys, root=KeySet(passphrase=SECRET))
    owner = Owner()
    assert renew(keys, "root", ring=owner.ring(tmp_path)).complete
    assert owner.asked == ["root.pem"]
    (keys / "root.pub").unlink()
    owner = Owner()
    assert renew(keys, "root", ring=owner.ring(tmp_path)).complete
    assert owner.asked == ["root.pem"]
    shutil.move(keys / "root.pem", tmp_path / "z.pem")
    owner = Owner()
    assert renew(keys, "root", ring=owner.ring(tmp_path)).complete
    assert owner.asked == ["a-stranger.pem", "z.pem"]


@pytest.mark.usefixtures("cheap")
def test_wrong_passphrase_leaves_no_new_key_behind(tmp_path: Path) -> None:
    init_keys(tmp_path, root=KeySet(passphrase=SECRET), targets=KeySet(passphrase=SECRET))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for change in (
        lambda ring: rotate(tmp_path, "director", ring=ring),
        lambda ring: delegate(tmp_path, "team", ("cam",), ring=ring),
        lambda ring: renew(tmp_path, "targets", ring=ring),
    ):
        with pytest.raises(TrustError, match="that is not the passphrase"):
            change(Owner(b"wrong").ring())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert rotate(tmp_path, "director", ring=Owner().ring()).complete


@pytest.mark.usefixtures("cheap")
def test_locked_key_that_nobody_can_name_is_not_put_aside(tmp_path: Path) -> None:
    init_keys(tmp_path)
    new_key(tmp_path / "mine.pem", SECRET)
    (tmp_path / "mine.pub").unlink()
    owner = Owner()
    assert renew(tmp_path, "root", ring=owner.ring()).complete
    assert owner.asked == []
    assert (tmp_path / "mine.pem").is_file()
    new_key(tmp_path / "yours.pem", SECRET)
    assert renew(tmp_path, "root", ring=owner.ring()).complete
    assert (tmp_path / "retired" / "yours.pem").is_file()


@pytest.mark.usefixtures("cheap")
def test_public_half_of_another_key_is_found_out(tmp_path: Path) -> None:
    init_keys(tmp_path, root=KeySet(passphrase=SECRET))
    wanted = everyone(tmp_path)
    new_key(tmp_path / "ann.pem", b"of Ann's")
    shutil.copy(tmp_path / "root.pub", tmp_path / "ann.pub")
    with pytest.raises(TrustError, match=r"ann\.pub is not the public half of .*ann\.pem"):
        KeyRing(ask=Owner(b"of Ann's")).signers(wanted, tmp_path)
    (tmp_path / "ann.pub").write_text("x")
    with pytest.raises(TrustError, match=r"ann\.pub is not a public key"):
        renew(tmp_path, "root", ring=Owner().ring())


def test_missing_public_key_leaves_no_private_key_behind(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"cannot read .*olga\.pub"):
        init_keys(tmp_path / "keys", director=KeySet(1, 2, (tmp_path / "olga.pub",)))
    assert not (tmp_path / "keys").exists()


@pytest.mark.usefixtures("cheap")
def test_passphrase_is_changed_and_the_key_is_not(tmp_path: Path) -> None:
    init_keys(tmp_path)
    (tmp_path / "root.pub").unlink()
    KeyRing().change_passphrase(tmp_path / "root.pem", lambda: SECRET)
    assert (tmp_path / "root.pem").stat().st_mode & 0o777 == 0o600
    owner = Owner()
    assert renew(tmp_path, "root", ring=owner.ring()).complete
    assert owner.asked == ["root.pem"]
    with pytest.raises(UsageError, match="stays as it is"):
        KeyRing(ask=Owner(None)).change_passphrase(tmp_path / "root.pem", None)
    KeyRing(ask=Owner()).change_passphrase(tmp_path / "root.pem", None)
    assert renew(tmp_path, "root").complete


class Upload:
    """A controller that notes in which order it is spoken to."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def signed_file(self, name: str) -> None:
        return None

    def has_blob(self, digest: str) -> bool:
        return False

    def licences(self) -> LicencePolicy:
        return LicencePolicy()

    def put_blob(self, digest: str, path: Path, progress: object) -> None:
        self.said.append("upload")

    def add_release(self, *_: object) -> None:
        self.said.append("release")


@pytest.mark.parametrize(("delegation", "file"), [(None, "targets.pem"), ("team", "team.pem")])
@pytest.mark.usefixtures("cheap")
def test_publishing_asks_before_it_uploads_and_not_again(
    tmp_path: Path, delegation: str | None, file: str
) -> None:
    keys = tmp_path / "keys"
    init_keys(keys, targets=KeySet(passphrase=SECRET))
    delegate(keys, "team", ("cpu",), KeySet(passphrase=SECRET), ring=Owner().ring())
    bundle = make_bundle(tmp_path / "b", size=200_000)
    owner = Owner()
    client: Any = Upload(owner.asked)
    publish_bundle(client, bundle, keys, delegation=delegation, ring=owner.ring())
    assert owner.asked[:2] == [file, "upload"]
    assert owner.asked[-1] == "release"
    assert owner.asked.count(file) == 1
    owner = Owner()
    client = Upload(owner.asked)
    publish_bundle(client, bundle, keys, delegation=delegation, ring=owner.ring())
    assert file not in owner.asked, "it is signed already"
    make_bundle(tmp_path / "c", size=200_001)
    owner = Owner()
    client = Upload(owner.asked)
    with pytest.raises(TrustError, match="already signed with other content"):
        publish_bundle(client, tmp_path / "c", keys, delegation=delegation, ring=owner.ring())
    assert owner.asked == [], "found out before an upload"


# ---- services and the CA


@pytest.mark.usefixtures("cheap")
def test_controller_opens_its_keys_with_the_passphrase_that_it_is_given(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    init_keys(keys)
    for name in ("online.pem", "director.pem", "targets.pem"):
        KeyRing().change_passphrase(keys / name, lambda: SECRET)
    with pytest.raises(UsageError, match=r"online\.pem has a passphrase, and nobody can be asked"):
        OnlineTrust(tmp_path / "theirs", keys)
    owner = Owner()
    ring = owner.ring()
    trust = OnlineTrust(tmp_path / "theirs", keys, ring=ring)
    director = Director("home", trust, [keys], ring)
    assert owner.asked == ["online.pem", "director.pem"], "the targets key is none of its business"
    renew(keys, "root")
    trust.accept({"2.root.json": (keys / "2.root.json").read_bytes()})
    director.refresh()
    assert director.seal("gate-1", Desired(gen=1)).missing == 0
    assert owner.asked == ["online.pem", "director.pem"], "a service is told once"


@pytest.mark.usefixtures("cheap")
def test_ca_asks_when_it_has_to_sign(tmp_path: Path) -> None:
    made = FleetCa.create(tmp_path, "home", SECRET)
    made.issue_client("gate-1")
    assert b"ENCRYPTED" in (tmp_path / "ca.key").read_bytes()
    owner = Owner()
    ca = FleetCa(tmp_path, owner)
    assert ca.clients() == ("gate-1",)
    assert ca.crl
    assert owner.asked == []
    ca.issue_client("gate-2")
    ca.revoke("gate-1")
    assert owner.asked == ["ca.key"]
    with pytest.raises(UsageError, match=r"ca\.key has a passphrase"):
        FleetCa(tmp_path).revoke("gate-2")
    with pytest.raises(UsageError, match="without the CA's key"):
        FleetCa(tmp_path, Owner(None)).issue_client("gate-3")
    assert FleetCa(tmp_path).clients() == ("gate-2",), "what was not done is not in the book"
