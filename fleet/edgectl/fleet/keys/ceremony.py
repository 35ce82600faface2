"""The key ceremony on the hosts of those who hold keys: make, rotate, delegate, renew, sign by hand-over.

Each works on a folder of keys (:mod:`edgectl.fleet.keys.keyfolder`) with the private keys in it and those of
a ``ring``: on other media, and with passphrases. Without one, the keys of the folder that have none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import storage
from edgectl.core.trust import delegation_paths, role_name, set_director
from edgectl.fleet.keys.keyfolder import (
    ROLES,
    Proposal,
    keys_of,
    own_targets,
    propose,
    root_of,
    same,
    targets_of,
    unlock,
)
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.keys.signing import EXPIRY, delegated_roles, expires_in, load, load_public, parse, read

__all__ = ["KeySet", "RoleStatus", "delegate", "init_keys", "new_key", "renew", "rotate", "sign", "status"]


@dataclass(frozen=True)
class KeySet:
    """The keys of a role: ``new`` made on this host, ``public`` handed over by their owners; ``threshold``
    of them must sign."""

    new: int = 1
    threshold: int = 1
    public: tuple[Path, ...] = ()
    passphrase: bytes | None = field(default=None, repr=False)
    """Of the new keys; None: their files have none."""

    def check(self, role: str) -> None:
        """Raises :class:`UsageError`."""
        total = self.new + len(self.public)
        if not 1 <= self.threshold <= total:
            raise UsageError(
                f"{role}: a threshold of {self.threshold} with {total} keys",
                hint="1 up to the number of keys",
            )


@dataclass(frozen=True)
class RoleStatus:
    role: str
    keys: int
    here: int
    """Private keys on this host."""
    threshold: int
    version: int
    expires: datetime | None
    """None: not signed metadata of this folder (the online roles' lie with the controller)."""

    def left_s(self, now: datetime) -> float | None:
        return None if self.expires is None else (self.expires - now).total_seconds()


def init_keys(
    folder: Path,
    *,
    root: KeySet = KeySet(),
    targets: KeySet = KeySet(),
    director: KeySet = KeySet(),
) -> Path:
    """Make the keys, ``1.root.json`` and an empty ``targets.json``. Returns the path of the root, in
    ``pending/`` if keys are elsewhere.

    Raises :class:`UsageError` if the folder has keys already: overwriting them would lock every enrolled
    device out.
    """
    if (folder / "1.root.json").exists() or (folder / "pending" / "1.root.json").exists():
        raise UsageError(f"{folder} has keys already", hint="use them, or choose another folder")
    sets = {"root": root, "targets": targets, "online": KeySet(), "director": director}
    for role, wanted in sets.items():
        wanted.check(role)
        for path in wanted.public:
            # all of them, before a key is made that would be left over
            load_public(path)
    with storage(str(folder)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = Root(version=1, expires=expires_in(EXPIRY["root"]), consistent_snapshot=False)
    ring = KeyRing()
    for role, wanted in sets.items():
        _set_keys(new, role, _make(ring, folder, role, wanted), wanted.threshold)
    # Targets first: should anything fail, there is no root yet, and init can be run again.
    propose(
        folder, "targets.json", Metadata(Targets(version=1, expires=expires_in(EXPIRY["targets"]))), ring, new
    )
    return propose(folder, "1.root.json", Metadata(new), ring, new).path


def new_key(path: Path, passphrase: bytes | None = None) -> Path:
    """Make a private key at ``path`` and its public half beside it (``.pub``), which is returned."""
    KeyRing().make(path, passphrase)
    return path.with_suffix(".pub")


def rotate(
    folder: Path,
    role: str,
    keys: KeySet = KeySet(),
    *,
    revoke: Iterable[str] = (),
    ring: KeyRing | None = None,
) -> Proposal:
    """Root N+1 with other keys for ``role``; ``revoke``: only these (prefixes of key ids) go, else all of the
    role's.

    It needs the signatures of the old root keys and, if it is root that rotates, of the new ones. Targets
    that the new keys have to sign are signed anew in the same step, where the keys are here.
    """
    if role not in ROLES:
        raise UsageError(
            f"there is no role {role!r}",
            hint=f"one of {', '.join(ROLES)}; a delegation: `edgectl keys delegate`",
        )
    current = root_of(folder)
    new = copy.deepcopy(current)
    new.version += 1
    new.expires = expires_in(EXPIRY["root"])
    old = keys_of(current, role)
    gone = _matching(old.keys, revoke) if revoke else set(old.keys)
    kept = [key for keyid, key in old.keys.items() if keyid not in gone]
    if not 1 <= keys.threshold <= len(kept) + keys.new + len(keys.public):
        raise UsageError(
            f"{role}: a threshold of {keys.threshold} with {len(kept) + keys.new + len(keys.public)} keys"
        )
    ring = ring or KeyRing()
    unlock(folder, "root", ring)  # before a key is made that would be left over
    made = _make(ring, folder, role, keys, f"-v{new.version}")
    _set_keys(new, role, [*kept, *made], keys.threshold)
    return propose(folder, f"{new.version}.root.json", Metadata(new), ring)


def delegate(
    folder: Path,
    name: str,
    profiles: tuple[str, ...],
    keys: KeySet = KeySet(),
    *,
    ring: KeyRing | None = None,
) -> list[Proposal]:
    """Let other keys sign releases for devices of these profiles; again with the same ``name`` replaces keys
    and profiles.

    Without profiles the delegation is taken back. Raises :class:`UsageError`, :class:`TrustError`.
    """
    role_name(name)
    new = copy.deepcopy(targets_of(folder, root_of(folder)))
    delegations = new.delegations or Delegations({}, {})
    roles = delegations.roles or {}
    ring = ring or KeyRing()
    unlock(folder, "targets", ring)
    made: list[Key] = []
    known = roles.pop(name, None)
    if profiles:
        keys.check(name)
        made = _make(ring, folder, name, keys, f"-v{new.version + 1}" if known else "")
        roles[name] = DelegatedRole(
            name, [k.keyid for k in made], keys.threshold, True, delegation_paths(profiles)
        )
    elif known is None:
        raise UsageError(f"there is no delegation {name}", hint="`edgectl keys status` lists them")
    used = {k for role in roles.values() for k in role.keyids}
    all_keys = {**delegations.keys, **{k.keyid: k for k in made}}
    new.delegations = Delegations({k: v for k, v in all_keys.items() if k in used}, roles)
    new.version += 1
    new.expires = expires_in(EXPIRY["targets"])
    proposals = [propose(folder, "targets.json", Metadata(new), ring)]
    if profiles:
        own = own_targets(folder, name)
        own.version += 1
        own.expires = expires_in(EXPIRY["targets"])
        proposals.append(propose(folder, f"{name}.json", Metadata(own), ring, delegator=new))
    return proposals


def renew(folder: Path, role: str, *, ring: KeyRing | None = None) -> Proposal:
    """The same metadata with a later expiry: ``root``, ``targets`` or a delegation. Snapshot and timestamp
    renew with the controller."""
    if role == "root":
        root = copy.deepcopy(root_of(folder))
        root.version += 1
        root.expires = expires_in(EXPIRY["root"])
        return propose(folder, f"{root.version}.root.json", Metadata(root), ring)
    if role in ROLES and role != "targets":
        raise UsageError(
            f"{role} is nothing that is renewed by hand", hint="renew root, targets or a delegation"
        )
    targets = copy.deepcopy(own_targets(folder, role, must=True))
    targets.version += 1
    targets.expires = expires_in(EXPIRY["targets"])
    return propose(folder, f"{role}.json", Metadata(targets), ring)


def sign(path: Path, folder: Path, *, ring: KeyRing | None = None) -> Proposal:
    """Add what signatures the keys here can give to a partly signed file; put it in force in ``folder`` when
    it is complete.

    Raises :class:`TrustError` if it does not follow what is in force in ``folder``.
    """
    name = path.name
    if name.endswith(".root.json"):
        metadata: Metadata[Any] = parse(read(path), Root, str(path))
        if name != f"{metadata.signed.version}.root.json":
            raise TrustError(
                f"{path} is version {metadata.signed.version} of root",
                hint="keep the name it was handed over with",
            )
    else:
        metadata = parse(read(path), Targets, str(path))
        in_force = folder / name
        if (
            in_force.is_file()
            and not same(in_force, path)
            and metadata.signed.version <= load(in_force, Targets).signed.version
        ):
            raise TrustError(
                f"{path} has version {metadata.signed.version}, {in_force} is not older",
                hint="propose it anew",
            )
    return propose(folder, name, metadata, ring, handed=path)


def status(folder: Path) -> list[RoleStatus]:
    """Root, targets, director, online and delegations, as they are in force here."""
    root = root_of(folder)
    here = {file.keyid for file in KeyRing().lying_in(folder)}
    found = []
    for role in ROLES:
        keys = keys_of(root, role)
        if not keys.keys:
            continue
        version, expires = root.version, None
        if role == "root":
            expires = root.expires
        elif role == "targets":
            targets = targets_of(folder, root)
            version, expires = targets.version, targets.expires
        found.append(
            RoleStatus(role, len(keys.keys), len(here & set(keys.keys)), keys.threshold, version, expires)
        )
    targets = targets_of(folder, root)
    for name in delegated_roles(targets):
        role_keys = targets.get_delegated_role(name)
        own = own_targets(folder, name)
        expires = own.expires if own.version else None
        found.append(
            RoleStatus(
                name,
                len(role_keys.keyids),
                len(here & set(role_keys.keyids)),
                role_keys.threshold,
                own.version,
                expires,
            )
        )
    return found


def _make(ring: KeyRing, folder: Path, role: str, wanted: KeySet, suffix: str = "") -> list[Key]:
    keys = [load_public(path) for path in wanted.public]
    for i in range(wanted.new):
        path = folder / f"{role}{suffix}{f'-{i + 1}' if wanted.new > 1 else ''}.pem"
        keys.append(ring.make(path, wanted.passphrase))
    return keys


def _set_keys(root: Root, role: str, keys: list[Key], threshold: int) -> None:
    if role == "director":
        set_director(root, keys, threshold)
        return
    for name in ("snapshot", "timestamp") if role == "online" else (role,):
        for keyid in list(root.roles[name].keyids):
            root.revoke_key(keyid, name)
        for key in keys:
            root.add_key(key, name)
        root.roles[name].threshold = threshold


def _matching(keys: Iterable[str], prefixes: Iterable[str]) -> set[str]:
    found = set()
    for prefix in prefixes:
        matching = [k for k in keys if k.startswith(prefix)]
        if len(matching) != 1:
            raise UsageError(
                f"{prefix!r} is the beginning of {len(matching)} key ids",
                hint="`edgectl keys status` shows them",
            )
        found.add(matching[0])
    return found
