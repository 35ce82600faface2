"""Switches a slot back to an engine that works: the previous one, else the factory engine, whichever is
intact and starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgectl.agent.deploy.dependencies import DeployerDependencies
from edgectl.agent.deploy.deployment import DEADLINE_S
from edgectl.agent.deploy.start_check import damage, verified_lighter
from edgectl.agent.state.records import Deployment, Installed, Slot, ways_back
from edgectl.core.errors import EngineError
from edgectl.core.states import State

__all__ = ["EngineRollback"]

log = logging.getLogger(__name__)

_LIMIT_S = DEADLINE_S[State.ROLLING_BACK] * 0.22
"""For one try: the previous and the factory engine get two each."""


class EngineRollback:
    """Of one slot. ``stopping``: whether the agent ends. ``thing``: what the slot holds; behind every ``configuration``
    there is what stands in ``agent.toml``."""

    def __init__(
        self, slot: str, context: DeployerDependencies, stopping: Callable[[], bool], thing: str = "engine"
    ) -> None:
        self._slot = slot
        self._c = context
        self._stopping = stopping
        self._may_be_empty = thing == "configuration"

    def exists(self, slot: Slot) -> bool:
        """Whether something behind the active one is whole."""
        return self._may_be_empty or any(damage(self._c.store, way) is None for way in ways_back(slot))

    def save(self, slot: Slot, d: Deployment | None = None) -> Slot:
        """Write down, with the deployment ``d``, that the best whole engine behind the active one serves from
        now on.

        The slot is empty if there never was one. Raises :class:`EngineError` if none is whole any more: then
        what serves goes on.
        """
        ways = [(way, damage(self._c.store, way)) for way in ways_back(slot)]
        whole = [way for way, wrong in ways if wrong is None]
        if ways and not whole:
            why = "; ".join(wrong for _, wrong in ways if wrong)
            if not self._may_be_empty:
                raise EngineError(f"every engine to go back to is damaged: {why}")
            log.error(
                "%s: the configuration before is damaged: %s: what stands in agent.toml holds",
                self._slot,
                why,
            )
        after = Slot(
            active=verified_lighter(self._c.store, whole[0]) if whole else None,
            factory=slot.factory if slot.factory in whole else None,
        )
        self._c.journal.save_slot(self._slot, after, d)
        return after

    def serve(self, installed: Installed | None) -> None:
        """Switch back, warm if the old engine is still there; else by a new worker, so that what failed does
        not go on serving.

        What failed is unloaded then. Raises :class:`EngineError` if it does not start either way.
        """
        ref = self._c.ref(installed) if installed else None
        try:
            self._c.pipelines.ensure(self._slot, ref, _LIMIT_S, self._stopping)
        except EngineError as e:
            log.warning("%s: %s; a new worker is started", self._slot, e.message)
            self._c.pipelines.restart(self._slot)
            self._c.pipelines.ensure(self._slot, ref, _LIMIT_S, self._stopping)
        if ref is not None:
            self._c.pipelines.commit(self._slot)
