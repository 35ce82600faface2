"""A folder of keys and metadata: what is in force, what is pending, and how pending metadata come into force.

``N.root.json`` (all of them: a device that was away follows the chain), ``targets.json``, a file for each
delegation, and such private keys (``*.pem``) as lie on this host. Keys are found by their id, whatever their
file is called. What has too few signatures lies in ``pending/``; devices and the controller never see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from edgectl.core.errors import TrustError
from edgectl.core.files import atomic_write, storage
from edgectl.core.signed import Keys, valid_signatures
from edgectl.core.trust import director_keys
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.keys.signing import (
    EXPIRY,
    add,
    delegated_roles,
    expires_in,
    follow,
    load,
    read,
    roots_in,
    verified,
)

__all__ = [
    "ROLES",
    "Proposal",
    "keys_of",
    "own_targets",
    "propose",
    "public_files",
    "root_of",
    "same",
    "take_newer",
    "targets_of",
    "unlock",
]

ROLES = ("root", "targets", "online", "director")
"""``online`` signs snapshot and timestamp."""


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


def public_files(folder: Path) -> dict[str, bytes]:
    """What of a folder is in force and meant for the controller: every root, targets, and the delegations'
    files."""
    targets = targets_of(folder, root_of(folder))
    names = ["targets.json", *(f"{n}.json" for n in delegated_roles(targets))]
    return {**roots_in(folder), **{n: read(folder / n) for n in names if (folder / n).is_file()}}


def take_newer(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Put roots, targets and delegations of the controller in force where they are newer than ours. Returns
    the files' names.

    Raises :class:`TrustError` for what the keys of this folder's fleet have not signed.
    """
    taken = []
    roots = {**{n: d for n, d in files.items() if n.endswith(".root.json")}, **roots_in(folder)}
    ordered = dict(sorted(roots.items(), key=lambda item: int(item[0].split(".")[0])))
    root = follow(ordered)[-1].signed
    newer = {n: d for n, d in ordered.items() if not (folder / n).is_file()}
    for name in (
        "targets.json",
        *sorted(files.keys() - ordered.keys() - {"targets.json", "snapshot.json", "timestamp.json"}),
    ):
        if name not in files:
            continue
        role = name.removesuffix(".json")
        theirs = verified(
            root if role == "targets" else targets_of(folder, root), role, files[name], Targets
        ).signed
        if theirs.version > own_targets(folder, role).version:
            newer[name] = files[name]
        if role == "targets":  # delegations are looked up in it
            taken += _put(folder, newer)
            newer = {}
    return taken + _put(folder, newer)


def _put(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    for name, data in files.items():
        atomic_write(folder / name, data)
    return list(files)


def propose(
    folder: Path,
    name: str,
    metadata: Metadata[Any],
    ring: KeyRing | None,
    first: Root | None = None,
    *,
    delegator: Targets | None = None,
    handed: Path | None = None,
) -> Proposal:
    """Sign ``name`` with the keys that are here, as far as signatures are missing, and write it where it
    then belongs."""
    needed = _needed(folder, name, metadata, first, delegator, handed)
    ring = ring or KeyRing()
    valid = [valid_signatures(metadata.signed_bytes, metadata.signatures, who) for _, who in needed]
    missing = [
        (who.keys.keys() - good, who.threshold - len(good))
        for (_, who), good in zip(needed, valid, strict=True)
    ]
    add(metadata, ring.signers(missing, folder))
    have = [
        (role, len(valid_signatures(metadata.signed_bytes, metadata.signatures, who)), who.threshold)
        for role, who in needed
    ]
    complete = all(n >= threshold for _, n, threshold in have)
    pending, final = handed or folder / "pending" / name, folder / name
    changes = tuple(_changes(folder, metadata, handed))
    atomic_write(final if complete else pending, metadata.to_bytes())
    if complete:
        for done in (pending, folder / "pending" / name):
            if not same(done, final):
                done.unlink(missing_ok=True)
        if name.endswith(".root.json") and first is None:
            _after_root(folder, ring)
    told = tuple(f"{role} {min(n, threshold)} of {threshold}" for role, n, threshold in have)
    return Proposal(final if complete else pending, complete, told, changes)


def unlock(folder: Path, role: str, ring: KeyRing) -> None:
    """Ask now for the passphrases that signing root, targets or a delegation will need: not after minutes
    of work, or half of it."""
    root = root_of(folder)
    who = keys_of(root, role) if role in ROLES else _delegate_of(targets_of(folder, root), role)
    ring.signers([(who.keys.keys(), who.threshold)], folder)


def root_of(folder: Path) -> Root:
    return follow(roots_in(folder))[-1].signed


def targets_of(folder: Path, root: Root) -> Targets:
    return verified(root, "targets", read(folder / "targets.json"), Targets).signed


def own_targets(folder: Path, role: str, *, must: bool = False) -> Targets:
    """``targets.json``, or the file of a delegation; a new one of version 0 where there is none and it
    need not be."""
    path = folder / f"{role}.json"
    if path.is_file() or must:
        return load(path, Targets).signed
    fresh = Targets(version=1, expires=expires_in(EXPIRY["targets"]))
    fresh.version = 0
    return fresh


def keys_of(root: Root, role: str) -> Keys:
    if role == "director":
        return director_keys(root) or Keys({}, 0)
    found = root.roles["timestamp" if role == "online" else role]
    return Keys({k: root.keys[k] for k in found.keyids}, found.threshold)


def same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()


def _needed(
    folder: Path,
    name: str,
    metadata: Metadata[Any],
    first: Root | None,
    delegator: Targets | None,
    handed: Path | None,
) -> list[tuple[str, Keys]]:
    """Every set of keys that has to sign ``name``."""
    if isinstance(metadata.signed, Root):
        own = keys_of(metadata.signed, "root")
        # A file that was handed over may lie right beside the keys: that does not put it in force.
        roots = {
            n: data for n, data in roots_in(folder).items() if handed is None or not same(folder / n, handed)
        }
        if first is not None or (metadata.signed.version == 1 and not roots):
            return [("root", own)]
        before = follow(roots)[-1].signed
        if metadata.signed.version != before.version + 1:
            raise TrustError(
                f"{name} does not follow root version {before.version}", hint="copy the roots between"
            )
        return [("the root before", keys_of(before, "root")), ("root", own)]
    role = name.removesuffix(".json")
    if role == "targets":
        pending = folder / "pending" / "1.root.json"
        if first is None and not roots_in(folder) and pending.is_file():
            first = load(pending, Root).signed
        return [("targets", keys_of(first or root_of(folder), "targets"))]
    return [(role, _delegate_of(delegator or targets_of(folder, root_of(folder)), role))]


def _delegate_of(targets: Targets, role: str) -> Keys:
    try:
        found = targets.get_delegated_role(role)
    except ValueError as e:
        raise TrustError(f"targets do not delegate to {role}", hint="`edgectl keys delegate` does") from e
    return Keys({k: targets.get_key(k) for k in found.keyids}, found.threshold)


def _after_root(folder: Path, ring: KeyRing) -> None:
    """New root metadata are in force: sign targets anew if other keys have to, and put private keys aside
    that nobody needs."""
    root = root_of(folder)
    path = folder / "targets.json"
    if path.is_file():
        try:
            verified(root, "targets", read(path), Targets)
        except TrustError:
            targets = load(path, Targets).signed
            targets.version += 1
            targets.expires = expires_in(EXPIRY["targets"])
            propose(folder, "targets.json", Metadata(targets), ring)
    delegations = load(path, Targets).signed.delegations if path.is_file() else None
    used = {k for role in ROLES for k in keys_of(root, role).keys} | set(
        delegations.keys if delegations else ()
    )
    for key in ring.lying_in(folder):
        if key.keyid is not None and key.keyid not in used:
            with storage(str(folder)):
                (folder / "retired").mkdir(mode=0o700, exist_ok=True)
                for file in (key.path, key.public):
                    if file.exists():
                        file.rename(folder / "retired" / file.name)


def _changes(folder: Path, metadata: Metadata[Any], handed: Path | None) -> Iterable[str]:
    """For the people who are asked to sign."""
    new = metadata.signed
    yield f"version {new.version}, expires {new.expires:%Y-%m-%d}"
    if isinstance(new, Root):
        roots = {
            n: data for n, data in roots_in(folder).items() if handed is None or not same(folder / n, handed)
        }
        before = follow(roots)[-1].signed if roots else None
        for role in ROLES:
            now, was = keys_of(new, role), keys_of(before, role) if before else Keys({}, 0)
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
