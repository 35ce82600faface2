"""The key ceremony on the hosts of those who hold keys: make, rotate, delegate, renew, sign by hand-over.

A folder of keys has ``N.root.json`` (all of them: a device that was away follows the chain), ``targets.json``, a file for each
delegation, and such private keys (``*.pem``) as lie on this host; others come from other media (``more``). Keys are found by their
id, whatever their file is called. What has too few signatures lies in ``pending/`` until :func:`sign` completes it, on this host or
another. Devices and the controller never see what is pending.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile, Targets

from edgectl.core.bundle import Bundle
from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import atomic_write, storage
from edgectl.core.signed import Keys
from edgectl.core.trust import (
    delegated_path,
    delegation_paths,
    director_keys,
    release_name,
    role_name,
    set_director,
    target_path,
)
from edgectl.fleet.signing import (
    EXPIRY,
    add,
    delegated_roles,
    expires_in,
    follow,
    load,
    load_public,
    load_signers,
    parse,
    read,
    roots_in,
    verified,
)

__all__ = [
    "ROLES", "KeySet", "Proposal", "RoleStatus", "delegate", "init_keys", "new_key", "public_files", "renew", "rotate", "sign", "sign_release", "status",
    "withdraw",
]  # fmt: skip

ROLES = ("root", "targets", "online", "director")
"""``online`` signs snapshot and timestamp."""


@dataclass(frozen=True)
class KeySet:
    """The keys of a role: ``new`` made on this host, ``public`` handed over by their owners; ``threshold`` of them must sign."""

    new: int = 1
    threshold: int = 1
    public: tuple[Path, ...] = ()

    def check(self, role: str) -> None:
        """Raises :class:`UsageError`."""
        total = self.new + len(self.public)
        if not 1 <= self.threshold <= total:
            raise UsageError(f"{role}: a threshold of {self.threshold} with {total} keys", hint="1 up to the number of keys")


@dataclass(frozen=True)
class Proposal:
    """Metadata that were signed with what keys there are."""

    path: Path
    complete: bool
    """True: it is in force here. False: it lies in ``pending/``."""
    signatures: tuple[str, ...]
    """``root 1 of 2``, for each set of keys that has to sign."""
    changes: tuple[str, ...] = ()
    """What is different from what is in force."""


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
    """Make the keys, ``1.root.json`` and an empty ``targets.json``. Returns the path of the root, in ``pending/`` if keys are elsewhere.

    Raises :class:`UsageError` if the folder has keys already: overwriting them would lock every enrolled device out.
    """
    if (folder / "1.root.json").exists() or (folder / "pending" / "1.root.json").exists():
        raise UsageError(f"{folder} has keys already", hint="use them, or choose another folder")
    sets = {"root": root, "targets": targets, "online": KeySet(), "director": director}
    for role, wanted in sets.items():
        wanted.check(role)
    with storage(str(folder)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = Root(version=1, expires=expires_in(EXPIRY["root"]), consistent_snapshot=False)
    for role, wanted in sets.items():
        _set_keys(new, role, _make(folder, role, wanted), wanted.threshold)
    # Targets first: should anything fail, there is no root yet, and init can be run again.
    _propose(folder, "targets.json", Metadata(Targets(version=1, expires=expires_in(EXPIRY["targets"]))), (), new)
    return _propose(folder, "1.root.json", Metadata(new), (), new).path


def new_key(path: Path) -> Path:
    """Make a private key at ``path`` and its public half beside it (``.pub``), which is returned."""
    public = path.with_suffix(".pub")
    if path.exists() or public.exists():
        raise UsageError(f"{path} or {public} is there already", hint="choose another name")
    key = Ed25519PrivateKey.generate()
    atomic_write(path, CryptoSigner(key).private_bytes, mode=0o600)
    atomic_write(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


def rotate(
    folder: Path, role: str, keys: KeySet = KeySet(), *, revoke: Iterable[str] = (), more: Iterable[Path] = ()
) -> Proposal:
    """Root N+1 with other keys for ``role``; ``revoke``: only these (prefixes of key ids) go, else all of the role's.

    It needs the signatures of the old root keys and, if it is root that rotates, of the new ones. Targets that the new keys have to
    sign are signed anew in the same step, where the keys are here.
    """
    if role not in ROLES:
        raise UsageError(f"there is no role {role!r}", hint=f"one of {', '.join(ROLES)}; a delegation: `edgectl keys delegate`")
    current = _root(folder)
    new = copy.deepcopy(current)
    new.version += 1
    new.expires = expires_in(EXPIRY["root"])
    old = _keys_of(current, role)
    gone = _matching(old.keys, revoke) if revoke else set(old.keys)
    kept = [key for keyid, key in old.keys.items() if keyid not in gone]
    if not 1 <= keys.threshold <= len(kept) + keys.new + len(keys.public):
        raise UsageError(f"{role}: a threshold of {keys.threshold} with {len(kept) + keys.new + len(keys.public)} keys")
    made = _make(folder, role, keys, f"-v{new.version}")
    _set_keys(new, role, [*kept, *made], keys.threshold)
    return _propose(folder, f"{new.version}.root.json", Metadata(new), more)


def delegate(
    folder: Path, name: str, profiles: tuple[str, ...], keys: KeySet = KeySet(), *, more: Iterable[Path] = ()
) -> list[Proposal]:
    """Let other keys sign releases for devices of these profiles; again with the same ``name`` replaces keys and profiles.

    Without profiles the delegation is taken back. Raises :class:`UsageError`, :class:`TrustError`.
    """
    role_name(name)
    new = copy.deepcopy(_targets(folder, _root(folder)))
    delegations = new.delegations or Delegations({}, {})
    roles = delegations.roles or {}
    made: list[Key] = []
    known = roles.pop(name, None)
    if profiles:
        keys.check(name)
        made = _make(folder, name, keys, f"-v{new.version + 1}" if known else "")
        roles[name] = DelegatedRole(name, [k.keyid for k in made], keys.threshold, True, delegation_paths(profiles))
    elif known is None:
        raise UsageError(f"there is no delegation {name}", hint="`edgectl keys status` lists them")
    used = {k for role in roles.values() for k in role.keyids}
    all_keys = {**delegations.keys, **{k.keyid: k for k in made}}
    new.delegations = Delegations({k: v for k, v in all_keys.items() if k in used}, roles)
    new.version += 1
    new.expires = expires_in(EXPIRY["targets"])
    proposals = [_propose(folder, "targets.json", Metadata(new), more)]
    if profiles:
        own = _own_targets(folder, name)
        own.version += 1
        own.expires = expires_in(EXPIRY["targets"])
        proposals.append(_propose(folder, f"{name}.json", Metadata(own), more, delegator=new))
    return proposals


def renew(folder: Path, role: str, *, more: Iterable[Path] = ()) -> Proposal:
    """The same metadata with a later expiry: ``root``, ``targets`` or a delegation. Snapshot and timestamp renew with the controller."""
    if role == "root":
        root = copy.deepcopy(_root(folder))
        root.version += 1
        root.expires = expires_in(EXPIRY["root"])
        return _propose(folder, f"{root.version}.root.json", Metadata(root), more)
    if role in ROLES and role != "targets":
        raise UsageError(f"{role} is nothing that is renewed by hand", hint="renew root, targets or a delegation")
    targets = copy.deepcopy(_own_targets(folder, role, must=True))
    targets.version += 1
    targets.expires = expires_in(EXPIRY["targets"])
    return _propose(folder, f"{role}.json", Metadata(targets), more)


def sign(path: Path, folder: Path, *, more: Iterable[Path] = ()) -> Proposal:
    """Add what signatures the keys here can give to a partly signed file; put it in force in ``folder`` when it is complete.

    Raises :class:`TrustError` if it does not follow what is in force in ``folder``.
    """
    name = path.name
    if name.endswith(".root.json"):
        metadata: Metadata[Any] = parse(read(path), Root, str(path))
        if name != f"{metadata.signed.version}.root.json":
            raise TrustError(f"{path} is version {metadata.signed.version} of root", hint="keep the name it was handed over with")
    else:
        metadata = parse(read(path), Targets, str(path))
        in_force = folder / name
        if in_force.is_file() and not _same(in_force, path) and metadata.signed.version <= load(in_force, Targets).signed.version:
            raise TrustError(f"{path} has version {metadata.signed.version}, {in_force} is not older", hint="propose it anew")
    return _propose(folder, name, metadata, more, handed=path)


def sign_release(
    keys: Path, bundle: Bundle, current: bytes | None = None, *, delegation: str | None = None, more: Iterable[Path] = ()
) -> tuple[str, bytes]:
    """Add a bundle to the signed targets, or to those of a delegation. ``current``: the controller's file, taken where it is newer.

    Returns (``name@version``, the new file), also written to ``keys``. A bundle that is named already changes nothing. Raises
    :class:`TrustError`: a release name is never reused for other bytes; signatures are missing.
    """
    release = release_name(bundle.name, bundle.version)
    role = delegation or "targets"
    root = _root(keys)
    if current is not None:
        _take_newer(keys, root, role, current)
    targets = copy.deepcopy(_own_targets(keys, role, must=True))
    digest = bundle.digest.removeprefix("sha256:")
    profiles = sorted({v.config.profile for v in bundle.variants})
    paths = _paths(keys, root, role, release, profiles)
    for path in paths:
        known = targets.targets.get(path)
        if known is not None and known.hashes["sha256"] != digest:
            raise TrustError(f"release {release} is already signed with other content", hint="give the new bundle a new version")
    if all(path in targets.targets for path in paths) and not targets.is_expired():
        return release, read(keys / f"{role}.json")
    for path in paths:
        targets.targets[path] = _target(path, bundle, profiles)
    return release, _publishable(keys, role, targets, more)


def withdraw(
    keys: Path, release: str, current: bytes | None = None, *, delegation: str | None = None, more: Iterable[Path] = ()
) -> bytes:
    """Sign targets without ``release``: no device installs it from then on, until newer targets name it again."""
    role = delegation or "targets"
    root = _root(keys)
    if current is not None:
        _take_newer(keys, root, role, current)
    targets = copy.deepcopy(_own_targets(keys, role, must=True))
    path = target_path(release)
    gone = [p for p in targets.targets if p == path or p.endswith(f"/{path}")]
    if not gone:
        raise UsageError(f"{role} do not name release {release}", hint="`edgectl release list` shows what is published")
    for p in gone:
        del targets.targets[p]
    return _publishable(keys, role, targets, more)


def status(folder: Path) -> list[RoleStatus]:
    """Root, targets, director, online and delegations, as they are in force here."""
    root = _root(folder)
    here = set(load_signers([folder]))
    found = []
    for role in ROLES:
        keys = _keys_of(root, role)
        if not keys.keys:
            continue
        version, expires = root.version, None
        if role == "root":
            expires = root.expires
        elif role == "targets":
            targets = _targets(folder, root)
            version, expires = targets.version, targets.expires
        found.append(RoleStatus(role, len(keys.keys), len(here & set(keys.keys)), keys.threshold, version, expires))
    targets = _targets(folder, root)
    for name in delegated_roles(targets):
        role_keys = targets.get_delegated_role(name)
        own = _own_targets(folder, name)
        expires = own.expires if own.version else None
        found.append(
            RoleStatus(name, len(role_keys.keyids), len(here & set(role_keys.keyids)), role_keys.threshold, own.version, expires)
        )
    return found


def public_files(folder: Path) -> dict[str, bytes]:
    """What of a folder is in force and meant for the controller: every root, targets, and the delegations' files."""
    targets = _targets(folder, _root(folder))
    names = ["targets.json", *(f"{n}.json" for n in delegated_roles(targets))]
    return {**roots_in(folder), **{n: read(folder / n) for n in names if (folder / n).is_file()}}


# ---- signing and putting in force


def _propose(
    folder: Path,
    name: str,
    metadata: Metadata[Any],
    more: Iterable[Path],
    first: Root | None = None,
    *,
    delegator: Targets | None = None,
    handed: Path | None = None,
) -> Proposal:
    needed = _needed(folder, name, metadata, first, delegator, handed)
    signers = load_signers([folder, *more])
    allowed = {keyid for _, who in needed for keyid in who.keys}
    add(metadata, [s for keyid, s in signers.items() if keyid in allowed])
    have = [(role, _valid(metadata, who), who.threshold) for role, who in needed]
    complete = all(n >= threshold for _, n, threshold in have)
    pending, final = handed or folder / "pending" / name, folder / name
    changes = tuple(_changes(folder, metadata, handed))
    atomic_write(final if complete else pending, metadata.to_bytes())
    if complete:
        for done in (pending, folder / "pending" / name):
            if not _same(done, final):
                done.unlink(missing_ok=True)
        if name.endswith(".root.json") and first is None:
            _after_root(folder, more)
    told = tuple(f"{role} {min(n, threshold)} of {threshold}" for role, n, threshold in have)
    return Proposal(final if complete else pending, complete, told, changes)


def _needed(
    folder: Path, name: str, metadata: Metadata[Any], first: Root | None, delegator: Targets | None, handed: Path | None
) -> list[tuple[str, Keys]]:
    """Every set of keys that has to sign ``name``."""
    if isinstance(metadata.signed, Root):
        own = _keys_of(metadata.signed, "root")
        # A file that was handed over may lie right beside the keys: that does not put it in force.
        roots = {n: data for n, data in roots_in(folder).items() if handed is None or not _same(folder / n, handed)}
        if first is not None or (metadata.signed.version == 1 and not roots):
            return [("root", own)]
        before = follow(roots)[-1].signed
        if metadata.signed.version != before.version + 1:
            raise TrustError(f"{name} does not follow root version {before.version}", hint="copy the roots between")
        return [("the root before", _keys_of(before, "root")), ("root", own)]
    role = name.removesuffix(".json")
    if role == "targets":
        pending = folder / "pending" / "1.root.json"
        if first is None and not roots_in(folder) and pending.is_file():
            first = load(pending, Root).signed
        return [("targets", _keys_of(first or _root(folder), "targets"))]
    parent = delegator or _targets(folder, _root(folder))
    try:
        found = parent.get_delegated_role(role)
    except ValueError as e:
        raise TrustError(f"targets do not delegate to {role}", hint="`edgectl keys delegate` does") from e
    return [(role, Keys({k: parent.get_key(k) for k in found.keyids}, found.threshold))]


def _valid(metadata: Metadata[Any], who: Keys) -> int:
    data = metadata.signed_bytes
    good = 0
    for keyid, key in who.keys.items():
        if keyid in metadata.signatures:
            try:
                key.verify_signature(metadata.signatures[keyid], data)
                good += 1
            except Exception:  # noqa: S112 - every reason means the same: it does not count
                continue
    return good


def _after_root(folder: Path, more: Iterable[Path]) -> None:
    """New root metadata are in force: sign targets anew if other keys have to, and put private keys aside that nobody needs."""
    root = _root(folder)
    path = folder / "targets.json"
    if path.is_file():
        try:
            verified(root, "targets", read(path), Targets)
        except TrustError:
            targets = load(path, Targets).signed
            targets.version += 1
            targets.expires = expires_in(EXPIRY["targets"])
            _propose(folder, "targets.json", Metadata(targets), more)
    delegations = load(path, Targets).signed.delegations if path.is_file() else None
    used = {k for role in ROLES for k in _keys_of(root, role).keys} | set(delegations.keys if delegations else ())
    for file in sorted(folder.glob("*.pem")):
        if not set(load_signers([file])) & used:
            with storage(str(folder)):
                (folder / "retired").mkdir(mode=0o700, exist_ok=True)
                file.rename(folder / "retired" / file.name)


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def _changes(folder: Path, metadata: Metadata[Any], handed: Path | None) -> Iterable[str]:
    """For the people who are asked to sign."""
    new = metadata.signed
    yield f"version {new.version}, expires {new.expires:%Y-%m-%d}"
    if isinstance(new, Root):
        roots = {n: data for n, data in roots_in(folder).items() if handed is None or not _same(folder / n, handed)}
        before = follow(roots)[-1].signed if roots else None
        for role in ROLES:
            now, was = _keys_of(new, role), _keys_of(before, role) if before else Keys({}, 0)
            for keyid in now.keys.keys() - was.keys.keys():
                yield f"{role}: new key {keyid[:16]}"
            for keyid in was.keys.keys() - now.keys.keys():
                yield f"{role}: key {keyid[:16]} is revoked"
            if now.threshold != was.threshold:
                yield f"{role}: {now.threshold} of {len(now.keys)} must sign"
        return
    path = folder / f"{new.type}.json"
    known = load(path, Targets).signed.targets if path.is_file() else {}
    yield from (f"names {p}" for p in sorted(new.targets.keys() - known.keys()))
    yield from (f"delegates to {n} for {', '.join(paths)}" for n, paths in delegated_roles(new).items())


# ---- keys


def _make(folder: Path, role: str, wanted: KeySet, suffix: str = "") -> list[Key]:
    keys = [load_public(path) for path in wanted.public]
    for i in range(wanted.new):
        path = folder / f"{role}{suffix}{f'-{i + 1}' if wanted.new > 1 else ''}.pem"
        signer = CryptoSigner.generate_ed25519()
        if path.exists():
            raise UsageError(f"{path} is there already", hint="was a rotation begun before? see `pending/`")
        atomic_write(path, signer.private_bytes, mode=0o600)
        keys.append(signer.public_key)
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


def _keys_of(root: Root, role: str) -> Keys:
    if role == "director":
        return director_keys(root) or Keys({}, 0)
    found = root.roles["timestamp" if role == "online" else role]
    return Keys({k: root.keys[k] for k in found.keyids}, found.threshold)


def _matching(keys: Iterable[str], prefixes: Iterable[str]) -> set[str]:
    found = set()
    for prefix in prefixes:
        matching = [k for k in keys if k.startswith(prefix)]
        if len(matching) != 1:
            raise UsageError(f"{prefix!r} is the beginning of {len(matching)} key ids", hint="`edgectl keys status` shows them")
        found.add(matching[0])
    return found


# ---- what is in force


def _root(folder: Path) -> Root:
    return follow(roots_in(folder))[-1].signed


def _targets(folder: Path, root: Root) -> Targets:
    return verified(root, "targets", read(folder / "targets.json"), Targets).signed


def _own_targets(folder: Path, role: str, *, must: bool = False) -> Targets:
    """``targets.json``, or the file of a delegation; a new one of version 0 where there is none and it need not be."""
    path = folder / f"{role}.json"
    if path.is_file() or must:
        return load(path, Targets).signed
    fresh = Targets(version=1, expires=expires_in(EXPIRY["targets"]))
    fresh.version = 0
    return fresh


def _take_newer(folder: Path, root: Root, role: str, current: bytes) -> None:
    """The controller's file where it is newer than ours: a second host may have published."""
    theirs = verified(root if role == "targets" else _targets(folder, root), role, current, Targets)
    if theirs.signed.version > _own_targets(folder, role).version:
        atomic_write(folder / f"{role}.json", current)


def _publishable(folder: Path, role: str, targets: Targets, more: Iterable[Path]) -> bytes:
    targets.version += 1
    targets.expires = expires_in(EXPIRY["targets"])
    proposal = _propose(folder, f"{role}.json", Metadata(targets), more)
    if not proposal.complete:
        raise TrustError(
            f"{proposal.path} needs more signatures: {', '.join(proposal.signatures)}",
            hint="hand it over for `edgectl keys sign`, then publish again",
        )
    return read(proposal.path)


def _paths(folder: Path, root: Root, role: str, release: str, profiles: list[str]) -> list[str]:
    """Where a release is named: once for every device, or once for each profile that the delegation is for."""
    if role == "targets":
        return [target_path(release)]
    patterns = delegated_roles(_targets(folder, root)).get(role, [])
    found = [delegated_path(p, release) for p in profiles if any(d in patterns for d in delegation_paths((p,)))]
    if not found:
        raise TrustError(
            f"delegation {role} is not for the profiles of {release} ({', '.join(profiles)})",
            hint="build it for a profile of the delegation, or publish with the targets keys",
        )
    return found


def _target(path: str, bundle: Bundle, profiles: list[str]) -> TargetFile:
    digest = bundle.digest.removeprefix("sha256:")
    return TargetFile(len(bundle.index_bytes), {"sha256": digest}, path, {"custom": {"profiles": profiles}})
