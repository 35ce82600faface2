"""Executes the deployment table for one slot: write the state, act, write the result.

All rules are elsewhere: the table in :mod:`edgectl.agent.deployment`, the health gates in :mod:`edgectl.agent.probation`, what is
signed in :mod:`edgectl.agent.trust`. Each method ``_<state>`` does the work of one state and returns the event it ended with.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from edgectl.agent.context import Context
from edgectl.agent.deployment import DEADLINE_S, TRIES, WORKING, Event, resume, step
from edgectl.agent.fetch import Cancelled, Progress, variant_blobs
from edgectl.agent.journal import Deployment, Installed, Slot
from edgectl.agent.probation import judge
from edgectl.agent.trust import StaleTrust
from edgectl.core.bundle import Role
from edgectl.core.errors import BundleError, EdgectlError, EngineError, IntegrityError, StorageError, TrustError
from edgectl.core.histogram import Histogram
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import DesiredSlot, Failure, ReportedSlot
from edgectl.engines.cache import forget_others
from edgectl.pipelines.worker_protocol import EngineRef

__all__ = ["SlotDeployer"]

log = logging.getLogger(__name__)

_TRUST_GRACE_S = 5.0
"""How long a ``desired`` may be ahead of the metadata that signs it: the two are separate messages."""


class _Superseded(Exception):
    """A newer ``desired`` wants something else."""


class SlotDeployer:
    """One slot, one thread ``deploy-<slot>``."""

    def __init__(self, slot: str, context: Context) -> None:
        self.slot = slot
        self._c = context
        self._wake = threading.Condition()
        self._stopping = False
        self._wish: tuple[int, DesiredSlot, bool] | None = None  # gen, what, hold
        self._crashed = False
        self._order: str | None = None  # an operator's command: hold, release, rollback
        self._held = False
        self._d: Deployment | None = context.journal.deployment(slot)
        self._stage: str | None = None
        self._pct: float | None = None
        self._note: Failure | None = None
        self._view = threading.Lock()  # deployment, stage and progress are reported as they belong together
        self._entered = 0.0
        self.thread = threading.Thread(target=self._run, name=f"deploy-{slot}", daemon=True)

    # ---- from other threads

    def want(self, gen: int, desired: DesiredSlot, hold: bool) -> None:
        """A ``desired`` document; older generations are ignored."""
        with self._wake:
            if self._wish is None or gen >= self._wish[0]:
                self._wish = (gen, desired, hold)
                self._wake.notify_all()

    @property
    def on_trial(self) -> bool:
        """A new engine is being activated or in probation."""
        return self._d is not None and self._d.state in (State.ACTIVATING, State.PROBATION)

    def crash_loop(self) -> None:
        """The engine of this slot does not survive."""
        with self._wake:
            self._crashed = True
            self._wake.notify_all()

    def order(self, op: str) -> bool:
        """``hold`` / ``release`` before activation, ``rollback`` in probation. False: not possible now."""
        with self._wake:
            if op in ("hold", "release"):
                self._held = op == "hold"
            elif not self.on_trial:
                return False
            else:
                self._order = op
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
        return ReportedSlot(
            state=d.state if d else State.IDLE,
            gen=d.gen if d else 0,
            release=d.desired.release if d else None,
            digest=d.desired.digest if d else None,
            stage=stage,
            pct=pct,
            active=slot.active.bundle if slot.active else None,
            active_release=slot.active.release if slot.active else None,
            previous=slot.previous.bundle if slot.previous else None,
            error=(d.error if d else None) or note,
        )

    # ---- the thread

    def _run(self) -> None:
        if self._d is not None and resume(self._d.state) is not self._d.state:
            self._save(self._d.at(resume(self._d.state)))
        while not self._stopping:
            try:
                if self._d is not None and self._d.state in WORKING:
                    self._work(self._d)
                else:
                    self._rest()
            except StorageError as e:
                # The journal cannot be written: nothing may be done until it can. Inference goes on.
                log.error("%s: %s", self.slot, e.message)
                self._note = _failure(e, retryable=True)
                self._c.changed()
                self._pause(5.0)

    def _rest(self) -> None:
        """Wait for a wish that is news, or for the committed engine to crash."""
        with self._wake:
            if not (self._news() or self._crashed):
                self._wake.wait(1.0)
                return
            wish, crashed, self._crashed = self._wish, self._crashed, False
        if crashed and self._d is not None and self._d.state is State.COMMITTED:
            self._degrade(Failure(code="crash_loop", detail="the committed engine did not survive"))
        elif wish is not None and self._news():
            self._begin(*wish)

    def _begin(self, gen: int, desired: DesiredSlot, _hold: bool) -> None:
        before = self._d.state if self._d else State.IDLE
        active = self._c.journal.slot(self.slot).active
        same = active is not None and active.bundle == desired.digest and active.role == self._role
        event = Event.ALREADY if same else Event.DESIRED
        self._note = None
        self._held = False
        self._save(Deployment(self.slot, gen, step(before, event), desired))

    @property
    def _role(self) -> Role | None:
        return self._c.roles.get(self.slot)

    def _news(self) -> bool:
        """Whether the wish names another digest or attempt than the deployment on record, or the configuration another role."""
        if self._wish is None:
            return False
        gen, desired, _ = self._wish
        d = self._d
        if d is None:
            return True
        if gen < d.gen:
            return False
        if (desired.digest, desired.attempt, desired.release) != (d.desired.digest, d.desired.attempt, d.desired.release):
            return True
        active = self._c.journal.slot(self.slot).active
        if d.state is State.COMMITTED and active is not None and active.bundle == d.desired.digest and active.role != self._role:
            return True
        if gen > d.gen:  # the same wish in a newer document: only the generation and the policy are new
            self._d = replace(d, gen=gen, desired=desired)
            self._c.journal.save(self._d)
            self._c.changed()
        return False

    def _work(self, d: Deployment) -> None:
        """One state: count the try, act, save what came of it."""
        self._entered = self._c.clock()
        error: Failure | None = None
        limit = TRIES.get(d.state)
        if limit is not None:
            if d.tries >= limit:
                self._next(d, Event.TIMEOUT, Failure(code="tries", detail=f"{d.state.value} was interrupted {d.tries} times"))
                return
            self._save(replace(d, tries=d.tries + 1))
        act: dict[State, Callable[[], Event]] = {
            State.NOTIFIED: self._notified,
            State.DEFERRED: self._deferred,
            State.FETCHING: self._fetching,
            State.VERIFYING: self._verifying,
            State.STAGED: self._staged,
            State.WARMING: self._warming,
            State.ACTIVATING: self._activating,
            State.PROBATION: self._probation,
            State.ROLLING_BACK: self._rolling_back,
        }
        try:
            event = act[d.state]()
        except _Superseded:
            event, error = Event.SUPERSEDED, Failure(code="superseded", detail="a newer desired state came", retryable=True)
        except TimeoutError:
            event = Event.TIMEOUT
            error = Failure(code="timeout", detail=f"{d.state.value} took too long", retryable=True)
        except EdgectlError as e:
            event, error = _EVENT_OF[d.state](e), _failure(e)
        if self._stopping:
            return  # the state on disk is where the next start goes on
        self._next(self._d or d, event, error)

    def _next(self, d: Deployment, event: Event, error: Failure | None) -> None:
        state = step(d.state, event)
        log.info("%s: %s --%s--> %s", self.slot, d.state.value, event.value, state.value)
        if d.error is not None and d.state in (State.PROBATION, State.ROLLING_BACK):
            error = d.error  # the first cause, kept through the way back
        given_up = state in (State.ROLLED_BACK, State.DEGRADED) or event is Event.COLD
        if given_up and (error is None or not error.retryable):
            self._c.journal.mark_bad(d.desired.digest, d.desired.attempt, error.code if error else event.value)
        self._note = None
        self._save(d.at(state, error))
        if state in TERMINAL:
            self._collect_garbage()

    # ---- the states

    def _notified(self) -> Event:
        d = self._deployment()
        if code := self._c.journal.bad(d.desired.digest, d.desired.attempt):
            raise TrustError(f"this device gave {d.desired.release} up before: {code}", hint="raise the attempt to try again")
        while True:
            try:
                self._c.trust.check(d.desired.release, d.desired.digest)
                return Event.TRUSTED
            except StaleTrust as e:
                self._note = _failure(e, retryable=True)
                return Event.STALE
            except TrustError as e:
                if self._c.clock() - self._entered > _TRUST_GRACE_S:
                    raise
                self._show("waiting for signed metadata", note=_failure(e, retryable=True))
                self._guard(State.NOTIFIED)
                self._pause(0.5)

    def _deferred(self) -> Event:
        d = self._deployment()
        while True:
            try:
                self._c.trust.check(d.desired.release, d.desired.digest)
                return Event.TRUSTED
            except StaleTrust as e:
                self._show("waiting for valid metadata", note=_failure(e, retryable=True))
                self._guard(State.DEFERRED)
                self._pause(1.0)

    def _fetching(self) -> Event:
        d = self._deployment()
        index = self._c.trust.check(d.desired.release, d.desired.digest)
        while not self._c.disk.acquire(timeout=0.5):
            self._show("waiting for another download")
            self._guard(State.FETCHING)
        try:
            fetched = self._c.fetcher.fetch(d.desired.release, index, self._cancelled(State.FETCHING), self._progress, self._role)
            # Saved before the lock is free, so that nobody tidies these blobs away.
            self._d = replace(self._deployment(), installed=fetched.chosen, fallback=fetched.fallback)
            self._c.journal.save(self._d)
        except Cancelled:
            self._guard(State.FETCHING)
            raise _Superseded from None
        finally:
            self._c.disk.release()
        return Event.FETCHED

    def _verifying(self) -> Event:
        self._show("hashing")
        d = self._deployment()
        self._c.store.verify(variant_blobs(self._c.store.blobs, [i for i in (d.installed, d.fallback) if i]))
        return Event.VERIFIED

    def _staged(self) -> Event:
        while self._c.frozen() or self._held or (self._wish is not None and self._wish[2]):
            self._show("frozen" if self._c.frozen() else "held")
            self._guard(State.STAGED)
            self._pause(0.5)
        return Event.RELEASED

    def _warming(self) -> Event:
        d = self._deployment()
        assert d.installed is not None
        self._show("warming up")
        report = self._c.warm_up(
            self._c.store.blobs,
            d.installed.manifest,
            runs=self._c.warm_runs,
            timeout_s=DEADLINE_S[State.WARMING],
            cache=self._c.engine_cache,
        )
        self._guard(State.WARMING)
        if not report.ok:
            raise EngineError(report.error or "the engine failed its warm-up")
        limit = d.desired.policy.max_latency_ms
        if limit is not None and report.p50_ms is not None and report.p50_ms > limit:
            raise EngineError(f"warm-up latency is {report.p50_ms:.2f} ms, {limit:g} ms are allowed")
        return Event.WARM

    def _activating(self) -> Event:
        while self._c.frozen():
            self._show("frozen")
            self._entered = self._c.clock()  # the deadline counts from the end of the freeze
            self._guard(State.ACTIVATING)
            self._pause(0.5)
        d = self._deployment()
        installed = d.installed
        assert installed is not None
        self._crashed = False  # that was the engine before
        cancelled = self._cancelled(State.ACTIVATING)
        slot = self._c.journal.slot(self.slot)
        if slot.active != installed:
            if slot.active is not None:
                d = replace(d, baseline=self._c.live.of(self.slot, slot.active.bundle).latency.data())
            # From here on the record says "new": a worker that starts now starts with it.
            self._c.journal.save_slot(self.slot, replace(slot, active=installed, previous=slot.active), d)
            self._d = d
        self._c.live.start_over(self.slot, installed.bundle)
        self._show("switching")
        self._c.pipelines.ensure(
            self.slot, self._ref(installed), DEADLINE_S[State.ACTIVATING] * 0.9, lambda: self._crashed or cancelled()
        )
        self._guard(State.ACTIVATING)
        return Event.ACTIVATED

    def _probation(self) -> Event:
        d = self._deployment()
        assert d.installed is not None
        self._c.live.start_over(self.slot, d.installed.bundle)
        baseline = Histogram.of(d.baseline) if d.baseline else None
        while True:
            self._guard(State.PROBATION, 4 * self._deployment().desired.policy.probation_s)
            if self._crashed:
                self._crashed = False
                self._fail(Failure(code="crash_loop", detail="the new engine did not survive"))
                return Event.CRASH_LOOP
            if self._order == "rollback":
                self._order = None
                self._fail(Failure(code="operator", detail="rolled back by command"))
                return Event.UNHEALTHY
            elapsed = self._c.clock() - self._entered
            policy = self._deployment().desired.policy
            if elapsed >= policy.probation_s and self._c.pipelines.idle(self.slot):
                return self._commit("no pipeline can use it yet")
            verdict = judge(policy, self._c.live.of(self.slot, d.installed.bundle), baseline, elapsed)
            self._show(verdict.reason, pct=min(100.0, 100 * elapsed / policy.probation_s))
            if verdict.outcome == "healthy":
                return self._commit(verdict.reason)
            if verdict.outcome == "unhealthy":
                self._fail(Failure(code="health", detail=verdict.reason))
                return Event.UNHEALTHY
            self._pause(0.2)

    def _commit(self, why: str) -> Event:
        d = self._deployment()
        slot = self._c.journal.slot(self.slot)
        self._c.journal.save_slot(self.slot, replace(slot, golden=d.fallback or slot.golden))
        self._c.pipelines.commit(self.slot)
        self._show(why, pct=100.0)
        return Event.HEALTHY

    def _rolling_back(self) -> Event:
        d = self._deployment()
        slot = self._c.journal.slot(self.slot)
        if slot.active is not None and slot.active == d.installed:
            slot = Slot(active=slot.previous, previous=None, golden=slot.golden)
            self._c.journal.save_slot(self.slot, slot)
        self._show("going back")
        ref = self._ref(slot.active) if slot.active else None
        self._c.pipelines.ensure(self.slot, ref, DEADLINE_S[State.ROLLING_BACK] * 0.8, lambda: self._stopping)
        return Event.RESTORED

    def _degrade(self, error: Failure) -> None:
        """The committed engine is lost: the previous one, else the golden one, else nothing."""
        d = self._deployment()
        slot = self._c.journal.slot(self.slot)
        instead = slot.previous or (slot.golden if slot.golden != slot.active else None)
        if instead is None:
            self._note = _more(error, "there is no other engine; it is started again and again")
            self._c.changed()
            return
        self._c.journal.save_slot(self.slot, Slot(active=instead, previous=None, golden=slot.golden))
        self._next(d, Event.CRASH_LOOP, error)
        try:
            self._c.pipelines.ensure(self.slot, self._ref(instead), DEADLINE_S[State.ROLLING_BACK], lambda: self._stopping)
        except EngineError as e:
            self._note = _failure(e)
            self._c.changed()

    # ---- helpers

    def _deployment(self) -> Deployment:
        assert self._d is not None
        return self._d

    def _ref(self, i: Installed) -> EngineRef:
        return EngineRef(blobs=self._c.store.blobs, manifest=i.manifest, release=i.release, bundle=i.bundle)

    def _fail(self, failure: Failure) -> None:
        """Keep the reason through the way back."""
        self._d = replace(self._deployment(), error=failure)

    def _save(self, d: Deployment) -> None:
        self._c.journal.save(d)
        with self._view:
            self._d, self._stage, self._pct = d, None, None
        self._c.changed()

    def _show(self, stage: str, *, pct: float | None = None, note: Failure | None = None) -> None:
        if (stage, pct, note) != (self._stage, self._pct, self._note):
            with self._view:
                self._stage, self._pct, self._note = stage, pct, note
            self._c.changed()

    def _progress(self, p: Progress) -> None:
        note = self._note
        if p.rejected:
            note = Failure(
                code="integrity", detail=f"{p.rejected} chunks were not what was signed; asked for again", retryable=True
            )
        self._show("fetching", pct=100.0 * p.done / p.total if p.total else 100.0, note=note)

    def _cancelled(self, state: State) -> Callable[[], bool]:
        entered = self._entered

        def cancelled() -> bool:
            return self._stopping or self._news() or self._c.clock() - entered > DEADLINE_S[state]

        return cancelled

    def _guard(self, state: State, extra_s: float = 0.0) -> None:
        """Leave the state if it must end: TimeoutError past its deadline, _Superseded for a newer wish or a stop."""
        if self._stopping or self._news():
            raise _Superseded
        if self._c.clock() - self._entered > DEADLINE_S[state] + extra_s:
            raise TimeoutError

    def _pause(self, seconds: float) -> None:
        with self._wake:
            if not self._stopping:
                self._wake.wait(seconds)

    def _collect_garbage(self) -> None:
        """Keep what slots and deployments refer to. Failing to tidy up is not failing to deploy."""
        if not self._c.disk.acquire(blocking=False):
            return  # another slot is fetching; its own end tidies up
        try:
            kept = self._c.journal.kept()
            blobs = {d.digest for d in variant_blobs(self._c.store.blobs, kept)} | {i.manifest for i in kept}
            freed = self._c.store.collect_garbage(blobs | {i.bundle for i in kept})
            freed += forget_others(self._c.engine_cache, blobs) if self._c.engine_cache is not None else 0
            log.info("%s: freed %d bytes", self.slot, freed)
        except EdgectlError as e:
            log.warning("%s: nothing was tidied up: %s", self.slot, e.message)
        finally:
            self._c.disk.release()


def _more(f: Failure, more: str) -> Failure:
    return f.model_copy(update={"detail": f"{f.detail}; {more}"})


def _failure(e: EdgectlError, *, retryable: bool = False) -> Failure:
    retry = retryable or isinstance(e, StorageError | StaleTrust)
    code = "trust" if isinstance(e, TrustError) else e.code
    return Failure(code=code, detail=e.message[:1000], retryable=retry)


def _fetch_event(e: EdgectlError) -> Event:
    if isinstance(e, StorageError):
        return Event.NO_SPACE
    return Event.CORRUPT if isinstance(e, IntegrityError | TrustError) else Event.INCOMPATIBLE


_EVENT_OF: dict[State, Callable[[EdgectlError], Event]] = {
    State.NOTIFIED: lambda _: Event.REFUSED,
    State.DEFERRED: lambda _: Event.REFUSED,
    State.FETCHING: _fetch_event,
    State.VERIFYING: lambda _: Event.CORRUPT,
    State.STAGED: lambda _: Event.TIMEOUT,
    State.WARMING: lambda e: Event.INCOMPATIBLE if isinstance(e, BundleError) else Event.COLD,
    State.ACTIVATING: lambda _: Event.NOT_ACTIVATED,
    State.PROBATION: lambda _: Event.UNHEALTHY,
    State.ROLLING_BACK: lambda _: Event.NOT_RESTORED,
}
"""What an error means in a state."""
