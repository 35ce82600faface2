"""Drives one slot through the deployment table: write the state, act, write the result. What a state does is
in :mod:`edgectl.agent.deploy.deployer`.

Here are the thread, the desired states and orders that reach it from other threads, what is saved and shown,
and when a state has to be left.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import replace

from edgectl.agent.deploy.dependencies import DeployerDependencies
from edgectl.agent.deploy.deployment import (
    BEFORE_ACTIVATION,
    DEADLINE_S,
    HOLDS_MEMORY,
    TRIES,
    WORKING,
    DeploymentEvent,
    resume,
    step,
)
from edgectl.agent.deploy.engine_rollback import EngineRollback
from edgectl.agent.deploy.outcomes import EVENT_OF, NEEDS_SPACE, StateEnded, failure, more, named
from edgectl.agent.deploy.slot_memory import SlotMemory
from edgectl.agent.state.records import Deployment, Installed, Slot
from edgectl.agent.transfer.download import FetchProgress
from edgectl.core.bundle import Descriptor, LighterPreference, Preference
from edgectl.core.bundle.config_release import open_artifact
from edgectl.core.clock import CLOCK_SET_S
from edgectl.core.errors import AdmissionError, BundleError, EdgectlError, EngineError, StorageError
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import ClearSlot, DesiredSlot, Failure, ReportedSlot
from edgectl.engines.finalise.cache import forget_others

__all__ = ["SlotThread"]

log = logging.getLogger(__name__)

_UNWANTED = "unwanted"


class SlotThread(ABC):
    """One slot, one thread ``deploy-<slot>``."""

    thing = "engine"

    def __init__(self, slot: str, context: DeployerDependencies) -> None:
        self.slot = slot
        self._c = context
        self._wake = threading.Condition()
        self._stopping = False
        self._desired: tuple[int, DesiredSlot | ClearSlot, bool] | None = None  # gen, what, hold
        # the generation that did not speak of this slot any more
        self._unwanted = -1
        self._crashed = False
        self._command: str | None = None  # an operator's command: hold, release, rollback
        self._held = False
        self._forced = False
        # what the slot has once the state that runs is left
        self._after: Slot | None = None
        self._d: Deployment | None = context.journal.deployment(slot)
        self._stage: str | None = None
        self._pct: float | None = None
        self._note: Failure | None = None
        self._memory = SlotMemory(slot, context)
        self._rollback = EngineRollback(slot, context, lambda: self._stopping, self.thing)
        # deployment, stage and progress are reported as they belong together
        self._view = threading.Lock()
        self._working: tuple[int, State] | None = None
        # what came of the state that runs, until it is written down
        self._result: tuple[DeploymentEvent, Failure | None] | None = None
        self._entered = 0.0  # when the state that runs was entered
        self.thread = threading.Thread(target=self._run, name=f"deploy-{slot}", daemon=True)

    @abstractmethod
    def _act(self, state: State) -> DeploymentEvent:
        """Do the work of the state, and say what came of it. Raises :class:`StateEnded`, ``TimeoutError``,
        :class:`EdgectlError`."""

    # ---- from other threads

    def want(self, gen: int, desired: DesiredSlot | ClearSlot, hold: bool) -> None:
        """What a ``desired`` document wants in this slot, or that it be empty; older generations are
        ignored."""
        with self._wake:
            if gen >= max(self._unwanted, self._desired[0] if self._desired else 0):
                self._desired, self._unwanted = (gen, desired, hold), -1
                self._wake.notify_all()

    def want_nothing(self, gen: int) -> None:
        """A ``desired`` document that does not speak of this slot: what is on its way is given up, what
        serves or is on trial stays."""
        with self._wake:
            if self._desired is None or gen >= self._desired[0]:
                self._desired, self._unwanted = None, max(gen, self._unwanted)
                self._wake.notify_all()

    @property
    def on_trial(self) -> bool:
        """A new engine is being activated or in probation."""
        return self._d is not None and self._d.state in (State.ACTIVATING, State.PROBATION)

    def crash_loop(self) -> None:
        """A stream does not survive with what this slot has."""
        with self._wake:
            self._crashed = True
            self._wake.notify_all()

    def order(self, op: str) -> bool:
        """``hold`` until ``release`` (or a restart) whatever comes before activation, ``force`` past windows
        and leases, ``cancel``, ``rollback`` in probation.

        False: not possible now.
        """
        with self._wake:
            state = self._d.state if self._d is not None else State.IDLE
            if op in ("hold", "release"):
                self._held = op == "hold"
            elif op == "force" and state in BEFORE_ACTIVATION:
                self._forced = True
            elif (op == "cancel" and (state in BEFORE_ACTIVATION or self.on_trial)) or (
                op == "rollback" and self.on_trial
            ):
                self._command = op
            else:
                return False
            self._wake.notify_all()
            return True

    def nudge(self) -> None:
        """Something outside changed (trust, freeze): look again."""
        with self._wake:
            self._wake.notify_all()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify_all()

    def report(self) -> ReportedSlot:
        with self._view:
            d, stage, pct, note = self._d, self._stage, self._pct, self._note
        slot = self._c.journal.slot(self.slot)
        brings = d.desired if d is not None and isinstance(d.desired, DesiredSlot) else None
        return ReportedSlot(
            state=d.state if d else State.IDLE,
            gen=d.gen if d else 0,
            release=brings.release if brings else None,
            digest=brings.digest if brings else None,
            stage=stage,
            pct=pct,
            active=slot.active.bundle if slot.active else None,
            active_release=slot.active.release if slot.active else None,
            previous=slot.previous.bundle if slot.previous else None,
            lighter={one.preference: one.why or "ready" for one in slot.active.lighter}
            if slot.active
            else {},
            passed_over=dict(slot.active.passed_over) if slot.active else {},
            proof=slot.active.proof if slot.active else None,
            previous_proof=slot.previous.proof if slot.previous else None,
            error=(d.error if d else None) or note,
            parts={one.slot: one.engine.release for one in slot.active.parts} if slot.active else {},
            set=self._c.set_of(self.slot),
        )

    # ---- the thread

    def _run(self) -> None:
        self.recover()
        while not self._stopping:
            self.turn()

    def recover(self) -> None:
        """Once, before the first turn: what is on disk goes on where the table says."""
        if self._d is not None and resume(self._d.state) is not self._d.state:
            self._persistently(lambda d=self._d: self._save(d.at(resume(d.state))))  # type: ignore[misc]

    def turn(self) -> None:
        """One state, or one look for news."""
        if self._d is not None and self._d.state in WORKING:
            self._persistently(lambda d=self._d: self._work(d))  # type: ignore[misc]
        else:
            self._persistently(self._wait_for_news)

    def _persistently(self, work: Callable[[], None]) -> None:
        """The journal cannot be written: nothing may be done until it can. Inference goes on."""
        try:
            work()
        except StorageError as e:
            log.error("%s: %s", self.slot, e.message)
            self._note = failure(e, retryable=True)
            self._c.changed()
            self._c.make_room()
            self._pause(5.0)

    def _wait_for_news(self) -> None:
        """Wait for a desired state that is news, or for the engine that serves to crash."""
        self._adopt_document()
        with self._wake:
            if not (self._has_news() or self._crashed):
                self._c.wait(self._wake, 1.0)
                return
            desired, crashed, self._crashed = self._desired, self._crashed, False
        if crashed:
            self._degrade(Failure(code="crash_loop", detail=f"the {self.thing} that served did not survive"))
        elif desired is not None and self._has_news():
            self._begin(*desired)

    def _begin(self, gen: int, desired: DesiredSlot | ClearSlot, _hold: bool) -> None:
        before = self._d.state if self._d else State.IDLE
        if isinstance(desired, ClearSlot):
            event = DeploymentEvent.CLEAR
        else:
            active = self._c.journal.slot(self.slot).active
            same = active is not None and active.bundle == desired.digest and self._is_as_configured(active)
            event = DeploymentEvent.ALREADY if same else DeploymentEvent.DESIRED
        self._note = None
        self._forced = False
        self._command = None
        self._save(Deployment(self.slot, gen, step(before, event), desired))

    @property
    def _preference(self) -> Preference | None:
        return self._c.prefer.get(self.slot)

    @property
    def _lighter(self) -> Collection[LighterPreference]:
        return self._c.lighter.get(self.slot, ())

    def _is_as_configured(self, installed: Installed) -> bool:
        return installed.is_what(self._preference, self._lighter)

    def _has_news(self) -> bool:
        """Whether the desired state names another digest or attempt than the deployment on record, or the
        configuration another preference or other lighter variants."""
        if self._desired is None:
            return False
        gen, desired, _ = self._desired
        d = self._d
        if d is None:
            return True
        if gen < d.gen:
            return False
        if gen > d.gen and d.state is State.CANCELED and d.error is not None and d.error.code == _UNWANTED:
            return True  # it is wanted again
        active = self._c.journal.slot(self.slot).active
        if isinstance(desired, ClearSlot) or isinstance(d.desired, ClearSlot):
            return desired != d.desired or (d.state is State.CLEARED and active is not None)
        if (desired.digest, desired.attempt, desired.release) != (
            d.desired.digest,
            d.desired.attempt,
            d.desired.release,
        ):
            return True
        ours = d.state is State.COMMITTED and active is not None and active.bundle == d.desired.digest
        return ours and active is not None and not self._is_as_configured(active)

    def _adopt_document(self) -> None:
        """The same desired state in a newer document: only the generation and the policy are new."""
        d = self._d
        if self._desired is None or d is None or self._desired[0] <= d.gen or self._has_news():
            return
        newer = replace(d, gen=self._desired[0], desired=self._desired[1])
        self._c.journal.save(newer)
        with self._view:
            self._d = newer
        if self._working == (d.gen, d.state):
            self._working = (newer.gen, newer.state)
        self._c.changed()

    def _work(self, d: Deployment) -> None:
        """One state: count the try, act, save what came of it. A state that a full disk kept from being
        left is not entered again: an order that was obeyed, or a crash that was seen, counts once there is
        room to write it down."""
        limit = TRIES.get(d.state)
        if self._working != (d.gen, d.state):
            if limit is not None and d.tries >= limit:
                self._next(
                    d,
                    DeploymentEvent.TIMEOUT,
                    Failure(code="tries", detail=f"{d.state.value} was interrupted {d.tries} times"),
                )
                return
            if limit is not None:
                self._save(replace(d, tries=d.tries + 1))
            self._working, self._result = (d.gen, d.state), None
            self._entered = self._c.clock()
        if self._result is None:
            self._result = self._outcome(d)
        if self._stopping:
            # the state on disk is where the next start goes on
            return
        self._next(self._d or d, *self._result)

    def _outcome(self, d: Deployment) -> tuple[DeploymentEvent, Failure | None]:
        """Act, and say what came of it."""
        error: Failure | None = None
        self._after = None
        try:
            event = self._act(d.state)
        except StateEnded as e:
            event, error = e.event, e.failure
        except TimeoutError:
            event = DeploymentEvent.TIMEOUT
            last = f" ({self._stage})" if self._stage else ""
            error = Failure(code="timeout", detail=f"{d.state.value} took too long{last}", retryable=True)
        except StorageError as e:
            if d.state in NEEDS_SPACE:
                event, error = DeploymentEvent.NO_SPACE, failure(e)
            elif self._c.clock() - self._entered <= DEADLINE_S[d.state]:
                # no release is to blame for a disk that takes nothing: the state is tried again
                raise
            else:
                event, error = DeploymentEvent.TIMEOUT, failure(e)
        except AdmissionError as e:
            event, error = DeploymentEvent.NO_MEMORY, failure(e)
        except EdgectlError as e:
            event = EVENT_OF[d.state](e)
            # what the hash refuses is never the release's fault
            error = failure(e, retryable=event is DeploymentEvent.CORRUPT)
        except Exception as e:
            # A defect of ours. With this thread the agent would end, and every start would come back to it:
            # rather this release does not come.
            log.exception("%s: %s failed in a way that nobody thought of", self.slot, d.state.value)
            defect = EdgectlError(f"a defect of the agent in {d.state.value}: {type(e).__name__}: {e}")
            event, error = EVENT_OF[d.state](defect), Failure(code="defect", detail=defect.message[:1000])
        return event, error

    def _next(self, d: Deployment, event: DeploymentEvent, error: Failure | None) -> None:
        state = step(d.state, event)
        log.info("%s: %s --%s--> %s", self.slot, d.state.value, event.value, state.value)
        if d.error is not None and d.state in (State.PROBATION, State.ROLLING_BACK):
            error = d.error  # the first cause, kept through the way back
        given_up = (
            state in (State.ROLLED_BACK, State.DEGRADED)
            or event is DeploymentEvent.COLD
            or event is DeploymentEvent.DISAGREES
        )
        if given_up and (error is None or not error.retryable):
            self._c.journal.mark_bad(d.brings.digest, d.brings.attempt, error.code if error else event.value)
        self._note = None
        self._save(d.at(state, error), self._after)
        self._working = self._result = None
        if state not in HOLDS_MEMORY:
            self._drop_memory()
        if event is DeploymentEvent.HEALTHY:
            self._c.pipelines.commit(self.slot)
        # what came so far is there when the controller asks again
        late = d.state is State.FETCHING and event is DeploymentEvent.TIMEOUT
        if state in TERMINAL and not late:
            self._collect_garbage()

    # ---- on the way

    def _degrade(self, error: Failure) -> None:
        """What serves is lost: the previous one, else the factory one; without either it is tried again and again."""
        d = self._d
        slot = self._c.journal.slot(self.slot)
        if slot.active is None:
            return  # emptied meanwhile: nothing is to be kept alive
        if not self._rollback.exists(slot):
            self._note = more(error, "there is no other engine; it is started again and again")
            self._c.changed()
            return
        # a deployment on its way: what serves meanwhile is not its business
        if d is None or d.state not in TERMINAL:
            slot = self._rollback.save(slot)
        else:
            if isinstance(d.desired, DesiredSlot) and d.installed == slot.active and not error.retryable:
                self._c.journal.mark_bad(d.brings.digest, d.brings.attempt, error.code)
            after = d.at(step(d.state, DeploymentEvent.CRASH_LOOP), more(error, "another one serves"))
            slot = self._rollback.save(slot, after)
            with self._view:
                self._d, self._stage, self._pct = after, None, None
        self._note = more(error, named(slot.active))
        self._c.changed()
        try:
            self._rollback.serve(slot.active)
        except EngineError as e:
            self._note = failure(e)
            self._c.changed()

    # ---- helpers

    def _drop_memory(self) -> None:
        """Nothing is promised to what is deployed here any more."""
        self._memory.drop()

    def _deployment(self) -> Deployment:
        assert self._d is not None
        return self._d

    def _fail(self, failure: Failure) -> None:
        """Keep the reason through the way back."""
        self._d = replace(self._deployment(), error=failure)

    def _save(self, d: Deployment, slot: Slot | None = None) -> None:
        if slot is None:
            self._c.journal.save(d)
        else:
            self._c.journal.save_slot(self.slot, slot, d)
        with self._view:
            self._d, self._stage, self._pct = d, None, None
        self._c.changed()

    def _show(self, stage: str, *, pct: float | None = None, note: Failure | None = None) -> None:
        if (stage, pct, note) != (self._stage, self._pct, self._note):
            with self._view:
                self._stage, self._pct, self._note = stage, pct, note
            self._c.changed()

    def _progress(self, p: FetchProgress) -> None:
        self._adopt_document()
        note = self._note
        if p.rejected:
            note = Failure(
                code="integrity",
                detail=f"{p.rejected} chunks were not what was signed; asked for again",
                retryable=True,
            )
        self._show("fetching", pct=100.0 * p.done / p.total if p.total else 100.0, note=note)

    def _cancelled(self, state: State) -> Callable[[], bool]:
        entered = self._entered

        def cancelled() -> bool:
            crashed = self._crashed and state not in BEFORE_ACTIVATION
            over = self._c.clock() - entered > DEADLINE_S[state]
            given_up = self._command == "cancel" or self._is_unwanted(state)
            return self._stopping or crashed or given_up or over or self._expired(state) or self._has_news()

        return cancelled

    def _is_unwanted(self, state: State) -> bool:
        return state in BEFORE_ACTIVATION and self._deployment().gen <= self._unwanted

    def _expired(self, state: State) -> bool:
        """The desired state has expired. Once an engine is being switched, it is seen
        through."""
        desired = self._deployment().desired
        until_s = desired.expires_s if isinstance(desired, DesiredSlot) else None
        now_s = self._c.wall()
        return state in BEFORE_ACTIVATION and until_s is not None and now_s >= CLOCK_SET_S and now_s > until_s

    def _guard(self, state: State, extra_s: float = 0.0) -> None:
        """Leave the state if it must end: a newer desired state, a stop, a cancel, the desired state's
        expiry; TimeoutError past its deadline."""
        self._adopt_document()
        if self._stopping or self._has_news():
            raise StateEnded(
                DeploymentEvent.SUPERSEDED, "superseded", "a newer desired state came", retryable=True
            )
        if self._is_unwanted(state):
            raise StateEnded(
                DeploymentEvent.CANCELED,
                _UNWANTED,
                "the fleet wants nothing of this slot any more",
                retryable=True,
            )
        if self._command == "cancel":
            self._command = None
            raise StateEnded(DeploymentEvent.CANCELED, "operator", "canceled by command")
        if self._expired(state):
            raise StateEnded(
                DeploymentEvent.EXPIRED,
                "expired",
                "the desired state has expired",
                retryable=True,
            )
        if self._c.clock() - self._entered > DEADLINE_S[state] + extra_s:
            raise TimeoutError
        if self._crashed and state in BEFORE_ACTIVATION:
            self._crashed = False
            self._degrade(Failure(code="crash_loop", detail=f"the {self.thing} that served did not survive"))

    def _pause(self, seconds: float) -> None:
        with self._wake:
            if not self._stopping:
                self._c.wait(self._wake, seconds)

    def _collect_garbage(self) -> None:
        """Keep what slots and deployments refer to. Failing to tidy up is not failing to deploy."""
        if not self._c.disk.acquire(blocking=False):
            return  # another slot is fetching; its own end tidies up
        try:
            kept = self._c.journal.kept()
            manifests = {manifest for i in kept for manifest in i.manifests}
            blobs = {d.digest for manifest in manifests for d in self._blobs_of(manifest)} | manifests
            freed = self._c.store.collect_garbage(blobs | {i.bundle for i in kept})
            freed += forget_others(self._c.engine_cache, blobs) if self._c.engine_cache is not None else 0
            log.info("%s: freed %d bytes", self.slot, freed)
        except EdgectlError as e:
            log.warning("%s: unneeded blobs were not removed: %s", self.slot, e.message)
        finally:
            self._c.disk.release()

    def _blobs_of(self, manifest: str) -> list[Descriptor]:
        """None of an engine that has rotted: its rest is of no use, and must not keep the disk full for
        ever."""
        try:
            return list(open_artifact(self._c.store.blobs, manifest).installed())
        except BundleError as e:
            log.warning("%s: the variant %s is damaged: %s", self.slot, manifest[:19], e.message)
            return []
