"""Reads, parses, signs and verifies TUF metadata files; for the key ceremony and the controller."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Delegations, Metadata, Root, Snapshot, Targets, Timestamp

from edgectl.core.errors import TrustError
from edgectl.core.plan import PLANS

__all__ = [
    "EXPIRY",
    "T",
    "add",
    "delegated_roles",
    "expires_in",
    "follow",
    "load",
    "load_public",
    "parse",
    "plans_of",
    "read",
    "roots_in",
    "signed",
    "verified",
]

EXPIRY = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),  # delegations too
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=7),  # devices may be away for days
}

T = TypeVar("T", Root, Targets, Snapshot, Timestamp)

_ROOT_FILE = re.compile(r"([1-9][0-9]{0,8})\.root\.json\Z")


def expires_in(delta: timedelta) -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0) + delta


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise TrustError(
            f"cannot read {path}: {os.strerror(e.errno or 0)}", hint="`edgectl keys init` makes the keys"
        ) from e


def load(path: Path, role: type[T]) -> Metadata[T]:
    return parse(read(path), role, str(path))


def parse(data: bytes, role: type[T], what: str) -> Metadata[T]:
    """Raises :class:`TrustError` for anything that is not metadata of this role. No signature is checked."""
    try:
        metadata = Metadata[T].from_bytes(data)
    except (RepositoryError, ValueError) as e:
        raise TrustError(f"{what} is not signed metadata: {e}") from e
    if not isinstance(metadata.signed, role):
        raise TrustError(f"{what} is {metadata.signed.type} metadata, not {role.type}")
    return metadata


def verified(delegator: Root | Targets, role: str, data: bytes, kind: type[T]) -> Metadata[T]:
    """Metadata whose signatures ``delegator`` accepts for ``role``. Raises :class:`TrustError`."""
    metadata = parse(data, kind, f"the {role} metadata")
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as e:
        raise TrustError(f"the {role} metadata are not signed by the keys of this fleet: {e}") from e
    return metadata


def signed(role: T, signers: Iterable[CryptoSigner]) -> bytes:
    metadata: Metadata[T] = Metadata(role)
    add(metadata, signers)
    return metadata.to_bytes()


def add(metadata: Metadata[T], signers: Iterable[CryptoSigner]) -> None:
    for signer in signers:
        metadata.sign(signer, append=True)


def load_public(path: Path) -> Key:
    """A public key in PEM form, as its owner hands it over. Raises :class:`TrustError`."""
    data = read(path)
    if b"PRIVATE" in data:
        raise TrustError(
            f"{path} is a private key",
            hint="ask its owner for the .pub file; a private key stays with its owner",
        )
    try:
        return SSlibKey.from_crypto(load_pem_public_key(data))
    except (ValueError, UnsupportedAlgorithm) as e:
        raise TrustError(f"{path} is not a public key in PEM form") from e


def roots_in(folder: Path) -> dict[str, bytes]:
    """``N.root.json`` → content, by rising N."""
    found = sorted(
        (int(m.group(1)), p) for p in folder.glob("*.root.json") if (m := _ROOT_FILE.match(p.name))
    )
    return {path.name: read(path) for _, path in found}


def follow(roots: Mapping[str, bytes]) -> list[Metadata[Root]]:
    """The chain of roots from the first, each signed by itself and by the one before.

    Raises :class:`TrustError` at the first that is not: the files of the fleet's own hosts must be right.
    """
    chain: list[Metadata[Root]] = []
    for name, data in roots.items():
        root = parse(data, Root, name)
        result = root.signed.get_verification_result(Root.type, root.signed_bytes, root.signatures)
        before = chain[-1].signed if chain else None
        if before is not None and root.signed.version != before.version + 1:
            raise TrustError(
                f"{name} has version {root.signed.version}, after {before.version}",
                hint="copy the roots between",
            )
        both = (
            before.get_verification_result(Root.type, root.signed_bytes, root.signatures)
            if before
            else result
        )
        if not (result and both):
            raise TrustError(f"{name} is not signed by the keys of the root before it")
        chain.append(root)
    if not chain:
        raise TrustError("there is no root metadata", hint="`edgectl keys init` makes the keys")
    return chain


def delegated_roles(targets: Targets) -> dict[str, list[str]]:
    """Delegated role → path patterns."""
    delegations: Delegations | None = targets.delegations
    roles = delegations.roles if delegations is not None else None
    return {name: list(role.paths or []) for name, role in (roles or {}).items()}


def plans_of(targets: Targets) -> dict[str, tuple[str, str]]:
    """Path of each compiled plan that targets name → (the release it belongs to, its digest)."""
    return {
        path: (str((t.custom or {}).get("release")), f"sha256:{t.hashes.get('sha256')}")
        for path, t in targets.targets.items()
        if path.startswith(PLANS)
    }
