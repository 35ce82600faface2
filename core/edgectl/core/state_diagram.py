"""A transition table as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

__all__ = ["state_diagram"]

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def state_diagram(table: Mapping[tuple[S, E], S], start: S, end: S | None = None) -> str:
    """Mermaid's text of ``table`` ((state, event) → next state), with its ``start`` and, if there is one, its
    ``end``. Events that lead from one state to the same next one share an arrow."""
    arrows: dict[tuple[S, S], list[str]] = {}
    for (state, event), target in table.items():
        arrows.setdefault((state, target), []).append(event.value)
    lines = ["stateDiagram-v2", f"    [*] --> {start.value}"]
    lines += [f"    {a.value} --> {b.value}: {', '.join(events)}" for (a, b), events in arrows.items()]
    return "\n".join(lines if end is None else [*lines, f"    {end.value} --> [*]"])
