"""What the next engine of a slot needs of memory: expected by its bundle, and known once it was warmed up here."""

from __future__ import annotations

from collections.abc import Callable

from edgectl.agent.deploy.dependencies import DeployerDependencies, EngineProcesses
from edgectl.agent.state.records import Installed
from edgectl.core.bundle import Variant
from edgectl.core.errors import BundleError
from edgectl.core.memory import EngineMemory
from edgectl.device_profiles.admission import Admission, Demand, larger, opening, together, warming

__all__ = ["SlotMemory"]


class SlotMemory:
    """Of one slot."""

    def __init__(
        self,
        slot: str,
        context: DeployerDependencies,
        processes: EngineProcesses | None = None,
        active: Callable[[], Installed | None] | None = None,
        owner: str | None = None,
    ) -> None:
        """``processes``: which would open its engine; None: those of the slot's pipelines. ``active``: what serves there;
        None: what is on record for the slot. ``owner``: to whom it is promised; None: to the slot. A set and the slot beneath
        it are two: what one does not want any more, the other may still."""
        self._slot = slot
        self.owner = owner or slot
        self._gate = context.memory
        self._blobs = context.store.blobs
        self._pipelines = context.pipelines if processes is None else processes
        self._active = active or (lambda: context.journal.slot(slot).active)
        self._known: dict[str, EngineMemory] = {}
        """Manifest → what it took here."""

    def unfit(self, variant: Variant) -> str | None:
        """Why a variant does not fit now, neither promised nor known from here; None if it does, or nobody knows."""
        memory = self._known.get(variant.digest, variant.config.memory)
        found = self._gate.look(self.owner, self._demand(variant.digest, memory, [], warm_up=True))
        return found.sentence if found.fits is False and not found.waits else None

    def claim(self, installed: Installed, *, warm_up: bool, lighter: bool = True) -> Admission:
        """Whether there is room for an engine in every process that opens it, and before that (``warm_up``) in one where
        it is proved; if so, it is promised to the slot."""
        others = [self._memory(one.manifest) for one in installed.lighter if one.manifest is not None]
        manifest = installed.manifest
        demand = self._demand(manifest, self._memory(manifest), others if lighter else [], warm_up=warm_up)
        return self._gate.claim(self.owner, demand)

    def learn(self, manifest: str, memory: EngineMemory | None) -> None:
        """What an engine took when it was warmed up. What only its compiler could tell stays known."""
        if memory is None:
            return
        expected = self._memory(manifest)
        if memory.device_bytes is None and expected is not None:
            memory = memory.model_copy(update={"device_bytes": expected.device_bytes})
        self._known[manifest] = memory

    def drop(self) -> None:
        """Nothing is promised any more."""
        self._gate.drop(self.owner)

    def _demand(
        self,
        manifest: str,
        memory: EngineMemory | None,
        lighter: list[EngineMemory | None],
        *,
        warm_up: bool,
    ) -> Demand:
        running, new = self._pipelines.processes(self._slot)
        active = self._active()
        again = running if active is not None and manifest == active.manifest else 0
        swap = opening(memory, lighter, running=running, new=new, again=again)
        swap = together(swap, map(self._memory, self._pipelines.opened_with(self._slot)))
        return larger(warming(memory), swap) if warm_up else swap

    def _memory(self, manifest: str) -> EngineMemory | None:
        if (known := self._known.get(manifest)) is not None:
            return known
        try:
            return Variant.open(self._blobs, manifest).config.memory
        except BundleError:
            return None  # whoever opens it says what is wrong with it
