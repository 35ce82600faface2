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
from edgectl.agent.deployment import BEFORE_ACTIVATION, DEADLINE_S, TRIES, WORKING, Event, resume, step
from edgectl.agent.fetch import Cancelled, Progress, variant_blobs
from edgectl.agent.outcomes import EVENT_OF, NEEDS_SPACE, Leave, failure, more, named
from edgectl.agent.probation import judge, judge_shadow
from edgectl.agent.records import Deployment, Installed, Slot, ways_back
from edgectl.agent.trust import StaleTrust
from edgectl.agent.wayback import WayBack
from edgectl.core.bundle import Descriptor, Role
from edgectl.core.errors import BundleError, EdgectlError, EngineError, StorageError, TrustError
from edgectl.core.histogram import MIN_SAMPLES, Histogram
from edgectl.core.states import TERMINAL, State
from edgectl.core.windows import is_open, opens_at
from edgectl.core.wire import DesiredSlot, Failure, ReportedSlot
from edgectl.engines.cache import forget_others

__all__ = ["SlotDeployer"]

log = logging.getLogger(__name__)

_TRUST_GRACE_S = 5.0
"""How long a ``desired`` may be ahead of the metadata that signs it: the two are separate messages."""


_BASELINE_S = 60.0
"""How long the engine before may take to show its latency, where it has not yet."""

_CLOCK_SET_S = 1_600_000_000
"""Earlier wall times mean that the clock was never set: then nothing expires, and no maintenance window is open."""


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
        self._forced = False
        self._after: Slot | None = None  # what the slot has once the state that runs is left
        self._d: Deployment | None = context.journal.deployment(slot)
        self._stage: str | None = None
        self._pct: float | None = None
        self._note: Failure | None = None
        self._way_back = WayBack(slot, context, lambda: self._stopping)
        self._view = threading.Lock()  # deployment, stage and progress are reported as they belong together
        self._working: tuple[int, State] | None = None
        self._entered = 0.0  # when the state that runs was entered
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
        """``hold`` / ``release`` before activation, ``force`` past windows and leases, ``cancel``, ``rollback`` in probation.

        False: not possible now.
        """
        with self._wake:
            state = self._d.state if self._d is not None else State.IDLE
            if op in ("hold", "release"):
                self._held = op == "hold"
            elif op == "force" and state in BEFORE_ACTIVATION:
                self._forced = True
            elif (op == "cancel" and (state in BEFORE_ACTIVATION or self.on_trial)) or (op == "rollback" and self.on_trial):
                self._order = op
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
            self._persistently(self._rest)

    def _persistently(self, work: Callable[[], None]) -> None:
        """The journal cannot be written: nothing may be done until it can. Inference goes on."""
        try:
            work()
        except StorageError as e:
            log.error("%s: %s", self.slot, e.message)
            self._note = failure(e, retryable=True)
            self._c.changed()
            self._pause(5.0)

    def _rest(self) -> None:
        """Wait for a wish that is news, or for the engine that serves to crash."""
        self._take_note()
        with self._wake:
            if not (self._news() or self._crashed):
                self._c.wait(self._wake, 1.0)
                return
            wish, crashed, self._crashed = self._wish, self._crashed, False
        if crashed:
            self._degrade(Failure(code="crash_loop", detail="the engine that served did not survive"))
        elif wish is not None and self._news():
            self._begin(*wish)

    def _begin(self, gen: int, desired: DesiredSlot, _hold: bool) -> None:
        before = self._d.state if self._d else State.IDLE
        active = self._c.journal.slot(self.slot).active
        same = active is not None and active.bundle == desired.digest and active.role == self._role
        event = Event.ALREADY if same else Event.DESIRED
        self._note = None
        self._held = self._forced = False
        self._order = None
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
        ours = d.state is State.COMMITTED and active is not None and active.bundle == d.desired.digest
        return ours and active is not None and active.role != self._role

    def _take_note(self) -> None:
        """The same wish in a newer document: only the generation and the policy are new."""
        d = self._d
        if self._wish is None or d is None or self._wish[0] <= d.gen or self._news():
            return
        newer = replace(d, gen=self._wish[0], desired=self._wish[1])
        self._c.journal.save(newer)
        with self._view:
            self._d = newer
        if self._working == (d.gen, d.state):
            self._working = (newer.gen, newer.state)
        self._c.changed()

    def _work(self, d: Deployment) -> None:
        """One state: count the try, act, save what came of it. A state that a full disk kept from being left is not entered again."""
        error: Failure | None = None
        limit = TRIES.get(d.state)
        if self._working != (d.gen, d.state):
            if limit is not None and d.tries >= limit:
                self._next(d, Event.TIMEOUT, Failure(code="tries", detail=f"{d.state.value} was interrupted {d.tries} times"))
                return
            if limit is not None:
                self._save(replace(d, tries=d.tries + 1))
            self._working = (d.gen, d.state)
            self._entered = self._c.clock()
        act: dict[State, Callable[[], Event]] = {
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
        }
        self._after = None
        try:
            event = act[d.state]()
        except Leave as e:
            event, error = e.event, e.failure
        except TimeoutError:
            event = Event.TIMEOUT
            error = Failure(code="timeout", detail=f"{d.state.value} took too long", retryable=True)
        except StorageError as e:
            if d.state not in NEEDS_SPACE:
                self._retry_or_end(d, e)
                return
            event, error = Event.NO_SPACE, failure(e)
        except EdgectlError as e:
            event, error = EVENT_OF[d.state](e), failure(e)
        if self._stopping:
            return  # the state on disk is where the next start goes on
        self._next(self._d or d, event, error)

    def _retry_or_end(self, d: Deployment, e: StorageError) -> None:
        """No release is to blame for a disk that takes nothing: the state is tried again, until its deadline."""
        if self._c.clock() - self._entered <= DEADLINE_S[d.state]:
            raise e
        self._next(self._d or d, Event.TIMEOUT, failure(e))

    def _next(self, d: Deployment, event: Event, error: Failure | None) -> None:
        state = step(d.state, event)
        log.info("%s: %s --%s--> %s", self.slot, d.state.value, event.value, state.value)
        if d.error is not None and d.state in (State.PROBATION, State.ROLLING_BACK):
            error = d.error  # the first cause, kept through the way back
        given_up = state in (State.ROLLED_BACK, State.DEGRADED) or event is Event.COLD or event is Event.DISAGREES
        if given_up and (error is None or not error.retryable):
            self._c.journal.mark_bad(d.desired.digest, d.desired.attempt, error.code if error else event.value)
        self._note = None
        self._save(d.at(state, error), self._after)
        self._working = None
        if event is Event.HEALTHY:
            self._c.pipelines.commit(self.slot)
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
                self._note = failure(e, retryable=True)
                return Event.STALE
            except TrustError as e:
                if self._c.clock() - self._entered > _TRUST_GRACE_S:
                    raise
                self._show("waiting for signed metadata", note=failure(e, retryable=True))
                self._guard(State.NOTIFIED)
                self._pause(0.5)

    def _deferred(self) -> Event:
        """Wait for valid metadata; with everything fetched, also for whoever says "not now"."""
        d = self._deployment()
        while True:
            note = None
            obstacle = self._obstacle() if d.installed is not None else None
            if obstacle is None:
                try:
                    self._c.trust.check(d.desired.release, d.desired.digest)
                    return Event.TRUSTED
                except StaleTrust as e:
                    obstacle, note = "waiting for valid metadata", failure(e, retryable=True)
            self._show(obstacle, note=note)
            self._guard(State.DEFERRED)
            self._pause(1.0)

    def _obstacle(self) -> str | None:
        """Why nothing may be activated now."""
        if self._c.frozen():
            return "frozen"
        if self._held or (self._wish is not None and self._wish[2]):
            return "held"
        if self._forced:
            return None
        lease = self._c.leases.holder()
        if lease is not None:
            return f"{lease.owner} says not now: {lease.reason or 'no reason given'}"
        windows = self._deployment().desired.policy.windows
        if not windows:
            return None
        if self._c.wall() < _CLOCK_SET_S:
            return "the clock was never set: no maintenance window can open"
        now = self._c.local()
        return None if is_open(windows, now) else f"the maintenance window opens {opens_at(windows, now):%A %H:%M}"

    def _fetching(self) -> Event:
        d = self._deployment()
        index = self._c.trust.check(d.desired.release, d.desired.digest)
        while not self._c.disk.acquire(timeout=0.5):
            self._show("waiting for another download")
            self._guard(State.FETCHING)
        try:
            fetched = self._c.fetcher.fetch(d.desired.release, index, self._cancelled(State.FETCHING), self._progress, self._role)
            # Saved before the lock is free, so that nobody tidies these blobs away.
            d = replace(self._deployment(), installed=fetched.chosen, fallback=fetched.fallback)
            self._c.journal.save(d)
            self._d = d
        except Cancelled:
            self._guard(State.FETCHING)
            raise Leave(Event.SUPERSEDED) from None
        finally:
            self._c.disk.release()
        return Event.FETCHED

    def _verifying(self) -> Event:
        self._show("hashing")
        d = self._deployment()
        for installed in filter(None, (d.installed, d.fallback)):
            self._c.store.verify_variant(installed.manifest)
        return Event.VERIFIED

    def _staged(self) -> Event:
        while obstacle := self._obstacle():
            if obstacle not in ("frozen", "held"):
                return Event.NOT_NOW
            self._show(obstacle)
            self._guard(State.STAGED)
            self._pause(0.5)
        return self._still_signed() or Event.RELEASED

    def _still_signed(self) -> Event | None:
        """Metadata may have changed since the release was fetched, weeks ago: one that was withdrawn is refused, expired ones wait."""
        d = self._deployment()
        try:
            self._c.trust.check(d.desired.release, d.desired.digest)
        except StaleTrust:
            return Event.NOT_NOW
        except TrustError as e:
            raise Leave(Event.REFUSED, "trust", e.message) from e
        return None

    def _warming(self) -> Event:
        d = self._deployment()
        assert d.installed is not None
        self._show("hashing")
        self._c.store.verify_variant(d.installed.manifest)  # it may have lain here for weeks
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
        active = self._c.journal.slot(self.slot).active
        compared = d.desired.policy.shadow is not None and active is not None and not self._c.pipelines.idle(self.slot)
        return Event.OBSERVE if compared else Event.WARM

    def _shadow(self) -> Event:
        d = self._deployment()
        gate = d.desired.policy.shadow
        assert d.installed is not None
        if gate is None:
            return Event.AGREES  # the same wish came again and does not ask for it any more
        if not_now := self._still_signed():
            return not_now
        self._show("running beside the old engine")
        cancelled = self._cancelled(State.SHADOW)
        found = self._c.pipelines.shadow(self.slot, self._c.ref(d.installed), gate, DEADLINE_S[State.SHADOW], cancelled)
        self._guard(State.SHADOW)
        for shadowed in found:
            verdict = judge_shadow(gate, shadowed)
            if verdict.outcome == "unhealthy":
                raise EngineError(verdict.reason)
            self._show(verdict.reason)
        return Event.AGREES

    def _activating(self) -> Event:
        d = self._deployment()
        installed = d.installed
        assert installed is not None
        slot = self._c.journal.slot(self.slot)
        if slot.active != installed:
            if self._obstacle():
                return Event.NOT_NOW
            self._guard(State.ACTIVATING)
            if slot.active is not None:
                d = replace(d, baseline=self._baseline(slot.active).data())
            if not_now := self._still_signed():
                return not_now
            # From here on the record says "new": a worker that starts now starts with it.
            self._c.journal.save_slot(self.slot, replace(slot, active=installed, previous=slot.active), d)
            self._d = d
            self._crashed = False  # that was the engine before
        cancelled = self._cancelled(State.ACTIVATING)
        self._c.live.start_over(self.slot, installed.bundle)
        self._show("switching")
        self._c.pipelines.ensure(self.slot, self._c.ref(installed), DEADLINE_S[State.ACTIVATING] * 0.9, cancelled)
        self._guard(State.ACTIVATING)
        return Event.ACTIVATED

    def _baseline(self, active: Installed) -> Histogram:
        """The latency of the engine before, on this device. Right after a start it has to be measured first, but not for ever."""
        policy = self._deployment().desired.policy
        while True:
            latency = self._c.live.of(self.slot, active.bundle).latency
            enough = latency.n >= MIN_SAMPLES[policy.percentile]
            late = self._c.clock() - self._entered > _BASELINE_S
            if enough or late or policy.max_latency_ratio is None or self._c.pipelines.idle(self.slot):
                return latency
            self._show("measuring the engine before")
            self._guard(State.ACTIVATING)
            self._pause(0.5)

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
        self._after = replace(slot, golden=d.fallback or slot.golden)
        self._show(why, pct=100.0)
        return Event.HEALTHY

    def _rolling_back(self) -> Event:
        """The previous engine again; if it does not run either, the golden one, and the deployment ends DEGRADED."""
        d = self._deployment()
        slot = self._c.journal.slot(self.slot)
        if slot.active is not None and slot.active == d.installed:
            slot = self._way_back.save(slot)
        self._show("going back")
        try:
            self._way_back.serve(slot.active)
        except EngineError as e:
            if not ways_back(slot):
                raise
            log.error("%s: %s", self.slot, e.message)
            slot = self._way_back.save(slot)
            self._show("going back to the golden engine")
            self._way_back.serve(slot.active)
            raise EngineError(f"{e.message}; {named(slot.active)}") from e
        return Event.RESTORED

    def _degrade(self, error: Failure) -> None:
        """The engine that serves is lost: the previous one, else the golden one; without either it is tried again and again."""
        d = self._d
        slot = self._c.journal.slot(self.slot)
        if not self._way_back.exists(slot):
            self._note = more(error, "there is no other engine; it is started again and again")
            self._c.changed()
            return
        if d is None or d.state not in TERMINAL:  # a deployment on its way: what serves meanwhile is not its business
            slot = self._way_back.save(slot)
        else:
            if d.installed == slot.active and not error.retryable:
                self._c.journal.mark_bad(d.desired.digest, d.desired.attempt, error.code)
            after = d.at(step(d.state, Event.CRASH_LOOP), more(error, "another one serves"))
            slot = self._way_back.save(slot, after)
            with self._view:
                self._d, self._stage, self._pct = after, None, None
        self._note = more(error, named(slot.active))
        self._c.changed()
        try:
            self._way_back.serve(slot.active)
        except EngineError as e:
            self._note = failure(e)
            self._c.changed()

    # ---- helpers

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

    def _progress(self, p: Progress) -> None:
        self._take_note()
        note = self._note
        if p.rejected:
            note = Failure(
                code="integrity", detail=f"{p.rejected} chunks were not what was signed; asked for again", retryable=True
            )
        self._show("fetching", pct=100.0 * p.done / p.total if p.total else 100.0, note=note)

    def _cancelled(self, state: State) -> Callable[[], bool]:
        entered = self._entered

        def cancelled() -> bool:
            crashed = self._crashed and state not in BEFORE_ACTIVATION
            over = self._c.clock() - entered > DEADLINE_S[state]
            return self._stopping or crashed or self._order == "cancel" or over or self._expired(state) or self._news()

        return cancelled

    def _expired(self, state: State) -> bool:
        """The wish was good until a time that has passed. Once an engine is being switched, it is seen through."""
        until_s = self._deployment().desired.expires_s
        now_s = self._c.wall()
        return state in BEFORE_ACTIVATION and until_s is not None and now_s >= _CLOCK_SET_S and now_s > until_s

    def _guard(self, state: State, extra_s: float = 0.0) -> None:
        """Leave the state if it must end: a newer wish, a stop, a cancel, the end of the wish; TimeoutError past its deadline."""
        self._take_note()
        if self._stopping or self._news():
            raise Leave(Event.SUPERSEDED, "superseded", "a newer desired state came", retryable=True)
        if self._order == "cancel":
            self._order = None
            raise Leave(Event.CANCELED, "operator", "canceled by command")
        if self._expired(state):
            raise Leave(Event.EXPIRED, "expired", "the time that the wish gave itself has passed", retryable=True)
        if self._c.clock() - self._entered > DEADLINE_S[state] + extra_s:
            raise TimeoutError
        if self._crashed and state in BEFORE_ACTIVATION:
            self._crashed = False
            self._degrade(Failure(code="crash_loop", detail="the engine that served did not survive"))

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
            blobs = {d.digest for i in kept for d in self._blobs_of(i)} | {i.manifest for i in kept}
            freed = self._c.store.collect_garbage(blobs | {i.bundle for i in kept})
            freed += forget_others(self._c.engine_cache, blobs) if self._c.engine_cache is not None else 0
            log.info("%s: freed %d bytes", self.slot, freed)
        except EdgectlError as e:
            log.warning("%s: nothing was tidied up: %s", self.slot, e.message)
        finally:
            self._c.disk.release()

    def _blobs_of(self, installed: Installed) -> list[Descriptor]:
        """None of an engine that has rotted: its rest is of no use, and must not keep the disk full for ever."""
        try:
            return variant_blobs(self._c.store.blobs, [installed])
        except BundleError as e:
            log.warning("%s: %s is not whole: %s", self.slot, installed.release, e.message)
            return []
