"""Look through a device's state folder: is every blob what its name says, is every slot's engine whole, is
the journal sound?

Reads only, so that it may run beside an agent. :func:`repair` writes, and takes the folder for itself first:
it does no more than the agent does when it starts, and removes what nobody needs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgectl.agent.deploy.start_check import check_slots, damage
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.journal_file import check_file
from edgectl.agent.state.lock import hold_folder
from edgectl.agent.state.mirror import Essentials, merged, read_mirror
from edgectl.agent.state.records import Installed, Slot
from edgectl.agent.state.store import Store
from edgectl.core.bundle.config_release import open_artifact
from edgectl.core.errors import BundleError, StorageError, UsageError
from edgectl.core.files import file_digest, hex_of, storage
from edgectl.engines.finalise.cache import forget_others, others

__all__ = ["FsckReport", "Problem", "check", "repair"]

Kind = Literal["journal", "mirror", "slot", "blob", "part", "unneeded", "finalised"]


@dataclass(frozen=True)
class Problem:
    """``severe``: something that a slot needs is not there or not right. The rest only takes space."""

    kind: Kind
    name: str
    detail: str
    severe: bool


@dataclass(frozen=True)
class FsckReport:
    problems: tuple[Problem, ...]
    blobs: int
    bytes: int
    slots: dict[str, Slot]

    @property
    def sound(self) -> bool:
        return not any(p.severe for p in self.problems)


def check(state_dir: Path) -> FsckReport:
    """Read everything. Raises :class:`UsageError` if this is no state folder, :class:`StorageError` if it
    cannot be read."""
    journal, store, engines = state_dir / "journal.db", state_dir / "store", state_dir / "engines"
    if not journal.exists() and not (store / "blobs").is_dir():
        raise UsageError(
            f"{state_dir} is not the state folder of an agent", hint="it is `state_dir` in agent.toml"
        )
    mirror = read_mirror(state_dir / "journal.mirror.json")
    problems = [Problem("journal", journal.name, text, True) for text in check_file(journal)]
    found = None if problems else _read(journal, problems)
    if mirror is None and journal.exists():
        problems.append(
            Problem(
                "mirror",
                "journal.mirror.json",
                "missing or damaged; the agent writes it anew when it starts",
                False,
            )
        )
    truth = merged(found, mirror)
    blobs, size = 0, 0
    rotten: set[str] = set()
    with storage(str(store)):
        for path in sorted((store / "blobs").glob("*")):
            blobs, size = blobs + 1, size + path.stat().st_size
            if file_digest(path) != f"sha256:{path.name}":
                rotten.add(path.name)
    needed = _Needed(store / "blobs", rotten)
    problems += [p for name, slot in sorted(truth.slots.items()) for p in needed.of_slot(name, slot)]
    for d in truth.deployments.values():
        needed.blobs_of(filter(None, (d.installed, d.fallback)))
    for name in sorted(rotten):
        problems.append(
            Problem("blob", name[:19], "its bytes are not what its name says", name in needed.names)
        )
    with storage(str(store)):
        for path in sorted((store / "blobs").glob("*")):
            if path.name not in needed.names and path.name not in rotten:
                problems.append(
                    Problem(
                        "unneeded", path.name[:19], f"no slot needs it, {path.stat().st_size:,} bytes", False
                    )
                )
        for path in sorted((store / "parts").glob("*")):
            problems.append(
                Problem(
                    "part",
                    path.name[:19],
                    f"a download that did not end, {path.stat().st_size:,} bytes",
                    False,
                )
            )
        for path in others(engines, [f"sha256:{name}" for name in needed.names]):
            problems.append(
                Problem(
                    "finalised",
                    path.name,
                    f"of a model that no slot has, {path.stat().st_size:,} bytes",
                    False,
                )
            )
    return FsckReport(tuple(problems), blobs, size, truth.slots)


def repair(state_dir: Path) -> None:
    """Mend the journal, give every slot a whole engine, remove what is corrupt or unneeded. An active engine
    that is missing is fetched again; a previous or factory one that is not whole is forgotten.

    Raises :class:`UsageError` while an agent runs on the folder.
    """
    before = check(state_dir)
    with hold_folder(state_dir):
        journal = Journal(state_dir / "journal.db")
        try:
            if journal.volatile:
                raise StorageError(
                    f"{state_dir} cannot be written", hint="free some space, or mount it read-write"
                )
            store = Store(state_dir / "store")
            for p in before.problems:
                if p.kind == "blob":
                    with storage(p.name):
                        next(store.blobs.glob(f"{p.name}*")).unlink()
            if (trouble := check_slots(journal, store, tuple(before.slots)).trouble) is not None:
                raise trouble
            for name in before.slots:
                _forget_damaged_ways_back(journal, store, name)
            needed = _Needed(store.blobs, set())
            needed.blobs_of(journal.kept())
            store.collect_garbage(f"sha256:{name}" for name in needed.names)
            forget_others(state_dir / "engines", [f"sha256:{name}" for name in needed.names])
        finally:
            journal.close()


def _forget_damaged_ways_back(journal: Journal, store: Store, name: str) -> None:
    """What is not whole is no way back; the next release brings new ones."""
    slot = journal.slot(name)
    ways = (slot.previous, slot.factory)
    previous, factory = (way if way is not None and damage(store, way) is None else None for way in ways)
    if (previous, factory) != ways:
        journal.save_slot(name, Slot(slot.active, previous, factory))


class _Needed:
    """Names of blobs that something refers to."""

    def __init__(self, blobs: Path, rotten: set[str]) -> None:
        self._blobs = blobs
        self._rotten = rotten
        self.names: set[str] = set()

    def of_slot(self, name: str, slot: Slot) -> Iterator[Problem]:
        for place, installed in (
            ("active", slot.active),
            ("previous", slot.previous),
            ("factory", slot.factory),
        ):
            if installed is None:
                continue
            if why := self.blobs_of([installed]):
                yield Problem(
                    "slot", name, f"its {place} engine {installed.release} is not whole: {why}", True
                )
            for one in installed.lighter:
                if one.manifest is not None and (why := self._variant(one.manifest)):
                    detail = f"the {one.preference} variant of its {place} engine is not whole: {why}"
                    yield Problem("slot", name, detail, False)

    def blobs_of(self, installed: Iterable[Installed]) -> str | None:
        """Why one of these engines is not whole; None if all are. Their lighter variants are needed, too."""
        wrong = None
        for i in (one for each in installed for one in each.whole):
            self.names.add(hex_of(i.bundle))
            whys = [self._variant(manifest) for manifest in i.manifests]
            wrong = wrong or whys[0]
        return wrong

    def _variant(self, manifest: str) -> str | None:
        """Why it is not whole; None if it is."""
        self.names.add(hex_of(manifest))
        try:
            names = {hex_of(d.digest) for d in open_artifact(self._blobs, manifest).installed()}
        except BundleError as e:
            return e.message
        self.names |= names
        for blob in sorted(names):
            if blob in self._rotten or not (self._blobs / blob).is_file():
                return f"blob {blob[:12]}… is {'corrupt' if blob in self._rotten else 'missing'}"
        return None


def _read(journal: Path, problems: list[Problem]) -> Essentials | None:
    """What the journal says, without writing to it."""
    if not journal.exists():
        problems.append(Problem("journal", journal.name, "missing", True))
        return None
    try:
        db = sqlite3.connect(f"{journal.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return Journal.essentials(db)
        finally:
            db.close()
    except (sqlite3.Error, ValueError) as e:
        problems.append(Problem("journal", journal.name, str(e).splitlines()[0][:200], True))
        return None
