"""Groups of devices: a name for a list, or for a query that is asked anew whenever a device changes. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, field_serializer, model_validator

from edgectl.core.schema import Name, Terms
from edgectl.fleet.rollouts.selection import Facts, groups_in, parse_query

__all__ = ["MAX_GROUPS", "DeviceGroup", "asks_for", "groups_with", "unknown_group"]

MAX_GROUPS = 256
"""Of one fleet: every device is looked up in each."""


class DeviceGroup(Terms):
    """Exactly one of ``devices`` (static) and ``select`` (dynamic)."""

    name: Name
    devices: frozenset[Name] = Field(default=frozenset(), max_length=100_000)
    """Also such as are not enrolled yet."""
    select: Annotated[str, AfterValidator(str.strip)] = ""
    """A query (:mod:`edgectl.fleet.rollouts.selection`), which asks for no group itself."""

    @field_serializer("devices")
    def _sorted(self, devices: frozenset[str]) -> list[str]:
        return sorted(devices)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> DeviceGroup:
        parse_query(self.select)
        if bool(self.devices) == bool(self.select):
            raise ValueError(f"group {self.name} has devices or a query, one of them")
        if groups_in(self.select):
            raise ValueError(
                f"the query of group {self.name} asks for a group: write out what that one means"
            )
        return self


def unknown_group(query: str, groups: Iterable[str]) -> str | None:
    """A name, or a pattern, in a query that none of these groups has."""
    known = list(groups)
    return next((g for g in sorted(groups_in(query)) if not fnmatch.filter(known, g)), None)


def asks_for(query: str, group: str) -> bool:
    """Whether it names this group, or has a pattern that does."""
    return any(fnmatch.fnmatchcase(group, asked) for asked in groups_in(query))


def groups_with(device: Facts, groups: Iterable[DeviceGroup]) -> frozenset[str]:
    """Names of those that a device is in."""
    return frozenset(
        g.name for g in groups if (device.name in g.devices if g.devices else parse_query(g.select)(device))
    )
