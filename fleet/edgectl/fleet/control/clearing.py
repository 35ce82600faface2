"""Which devices a slot is to be empty on, and whether that may be asked of them now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgectl.core.errors import RolloutError, UsageError
from edgectl.core.schema import Message, Name
from edgectl.core.states import State
from edgectl.core.wire import MAX_GEN, ClearSlot
from edgectl.fleet.rollouts.planner import (
    ACTIVE,
    DeviceOutcome,
    DeviceView,
    RolloutProgress,
    RolloutSpec,
    SetSlot,
    fits,
)
from edgectl.fleet.store.inventory import Device

__all__ = ["ClearRequest", "Cleared", "clear", "cleared"]

_GAVE_UP = frozenset({State.FAILED, State.CANCELED})


class ClearRequest(Message):
    """What ``edgectl slot clear`` asks for: these devices, or all that have the slot and these labels."""

    devices: tuple[Name, ...] = ()
    labels: dict[str, str] = {}


@dataclass(frozen=True)
class Cleared:
    """A device that was told. ``gen``: of the document that says so; ``active_release``: what ran when it
    was asked."""

    device: str
    gen: int
    online: bool
    active_release: str | None


def clear(
    slot: str,
    request: ClearRequest,
    views: Mapping[str, DeviceView | None],
    rollouts: Iterable[tuple[RolloutSpec, RolloutProgress]],
) -> list[SetSlot]:
    """What to write. ``views``: every known device, None for one that was never there.

    Raises :class:`UsageError` for devices that cannot be meant, :class:`RolloutError` for one that a rollout
    is at work with.
    """
    chosen = _chosen(slot, request, views)
    for spec, progress in rollouts:
        if spec.slot == slot and progress.state in ACTIVE:
            for device in chosen:
                _check_free(spec, progress, device, views[device])
    return [SetSlot(device, slot, _cleared_slot(slot, views[device])) for device in chosen]


def cleared(slot: str, d: Device) -> Cleared:
    r = d.reported.slots.get(slot) if d.reported else None
    return Cleared(d.name, d.desired.gen, bool(d.conn and d.conn.online), r.active_release if r else None)


def _chosen(slot: str, request: ClearRequest, views: Mapping[str, DeviceView | None]) -> list[str]:
    if not request.devices and not request.labels:
        raise UsageError(
            "no device is named", hint="--device NAME, or --label KEY=VALUE for all that have it"
        )
    for device in request.devices:
        view = views.get(device)
        if device not in views:
            raise UsageError(f"there is no device {device}", hint="`edgectl fleet devices` lists them")
        if view is not None and slot not in view.slots:
            raise UsageError(f"{device} has no slot {slot}; it has {', '.join(sorted(view.slots)) or 'none'}")
    labelled = [
        n
        for n, v in views.items()
        if v is not None and slot in v.slots and request.labels.items() <= v.labels.items()
    ]
    chosen = (
        [n for n in request.devices if not request.labels or n in labelled]
        if request.devices
        else sorted(labelled)
    )
    if not chosen:
        raise UsageError(
            f"no device that is meant has slot {slot} and these labels",
            hint="`edgectl fleet devices` shows them",
        )
    return list(dict.fromkeys(chosen))


def _check_free(spec: RolloutSpec, progress: RolloutProgress, device: str, view: DeviceView | None) -> None:
    m = progress.members.get(device)
    if (m is not None and m.outcome is not DeviceOutcome.SKIPPED) or (
        m is None and view is not None and fits(spec, view)
    ):
        raise RolloutError(
            f"rollout {spec.id} of {spec.release} is {progress.state.value} in slot {spec.slot} of {device}",
            hint=f"`edgectl rollout abort {spec.id}`, or `edgectl rollout skip {spec.id} {device}`, first",
        )


def _cleared_slot(slot: str, view: DeviceView | None) -> ClearSlot:
    """With a raised number where the device gave the last one up."""
    now = view.clear.get(slot) if view is not None else None
    r = view.reported.get(slot) if view is not None else None
    if now is None or view is None:
        return ClearSlot(number=1)
    gave_up = r is not None and r.digest is None and r.gen >= view.gen and r.state in _GAVE_UP
    return ClearSlot(number=min(MAX_GEN, now.number + 1)) if gave_up else now
