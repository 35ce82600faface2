"""A slot that holds a configuration goes through the same table as one that holds an engine
(:mod:`edgectl.agent.deploy.deployment`). What differs: it is small and fetched whole; it is warmed by having each stream
prepare it, with its rules on the last minute of tracks; it takes over between two frames; it is judged by failed frames
and by events.
"""

from __future__ import annotations

from dataclasses import replace

from edgectl.agent.deploy.config_probation import ConfigHealthBook, judge_config
from edgectl.agent.deploy.dependencies import DeployerDependencies
from edgectl.agent.deploy.deployer import SlotDeployer
from edgectl.agent.deploy.deployment import DeploymentEvent
from edgectl.agent.deploy.outcomes import StateEnded
from edgectl.agent.streams.config_slots import ConfigSlots
from edgectl.agent.streams.engine_requests import Interrupted
from edgectl.agent.transfer.fetch import Fetched
from edgectl.core.bundle import Descriptor
from edgectl.core.states import State
from edgectl.core.wire import Failure

__all__ = ["ConfigDeployer"]


class ConfigDeployer(SlotDeployer):
    """One slot. ``context.pipelines`` has to be ``streams``."""

    thing = "configuration"

    def __init__(
        self, slot: str, context: DeployerDependencies, streams: ConfigSlots, health: ConfigHealthBook
    ) -> None:
        super().__init__(slot, context)
        self._streams = streams
        self._health = health

    def _fetch(self, release: str, index: Descriptor) -> Fetched:
        return self._c.fetcher.fetch_config(release, index, self._cancelled(State.FETCHING), self._progress)

    def _warming(self) -> DeploymentEvent:
        d = self._deployment()
        assert d.installed is not None
        self._show("hashing")
        self._c.store.verify_variant(d.installed.manifest)  # it may have lain here for weeks
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

    def _activating(self) -> DeploymentEvent:
        d = self._deployment()
        installed = d.installed
        assert installed is not None
        slot = self._c.journal.slot(self.slot)
        if slot.active != installed:
            if self._obstacle():
                return DeploymentEvent.NOT_NOW
            self._guard(State.ACTIVATING)
            if not_now := self._still_signed():
                return not_now
            d = self._deployment()
            # From here on the record says "new": a stream that starts now starts with it.
            self._c.journal.activate(self.slot, replace(slot, active=installed, previous=slot.active), d)
            self._crashed = False  # that was the configuration before
            # once: tried again, what came before would be what came since
            self._health.start_over(self.slot)
        return self._switch(installed)

    def _rolling_back(self) -> DeploymentEvent:
        try:
            return super()._rolling_back()
        finally:
            self._health.take_back(self.slot)

    def _probation(self) -> DeploymentEvent:
        d = self._deployment()
        assert d.installed is not None
        ref = self._c.ref(d.installed)
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
            verdict = judge_config(policy, self._health.of(self.slot), elapsed)
            if ended := self._judged(verdict, elapsed / policy.probation_s):
                return ended
            self._pause(0.2)
