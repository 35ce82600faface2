"""Before any engine is started: is every active engine, byte for byte, what was verified when it was installed?

One that is not gives way to the first whole engine behind it. Its damaged blob is removed, so that it is fetched again, and a committed
deployment starts once more from the wish that still stands. Nobody has to come.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from edgectl.agent.deployment import Event as E
from edgectl.agent.deployment import step
from edgectl.agent.journal import Journal
from edgectl.agent.records import Deployment, Installed, Slot, ways_back
from edgectl.agent.store import Store
from edgectl.core.errors import BundleError, StorageError
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import Failure

__all__ = ["Unkept", "check_slots", "damage"]

log = logging.getLogger(__name__)


def damage(store: Store, installed: Installed) -> str | None:
    """What is wrong with the bytes of an engine; None if each has its digest. A blob with a wrong one is removed.

    Raises :class:`StorageError` where the disk cannot be read at all.
    """
    try:
        store.verify_variant(installed.manifest)
    except BundleError as e:  # IntegrityError is one
        return e.message
    return None


@dataclass(frozen=True)
class Unkept:
    """A slot whose record still names a damaged engine, because the disk takes nothing: ``instead`` serves until it does."""

    damaged: Installed
    instead: Installed | None
    error: StorageError


def check_slots(journal: Journal, store: Store, slots: tuple[str, ...]) -> dict[str, Unkept]:
    """Give every slot an active engine that is whole, or none; what of it could not be written down, by slot.

    Raises :class:`StorageError` if a disk cannot be read; the slots that can are right then.
    """
    unkept: dict[str, Unkept] = {}
    unread: StorageError | None = None
    for name in slots:
        slot = journal.slot(name)
        try:
            why = damage(store, slot.active) if slot.active is not None else None
        except StorageError as e:
            unread = e
            continue
        if slot.active is None or why is None:
            continue
        whole = [way for way in ways_back(slot) if damage(store, way) is None]
        instead = whole[0] if whole else None
        says = f"{instead.release} serves instead" if instead else "there is no other engine, so the slot is empty"
        failure = Failure(code="damaged", detail=f"the active engine is damaged ({why}); {says}", retryable=True)
        log.error("%s: %s", name, failure.detail)
        golden = slot.golden if slot.golden in whole else None
        d = journal.deployment(name)
        try:
            journal.save_slot(name, Slot(active=instead, golden=golden), None if d is None else _after(d, slot, failure))
        except StorageError as e:
            unkept[name] = Unkept(slot.active, instead, e)
    if unread is not None:
        raise unread
    return unkept


def _after(d: Deployment, slot: Slot, failure: Failure) -> Deployment:
    """The deployment, now that the engine which served is gone."""
    on_trial = d.state in (State.ACTIVATING, State.PROBATION) and slot.active == d.installed
    if d.state not in TERMINAL and not on_trial:
        return d
    after = d.at(step(d.state, E.DAMAGED), failure)
    return replace(after, installed=None, fallback=None) if after.state is State.NOTIFIED else after
