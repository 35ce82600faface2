"""A TUF repository in memory that can sign anything, right or wrong: the pattern of python-tuf's
``repository_simulator.py``.

It is both sides of an attack: an honest signer (:meth:`Repository.message`) and whoever holds some of the
keys.
"""

from __future__ import annotations

import copy
import shutil
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgectl.agent.state.journal import Journal
from edgectl.agent.trust.store import TrustStore
from edgectl.core.trust import (
    SIGNED_AT,
    delegated_path,
    delegation_paths,
    encode_trust,
    seal_desired,
    set_director,
    target_path,
)
from edgectl.core.wire import Desired, DesiredSlot

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
RELEASE = "gate@1"
DAY = 86400.0


class Repository:
    """Change what you like (``root``, ``targets``, ``signers`` …), then :meth:`message` signs it as it
    stands."""

    def __init__(self, *, director: bool = True, now: float | None = None) -> None:
        self.now = time.time() if now is None else now
        self.signers: dict[str, list[CryptoSigner]] = {
            role: [CryptoSigner.generate_ed25519()]
            for role in ("root", "targets", "snapshot", "timestamp", "director")
        }
        self.root = Root(version=1, expires=self.at(365), consistent_snapshot=False)
        for role in ("root", "targets", "snapshot", "timestamp"):
            self.root.add_key(self.signers[role][0].public_key, role)
        if director:
            set_director(self.root, [self.signers["director"][0].public_key], 1)
        self.targets = Targets(version=1, expires=self.at(90))
        self.delegated: dict[str, Targets] = {}
        self.snapshot = Snapshot(version=1, expires=self.at(7))
        self.timestamp = Timestamp(version=1, expires=self.at(7))
        self.roots: dict[str, bytes] = {}
        self.signed_at_s: int | None = int(self.now)
        self.publish_root()

    def __deepcopy__(self, memo: dict[int, object]) -> Repository:
        """Another repository with the same keys; older releases of cryptography do not copy them."""
        other = object.__new__(type(self))
        for name, value in vars(self).items():
            keys = name == "signers"
            setattr(
                other,
                name,
                {role: list(signers) for role, signers in value.items()}
                if keys
                else copy.deepcopy(value, memo),
            )
        return other

    def at(self, days: float) -> datetime:
        return datetime.fromtimestamp(int(self.now), timezone.utc) + timedelta(days=days)

    # ---- what the honest do

    def publish_root(self, *signers: CryptoSigner) -> None:
        """Root as it stands, signed by its own keys and by ``signers``."""
        self.roots[f"{self.root.version}.root.json"] = sign(
            copy.deepcopy(self.root), [*signers, *self.signers["root"]]
        )

    def rotate(self, *roles: str) -> None:
        """New keys for ``roles``, named by root N+1, which the old root keys sign too."""
        old = list(self.signers["root"])
        self.root.version += 1
        for role in roles:
            self.signers[role] = [CryptoSigner.generate_ed25519()]
            if role == "director":
                set_director(self.root, [self.signers[role][0].public_key], 1)
                continue
            for keyid in list(self.root.roles[role].keyids):
                self.root.revoke_key(keyid, role)
            self.root.add_key(self.signers[role][0].public_key, role)
        self.publish_root(*old)

    def name(
        self, release: str, digest: str = DIGEST, *, targets: Targets | None = None, path: str | None = None
    ) -> None:
        path = path or target_path(release)
        (targets or self.targets).targets[path] = TargetFile(
            100, {"sha256": digest.removeprefix("sha256:")}, path
        )

    def delegate(self, role: str, *profiles: str, paths: list[str] | None = None) -> None:
        self.signers.setdefault(role, [CryptoSigner.generate_ed25519()])
        key = self.signers[role][0].public_key
        known = self.targets.delegations
        roles = dict(known.roles or {}) if known else {}
        roles[role] = DelegatedRole(role, [key.keyid], 1, True, paths or delegation_paths(profiles))
        self.targets.delegations = Delegations({**(known.keys if known else {}), key.keyid: key}, roles)
        self.delegated[role] = Targets(version=1, expires=self.at(90))

    def name_delegated(self, role: str, profile: str, release: str, digest: str = DIGEST) -> None:
        self.name(release, digest, targets=self.delegated[role], path=delegated_path(profile, release))

    def bump(self, *roles: str) -> None:
        """One version on, e.g. ``bump("targets")``; snapshot and timestamp always."""
        for role in roles:
            (self.targets if role == "targets" else self.delegated[role]).version += 1
        self.snapshot.version += 1
        self.timestamp.version += 1

    def files(self) -> dict[str, bytes]:
        """The whole set, consistent, signed by who ought to."""
        self.snapshot.meta = {"targets.json": MetaFile(self.targets.version)}
        self.snapshot.meta |= {f"{n}.json": MetaFile(t.version) for n, t in self.delegated.items()}
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
        self.timestamp.unrecognized_fields = {} if self.signed_at_s is None else {SIGNED_AT: self.signed_at_s}
        return {
            **self.roots,
            "timestamp.json": sign(self.timestamp, self.signers["timestamp"]),
            "snapshot.json": sign(self.snapshot, self.signers["snapshot"]),
            "targets.json": sign(self.targets, self.signers["targets"]),
            **{f"{n}.json": sign(t, self.signers[n]) for n, t in self.delegated.items()},
        }

    def message(self, **replaced: bytes | None) -> bytes:
        """The retained message; ``targets=…`` puts other bytes in the place of ``targets.json``, None
        leaves the file out."""
        files: dict[str, Any] = self.files() | {f"{n}.json": data for n, data in replaced.items()}
        return encode_trust({n: data for n, data in files.items() if data is not None})


class Device:
    """The trust store of a device with clocks of its own."""

    def __init__(self, folder: Path, repository: Repository, profile: str | None = "cam") -> None:
        self.folder = folder
        self.root = repository.roots["1.root.json"]
        self.wall = repository.now
        self.steady = 1000.0
        self.profile = profile
        self.journal = Journal(folder / "journal.db")
        self.store = self.boot()

    def boot(self) -> TrustStore:
        """Start again: from here on, what is not on disk is forgotten."""
        self.store = TrustStore(
            self.folder / "trust",
            self.root,
            self.journal,
            profile=self.profile,
            wall=lambda: self.wall,
            steady=lambda: self.steady,
            built_s=1.0,
        )
        return self.store

    def lose_files(self) -> None:
        """A power cut takes everything but the journal."""
        shutil.rmtree(self.folder / "trust")
        self.boot()

    def sleep(self, days: float, *, clock: bool = True) -> None:
        self.steady += days * DAY
        self.wall += days * DAY if clock else 0.0

    def desired(self, gen: int, *signers: CryptoSigner, fleet: str = "home", device: str = "gate-1") -> bytes:
        wish = Desired(gen=gen, slots={"gate": DesiredSlot(release=RELEASE, digest=DIGEST)})
        return seal_desired(fleet, device, wish, list(signers))

    def wants(self, payload: bytes) -> Desired:
        return self.store.accept_desired(payload, "home", "gate-1")


def sign(signed: Any, signers: list[CryptoSigner]) -> bytes:
    metadata: Metadata[Any] = Metadata(copy.deepcopy(signed))
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def keys_in(file: Path) -> list[CryptoSigner]:
    """The private key of a file of `edgectl keys`, without a passphrase."""
    return [CryptoSigner(load_pem_private_key(file.read_bytes(), None))]
