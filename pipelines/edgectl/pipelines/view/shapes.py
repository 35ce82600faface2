"""Zones and lines as they are drawn on the picture, and how a configuration looks with them. Pure."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import Field

from edgectl.core.errors import UsageError
from edgectl.core.schema import Config
from edgectl.pipelines.video.polygon import Relative

__all__ = ["LineShape", "Shapes", "ZoneShape", "put", "shapes_in"]

Flat = tuple[Relative, ...]
"""x, y, x, y, … relative to the frame."""


class ZoneShape(Config):
    name: str = Field(max_length=64)
    polygon: Flat = Field(max_length=512)
    was: str | None = None
    """Its name in the configuration; None: it is new there."""


class LineShape(Config):
    id: str = Field(max_length=64)
    line: Flat = Field(max_length=4)
    was: str | None = None


class Shapes(Config):
    zones: tuple[ZoneShape, ...] = Field(default=(), max_length=64)
    lines: tuple[LineShape, ...] = Field(default=(), max_length=64)


def shapes_in(values: dict[str, Any]) -> Shapes:
    """Of a configuration that is valid, as it was parsed."""
    zones = [ZoneShape(name=n, polygon=z["polygon"], was=n) for n, z in values.get("zones", {}).items()]
    lines = [
        LineShape(id=r["id"], line=r["line"], was=r["id"]) for r in values.get("rules", ()) if "line" in r
    ]
    return Shapes(zones=tuple(zones), lines=tuple(lines))


def put(values: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The configuration with these zones and lines and no others. What else it says of them stays; a zone that has
    another name has it wherever the configuration speaks of it. Raises :class:`UsageError` for two of one name."""
    for what, names in (
        ("zone", [z.name for z in shapes.zones]),
        ("line", [line.id for line in shapes.lines]),
    ):
        if twice := {n for n in names if names.count(n) > 1}:
            raise UsageError(f"two {what}s are called {min(twice)!r}", hint="give one of them another name")
    found = copy.deepcopy(values)
    zones = found.get("zones", {})
    if zones or shapes.zones:
        kept = {z.was: z for z in shapes.zones if z.was in zones}
        now = {
            kept[n].name: {**about, "polygon": list(kept[n].polygon)}
            for n, about in zones.items()
            if n in kept
        }
        new = {z.name: {"polygon": list(z.polygon)} for z in shapes.zones if z.was not in zones}
        found["zones"] = now | new
    rules = found.get("rules", [])
    lines = {r["id"] for r in rules if "line" in r}
    if lines or shapes.lines:
        kept_lines = {line.was: line for line in shapes.lines if line.was in lines}
        rules = [
            {**r, "id": kept_lines[r["id"]].id, "line": list(kept_lines[r["id"]].line)} if "line" in r else r
            for r in rules
            if "line" not in r or r["id"] in kept_lines
        ]
        rules += [{"id": line.id, "line": list(line.line)} for line in shapes.lines if line.was not in lines]
        found["rules"] = rules
    renamed = {z.was: z.name for z in shapes.zones if z.was is not None and z.was != z.name}
    events = renamed | {n.was: n.id for n in shapes.lines if n.was is not None and n.was != n.id}
    if events:
        _rename(found, renamed, events, "")
    return found


def _rename(value: Any, zones: dict[str, str], events: dict[str, str], key: str) -> Any:
    """In place. ``on`` names rules and zones; other settings that have ``zone`` in their name, name zones."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not (key == "" and name == "zones"):
                value[name] = _rename(inner, zones, events, name)
        return value
    if isinstance(value, list):
        return [_rename(inner, zones, events, key) for inner in value]
    if isinstance(value, str):
        return (
            events.get(value, value) if key == "on" else zones.get(value, value) if "zone" in key else value
        )
    return value
