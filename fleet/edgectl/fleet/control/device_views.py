"""Devices as the planner sees them, and the groups that they are in. Not thread-safe: under ``Devices.lock``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from edgectl.core.errors import UsageError
from edgectl.core.wire import Conn, Desired, Reported
from edgectl.fleet.rollouts.groups import MAX_GROUPS, DeviceGroup, groups_with
from edgectl.fleet.rollouts.planner import DeviceView
from edgectl.fleet.store.inventory import Device, Inventory

__all__ = ["DeviceViews"]

_Made: TypeAlias = tuple[Conn | None, Reported | None, Desired | None, float, DeviceView | None]
_NOT_YET: _Made = (None, None, None, 0.0, None)


class DeviceViews:
    """A view is made once for as long as nothing of the device changes: a fleet is looked at with every tick."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._groups = inventory.groups()
        self._made: dict[str, _Made] = {}
        """Device → what its view was made of, and the view."""
        self._groups_of: dict[str, tuple[Conn, frozenset[str]]] = {}
        """Device → what its groups were asked of: all that a query can ask is in its birth."""

    @property
    def groups(self) -> dict[str, DeviceGroup]:
        """By name, sorted."""
        return dict(self._groups)

    def set_group(self, group: DeviceGroup) -> None:
        """Have a group, in place of the one of that name. Raises :class:`UsageError` for one too many."""
        if group.name not in self._groups and len(self._groups) >= MAX_GROUPS:
            raise UsageError(
                f"there are {MAX_GROUPS} groups already, as many as can be",
                hint="`edgectl fleet groups NAME --remove` removes one",
            )
        self._inventory.save_group(group)
        self._groups = dict(sorted({**self._groups, group.name: group}.items()))
        self._made.clear()
        self._groups_of.clear()

    def drop_group(self, name: str) -> None:
        """Raises :class:`UsageError` if there is none."""
        if name not in self._groups:
            raise UsageError(f"there is no group {name}", hint="`edgectl fleet groups` lists them")
        self._inventory.drop_group(name)
        del self._groups[name]
        self._made.clear()
        self._groups_of.clear()

    def of(
        self, devices: Iterable[Device], seen: Mapping[str, float], without: Collection[str]
    ) -> dict[str, DeviceView]:
        """Of those that were ever there. ``seen``: when each was heard last, where that is known better than by the
        inventory."""
        found: dict[str, DeviceView] = {}
        for d in devices:
            name = d.name
            if d.conn is None or name in without:
                continue
            seen_s = seen.get(name, d.seen_s)
            # compared without a call, for 100 000 of them
            conn, reported, desired, seen_before_s, view = self._made.get(name, _NOT_YET)
            if (
                view is None
                or conn is not d.conn
                or reported is not d.reported
                or desired is not d.desired
                or seen_before_s is not seen_s
            ):
                view = self._view(d, d.conn, seen_s)
                self._made[name] = (d.conn, d.reported, d.desired, seen_s, view)
            found[name] = view
        return found

    def forget(self, device: str) -> None:
        """It has left the fleet."""
        self._made.pop(device, None)
        self._groups_of.pop(device, None)

    def _view(self, d: Device, conn: Conn, seen_s: float) -> DeviceView:
        view = DeviceView(
            name=d.name,
            online=conn.online,
            seen_s=seen_s,
            slots=frozenset(conn.slots),
            labels=conn.labels,
            desired=d.desired.slots,
            reported=d.reported.slots if d.reported else {},
            gen=d.desired.gen,
            clear=d.desired.clear,
            profile=conn.profile,
            facts=frozenset(conn.facts),
            streams=conn.streams,
            config_slots=frozenset(conn.config_slots),
        )
        if not self._groups:
            return view
        asked, groups = self._groups_of.get(d.name, (None, frozenset[str]()))
        if asked is not conn:
            groups = groups_with(view, self._groups.values())
            self._groups_of[d.name] = conn, groups
        return replace(view, groups=groups)
