"""Signing: keys, release targets (on the host), snapshot and timestamp (by the controller).

Folder of keys: ``root.pem`` and ``targets.pem`` stay with whoever releases; the controller gets ``online.pem`` and
``1.root.json`` only. Who holds the controller or the broker can withhold metadata, not sign a release.
"""

from __future__ import annotations

import os
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from edgectl.core.bundle import Bundle
from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import atomic_write, storage
from edgectl.core.trust import encode_trust, release_name, target_path

__all__ = ["EXPIRY", "OnlineTrust", "init_keys", "sign_release"]

EXPIRY = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=7),  # devices may be away for days
}

T = TypeVar("T", Root, Targets, Snapshot, Timestamp)


def init_keys(folder: Path) -> Path:
    """Make root, targets and online keys, ``1.root.json`` and an empty ``targets.json``. Returns the root file.

    Raises :class:`UsageError` if the folder has keys already: overwriting them would lock every enrolled device out.
    """
    if (folder / "1.root.json").exists():
        raise UsageError(f"{folder} has keys already", hint="use them, or choose another folder")
    with storage(str(folder)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    signers = {name: CryptoSigner.generate_ed25519() for name in ("root", "targets", "online")}
    for name, signer in signers.items():
        atomic_write(folder / f"{name}.pem", signer.private_bytes, mode=0o600)
    root = Root(version=1, expires=_in(EXPIRY["root"]), consistent_snapshot=False)
    for role, key in (("root", "root"), ("targets", "targets"), ("snapshot", "online"), ("timestamp", "online")):
        root.add_key(signers[key].public_key, role)
    targets = Targets(version=1, expires=_in(EXPIRY["targets"]))
    atomic_write(folder / "targets.json", _signed(targets, signers["targets"]))
    atomic_write(folder / "1.root.json", _signed(root, signers["root"]))
    return folder / "1.root.json"


def sign_release(keys: Path, bundle: Bundle, current: bytes | None = None) -> tuple[str, bytes]:
    """Add a bundle to the signed targets. ``current``: the controller's ``targets.json``, taken where it is newer than ours.

    Returns (``name@version``, new ``targets.json``), also written to ``keys``. A release name is never reused for other bytes:
    :class:`TrustError`.
    """
    release = release_name(bundle.name, bundle.version)
    root = _load(keys / "1.root.json", Root)
    own = _load(keys / "targets.json", Targets)
    if current is not None:
        theirs = _verified(root, "targets", current, Targets)
        own = theirs if theirs.signed.version > own.signed.version else own
    targets = own.signed
    path = target_path(release)
    digest = bundle.digest.removeprefix("sha256:")
    known = targets.targets.get(path)
    if known is not None and known.hashes["sha256"] != digest:
        raise TrustError(f"release {release} is already signed with other content", hint="give the new bundle a new version")
    profiles = sorted({v.config.profile for v in bundle.variants})
    targets.targets[path] = TargetFile(len(bundle.index_bytes), {"sha256": digest}, path, {"custom": {"profiles": profiles}})
    targets.version += 1
    targets.expires = _in(EXPIRY["targets"])
    data = _signed(targets, _signer(keys / "targets.pem"))
    atomic_write(keys / "targets.json", data)
    return release, data


class OnlineTrust:
    """The controller's part: accepts newer targets, signs snapshot and timestamp, renews them in time. Thread-safe.

    ``folder`` keeps the current set; ``keys`` has ``online.pem`` and ``1.root.json``.
    """

    def __init__(self, folder: Path, keys: Path, *, lifetime: timedelta = EXPIRY["timestamp"]) -> None:
        """Raises :class:`TrustError` if the keys are missing or do not belong to the root metadata."""
        self._folder = folder
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._signer = _signer(keys / "online.pem")
        self._root = _load(keys / "1.root.json", Root)
        self.root_bytes = _read(keys / "1.root.json")
        if self._signer.public_key.keyid not in self._root.signed.roles["timestamp"].keyids:
            raise TrustError(f"{keys / 'online.pem'} is not the key that 1.root.json names for the controller")
        if not (folder / "targets.json").is_file():
            self.accept(_read(keys / "targets.json"))
        else:
            self.renew()

    @property
    def targets_bytes(self) -> bytes:
        return _read(self._folder / "targets.json")

    @property
    def targets(self) -> Targets:
        return _load(self._folder / "targets.json", Targets).signed

    def accept(self, targets: bytes) -> None:
        """Take newly signed targets and sign the set around them. Raises :class:`TrustError` for anything not newer and valid."""
        with self._lock:
            new = _verified(self._root, "targets", targets, Targets).signed
            if (self._folder / "targets.json").is_file():
                old = self.targets
                if new.version <= old.version:
                    raise TrustError(
                        f"targets have version {new.version}, the controller has {old.version}", hint="publish again"
                    )
                if lost := sorted(set(old.targets) - set(new.targets)):
                    raise TrustError(f"the new targets lack {lost[0]}, which the controller has", hint="publish again")
            atomic_write(self._folder / "targets.json", targets)
            self._sign(new.version)

    def renew(self) -> bool:
        """Sign anew if less than half of the lifetime is left. Returns whether there is a new set to publish."""
        with self._lock:
            path = self._folder / "timestamp.json"
            left = _load(path, Timestamp).signed.expires - _in(timedelta()) if path.is_file() else timedelta()
            if left > self._lifetime / 2:
                return False
            self._sign(self.targets.version)
            return True

    def message(self) -> bytes:
        """The retained trust message."""
        with self._lock:
            files = {n: _read(self._folder / n) for n in ("targets.json", "snapshot.json", "timestamp.json")}
            return encode_trust({"1.root.json": self.root_bytes, **files})

    def _sign(self, targets_version: int) -> None:
        snapshot = self._previous("snapshot.json", Snapshot) + 1
        meta = {"targets.json": MetaFile(targets_version)}
        atomic_write(
            self._folder / "snapshot.json",
            _signed(Snapshot(version=snapshot, expires=_in(self._lifetime), meta=meta), self._signer),
        )
        timestamp = self._previous("timestamp.json", Timestamp) + 1
        atomic_write(
            self._folder / "timestamp.json",
            _signed(Timestamp(version=timestamp, expires=_in(self._lifetime), snapshot_meta=MetaFile(snapshot)), self._signer),
        )

    def _previous(self, name: str, role: type[T]) -> int:
        path = self._folder / name
        return int(_load(path, role).signed.version) if path.is_file() else 0


def _in(delta: timedelta) -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0) + delta


def _signed(role: T, signer: CryptoSigner) -> bytes:
    metadata: Metadata[T] = Metadata(role)
    metadata.sign(signer)
    return metadata.to_bytes()


def _signer(path: Path) -> CryptoSigner:
    try:
        return CryptoSigner(load_pem_private_key(_read(path), None))
    except ValueError as e:
        raise TrustError(f"{path} is not a private key in PEM form") from e


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise TrustError(f"cannot read {path}: {os.strerror(e.errno or 0)}", hint="`edgectl keys init` makes the keys") from e


def _load(path: Path, role: type[T]) -> Metadata[T]:
    return _parse(_read(path), role, str(path))


def _parse(data: bytes, role: type[T], what: str) -> Metadata[T]:
    try:
        metadata = Metadata[T].from_bytes(data)
    except (RepositoryError, ValueError) as e:
        raise TrustError(f"{what} is not signed metadata: {e}") from e
    if not isinstance(metadata.signed, role):
        raise TrustError(f"{what} is {metadata.signed.type} metadata, not {role.type}")
    return metadata


def _verified(root: Metadata[Root], role: str, data: bytes, kind: type[T]) -> Metadata[T]:
    metadata = _parse(data, kind, f"the {role} metadata")
    try:
        root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as e:
        raise TrustError(f"the {role} metadata is not signed by the key of this fleet") from e
    return metadata
