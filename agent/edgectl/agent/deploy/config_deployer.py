"""A slot that holds a configuration goes through the same table as one that holds an engine
(:mod:`edgectl.agent.deploy.deployment`). What differs: it is small and fetched whole; it is warmed by having each stream
prepare it, with its rules on the last minute of tracks; it takes over between two frames; it is judged by failed frames
and by events.

A set brings the engines of its parts with it, and each state does to them what it does to the configuration: they are
fetched, warmed up, taken over by each stream between the same two frames, judged, kept and taken back as one. Which
engines are in force is said by the record of this one slot; what the slots of the engines have lies beneath it, and runs
again when the set is gone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from edgectl.agent.deploy.config_probation import ConfigHealthBook, judge_config
from edgectl.agent.deploy.dependencies import DeployerDependencies
from edgectl.agent.deploy.deployer import SlotDeployer
from edgectl.agent.deploy.deployment import DeploymentEvent
from edgectl.agent.deploy.outcomes import StateEnded, failure
from edgectl.agent.deploy.probation import judge, together
from edgectl.agent.deploy.set_slots import SetSlots
from edgectl.agent.deploy.slot_memory import SlotMemory
from edgectl.agent.state.records import Installed, SetEngine
from edgectl.agent.streams.config_slots import ConfigSlots
from edgectl.agent.streams.engine_requests import Interrupted
from edgectl.agent.transfer.fetch import Fetched, WantedPart
from edgectl.agent.trust.store import StaleTrust
from edgectl.core.bundle import Descriptor
from edgectl.core.bundle.config_release import ConfigRelease
from edgectl.core.errors import AdmissionError, TrustError
from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import EngineProof, Failure
from edgectl.device_profiles.admission import NEXT_STEP, Admission

__all__ = ["ConfigDeployer"]


class ConfigDeployer(SlotDeployer):
    """One slot. ``context.pipelines`` has to be ``streams``."""

    thing = "configuration"

    def __init__(
        self,
        slot: str,
        context: DeployerDependencies,
        streams: ConfigSlots,
        health: ConfigHealthBook,
        slots: SetSlots,
    ) -> None:
        super().__init__(slot, context)
        self._streams = streams
        self._health = health
        self._slots = slots
        self._memories: dict[str, SlotMemory] = {}
        """Slot of an engine → what the one that a set brings needs there."""

    def _is_as_configured(self, installed: Installed) -> bool:
        """Also the slots that its parts are for, and the variants that these prefer."""
        if not installed.parts:
            return super()._is_as_configured(installed)
        parts = {one.part for one in installed.parts}
        wanted = set(self._streams.slots_of(self.slot, parts))
        as_chosen = all(self._c.prefer.get(one.slot) == one.engine.preference for one in installed.parts)
        return wanted == {(one.part, one.slot) for one in installed.parts} and as_chosen

    def _fetch(self, release: str, index: Descriptor) -> Fetched:
        return self._c.fetcher.fetch_config(
            release, index, self._cancelled(State.FETCHING), self._progress, self._wanted_parts
        )

    def _wanted_parts(self, release: ConfigRelease) -> list[WantedPart]:
        """The engines of a set. Raises :class:`BundleError` for slots that are not the set's alone, :class:`StateEnded`
        for a part that is not signed (any more)."""
        wanted = []
        for part, slot in self._streams.parts_of(self.slot, release.parts):
            one = release.parts[part]
            try:
                index = self._c.trust.check(one.release, one.digest)
            except StaleTrust as e:
                raise StateEnded(DeploymentEvent.STALE, failure(e).code, e.message, retryable=True) from e
            except TrustError as e:
                detail = f"the set needs {one.release} for {part}: {e.message}"
                raise StateEnded(DeploymentEvent.REFUSED, "trust", detail) from e
            prefer = self._c.prefer.get(slot)
            wanted.append(WantedPart(part, slot, one.release, index, prefer, self._memory_of(slot).unfit))
        return wanted

    def _obstacle(self) -> str | None:
        d = self._d
        parts = () if d is None or d.installed is None else d.installed.parts
        return super()._obstacle() or self._slots.busy({one.slot for one in parts})

    def _warming(self) -> DeploymentEvent:
        d = self._deployment()
        assert d.installed is not None
        self._show("hashing")
        for one in d.installed.whole:
            self._c.store.verify_variant(one.manifest)  # it may have lain here for weeks
        self._prove_parts(d.installed.parts)
        self._show("preparing")
        try:
            said = self._streams.check(self.slot, self._c.ref(d.installed), self._cancelled(State.WARMING))
        except Interrupted as e:
            raise StateEnded(DeploymentEvent.NOT_NOW, e.code, e.message, retryable=True) from e
        finally:
            # first: a configuration is not to blame for what ended it from outside
            self._guard(State.WARMING)
        self._show(said)
        return DeploymentEvent.WARM

    def _prove_parts(self, parts: Collection[SetEngine]) -> None:
        """One after the other, once there is room for all of them beside what runs. What runs already is proven."""
        self._claim(parts)
        proven = {one.manifest for part in parts if (one := self._serving(part.slot)) is not None}
        for part in parts:
            if part.engine.manifest not in proven:
                self._claim(parts, proving=part)
                self._keep_of(part.slot, self._prove(part.engine, self._memory_of(part.slot)))
                self._entered = self._c.clock()  # the time of the state is for each
                proven.add(part.engine.manifest)
        self._claim(parts)

    def _keep_of(self, slot: str, proof: EngineProof | None) -> None:
        installed = self._deployment().installed
        assert installed is not None
        parts = tuple(
            one.model_copy(update={"engine": one.engine.model_copy(update={"proof": proof})})
            if one.slot == slot
            else one
            for one in installed.parts
        )
        self._install(installed.model_copy(update={"parts": parts}))

    def _claim(self, parts: Collection[SetEngine], proving: SetEngine | None = None) -> None:
        """Have memory promised to all engines, and to the child that proves one; to none of them if it does not do for
        all. Waits, but not in ACTIVATING, for what another slot is about to take or give up. Raises
        :class:`AdmissionError`."""
        state = self._deployment().state
        while (lacking := self._lacking(parts, proving)) is not None:
            part, found = lacking
            self._drop_memory()
            # what the set's own engines were promised is nothing to wait for
            waits = found.waits and self._c.memory.promised_besides(
                {self._memory_of(one.slot).owner for one in parts}
            )
            if not waits or state is State.ACTIVATING:
                release = self._deployment().brings.release
                detail = f"{release} needs {part.engine.release} in slot {part.slot}, which {found.sentence}"
                raise AdmissionError(detail, hint=NEXT_STEP)
            self._show("waiting for the memory that another slot is about to take")
            self._guard(state)
            self._pause(0.5)

    def _lacking(
        self, parts: Collection[SetEngine], proving: SetEngine | None
    ) -> tuple[SetEngine, Admission] | None:
        for part in parts:
            found = self._memory_of(part.slot).claim(part.engine, warm_up=part is proving)
            if found.fits is False:
                return part, found
        return None

    def _drop_memory(self) -> None:
        for memory in self._memories.values():
            memory.drop()
        super()._drop_memory()

    def _memory_of(self, slot: str) -> SlotMemory:
        if slot not in self._memories:
            processes = self._streams.processes_with(self.slot, slot)
            self._memories[slot] = SlotMemory(
                slot, self._c, processes, lambda: self._serving(slot), owner=f"{self.slot}/{slot}"
            )
        return self._memories[slot]

    def _serving(self, slot: str) -> Installed | None:
        """What runs in the slot of an engine: by the set that is in force, else by its own record."""
        active = self._c.journal.slot(self.slot).active
        of_set = [one.engine for one in active.parts if one.slot == slot] if active is not None else []
        return of_set[0] if of_set else self._c.journal.slot(slot).active

    def _activating(self) -> DeploymentEvent:
        d = self._deployment()
        installed = d.installed
        assert installed is not None
        slot = self._c.journal.slot(self.slot)
        if slot.active != installed:
            if self._obstacle():
                return DeploymentEvent.NOT_NOW
            self._claim(installed.parts)
            self._guard(State.ACTIVATING)
            before = {one.slot: self._serving(one.slot) for one in installed.parts}
            baselines = {
                one.slot: self._baseline(one.slot, served).data()
                for one in installed.parts
                if (served := before[one.slot]) is not None and served.manifest != one.engine.manifest
            }
            if not_now := self._still_signed():
                return not_now
            d = replace(self._deployment(), baselines=baselines)
            same = slot.active is not None and slot.active.runs_as(installed)
            previous = slot.previous if same else slot.active
            # From here on the record says "new", of everything in one write: a stream that starts now starts with it.
            self._c.journal.activate(self.slot, replace(slot, active=installed, previous=previous), d)
            self._d = d
            self._crashed = False  # that was the configuration before
            # once: tried again, what came before would be what came since
            self._health.start_over(self.slot)
        for one in installed.parts:
            self._c.live.start_over(one.slot, one.engine.bundle)
        return self._switch(installed)

    def _rolling_back(self) -> DeploymentEvent:
        try:
            return super()._rolling_back()
        finally:
            self._health.take_back(self.slot)

    def _probation(self) -> DeploymentEvent:
        d = self._deployment()
        assert d.installed is not None
        ref, parts = self._c.ref(d.installed), d.installed.parts
        for one in parts:
            self._c.live.start_over(one.slot, one.engine.bundle)
        before = {slot: Histogram.of(data) for slot, data in d.baselines.items()}
        while True:
            policy = self._deployment().brings.policy
            self._guard(State.PROBATION, 4 * policy.probation_s)
            if ended := self._given_up("a stream did not survive with it"):
                return ended
            if (why := self._streams.differs(self.slot, ref)) is not None:
                self._fail(Failure(code="health", detail=why))
                return DeploymentEvent.UNHEALTHY
            elapsed = self._c.clock() - self._entered
            if elapsed >= policy.probation_s and self._streams.idle(self.slot):
                return self._commit("no pipeline can use it yet")
            verdicts = [judge_config(policy, self._health.of(self.slot), elapsed)]
            for one in parts:
                live = self._c.live.of(one.slot, one.engine.bundle)
                found = judge(policy, live, before.get(one.slot), elapsed)
                verdicts.append(replace(found, reason=f"{one.slot}: {found.reason}"))
            if ended := self._judged(together(verdicts), elapsed / policy.probation_s):
                return ended
            self._pause(0.2)
