"""The controller's keys: snapshot and timestamp around what the holders of root and targets keys sign, and
the director's signature.

The controller needs ``online.pem``, ``director.pem`` and the public files of a folder of keys. Who holds the
controller or the broker can withhold metadata, and choose among signed releases; he cannot sign one
(:mod:`edgectl.fleet.keys.ceremony`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edgectl.core.errors import TrustError
from edgectl.core.files import atomic_write
from edgectl.core.schema import parse_json
from edgectl.core.signed import Keys, is_signed
from edgectl.core.trust import (
    MAX_TRUST_BYTES,
    SIGNED_AT,
    director_keys,
    encode_trust,
    open_desired,
    open_state,
    seal_command,
    seal_desired,
    seal_state,
    target_path,
)
from edgectl.core.wire import MAX_MESSAGE_BYTES, RUNS_FILES, Command, ControllerState, Desired, Trust
from edgectl.fleet.keys.keyring import KeyRing
from edgectl.fleet.keys.signing import (
    EXPIRY,
    delegated_roles,
    expires_in,
    follow,
    load,
    parse,
    plans_of,
    read,
    roots_in,
    signed,
    verified,
)

__all__ = ["Director", "Expiry", "OnlineTrust", "SealedDesired"]

_ROOM_BYTES = 32 << 10
"""For the growth of snapshot and timestamp."""
_WARN = {"root": timedelta(days=60), "targets": timedelta(days=21)}
"""How long before their end root, and targets or delegations, are called for renewal: people have to find
each other."""


@dataclass(frozen=True)
class Expiry:
    """When one file of the set ends."""

    role: str
    version: int
    expires_s: float
    """Unix time."""
    due: bool
    """It is time to renew it, or past it."""


class OnlineTrust:
    """Accepts newer roots, targets and delegations, signs snapshot and timestamp, renews them in time.
    Thread-safe.

    ``folder`` keeps the current set; ``keys`` has ``online.pem``, the roots and, at first, ``targets.json``
    and delegations.
    """

    def __init__(
        self,
        folder: Path,
        keys: Path,
        *,
        lifetime: timedelta = EXPIRY["timestamp"],
        ring: KeyRing | None = None,
    ) -> None:
        """``ring``: opens keys that have a passphrase. Raises :class:`TrustError` if the keys are missing
        or do not belong to the root metadata."""
        self._folder = folder
        self._keys = keys
        self._lifetime = lifetime
        self._ring = ring or KeyRing()
        self._lock = threading.RLock()
        self.check_root: Callable[[Root], None] = lambda _: None
        """Raises :class:`TrustError` for a root that this controller cannot work under."""
        self._unsigned = False
        """Files were changed, and the set around them was not signed anew yet."""
        self._chain: list[Metadata[Root]] = []
        self._roots: dict[str, bytes] = {}
        self._follow({**roots_in(keys), **roots_in(folder)})
        given = {p.name: read(p) for p in keys.glob("*.json") if not p.name.endswith("root.json")}
        if not (folder / "targets.json").is_file():
            self.accept({"targets.json": read(keys / "targets.json")})
        # A root that came with new keys, or targets that were copied here by hand, count when they are newer.
        newer = {n: data for n, data in given.items() if self._is_newer(n, data)}
        if newer or self._must_sign():
            self.accept(newer)
        else:
            self.renew()

    # ---- what is in force

    @property
    def root(self) -> Root:
        return self._chain[-1].signed

    @property
    def root_bytes(self) -> bytes:
        """The newest root: what a device is enrolled with."""
        return self._roots[f"{self.root.version}.root.json"]

    @property
    def targets_bytes(self) -> bytes:
        return read(self._folder / "targets.json")

    @property
    def targets(self) -> Targets:
        return load(self._folder / "targets.json", Targets).signed

    def files(self) -> dict[str, bytes]:
        """The whole set, by file name: all roots, timestamp, snapshot, targets, and the files of
        delegations in force."""
        with self._lock:
            names = ["timestamp.json", "snapshot.json", "targets.json"]
            names += [
                f"{n}.json" for n in delegated_roles(self.targets) if (self._folder / f"{n}.json").is_file()
            ]
            return {**self._roots, **{n: read(self._folder / n) for n in names}}

    def message(self) -> bytes:
        """The retained trust message."""
        return encode_trust(self.files())

    def names(self, release: str) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Role → (digest, profiles) of each signed statement about ``release``."""
        path = target_path(release)
        found = {}
        with self._lock:
            roles = {"targets": self.targets}
            roles |= {
                n: load(self._folder / f"{n}.json", Targets).signed
                for n in delegated_roles(self.targets)
                if (self._folder / f"{n}.json").is_file()
            }
        for role, targets in roles.items():
            for named, target in targets.targets.items():
                if named == path or (
                    role != "targets" and named.startswith("profiles/") and named.endswith(f"/{path}")
                ):
                    profiles = target.custom.get("profiles", []) if target.custom else []
                    found[role] = (f"sha256:{target.hashes.get('sha256')}", tuple(str(p) for p in profiles))
        return found

    def plans(self) -> list[str]:
        """Digests of the compiled plans that targets name."""
        with self._lock:
            return [digest for _, digest in plans_of(self.targets).values()]

    def expiries(self, now_s: float | None = None) -> list[Expiry]:
        """Each file of the set and when it ends."""
        now = time.time() if now_s is None else now_s
        found = []
        with self._lock:
            sets: dict[str, tuple[int, datetime]] = {"root": (self.root.version, self.root.expires)}
            for name, kind in (("targets", Targets), ("snapshot", Snapshot), ("timestamp", Timestamp)):
                meta = load(self._folder / f"{name}.json", kind).signed  # type: ignore[type-var]
                sets[name] = (meta.version, meta.expires)
            for name in delegated_roles(self.targets):
                if (self._folder / f"{name}.json").is_file():
                    own = load(self._folder / f"{name}.json", Targets).signed
                    sets[name] = (own.version, own.expires)
        for role, (version, expires) in sets.items():
            early = timedelta() if role in ("snapshot", "timestamp") else _WARN.get(role, _WARN["targets"])
            ends = expires.timestamp()
            found.append(Expiry(role, version, ends, ends - early.total_seconds() <= now))
        return found

    # ---- changes

    def accept(self, files: Mapping[str, bytes] | bytes, *, withdraw: Iterable[str] = ()) -> None:
        """Take newly signed roots, targets or delegations and sign the set around them. ``withdraw``:
        releases that may vanish.

        All or nothing. Raises :class:`TrustError` for anything that is not newer and valid.
        """
        new = dict(files) if isinstance(files, Mapping) else {"targets.json": files}
        with self._lock:
            chain, roots = self._chain, self._roots
            try:
                self._follow({**self._roots, **{n: d for n, d in new.items() if n.endswith(".root.json")}})
                self.check_root(self.root)
                targets = self._checked_targets(new, tuple(withdraw))
                delegated = self._checked_delegations(new, targets)
                self._check_size(new)
            except TrustError:
                self._chain, self._roots = chain, roots
                raise
            self._unsigned = True
            for name, data in self._roots.items():
                if name not in roots or not (self._folder / name).is_file():
                    atomic_write(self._folder / name, data)
            if "targets.json" in new:
                atomic_write(self._folder / "targets.json", new["targets.json"])
            for name in delegated:
                atomic_write(self._folder / name, new[name])
            self._sign()

    def renew(self) -> bool:
        """Sign anew if less than half of the lifetime is left, or a change was cut off before its end.
        Returns whether there is a new set to publish."""
        with self._lock:
            path = self._folder / "timestamp.json"
            left = (
                load(path, Timestamp).signed.expires - expires_in(timedelta())
                if path.is_file()
                else timedelta()
            )
            if left > self._lifetime / 2 and not self._unsigned:
                return False
            self._sign()
            return True

    # ---- under the lock

    def _follow(self, roots: Mapping[str, bytes]) -> None:
        """Check the chain of roots, and that we hold the keys that the newest one asks of us."""
        ordered = dict(sorted(roots.items(), key=lambda item: int(item[0].split(".")[0])))
        chain = follow(ordered)
        self._signers = _of_role(chain[-1].signed, self._ring, self._keys)
        self._chain, self._roots = chain, ordered

    def _checked_targets(self, new: Mapping[str, bytes], withdraw: tuple[str, ...]) -> Targets:
        data = new.get("targets.json")
        # a new root alone: what we have must still be signed by its keys
        if data is None:
            return verified(self.root, "targets", self.targets_bytes, Targets).signed
        found = verified(self.root, "targets", data, Targets).signed
        if (self._folder / "targets.json").is_file():
            old = self.targets
            if found.version <= old.version:
                raise TrustError(
                    f"targets have version {found.version}, the controller has {old.version}",
                    hint="publish again",
                )
            self._check_lost(old, found, withdraw)
        return found

    def _checked_delegations(self, new: Mapping[str, bytes], targets: Targets) -> list[str]:
        found = []
        for role in delegated_roles(targets):
            name = f"{role}.json"
            path = self._folder / name
            if name not in new:
                continue
            own = verified(targets, role, new[name], Targets).signed
            if path.is_file() and new[name] != read(path):
                old = load(path, Targets).signed
                if own.version <= old.version:
                    raise TrustError(
                        f"{role} has version {own.version}, the controller has {old.version}",
                        hint="publish again",
                    )
            found.append(name)
        unknown = [n for n in new if n != "targets.json" and not n.endswith(".root.json") and n not in found]
        if unknown:
            raise TrustError(
                f"{unknown[0]} is not delegated by the targets", hint="`edgectl keys delegate` does"
            )
        return found

    def _check_size(self, new: Mapping[str, bytes]) -> None:
        """A message that is too large could not be renewed either, and the whole fleet would install
        nothing any more."""
        known = {p.name: read(p) for p in self._folder.glob("*.json")}
        size = len(Trust(files={n: d.decode() for n, d in {**known, **self._roots, **new}.items()}).encode())
        if size > MAX_TRUST_BYTES - _ROOM_BYTES:
            raise TrustError(
                f"the signed metadata would have {size} bytes, {MAX_TRUST_BYTES - _ROOM_BYTES} are possible",
                hint="`edgectl release withdraw` what no device needs any more",
            )

    @staticmethod
    def _check_lost(old: Targets, new: Targets, withdraw: tuple[str, ...]) -> None:
        allowed = {target_path(r) for r in withdraw} | {
            p for p, (release, _) in plans_of(old).items() if release in withdraw
        }
        if lost := sorted(set(old.targets) - set(new.targets) - allowed):
            raise TrustError(
                f"the new targets lack {lost[0]}, which the controller has", hint="publish again"
            )

    def _is_newer(self, name: str, data: bytes) -> bool:
        path = self._folder / name
        if name in ("snapshot.json", "timestamp.json"):
            return False
        if not path.is_file():
            return name == "targets.json" or name.removesuffix(".json") in delegated_roles(self.targets)
        return data != read(path) and load(path, Targets).signed.version < _version(data)

    def _must_sign(self) -> bool:
        """Whether the online keys were replaced since the set was signed, or a power cut came before it
        was."""
        try:
            timestamp = verified(
                self.root, "timestamp", read(self._folder / "timestamp.json"), Timestamp
            ).signed
            snapshot = verified(self.root, "snapshot", read(self._folder / "snapshot.json"), Snapshot).signed
        except TrustError:
            return True
        listed = {name: meta.version for name, meta in snapshot.meta.items()}
        if timestamp.snapshot_meta.version != snapshot.version or listed | self._listed() != listed:
            return True
        return any(not (self._folder / name).is_file() for name in self._roots)

    def _sign(self) -> None:
        snapshot_path, timestamp_path = self._folder / "snapshot.json", self._folder / "timestamp.json"
        before = load(snapshot_path, Snapshot).signed if snapshot_path.is_file() else None
        # What a snapshot has listed once it lists for ever (TUF 5.5.5), a delegation that was taken back too.
        meta = dict(before.meta) if before else {}
        meta |= {name: MetaFile(version) for name, version in self._listed().items()}
        snapshot = Snapshot(version=_next_version(before), expires=expires_in(self._lifetime), meta=meta)
        atomic_write(snapshot_path, signed(snapshot, self._signers))
        timestamp = Timestamp(
            version=_next_version(
                load(timestamp_path, Timestamp).signed if timestamp_path.is_file() else None
            ),
            expires=expires_in(self._lifetime),
            snapshot_meta=MetaFile(snapshot.version),
            unrecognized_fields={SIGNED_AT: int(time.time())},
        )
        atomic_write(timestamp_path, signed(timestamp, self._signers))
        self._unsigned = False

    def _listed(self) -> dict[str, int]:
        """The files that a snapshot lists, and their versions."""
        names = ("targets.json", *(f"{n}.json" for n in delegated_roles(self.targets)))
        return {
            n: load(self._folder / n, Targets).signed.version for n in names if (self._folder / n).is_file()
        }


@dataclass(frozen=True)
class SealedDesired:
    """A ``desired`` document for its topic."""

    payload: bytes
    missing: int = 0
    """Signatures that other keys of the director have to add before a device obeys it."""


class Director:
    """Signs what each device is to run, commands and the freeze, where the root names a director; passes them
    on unsigned where it names none.

    With a threshold above the number of keys here, an operator adds his signature to each document
    (:meth:`Controller.approve`).
    """

    def __init__(
        self, fleet: str, trust: OnlineTrust, keys: Iterable[Path], ring: KeyRing | None = None
    ) -> None:
        """``keys``: files or folders with the director's private keys; ``ring``: opens those that have a
        passphrase. Raises :class:`TrustError` if there is none."""
        self._fleet = fleet
        self._trust = trust
        self._places = tuple(keys)
        self._ring = ring or KeyRing()
        self._root_version = 0
        self._signers: list[CryptoSigner] = []
        self.refresh()

    def refresh(self) -> None:
        """Look again which keys the root names. Raises :class:`TrustError`."""
        root = self._trust.root
        self._signers = self._found(root)
        self._root_version = root.version

    def check(self, root: Root) -> None:
        """Raises :class:`TrustError` if we have none of the keys that ``root`` names."""
        self._found(root)

    def seal(self, device: str, desired: Desired) -> SealedDesired:
        """The document with the signatures that we can give."""
        wanted = self._wanted()
        if wanted is None:
            return SealedDesired(desired.encode())
        payload = seal_desired(self._fleet, device, desired, self._signers)
        return SealedDesired(payload, max(0, wanted.threshold - len(self._signers)))

    def seal_command(self, device: str, command: Command) -> bytes:
        """One key of the director's is enough for a command that installs nothing. Raises :class:`TrustError` for one
        by which a device opens files, where more of them have to sign than are here."""
        wanted = self._wanted()
        if wanted is None and command.op in RUNS_FILES:
            raise TrustError(
                f"the root metadata of this fleet name no director, who would sign the command {command.op}",
                hint="docs/security.md says how a fleet gets one",
            )
        if wanted is None:
            return command.encode()
        if command.op in RUNS_FILES and wanted.threshold > len(self._signers):
            raise TrustError(
                f"{command.op} needs {wanted.threshold} of the director's keys, and this controller has {len(self._signers)}",
                hint="candidates can be measured in a fleet whose controller signs alone, e.g. one of test devices",
            )
        return seal_command(self._fleet, device, command, self._signers)

    def seal_state(self, state: ControllerState) -> bytes:
        """The freeze with it, for which one key is enough, too."""
        return state.encode() if self._wanted() is None else seal_state(self._fleet, state, self._signers)

    def open_state(self, payload: bytes) -> ControllerState:
        """The state of a controller as devices would read it: signed, or a will. Raises
        :class:`TrustError` / :class:`ProtocolError`."""
        wanted = director_keys(self._trust.root)
        if wanted is not None and is_signed(payload):
            return open_state(payload, wanted, self._fleet)
        state = parse_json(ControllerState, payload, max_bytes=MAX_MESSAGE_BYTES, what="controller state")
        if wanted is not None and state.online:
            raise TrustError("the controller's state is not signed")
        return state

    def open(self, device: str, payload: bytes) -> Desired:
        """Our own word that came back, from the broker or an operator, once enough have signed it.

        Raises :class:`TrustError` / :class:`ProtocolError` if it is not ours: nobody is believed, because
        what we take for our own word is what we sign next.
        """
        wanted = director_keys(self._trust.root)
        if wanted is not None:
            return open_desired(payload, wanted, self._fleet, device).model_copy(
                update={"fleet": None, "device": None}
            )
        if is_signed(payload):
            raise TrustError("desired state is signed, and this fleet has no director")
        return parse_json(Desired, payload, max_bytes=MAX_MESSAGE_BYTES, what="desired state")

    def _wanted(self) -> Keys | None:
        """Who has to sign today."""
        if self._trust.root.version != self._root_version:
            self.refresh()
        return director_keys(self._trust.root)

    def _found(self, root: Root) -> list[CryptoSigner]:
        wanted = director_keys(root)
        signers = (
            [] if wanted is None else self._ring.signers([(wanted.keys, wanted.threshold)], *self._places)
        )
        if wanted is not None and not signers:
            raise TrustError(
                f"{', '.join(map(str, self._places))} has none of the {len(wanted.keys)} director's keys",
                hint='copy director.pem to the controller first, or name it: director = ["…"] in controller.toml',
            )
        return signers


def _of_role(root: Root, ring: KeyRing, keys: Path) -> list[CryptoSigner]:
    """Our keys for snapshot and timestamp."""
    roles = [root.roles[name] for name in ("timestamp", "snapshot")]
    found = ring.signers([(r.keyids, r.threshold) for r in roles], keys)
    if not found and not (keys / "online.pem").is_file() and not ring.lying_in(keys):
        raise TrustError(
            f"cannot read {keys / 'online.pem'}: no such file", hint="`edgectl keys init` makes the keys"
        )
    for r in roles:
        if sum(s.public_key.keyid in r.keyids for s in found) < r.threshold:
            raise TrustError(
                f"{keys} has no online key that root version {root.version} names for the controller",
                hint="copy the new online key to the controller's keys first",
            )
    return found


def _next_version(before: Snapshot | Timestamp | None) -> int:
    """Above the one before, and above whatever was signed earlier: a controller that lost its folder, or
    is back from an old backup, does not know how far it had come, and devices refuse what is older than
    they have seen."""
    return max(before.version + 1 if before else 1, int(time.time()))


def _version(data: bytes) -> int:
    return int(parse(data, Targets, "a file of the keys folder").signed.version)
