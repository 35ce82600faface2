"""A second copy of what a device cannot do without, beside the journal: one JSON file that appears whole or
not at all.

If the journal is damaged, or has lost its last transactions, the mirror says which engine serves, which
versions of signed metadata were seen and which releases were given up. The file carries its own checksum.
Which of the two is right is decided in :func:`merged`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edgectl.agent.state.records import Deployment, Slot
from edgectl.core.files import atomic_write, digest_of

__all__ = ["Essentials", "merged", "read_mirror", "write_mirror"]

_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class Essentials:
    """``serial`` counts the changes of slots and the ends of deployments: of two copies, the one with the
    higher serial knows more."""

    serial: int = 0
    slots: dict[str, Slot] = field(default_factory=dict)
    deployments: dict[str, Deployment] = field(default_factory=dict)
    """As they were at that change: a deployment found here goes on from there, and repeats what it did
    since."""
    counters: dict[str, int] = field(default_factory=dict)
    """Epoch, version floors, the freeze: see :mod:`edgectl.agent.state.journal`."""
    bad: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Digest → (attempt up to which it is blocked, why)."""


_ADAPTER: TypeAdapter[Essentials] = TypeAdapter(Essentials)


def merged(journal: Essentials | None, mirror: Essentials | None) -> Essentials:
    """What is true: the later slots; the highest counters and attempts of both, so that no version floor ever
    sinks.

    With equal serials the two hold the same slots, and the mirror's are the ones with a checksum; deployments
    are then further in the journal.
    """
    if journal is None or mirror is None:
        return journal or mirror or Essentials()
    newer = mirror if mirror.serial > journal.serial else journal
    slots = mirror.slots if mirror.serial >= journal.serial else journal.slots
    counters = {
        n: max(journal.counters.get(n, 0), mirror.counters.get(n, 0))
        for n in journal.counters.keys() | mirror.counters.keys()
    }
    bad = {**mirror.bad, **journal.bad}
    for digest in mirror.bad.keys() & journal.bad.keys():
        bad[digest] = max(mirror.bad[digest], journal.bad[digest])
    return replace(newer, slots=slots, counters=counters, bad=bad)


def write_mirror(path: Path, essentials: Essentials) -> None:
    """Replace the mirror, durably. Raises :class:`StorageError`."""
    body = _ADAPTER.dump_json(essentials, exclude_none=True)
    atomic_write(path, json.dumps({"sha256": digest_of(body)}).encode() + b"\n" + body, mode=0o600)


def read_mirror(path: Path) -> Essentials | None:
    """The mirror; None where there is none, or what is there is not what was written."""
    try:
        with path.open("rb") as f:
            data = f.read(_MAX_BYTES + 1)
        head, _, body = data.partition(b"\n")
        if len(data) > _MAX_BYTES or json.loads(head)["sha256"] != digest_of(body):
            return None
        return _ADAPTER.validate_json(body)
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
