"""What the device may install: python-tuf's client over the retained trust message, with version floors of
our own.

The set is verified again, whole and from the first root, at every question (a few milliseconds), so that
metadata which expires in the meantime stops installs. python-tuf works in a folder that is thrown away
afterwards: it would keep a newer timestamp of a set whose rest it refuses, and writes without fsync. What is
kept is kept here: verified roots, the last good message, the time that is attested, and in the journal the
version floors.

A version floor holds for the keys that signed it. When root metadata replace the keys of a role, a version
that a thief drove up does not bind the new keys (TUF 5.3.11, recovery from a fast-forward attack). Nothing
here ever stops inference.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.exceptions import DownloadError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Snapshot, Targets, Timestamp
from tuf.ngclient import Updater

from edgectl.agent.state.journal import Journal
from edgectl.agent.trust.attested_time import AttestedTime
from edgectl.agent.trust.metadata_set import (
    TOP_METADATA,
    MemoryFetcher,
    VerifiedSet,
    role_keys,
    signed_part,
    target_paths,
)
from edgectl.agent.trust.root_chain import RootChain
from edgectl.agent.trust.time_floor import RELEASED_S
from edgectl.core.bundle import MEDIA_INDEX, Descriptor
from edgectl.core.clock import clock_says
from edgectl.core.errors import StorageError, TrustError
from edgectl.core.files import atomic_write
from edgectl.core.plan import PlanStatement, SharedPlan, plan_path
from edgectl.core.schema import parse_json, parse_object
from edgectl.core.signed import Keys, is_signed
from edgectl.core.trust import (
    decode_trust,
    director_keys,
    keyset_id,
    open_command,
    open_desired,
    open_state,
)
from edgectl.core.wire import MAX_MESSAGE_BYTES, READ_ONLY, RUNS_FILES, Command, ControllerState, Desired

__all__ = ["ENROLLED", "StaleTrust", "TrustStore"]

ENROLLED = "enrolled.json"
"""The copy that is kept of the root metadata of the enrolment."""

log = logging.getLogger(__name__)

_RENEW = "set the clock if it is wrong; else renew the metadata: the controller does while it runs"


_MAX_VERSION = (1 << 53) - 1
_MAX_FILES = 512
"""In a snapshot: each has a floor in the journal."""


class StaleTrust(TrustError):
    """There is no valid metadata now, but a newer set may come: wait."""


class TrustStore:
    """``folder`` keeps verified roots and the last good message; ``root`` is the root metadata the device
    was enrolled with."""

    def __init__(
        self,
        folder: Path,
        root: bytes,
        journal: Journal,
        *,
        profile: str | None = None,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        built_s: float = RELEASED_S,
    ) -> None:
        """``profile``: whose delegated releases count; ``built_s``: when this agent was built, Unix time.

        Raises :class:`TrustError` if ``root`` is not root metadata, :class:`StorageError` for the disk.
        """
        self._folder = folder
        self._journal = journal
        self._profile = profile
        self._wall = wall
        self._lock = threading.RLock()
        self._kept = folder / "trust.json"
        self.version: int | None = None
        """Version of the targets metadata that was last verified."""
        self._unkept: dict[str, int] = {}
        """Floors that the journal may not have taken: they hold until the agent ends."""
        try:
            (folder / "roots").mkdir(parents=True, exist_ok=True)
            self._message = self._kept.read_bytes() if self._kept.is_file() else None
            roots = {p.name: p.read_bytes() for p in (folder / "roots").glob("*.root.json")}
        except OSError as e:
            raise StorageError(f"the trust folder {folder} cannot be used: {e.strerror}") from e
        self._roots = RootChain(folder / "roots", root, journal)
        with contextlib.suppress(OSError, StorageError):
            if not (folder / ENROLLED).is_file() or (folder / ENROLLED).read_bytes() != root:
                atomic_write(folder / ENROLLED, root)
        with contextlib.suppress(TrustError):
            roots = {**decode_trust(self._message or b""), **roots}
        # what could not be written is written when the next set comes
        with contextlib.suppress(StorageError):
            self._roots.follow(roots)
        self._time = AttestedTime(folder / "time.json", wall, steady, built_s)

    # ---- questions

    @property
    def director(self) -> Keys | None:
        """Who signs ``desired`` documents, commands and freezes; None where the root of this fleet names
        nobody."""
        return director_keys(self._roots.current)

    @property
    def clock_trusted(self) -> bool:
        """False: the clock of this device is behind the time that is attested."""
        return self._time.trusts_clock

    def update(self, message: bytes) -> None:
        """Take a newer metadata set. Raises :class:`TrustError`; the set from before then stays in force."""
        with self._lock:
            verified = self._verify(decode_trust(message))
            self._raise_floors(verified)
            if message != self._message:
                atomic_write(self._kept, message)
                self._message = message

    def check(self, release: str, digest: str) -> Descriptor:
        """The descriptor (length, digest) of the index.json that signed targets name for ``release``.

        A release of a delegation counts where it is for this device's profile. Raises :class:`StaleTrust` if
        there is no valid set now, :class:`TrustError` if it does not name this digest.
        """
        with self._lock:
            target = self._in_force(release).found
        if target is None:
            raise TrustError(
                f"signed metadata does not name release {release}", hint="publish the release with its keys"
            )
        if target.hashes.get("sha256") != digest.removeprefix("sha256:"):
            raise TrustError(
                f"signed metadata names another digest for release {release} than {digest[:19]}…"
            )
        return Descriptor(mediaType=MEDIA_INDEX, digest=digest, size=target.length)

    def plan(self, key: Mapping[str, object]) -> SharedPlan | None:
        """The TensorRT plan that signed targets name for this very key; None if they name none. What a
        delegation says does not count.

        Raises :class:`StaleTrust` if there is no valid set now, :class:`TrustError` if what is signed is no
        plan for this key.
        """
        with self._lock:
            target = self._in_force().targets.targets.get(plan_path(key))
        if target is None:
            return None
        said = parse_object(PlanStatement, target.custom or {}, what="a signed plan", error=TrustError)
        if said.key != key:
            raise TrustError("signed metadata names a plan under the path of another key")
        try:
            return SharedPlan(
                key=said.key,
                digest=f"sha256:{target.hashes.get('sha256')}",
                size=target.length,
                level=said.level,
            )
        except ValueError as e:
            raise TrustError("signed metadata names a plan without its sha256") from e

    def accept_desired(self, payload: bytes, fleet: str, device: str) -> Desired:
        """What a ``desired`` message asks for, if the director has signed it and its generation is not older
        than one seen before.

        A fleet whose root names no director takes unsigned documents: the root decides, and a device never
        goes back to an older root. Raises :class:`TrustError` with the reason.
        """
        with self._lock:
            self._roots.check_floor()
            director = self.director
            if director is None:
                desired = parse_json(Desired, payload, max_bytes=MAX_MESSAGE_BYTES, what="desired state")
            else:
                desired = open_desired(payload, director, fleet, device)
            floor = self._generation_floor()
            seen = self._journal.value(floor)
            if desired.gen < seen:
                raise TrustError(
                    f"desired state has generation {desired.gen}, this device has already seen {seen}"
                )
            if desired.gen > seen:
                self._journal.raise_floor(floor, desired.gen)
            return desired

    @property
    def generation(self) -> int:
        """The highest generation of a desired document that was accepted of this director; 0: none."""
        with self._lock:
            return self._journal.value(self._generation_floor())

    def _generation_floor(self) -> str:
        return "floor:gen" if self.director is None else f"floor:gen:{keyset_id(self.director)}"

    def open_command(self, payload: bytes, fleet: str, device: str) -> Command:
        """The command in a message, if one of the director's keys has signed it for this device;
        :meth:`admit` says whether to obey it.

        A fleet whose root names no director sends them unsigned, but none of :data:`~edgectl.core.wire.RUNS_FILES`. Raises
        :class:`TrustError` or :class:`ProtocolError`.
        """
        with self._lock:
            self._roots.check_floor()
            director = self.director
            if director is None:
                command = parse_json(Command, payload, max_bytes=MAX_MESSAGE_BYTES, what="command")
                if command.op in RUNS_FILES:
                    raise TrustError(
                        f"command {command.op} is not signed, and this fleet has nobody who could"
                    )
                return command
            return open_command(payload, director, fleet, device)

    def admit(self, command: Command) -> None:
        """Let a command that was opened pass once, and only in time. Its number is on disk when this returns;
        a command that changes nothing does not wait for a disk that takes nothing.

        Raises :class:`TrustError` (too late, or not above the numbers seen), :class:`StorageError`.
        """
        with self._lock:
            now_s = self._time.now()
            if command.deadline_s < now_s:
                raise TrustError(
                    f"the command ended at {_utc(command.deadline_s)}, the clock here says {_utc(now_s)}"
                )
            director = self.director
            if director is None:
                return
            floor = _command_floor(director)
            seen = self._seen(floor)
            if command.seq <= seen:
                raise TrustError(f"the command has number {command.seq}, this device has already seen {seen}")
            self._unkept[floor] = command.seq
            try:
                self._journal.raise_floor(floor, command.seq)
            except StorageError:
                if command.op not in READ_ONLY:
                    raise

    def accept_state(self, payload: bytes, fleet: str) -> ControllerState:
        """What the controller says of itself. Its ``freeze`` is one that counts and is in the journal, else
        None: an unsigned state says nothing about it where root names a director, and that of a controller
        that is gone nowhere.

        Raises :class:`TrustError` (signed, but not by the director, or older than one seen before) or
        :class:`ProtocolError`.
        """
        with self._lock:
            self._roots.check_floor()
            director = self.director
            floors = {}
            if director is not None and len(payload) <= MAX_MESSAGE_BYTES and is_signed(payload):
                state = open_state(payload, director, fleet)
                floor = _state_floor(director)
                if state.seq < (seen := self._seen(floor)):
                    raise TrustError(
                        f"the controller state has number {state.seq}, this device has already seen {seen}"
                    )
                self._unkept[floor] = state.seq
                floors[floor] = state.seq
            else:
                state = parse_json(
                    ControllerState, payload, max_bytes=MAX_MESSAGE_BYTES, what="controller state"
                )
            if not state.online or state.freeze is None or (director is not None and not floors):
                return state.model_copy(update={"freeze": None})
            try:
                self._journal.set_frozen(state.freeze, floors)
            except StorageError as e:
                log.error("the freeze cannot be stored, and counts until the agent restarts: %s", e.message)
            return state

    @property
    def heard(self) -> int:
        """The highest number among what the director's keys have signed."""
        with self._lock:
            director = self.director
            if director is None:
                return 0
            return max(self._seen(_command_floor(director)), self._seen(_state_floor(director)))

    def save_time(self) -> None:
        """Keep how late it is at least, at most once an hour: after a power cut the device goes on from
        there."""
        with self._lock:
            self._time.save()

    def _seen(self, floor: str) -> int:
        return max(self._journal.value(floor), self._unkept.get(floor, 0))

    # ---- verification

    def _in_force(self, release: str | None = None) -> VerifiedSet:
        """The kept set, verified as of now. Raises :class:`StaleTrust` if it does not count any more: a power
        cut may come between what is known of a newer set (its root, its version floors) and that set itself,
        and no release is to blame for it.
        """
        try:
            return self._verify(self._current(), release)
        except StaleTrust:
            raise
        except TrustError as e:
            raise StaleTrust(
                f"the signed metadata kept here do not count any more: {e.message}", hint=e.hint
            ) from e

    def _current(self) -> dict[str, bytes]:
        self._roots.check_floor()
        if self._message is None:
            raise StaleTrust(
                "no signed metadata has reached this device yet", hint="is the controller running?"
            )
        return decode_trust(self._message)

    def _verify(self, files: dict[str, bytes], release: str | None = None) -> VerifiedSet:
        for name in TOP_METADATA:
            if name not in files:
                raise TrustError(f"the trust message has no {name}")
        # Of roots that were verified before, ours count and not those of the message: keys that were replaced
        # since could sign others, and lead from the enrolled root to keys of their own. A controller that
        # lost its oldest roots is no attack, either.
        files = {**files, **self._roots.files}
        paths = target_paths(release, self._profile) if release is not None else []
        try:
            with tempfile.TemporaryDirectory(prefix="edgectl-tuf-") as scratch:
                updater = Updater(
                    scratch, "mqtt://trust/", fetcher=MemoryFetcher(files), bootstrap=self._roots.enrolled
                )
                try:
                    updater.refresh()  # metadata only: targets come by our own transfer
                finally:
                    # Root goes first: keys that are revoked are revoked even where the rest of the set is
                    # old.
                    self._roots.follow(
                        {p.name: p.read_bytes() for p in (Path(scratch) / "root_history").iterdir()}
                    )
                    self._roots.check_floor()
                found = next((t for p in paths if (t := updater.get_targetinfo(p)) is not None), None)
                delegates = [
                    p.name
                    for p in Path(scratch).glob("*.json")
                    if p.name not in TOP_METADATA and p.name != "root.json"
                ]
        except ExpiredMetadataError as e:
            raise StaleTrust(
                f"{clock_says(self._wall())}, and by it signed metadata is expired: {e}", hint=_RENEW
            ) from e
        except (RepositoryError, DownloadError, ValueError) as e:
            raise TrustError(f"signed metadata is not accepted: {e}") from e
        except OSError as e:
            raise StorageError(f"signed metadata cannot be verified: {e.strerror}") from e
        timestamp, snapshot = (
            signed_part(files["timestamp.json"], Timestamp),
            signed_part(files["snapshot.json"], Snapshot),
        )
        verified = VerifiedSet(
            files, self._roots.current, snapshot, signed_part(files["targets.json"], Targets), found
        )
        self._check_floors(verified, timestamp)
        self._check_expiry(files, delegates, timestamp)
        return verified

    def _check_floors(self, v: VerifiedSet, timestamp: Timestamp) -> None:
        """Everything here is signed; is it older than what this device has verified before?"""
        if len(v.snapshot.meta) > _MAX_FILES:
            raise TrustError(
                f"snapshot.json lists {len(v.snapshot.meta)} files, more than the {_MAX_FILES} allowed"
            )
        for what, version, floor in self._versions(v, timestamp):
            if version > _MAX_VERSION:
                raise TrustError(f"{what} has version {version}, more than the {_MAX_VERSION} allowed")
            if version < (seen := self._journal.value(floor)):
                raise TrustError(f"{what} has version {version}, this device has already seen {seen}")

    def _raise_floors(self, v: VerifiedSet) -> None:
        timestamp = signed_part(v.files["timestamp.json"], Timestamp)
        self._journal.raise_floors({floor: version for _, version, floor in self._versions(v, timestamp)})
        self.version = v.targets.version
        self._time.take(timestamp, v.root)

    def _versions(self, v: VerifiedSet, timestamp: Timestamp) -> Iterator[tuple[str, int, str]]:
        """(what, its version, name of its floor). Targets and delegations are bound by the snapshot that
        lists them, as in TUF."""
        yield (
            "timestamp.json",
            timestamp.version,
            f"floor:timestamp:{keyset_id(role_keys(v.root, Timestamp.type))}",
        )
        snapshots = keyset_id(role_keys(v.root, Snapshot.type))
        yield "snapshot.json", v.snapshot.version, f"floor:snapshot:{snapshots}"
        for name, meta in v.snapshot.meta.items():
            yield name, meta.version, f"floor:meta:{snapshots}:{name}"

    def _check_expiry(self, files: Mapping[str, bytes], delegates: list[str], timestamp: Timestamp) -> None:
        """Again, by the time that it is at least: python-tuf knows the wall clock only."""
        now_s = self._time.now_by(timestamp, self._roots.current)
        now = datetime.fromtimestamp(min(now_s, 253402300799), timezone.utc)
        expiries = {"root.json": self._roots.current.expires, "timestamp.json": timestamp.expires}
        expiries["snapshot.json"] = signed_part(files["snapshot.json"], Snapshot).expires
        expiries |= {name: signed_part(files[name], Targets).expires for name in ("targets.json", *delegates)}
        for name, expires in expiries.items():
            if expires <= now:
                behind = "" if self.clock_trusted else "; the clock of this device is behind"
                raise StaleTrust(
                    f"{clock_says(self._wall())}; signed metadata is expired: {name} ended {expires:%Y-%m-%d %H:%M}, "
                    f"it is at least {now:%Y-%m-%d %H:%M}{behind}",
                    hint=_RENEW,
                )


def _command_floor(director: Keys) -> str:
    return f"floor:cmd:{keyset_id(director)}"


def _state_floor(director: Keys) -> str:
    return f"floor:ctl:{keyset_id(director)}"


def _utc(at_s: float) -> str:
    return datetime.fromtimestamp(max(0.0, min(at_s, 253402300799)), timezone.utc).strftime(
        "%Y-%m-%d %H:%M:%S UTC"
    )
