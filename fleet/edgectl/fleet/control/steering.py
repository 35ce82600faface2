"""Brings about what operators and the planner decide: what is wanted of devices, by rollouts and by hand.

What is decided is in :mod:`edgectl.fleet.rollouts.planner`, :mod:`edgectl.fleet.rollouts.takeback` and
:mod:`edgectl.fleet.control.clearing`. Here a decision is taken under ``Devices.lock``, written to the
database with the desired states that follow from it, and marked for the broker; nobody waits for him here.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from edgectl.core.bundle import Variant
from edgectl.core.bundle.config_release import ConfigDocument
from edgectl.core.errors import RolloutError, TrustError, UsageError
from edgectl.core.transfer.limits import Rates
from edgectl.core.wire import MAX_GEN, ClearSlot, Desired, DesiredSlot
from edgectl.fleet.broker.publisher import Publisher
from edgectl.fleet.control.clearing import Cleared, ClearRequest, clear, cleared
from edgectl.fleet.control.countersign import Countersignatures
from edgectl.fleet.control.devices import BELIEVED_GEN, Devices
from edgectl.fleet.control.gate_keeper import GateKeeper, verdicts
from edgectl.fleet.control.telemetry_view import LatencyBook
from edgectl.fleet.keys.trust import Director
from edgectl.fleet.rollouts.groups import DeviceGroup, asks_for, unknown_group
from edgectl.fleet.rollouts.planner import (
    ACTIVE,
    DeviceView,
    RolloutProgress,
    RolloutRequest,
    RolloutSpec,
    RolloutState,
    SetSlot,
    approve,
    halt,
    pause,
    resume,
)
from edgectl.fleet.rollouts.preview import Preview, preview
from edgectl.fleet.rollouts.takeback import abort, advance, busy, leave, needs, rollback, skip
from edgectl.fleet.rollouts.values import OPEN
from edgectl.fleet.rollouts.waves import fits
from edgectl.fleet.store.inventory import Device, Inventory, Release

__all__ = ["Steering"]

log = logging.getLogger(__name__)

_MOST_BEFORE = 8
"""Releases that are compared with a new one: those that most devices have."""
_CUT_SHORT = (RolloutState.ABORTED, RolloutState.STOPPED)


class Steering:
    """Thread-safe."""

    def __init__(
        self,
        inventory: Inventory,
        devices: Devices,
        latency: LatencyBook,
        director: Director,
        countersignatures: Countersignatures,
        publisher: Publisher,
        wake: threading.Event,
    ) -> None:
        """``wake`` is set when there is something to do."""
        self._inventory = inventory
        self._devices = devices
        self._gate_keeper = GateKeeper(latency)
        self._broken: set[str] = set()
        """Rollouts that cannot be moved on."""
        self._director = director
        self._countersignatures = countersignatures
        self._publisher = publisher
        self._wake = wake

    def step(self, now_s: float) -> None:
        """Move every rollout on. ``now_s``: in the time of its deadlines."""
        with self._devices.lock:
            active = self._inventory.rollouts(active=True)
            self._gate_keeper.keep(active)
            for spec, progress in active.values():
                views = self._views()
                try:
                    evidence = self._gate_keeper.evidence(spec, progress, views, now_s)
                    new, actions = advance(spec, progress, views, now_s, evidence)
                except (ArithmeticError, LookupError, TypeError, ValueError):
                    # a defect of ours: one rollout stands still, and neither the others nor the controller
                    if spec.id not in self._broken:
                        self._broken.add(spec.id)
                        log.exception("rollout %s stands still: a defect of the controller", spec.id)
                    continue
                self._broken.discard(spec.id)
                self._advance(spec, progress, new, actions)

    def start(self, request: RolloutRequest) -> RolloutSpec:
        """Begin. Raises :class:`RolloutError` if the slot is busy with another one, :class:`UsageError`
        for an unknown release."""
        with self._devices.lock:
            release = self._release(request.release)
            self._check_groups(request.select)
            self._check_no_set(request, release)
            known = self._inventory.rollouts()
            for spec, progress in known.values():
                if spec.slot == request.slot and progress.state in ACTIVE:
                    if not request.supersede or progress.state is RolloutState.ROLLING_BACK:
                        raise busy(spec, progress)
                    self._advance(spec, progress, halt(progress, f"superseded by {request.release}"), [])
            asked = [
                s.attempt + max((m.tries for m in p.members.values()), default=0)
                for s, p in known.values()
                if s.slot == request.slot and s.digest == release.digest
            ]
            before = (d.desired.slots.get(request.slot) for d in self._devices.all())
            asked += [w.attempt for w in before if w is not None and w.digest == release.digest]
            spec = RolloutSpec(
                id=f"{request.slot}-{len(known) + 1}",
                digest=release.digest,
                attempt=1 + max(asked, default=0),
                ways_back=_ways_back(request.slot, self._inventory.rollouts().values()),
                **request.model_dump(),
            )
            self._inventory.save_rollout(spec, RolloutProgress())
            self._inventory.log("rollout", spec.id, f"{spec.release} to slot {spec.slot} began")
        self._wake.set()
        return spec

    def _check_no_set(self, request: RolloutRequest, release: Release) -> None:
        """A slot belongs to one rollout: where a set says what runs in it, to that of the set. Raises
        :class:`RolloutError`."""
        spec = RolloutSpec(id="check", digest=release.digest, **request.model_dump())
        for name, view in sorted(self._views().items()):
            reported = view.reported.get(spec.slot)
            if reported is not None and reported.set is not None and fits(spec, view):
                raise RolloutError(
                    f"slot {spec.slot} of {name} belongs to the set {reported.set}",
                    hint="publish a set that brings this release, or clear the slot of the set first",
                )

    def preview(
        self,
        request: RolloutRequest,
        artifacts: Sequence[Variant] | ConfigDocument,
        rates: Rates,
        parts: Mapping[str, Sequence[Variant]],
        variants_of: Callable[[str], Sequence[Variant]] = lambda _digest: (),
    ) -> Preview:
        """What a rollout would do now. ``artifacts``: of the release; ``parts``: of a set; ``variants_of``: of another
        release, by its digest. Raises :class:`UsageError` for an unknown
        release."""
        with self._devices.lock:
            release = self._release(request.release)
            self._check_groups(request.select)
            spec = RolloutSpec(id="preview", digest=release.digest, **request.model_dump())
            views = self._views()
        had = Counter(r.active for v in views.values() if (r := v.reported.get(request.slot)) and r.active)
        before = {digest: variants_of(digest) for digest, _ in had.most_common(_MOST_BEFORE)}
        return preview(spec, views, artifacts, rates, parts, before)

    def _release(self, name: str) -> Release:
        release = self._inventory.releases().get(name)
        if release is None:
            raise UsageError(
                f"there is no release {name}", hint="`edgectl release publish DIR` publishes one"
            )
        return release

    def change(self, rollout: str, op: str) -> RolloutProgress:
        """``pause``, ``resume``, ``approve`` (the next wave), ``abort`` (which takes the release back), ``halt`` (which
        does not), or ``rollback`` (which does so in any state).

        Raises :class:`RolloutError`.
        """
        with self._devices.lock:
            spec, progress = self.find(rollout)
            actions: list[SetSlot] = []
            if op == "abort":
                new, actions = abort(spec, progress, self._views())
            elif op == "rollback":
                new, actions = rollback(spec, progress, self._views(), self._inventory.rollouts().values())
            elif op == "halt":
                new = halt(progress, "stopped by the operator; devices keep what they have")
            elif op == "approve":
                new = approve(spec, progress)
            else:
                new = {"pause": pause, "resume": resume}[op](progress)
            self._inventory.log("rollout", rollout, f"{op} by the operator")
            self._advance(spec, progress, new, actions)
        self._wake.set()
        return new

    def skip(self, rollout: str, device: str) -> RolloutProgress:
        """Have a rollout go on without a device. Raises :class:`RolloutError`."""
        with self._devices.lock:
            spec, progress = self.find(rollout)
            new, actions = skip(spec, progress, device, self._views().get(device))
            self._inventory.log("rollout", rollout, f"{device} skipped by the operator")
            self._advance(spec, progress, new, actions)
        self._wake.set()
        return new

    def set_group(self, group: DeviceGroup) -> list[str]:
        """Have a group of devices, in place of the one of that name. Returns the devices that are there and in it."""
        with self._devices.lock:
            self._devices.set_group(group)
            what = group.select or f"{len(group.devices)} devices"
            self._inventory.log("group", group.name, f"is {what}, by the operator")
            found = [n for n, view in self._views().items() if group.name in view.groups]
        self._wake.set()
        return sorted(found)

    def drop_group(self, name: str) -> None:
        """Raises :class:`UsageError` if there is none, :class:`RolloutError` where a rollout under way selects by it."""
        with self._devices.lock:
            for spec, progress in self._inventory.rollouts(active=True).values():
                if progress.state in ACTIVE and asks_for(spec.select, name):
                    raise RolloutError(
                        f"rollout {spec.id} selects by group {name}",
                        hint=f"`edgectl rollout abort {spec.id}` first, or wait for its end",
                    )
            self._devices.drop_group(name)
            self._inventory.log("group", name, "removed by the operator")

    def _check_groups(self, query: str) -> None:
        if (unknown := unknown_group(query, self._devices.groups)) is not None:
            raise UsageError(f"there is no group {unknown}", hint="`edgectl fleet groups` lists them")

    def clear_slot(self, slot: str, request: ClearRequest) -> list[Cleared]:
        """Have a slot empty on devices. Raises :class:`UsageError` for devices that cannot be meant,
        :class:`RolloutError` for those that a rollout is at work with."""
        with self._devices.lock:
            seen = self._views()
            views = {d.name: seen.get(d.name) for d in self._devices.all()}
            actions = clear(slot, request, views, self._inventory.rollouts(active=True).values())
            changed = [
                replace(d, desired=_desired_after(d, a)) for a in actions for d in (self._devices[a.device],)
            ]
            self._inventory.save_devices(changed)
            for d in changed:
                self._devices[d.name].desired = d.desired
                self._publisher.tell(d.name, d.desired)
                self._inventory.log("device", d.name, f"slot {slot} is to be empty, by the operator")
            told = [cleared(slot, self._devices[a.device]) for a in actions]
        self._wake.set()
        return told

    def approve(self, documents: Mapping[str, bytes]) -> list[str]:
        """Take documents back that operators have signed, to be published. Returns the devices.

        Raises :class:`TrustError` for the first that lacks a signature or is not what is wanted now.
        """
        with self._devices.lock:
            wanted: dict[str, Desired] = {}
            for device, payload in documents.items():
                d = self._devices.get(device)
                if d is None or self._director.open(device, payload) != d.desired:
                    raise TrustError(f"this is not what is wanted of {device} now", hint="approve again")
                wanted[device] = d.desired
            for device, desired in wanted.items():
                self._countersignatures.take(device, documents[device], desired.gen)
                self._publisher.tell(device, desired)
        self._wake.set()
        return sorted(wanted)

    def find(self, rollout: str) -> tuple[RolloutSpec, RolloutProgress]:
        found = self._inventory.rollout(rollout)
        if found is None:
            raise RolloutError(f"there is no rollout {rollout}", hint="`edgectl rollout status` lists them")
        return found

    def leave(self, device: str) -> list[str]:
        """Nobody waits for a device that left, and nothing is asked of it any more, in any rollout. Returns
        those that are not over.

        Under ``Devices.lock``.
        """
        changed, left = [], []
        for spec, progress in self._inventory.rollouts_of(device).values():
            if (without := leave(progress, device)) is not progress:
                changed.append((spec, without))
                left += [spec.id] if progress.unfinished else []
        self._inventory.save_rollouts(changed)
        for rollout in left:
            self._inventory.log("rollout", rollout, f"{device} has left the fleet, and this rollout")
        return left

    def check_unused(self, releases: Iterable[str]) -> None:
        """Raises :class:`RolloutError` where a rollout that is not over needs one of these. Under
        ``Devices.lock``."""
        for spec, progress in self._inventory.rollouts(active=True).values():
            for release in releases:
                if why := needs(spec, progress, release):
                    raise RolloutError(
                        f"{release} is not withdrawn: {why}",
                        hint=f"`edgectl release withdraw {release} --yes` withdraws it and stops what is under way",
                    )

    def abort_all_of(self, release: str, why: str) -> None:
        """Under ``Devices.lock``."""
        for spec, progress in self._inventory.rollouts(active=True).values():
            if spec.release == release and progress.state in (RolloutState.RUNNING, RolloutState.PAUSED):
                new, actions = abort(spec, progress, self._views(), why)
                self._advance(spec, progress, new, actions)

    # ---- under the lock

    def _views(self) -> dict[str, DeviceView]:
        views = self._devices.views()
        for name in self._countersignatures.waiting().keys() & views.keys():
            views[name] = replace(views[name], unsigned=True)
        return views

    def _advance(
        self, spec: RolloutSpec, old: RolloutProgress, new: RolloutProgress, actions: list[SetSlot]
    ) -> None:
        """Written down in one transaction with the desired states that follow from it: a step is taken whole
        or not at all. They are published until the broker has them."""
        changed = []
        for action in actions:
            d = self._devices[action.device]
            if (new_desired := _desired_after(d, action)) != d.desired:
                changed.append(replace(d, desired=new_desired))
        if new != old or changed:
            self._inventory.save_rollout(spec, new, changed)
        for d in changed:
            self._devices[d.name].desired = d.desired
        for action in actions:
            self._publisher.tell(action.device, self._devices[action.device].desired)
        for text in verdicts(old.decisions, new.decisions):
            self._inventory.log("rollout", spec.id, text)
        if new.state is not old.state:
            self._inventory.log(
                "rollout", spec.id, f"{new.state.value}{f': {new.reason}' if new.reason else ''}"
            )
            log.info("rollout %s is %s %s", spec.id, new.state.value, new.reason or "")


def _ways_back(
    slot: str, rollouts: Iterable[tuple[RolloutSpec, RolloutProgress]]
) -> dict[str, DesiredSlot | None]:
    """What devices have to go back to that are still on their way to a release whose rollout was cut short."""
    found: dict[str, DesiredSlot | None] = {}
    for spec, progress in rollouts:
        if spec.slot == slot and progress.state in _CUT_SHORT and progress.ending is None:
            found |= {n: m.before for n, m in progress.members.items() if m.outcome in OPEN and m.admitted_s}
    return found


def _desired_after(d: Device, action: SetSlot) -> Desired:
    """What is wanted of a device after this action."""
    slots, empty = dict(d.desired.slots), dict(d.desired.clear)
    if isinstance(action.desired, ClearSlot):
        slots.pop(action.slot, None)
        asked = empty.get(action.slot)
        empty[action.slot] = (
            asked if asked is not None and asked.number >= action.desired.number else action.desired
        )
    else:
        empty.pop(action.slot, None)
        slots[action.slot] = action.desired
    if (slots, empty) == (d.desired.slots, d.desired.clear):
        return d.desired
    # A device that has seen more is believed, up to a bound that no fleet reaches: it may lie, or a
    # director's key was stolen (it forgets that with the key). At the very last generation a document may
    # still change: devices take the same one again.
    known = d.reported.gen if d.reported and d.reported.gen < BELIEVED_GEN else 0
    gen = min(MAX_GEN, max(d.desired.gen, known) + 1)
    return d.desired.model_copy(update={"gen": gen, "slots": slots, "clear": empty})
