"""What a slot's deployer does in each state of the table.

All rules are elsewhere: the table in :mod:`edgectl.agent.deploy.deployment`, the health gates in
:mod:`edgectl.agent.deploy.probation`, what is signed in :mod:`edgectl.agent.trust.store`. Each method
``_<state>`` does the work of one state and returns the event it ended with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from edgectl.agent.deploy.deployment import DEADLINE_S, DeploymentEvent
from edgectl.agent.deploy.outcomes import StateEnded, failure, named
from edgectl.agent.deploy.probation import Verdict, judge, judge_shadow
from edgectl.agent.deploy.shared_plan import take_shared_plan
from edgectl.agent.deploy.slot_memory import SlotMemory
from edgectl.agent.deploy.slot_thread import SlotThread
from edgectl.agent.deploy.start_check import verified_lighter
from edgectl.agent.state.records import Installed, Slot, ways_back
from edgectl.agent.streams.engine_requests import Interrupted
from edgectl.agent.transfer.download import Cancelled
from edgectl.agent.transfer.fetch import Fetched
from edgectl.agent.trust.store import StaleTrust
from edgectl.core.bundle import Descriptor, Variant
from edgectl.core.clock import CLOCK_SET_S
from edgectl.core.errors import AdmissionError, EngineError, StorageError, TrustError
from edgectl.core.histogram import MIN_SAMPLES, Histogram
from edgectl.core.states import State
from edgectl.core.windows import is_open, opens_at
from edgectl.core.wire import MAX_SHADOW_BLOCKS, DesiredSlot, EngineProof, Failure
from edgectl.device_profiles.admission import NEXT_STEP

__all__ = ["SlotDeployer"]

log = logging.getLogger(__name__)

_TRUST_GRACE_S = 5.0
"""How long a ``desired`` may be ahead of the metadata that signs it: the two are separate messages."""

_LIGHTER_MARGIN_S = 30.0
"""Of the time to warm up, kept for what comes behind a lighter variant."""

_OPENS_S = 30.0
"""By when an engine that was warmed up here has been opened to be compared."""

_BASELINE_S = 60.0
"""How long the engine before may take to show its latency, where it has not yet."""


class SlotDeployer(SlotThread):
    """One slot. Made with its name and the :class:`~edgectl.agent.deploy.dependencies.DeployerDependencies`."""

    def _act(self, state: State) -> DeploymentEvent:
        acts: dict[State, Callable[[], DeploymentEvent]] = {
            State.NOTIFIED: self._notified,
            State.DEFERRED: self._deferred,
            State.FETCHING: self._fetching,
            State.VERIFYING: self._verifying,
            State.STAGED: self._staged,
            State.WARMING: self._warming,
            State.SHADOW: self._shadow,
            State.ACTIVATING: self._activating,
            State.PROBATION: self._probation,
            State.ROLLING_BACK: self._rolling_back,
            State.CLEARING: self._clearing,
        }
        return acts[state]()

    def _notified(self) -> DeploymentEvent:
        d = self._deployment()
        if code := self._c.journal.bad(d.brings.digest, d.brings.attempt):
            raise TrustError(
                f"this device gave {d.brings.release} up before: {code}",
                hint="raise the attempt to try again",
            )
        # one that served here and was damaged is wanted back whatever runs in its place
        if d.restored is None and (owner := self._c.set_of(self.slot)) is not None:
            raise StateEnded(
                DeploymentEvent.REFUSED,
                "set",
                f"slot {self.slot} belongs to the set {owner}: bring this engine with a newer set, or clear the set's slot",
            )
        while True:
            try:
                self._c.trust.check(d.brings.release, d.brings.digest)
                return DeploymentEvent.TRUSTED
            except (StaleTrust, StorageError) as e:
                # a disk that takes nothing now is no reason to give a release up
                self._note = failure(e, retryable=True)
                return DeploymentEvent.STALE
            except TrustError as e:
                if self._c.clock() - self._entered > _TRUST_GRACE_S:
                    raise
                self._show("waiting for signed metadata", note=failure(e, retryable=True))
                self._guard(State.NOTIFIED)
                self._pause(0.5)

    def _deferred(self) -> DeploymentEvent:
        """Wait for valid metadata; with everything fetched, also for whoever says "not now"."""
        d = self._deployment()
        while True:
            note = None
            obstacle = self._obstacle() if d.installed is not None else None
            if obstacle is None:
                try:
                    self._c.trust.check(d.brings.release, d.brings.digest)
                    return DeploymentEvent.TRUSTED
                except StaleTrust as e:
                    obstacle, note = "waiting for valid metadata", failure(e, retryable=True)
            self._show(obstacle, note=note)
            self._guard(State.DEFERRED)
            self._pause(1.0)

    def _obstacle(self) -> str | None:
        """Why nothing may be activated now."""
        if self._c.frozen():
            return "frozen"
        if self._held or (self._desired is not None and self._desired[2]):
            return "held"
        if self._forced:
            return None
        lease = self._c.leases.holder()
        if lease is not None:
            return f"{lease.owner} says not now: {lease.reason or 'no reason given'}"
        desired = self._deployment().desired
        windows = desired.policy.windows if isinstance(desired, DesiredSlot) else ()
        if not windows:
            return None
        if self._c.wall() < CLOCK_SET_S:
            return "the clock was never set: no maintenance window can open"
        now = self._c.local()
        return (
            None
            if is_open(windows, now)
            else f"the maintenance window opens {opens_at(windows, now):%A %H:%M}"
        )

    def _fetching(self) -> DeploymentEvent:
        d = self._deployment()
        try:
            index = self._c.trust.check(d.brings.release, d.brings.digest)
        except (StaleTrust, StorageError) as e:
            raise StateEnded(DeploymentEvent.STALE, failure(e).code, e.message, retryable=True) from e
        except TrustError as e:
            raise StateEnded(DeploymentEvent.REFUSED, "trust", e.message) from e
        while not self._c.disk.acquire(timeout=0.5):
            self._show("waiting for another download")
            self._guard(State.FETCHING)
        try:
            self._c.make_way()
            fetched = self._fetch(d.brings.release, index)
            # Saved before the lock is free, so that nobody tidies these blobs away.
            d = replace(self._deployment(), installed=fetched.chosen, fallback=fetched.fallback)
            self._c.journal.save(d)
            self._d = d
        except Cancelled:
            self._guard(State.FETCHING)
            raise StateEnded(DeploymentEvent.SUPERSEDED) from None
        finally:
            self._c.disk.release()
        return DeploymentEvent.FETCHED

    def _fetch(self, release: str, index: Descriptor) -> Fetched:
        return self._c.fetcher.fetch(
            release,
            index,
            self._cancelled(State.FETCHING),
            self._progress,
            self._preference,
            self._lighter,
            self._unfit,
        )

    def _unfit(self, variant: Variant) -> str | None:
        return None if variant.digest == self._deployment().restored else self._memory.unfit(variant)

    def _verifying(self) -> DeploymentEvent:
        self._show("hashing")
        d = self._deployment()
        for installed in filter(None, (d.installed, d.fallback)):
            for one in installed.whole:
                self._c.store.verify_variant(one.manifest)
        if d.installed is not None:
            self._install(verified_lighter(self._c.store, d.installed))
        return DeploymentEvent.VERIFIED

    def _install(self, installed: Installed) -> None:
        """Saved with the end of the state."""
        self._d = replace(self._deployment(), installed=installed)

    def _keep(self, proof: EngineProof) -> None:
        installed = self._deployment().installed
        assert installed is not None
        self._install(installed.model_copy(update={"proof": proof}))

    def _staged(self) -> DeploymentEvent:
        while obstacle := self._obstacle():
            if obstacle not in ("frozen", "held"):
                return DeploymentEvent.NOT_NOW
            self._show(obstacle)
            self._guard(State.STAGED)
            self._pause(0.5)
        return self._still_signed() or DeploymentEvent.RELEASED

    def _still_signed(self) -> DeploymentEvent | None:
        """Metadata may have changed since the release was fetched, weeks ago: one that was withdrawn is
        refused, expired ones wait."""
        d = self._deployment()
        parts = () if d.installed is None else d.installed.parts
        try:
            self._c.trust.check(d.brings.release, d.brings.digest)
            for one in parts:
                self._c.trust.check(one.engine.release, one.engine.bundle)
        except StaleTrust:
            return DeploymentEvent.NOT_NOW
        except TrustError as e:
            raise StateEnded(DeploymentEvent.REFUSED, "trust", e.message) from e
        return None

    def _warming(self) -> DeploymentEvent:
        d = self._deployment()
        assert d.installed is not None
        self._show("hashing")
        self._c.store.verify_variant(d.installed.manifest)  # it may have lain here for weeks
        self._admit(warm_up=True)
        if (proof := self._prove(d.installed, self._memory)) is not None:
            self._keep(proof)
        self._prove_lighter(d.tries)
        self._admit()
        active = self._c.journal.slot(self.slot).active
        compared = (
            d.brings.policy.shadow is not None
            and active is not None
            and not self._c.pipelines.idle(self.slot)
        )
        return DeploymentEvent.OBSERVE if compared else DeploymentEvent.WARM

    def _prove(self, installed: Installed, memory: SlotMemory) -> EngineProof | None:
        """In a child process: it loads, reproduces its golden outputs (how closely is returned), is fast enough, and says
        what it needs."""
        d = self._deployment()
        note = self._shared_plan(installed) if d.brings.policy.shared_plans and d.tries <= 1 else None
        self._show("warming up", note=note)
        report = self._c.warm_up(
            self._c.store.blobs,
            installed.manifest,
            runs=self._c.warm_runs,
            timeout_s=DEADLINE_S[State.WARMING],
            cache=self._c.engine_cache,
        )
        self._guard(State.WARMING)
        if not report.ok:
            kind = StorageError if report.code == "storage" else EngineError
            raise kind(report.error or "the engine failed its warm-up")
        limit = d.brings.policy.max_latency_ms
        if limit is not None and report.p50_ms is not None and report.p50_ms > limit:
            raise EngineError(f"warm-up latency is {report.p50_ms:.2f} ms, {limit:g} ms are allowed")
        memory.learn(installed.manifest, report.memory)
        if report.golden is None:
            return None
        return EngineProof(golden=report.golden, golden_least=report.golden_least)

    def _admit(self, *, warm_up: bool = False) -> None:
        """Have memory promised to the new engine, beside what runs; lighter variants are left out if they are what does
        not fit. Waits, but not in ACTIVATING, for another slot to take or give up what it was promised; the time of the
        state begins behind that. Raises :class:`AdmissionError`, also where the wait takes too long."""
        waited, late = False, self._deployment().state is State.ACTIVATING
        while True:
            d = self._deployment()
            assert d.installed is not None
            if d.installed.manifest == d.restored:
                return  # it served: better than what serves instead
            found = self._memory.claim(d.installed, warm_up=warm_up)
            if found.fits is not False:
                log.info("%s: memory: %s", self.slot, found.sentence)
                break
            if found.waits and not late:
                waited = True
                self._show("waiting for the memory that another slot is about to take")
                try:
                    self._guard(d.state)
                    self._pause(0.5)
                except TimeoutError:
                    late = True
                continue
            if self._memory.claim(d.installed, warm_up=warm_up, lighter=False).fits is not False:
                lighter = [
                    one if one.manifest is None else one.left_out(found.sentence)
                    for one in d.installed.lighter
                ]
                self._install(d.installed.model_copy(update={"lighter": tuple(lighter)}))
                break
            raise AdmissionError(f"{d.brings.release} {found.sentence}", hint=NEXT_STEP)
        if waited:
            self._entered = self._c.clock()

    def _prove_lighter(self, tries: int) -> None:
        """Lighter variants pass the same checks as the release's own before any stream may run one. What fails them is
        left out, and so are all of them where the device may have gone down over one."""
        installed = self._deployment().installed
        assert installed is not None
        proven = []
        for one in verified_lighter(self._c.store, installed).lighter:
            left_s = DEADLINE_S[State.WARMING] - (self._c.clock() - self._entered) - _LIGHTER_MARGIN_S
            if one.manifest is not None and tries > 1:
                one = one.left_out("the warm-up was interrupted before")
            elif one.manifest is not None and left_s <= 0:
                one = one.left_out("there was no time left to warm it up")
            elif one.manifest is not None:
                self._show(f"warming up the {one.preference} variant")
                report = self._c.warm_up(
                    self._c.store.blobs,
                    one.manifest,
                    runs=self._c.warm_runs,
                    timeout_s=left_s,
                    cache=self._c.engine_cache,
                )
                self._guard(State.WARMING)
                self._memory.learn(one.manifest, report.memory)
                if not report.ok:
                    one = one.left_out(report.error or "it failed its warm-up")
            if one.why is not None:
                log.warning("%s: the %s variant is left out: %s", self.slot, one.preference, one.why)
            proven.append(one)
        self._install(installed.model_copy(update={"lighter": tuple(proven)}))

    def _shared_plan(self, installed: Installed) -> Failure | None:
        """Once: one that took the device down with it is not tried again. Its time is not the warm-up's,
        which may still have to compile."""
        self._show("looking for a shared plan")
        try:
            note = take_shared_plan(
                self._c, installed.manifest, self._cancelled(State.WARMING), self._progress
            )
        except Cancelled:
            note = None
        self._guard(State.WARMING)
        self._entered = self._c.clock()
        return note

    def _shadow(self) -> DeploymentEvent:
        d = self._deployment()
        gate = d.brings.policy.shadow
        if gate is None:
            # the same desired state came again and does not ask for it any more
            return DeploymentEvent.AGREES
        if not_now := self._still_signed():
            return not_now
        self._admit()
        installed = self._deployment().installed
        assert installed is not None
        self._show("running beside the old engine")
        cancelled = self._taken(self._cancelled(State.SHADOW))
        try:
            found = self._c.pipelines.shadow(
                self.slot, self._c.ref(installed), gate, DEADLINE_S[State.SHADOW], cancelled
            )
        except Interrupted as e:
            raise StateEnded(DeploymentEvent.NOT_NOW, e.code, e.message, retryable=True) from e
        finally:
            # first: an engine is not to blame for what ended the comparison from outside
            self._guard(State.SHADOW)
        for shadowed in found:
            verdict = judge_shadow(gate, shadowed)
            if verdict.outcome == "unhealthy":
                raise EngineError(verdict.reason)
            self._show(verdict.reason)
        each = MAX_SHADOW_BLOCKS // max(1, len(found))  # of more streams than that, nothing
        blocks = tuple(b for s in found for b in s.blocks[:each])
        if blocks:
            self._keep((installed.proof or EngineProof()).model_copy(update={"shadow": blocks}))
        self._admit()  # there may be something to wait for, which the switch has no time for
        return DeploymentEvent.AGREES

    def _taken(self, cancelled: Callable[[], bool]) -> Callable[[], bool]:
        """The same, asked again and again while the engine runs beside the old one: by and by it shows in what is free,
        and nobody else is to be kept waiting for an hour."""
        since = self._c.clock()

        def asked() -> bool:
            if self._c.clock() - since > _OPENS_S:
                self._memory.drop()
            return cancelled()

        return asked

    def _activating(self) -> DeploymentEvent:
        d = self._deployment()
        installed = d.installed
        assert installed is not None
        slot = self._c.journal.slot(self.slot)
        if slot.active != installed:
            if self._obstacle():
                return DeploymentEvent.NOT_NOW
            self._admit()
            self._guard(State.ACTIVATING)
            baseline = d.baseline if slot.active is None else self._baseline(self.slot, slot.active).data()
            d = replace(self._deployment(), baseline=baseline)
            installed = d.installed
            assert installed is not None
            if not_now := self._still_signed():
                return not_now
            # From here on the record says "new": a worker that starts now starts with it.
            same = slot.active is not None and slot.active.runs_as(installed)
            previous = slot.previous if same else slot.active
            self._c.journal.activate(self.slot, replace(slot, active=installed, previous=previous), d)
            self._d = d
            self._crashed = False  # that was the engine before
        self._c.live.start_over(self.slot, installed.bundle)
        return self._switch(installed)

    def _switch(self, installed: Installed) -> DeploymentEvent:
        self._show("switching")
        cancelled = self._cancelled(State.ACTIVATING)
        try:
            self._c.pipelines.ensure(
                self.slot, self._c.ref(installed), DEADLINE_S[State.ACTIVATING] * 0.9, cancelled
            )
        finally:
            # first: what is new is not to blame for what ended the switch from outside
            self._guard(State.ACTIVATING)
        return DeploymentEvent.ACTIVATED

    def _baseline(self, slot: str, active: Installed) -> Histogram:
        """The latency of the engine before, on this device. Right after a start it has to be measured
        first, but not for ever."""
        policy = self._deployment().brings.policy
        while True:
            latency = self._c.live.of(slot, active.bundle).latency
            enough = latency.n >= MIN_SAMPLES[policy.percentile]
            late = self._c.clock() - self._entered > _BASELINE_S
            if enough or late or policy.max_latency_ratio is None or self._c.pipelines.idle(self.slot):
                return latency
            self._show("measuring the engine before")
            self._guard(State.ACTIVATING)
            self._pause(0.5)

    def _probation(self) -> DeploymentEvent:
        d = self._deployment()
        assert d.installed is not None
        self._c.live.start_over(self.slot, d.installed.bundle)
        baseline = Histogram.of(d.baseline) if d.baseline else None
        while True:
            policy = self._deployment().brings.policy
            self._guard(State.PROBATION, 4 * policy.probation_s)
            if ended := self._given_up("the new engine did not survive"):
                return ended
            elapsed = self._c.clock() - self._entered
            if elapsed >= policy.probation_s and self._c.pipelines.idle(self.slot):
                return self._commit("no pipeline can use it yet")
            verdict = judge(policy, self._c.live.of(self.slot, d.installed.bundle), baseline, elapsed)
            if ended := self._judged(verdict, elapsed / policy.probation_s):
                return ended
            self._pause(0.2)

    def _given_up(self, crashed: str) -> DeploymentEvent | None:
        """Whatever ends a probation without a verdict."""
        if self._crashed:
            self._crashed = False
            self._fail(Failure(code="crash_loop", detail=crashed))
            return DeploymentEvent.CRASH_LOOP
        if self._command == "rollback":
            self._command = None
            self._fail(Failure(code="operator", detail="rolled back by command"))
            return DeploymentEvent.UNHEALTHY
        return None

    def _judged(self, verdict: Verdict, progress: float) -> DeploymentEvent | None:
        self._show(verdict.reason, pct=min(100.0, 100 * progress))
        if verdict.outcome == "healthy":
            return self._commit(verdict.reason)
        if verdict.outcome == "unhealthy":
            self._fail(Failure(code="health", detail=verdict.reason))
            return DeploymentEvent.UNHEALTHY
        return None

    def _commit(self, why: str) -> DeploymentEvent:
        d = self._deployment()
        slot = self._c.journal.slot(self.slot)
        self._after = replace(slot, factory=d.fallback or slot.factory)
        self._show(why, pct=100.0)
        return DeploymentEvent.HEALTHY

    def _rolling_back(self) -> DeploymentEvent:
        """The previous engine again; if it does not run either, the factory one, and the deployment ends
        DEGRADED."""
        d = self._deployment()
        slot = self._c.journal.slot(self.slot)
        if slot.active is not None and slot.active == d.installed:
            slot = self._rollback.save(slot)
        self._show("going back")
        try:
            self._rollback.serve(slot.active)
        except EngineError as e:
            if not ways_back(slot):
                raise
            log.error("%s: %s", self.slot, e.message)
            slot = self._rollback.save(slot)
            self._show("going back to the factory engine")
            self._rollback.serve(slot.active)
            raise EngineError(f"{e.message}; {named(slot.active)}") from e
        return DeploymentEvent.RESTORED

    def _clearing(self) -> DeploymentEvent:
        """Nothing is left in the slot, the engines to go back to included: the record first, then whoever
        runs what it named."""
        if self._c.journal.slot(self.slot).active is not None:
            while obstacle := self._obstacle():
                self._show(obstacle)
                self._guard(State.CLEARING)
                self._pause(0.5)
            self._guard(State.CLEARING)
        self._c.journal.save_slot(self.slot, Slot(), self._deployment())
        self._show("stopping")
        self._rollback.serve(None)
        self._crashed = False  # that was the engine that is gone
        return DeploymentEvent.EMPTIED
