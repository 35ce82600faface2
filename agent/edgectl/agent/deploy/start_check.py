"""Checks, before any engine starts, that the bytes of each slot's active engine are still what was verified,
and those of the release that is being deployed.

A damaged active engine is replaced by the first intact one: the previous, else the factory engine. Its
damaged blob is removed, so that it is fetched again, and a committed deployment is repeated. Nobody has to
visit the device.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from edgectl.agent.deploy.deployment import TABLE, step
from edgectl.agent.deploy.deployment import DeploymentEvent as E
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Deployment, Installed, Slot, ways_back
from edgectl.agent.state.store import Store
from edgectl.core.errors import BundleError, StorageError
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import Failure

__all__ = ["SkippedEngine", "StartCheck", "check_slots", "damage", "verified_lighter"]

log = logging.getLogger(__name__)


def damage(store: Store, installed: Installed) -> str | None:
    """What is wrong with the bytes of an engine, or of any engine of a set; None if each has its digest. A blob with a
    wrong one is removed.

    Raises :class:`StorageError` where the disk cannot be read at all.
    """
    try:
        for one in installed.whole:
            store.verify_variant(one.manifest)
    except BundleError as e:  # IntegrityError is one
        return e.message
    return None


def verified_lighter(store: Store, installed: Installed) -> Installed:
    """The same with the lighter variants whose bytes are right; another one is missing then, and so it is fetched again.

    Raises :class:`StorageError` where the disk cannot be read at all.
    """
    kept = [one for one in installed.lighter if one.manifest is None or _is_whole(store, one.manifest)]
    return installed.model_copy(update={"lighter": tuple(kept)})


def _is_whole(store: Store, manifest: str) -> bool:
    try:
        store.verify_variant(manifest)
    except BundleError as e:
        log.error("a lighter variant is damaged: %s", e.message)
        return False
    return True


@dataclass(frozen=True)
class SkippedEngine:
    """A slot's record still names a ``damaged`` engine, because the disk takes nothing: ``instead`` serves
    until it does."""

    damaged: Installed
    instead: Installed | None


@dataclass(frozen=True)
class StartCheck:
    """``trouble``: the last thing that could not be read or written down."""

    skipped: dict[str, SkippedEngine]
    trouble: StorageError | None


def check_slots(
    journal: Journal, store: Store, slots: tuple[str, ...], config_slots: tuple[str, ...] = ()
) -> StartCheck:
    """Give every slot an active engine that is whole, or none; the same with configurations. Raises
    :class:`StorageError` if the journal cannot be read."""
    skipped: dict[str, SkippedEngine] = {}
    trouble: StorageError | None = None
    things = {**dict.fromkeys(slots, "engine"), **dict.fromkeys(config_slots, "configuration")}
    for name, thing in things.items():
        slot = journal.slot(name)
        try:
            if slot.active is not None and (why := damage(store, slot.active)) is not None:
                whole = [way for way in ways_back(slot) if damage(store, way) is None]
                skipped[name] = SkippedEngine(slot.active, whole[0] if whole else None)
                _give_way(journal, name, slot, whole, why, thing)
                del skipped[name]
            _check_next(journal, store, name, thing)
            _check_lighter(journal, store, name)
        except StorageError as e:
            trouble = e
    return StartCheck(skipped, trouble)


def _give_way(journal: Journal, name: str, slot: Slot, whole: list[Installed], why: str, thing: str) -> None:
    instead = whole[0] if whole else None
    says = (
        f"{instead.release} serves instead" if instead else f"there is no other {thing}, so the slot is empty"
    )
    failure = Failure(code="damaged", detail=f"the active {thing} is damaged ({why}); {says}", retryable=True)
    log.error("%s: %s", name, failure.detail)
    factory = slot.factory if slot.factory in whole else None
    d = journal.deployment(name)
    journal.save_slot(
        name, Slot(active=instead, factory=factory), None if d is None else _after(d, slot, failure)
    )


def _check_next(journal: Journal, store: Store, name: str, thing: str) -> None:
    """The engine that is to be the next one was proved before the agent stopped; what has rotted since is
    fetched again."""
    d = journal.deployment(name)
    if (
        d is None
        or d.installed in (None, journal.slot(name).active)
        or (d.state, E.DAMAGED) not in TABLE
        or d.state in TERMINAL
    ):
        return
    assert d.installed is not None
    if (why := damage(store, d.installed)) is not None:
        failure = Failure(code="damaged", detail=f"the new {thing} is damaged ({why})", retryable=True)
        log.error("%s: %s", name, failure.detail)
        journal.save(d.at(step(d.state, E.DAMAGED), failure))


def _check_lighter(journal: Journal, store: Store, name: str) -> None:
    """A lighter variant that has rotted is forgotten: nothing but less work depends on it."""
    slot, d = journal.slot(name), journal.deployment(name)
    if slot.active is None:
        return
    active = verified_lighter(store, slot.active)
    if active != slot.active:
        if d is not None and d.installed == slot.active:
            d = replace(d, installed=active)
        journal.save_slot(name, replace(slot, active=active), d)


def _after(d: Deployment, slot: Slot, failure: Failure) -> Deployment:
    """The deployment, now that the engine which served is gone."""
    on_trial = d.state in (State.ACTIVATING, State.PROBATION) and slot.active == d.installed
    if d.state not in TERMINAL and not on_trial:
        return d
    after = d.at(step(d.state, E.DAMAGED), failure)
    if after.state is not State.NOTIFIED:
        return after
    assert slot.active is not None
    return replace(after, installed=None, fallback=None, restored=slot.active.manifest)
