"""Where in the configuration of a rule or zone a name stands that is wrong."""

from __future__ import annotations

from typing import Any

from edgectl.core.schema import Config, Key

__all__ = ["find", "where"]


def where(part: str, entry: str | int, config: Config, text: str) -> Key:
    return (part, entry, *find(config.model_dump(mode="json", exclude={"id"}), text))


def find(value: Any, text: str) -> Key:
    """Where a text stands inside of JSON values; (): nowhere."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, inner in entries:
        if inner == text:
            return (name,)
        if below := find(inner, text):
            return (name, *below)
    return ()
