"""Which slots of engines belong to a set: a slot is changed by one deployment, the set's or its own."""

from __future__ import annotations

from collections.abc import Collection

from edgectl.agent.deploy.deployment import WORKING
from edgectl.agent.state.journal import Journal

__all__ = ["SetSlots"]


class SetSlots:
    """Asked of the journal, in which a set names its slots before it takes them, and an engine's deployment stands before
    it looks whether it may: of two that begin at once, one sees the other."""

    def __init__(self, journal: Journal, config_slots: Collection[str]) -> None:
        self._journal = journal
        self._config_slots = config_slots

    def set_of(self, slot: str) -> str | None:
        """The set that says what this slot of an engine runs, or is on its way to, in words; None: the slot itself
        does."""
        for name in self._config_slots:
            has, d = self._journal.slot(name), self._journal.deployment(name)
            under_way = d is not None and d.state in WORKING
            candidates = (
                [has.active, d.installed, has.previous] if under_way and d is not None else [has.active]
            )
            for one in candidates:
                if one is not None and one.holds(slot):
                    return f"{one.release} in slot {name}"
        return None

    def busy(self, slots: Collection[str]) -> str | None:
        """Which of these slots has a deployment of its own under way, in words."""
        for slot in sorted(slots):
            d = self._journal.deployment(slot)
            if d is not None and d.state in WORKING:
                return f"slot {slot} is {d.state.value}: the set waits for its end"
        return None
