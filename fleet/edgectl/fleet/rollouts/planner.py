"""The rollout planner: who gets the release next, when to go on, when to stop and take it back. Pure.

``decide`` looks at what devices report and returns the new progress and the actions that bring it about; the
controller stores the progress first and acts then, and every action may be repeated. Success is COMMITTED,
nothing less. Presence is no verdict: a device that is away has not failed, and nobody waits for it longer
than the rollout's terms say. What an operator may do with a rollout, and the way back, are in
:mod:`edgectl.fleet.rollouts.takeback`, whose ``advance`` the controller calls; the values that all of them
speak of, in :mod:`edgectl.fleet.rollouts.values`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from edgectl.core.durations import in_words
from edgectl.core.errors import RolloutError
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import ClearSlot, DesiredSlot
from edgectl.fleet.rollouts.admission import NextAsked, admission
from edgectl.fleet.rollouts.gates import GateVerdict, failure_gate
from edgectl.fleet.rollouts.notes import also_noted, names, noted, starts, wave_name
from edgectl.fleet.rollouts.values import (
    ACTIVE,
    BUSY,
    OPEN,
    DeviceOutcome,
    DeviceView,
    GateEvidence,
    Member,
    RolloutProgress,
    RolloutRequest,
    RolloutSpec,
    RolloutState,
    SetSlot,
    having,
)
from edgectl.fleet.rollouts.waves import NO_CANARY, canary_places, fits, is_expected, joined, order, selected

__all__ = [
    "ACTIVE",
    "DeviceOutcome",
    "DeviceView",
    "GateEvidence",
    "Member",
    "RolloutProgress",
    "RolloutRequest",
    "RolloutSpec",
    "RolloutState",
    "SetSlot",
    "admitted",
    "approve",
    "decide",
    "desired_back",
    "fits",
    "halt",
    "names",
    "order",
    "pause",
    "resume",
    "stop",
]

_RISKY = frozenset({State.ACTIVATING, State.PROBATION, State.ROLLING_BACK})
_FAILED = TERMINAL - {State.COMMITTED}
_AGAIN = frozenset({State.FAILED, State.EXPIRED})
"""Ends before anything was activated: where the device says that it was not the release's fault, it is
worth another try."""
_OVER = frozenset({RolloutState.DONE, RolloutState.STOPPED, RolloutState.ABORTED})
_MAX_BACKOFF_S = 6 * 3600.0
_DEFERRED_S = 8 * 86400.0
"""A device gives up after 7 days of DEFERRED by itself; one that says so for longer counts anew after
every start."""

_COMMITTED = frozenset({DeviceOutcome.COMMITTED})
_BAD = frozenset({DeviceOutcome.FAILED, DeviceOutcome.LATE})
_SETTLED = _COMMITTED | _BAD
_JUDGED = _SETTLED | {DeviceOutcome.ADMITTED, DeviceOutcome.AWAY, DeviceOutcome.LOST}
"""What a device says later changes these, too: it commits after its deadline, or what it had committed
does not survive."""


def decide(
    spec: RolloutSpec,
    progress: RolloutProgress,
    views: Mapping[str, DeviceView],
    now_s: float,
    evidence: GateEvidence | None = None,
) -> tuple[RolloutProgress, list[SetSlot]]:
    """One step of a rollout that takes nothing back. Returns the new progress and what to write; the same
    input gives the same answer."""
    if progress.state in _OVER and progress.unfinished:
        return _stragglers(spec, progress, views, now_s)
    if progress.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        return progress, []
    if progress.began_s is None:
        if spec.start_s is not None and now_s < spec.start_s:
            return progress.model_copy(update={"note": starts(spec.start_s)}), []
        progress = progress.model_copy(update={"began_s": now_s})
    members = selected(spec, progress, views)
    members |= {n: _judged(spec, m, views.get(n), now_s) for n, m in having(members, _JUDGED).items()}
    decisions = progress.decisions if evidence is None else evidence.decisions
    progress = progress.model_copy(update={"members": members, "decisions": decisions})
    if reason := _gate(spec, progress):
        return stop(spec, progress, views, reason)
    began_s = now_s if progress.began_s is None else progress.began_s
    running = progress.state is RolloutState.RUNNING
    if running and spec.total_s is not None and now_s - began_s > spec.total_s:
        reason = f"it was to be over within {in_words(spec.total_s)}; devices keep what they have"
        return halt(progress, reason, RolloutState.STOPPED), []
    if _wave_is_over(spec, progress):
        inferences = 0 if evidence is None else evidence.inferences
        return _next_wave(spec, noted(spec, progress, views), now_s, inferences), []
    progress = progress.model_copy(update={"wave_done_s": None, "wave_done_n": 0})
    actions: list[SetSlot] = []
    asked = NextAsked(())
    if progress.state is RolloutState.RUNNING:
        asked = admission(spec, progress, views, now_s)
        progress, actions = _admit(spec, progress, views, asked, now_s)
    since = None if asked.waits else _idle_since(progress, now_s)
    progress = progress.model_copy(update={"idle_since_s": since})
    progress = noted(
        spec, progress, views, idle=since is not None, held=asked.held, missing=_missing(spec, progress)
    )
    if since is not None and now_s - since > spec.idle_s and progress.wave > 0:
        reason = f"{wave_name(progress.wave)} did not come to its end within {in_words(spec.idle_s)}: {progress.note}"
        return halt(progress, f"{reason}; devices keep what they have", RolloutState.STOPPED), []
    if since is not None and now_s - since > spec.idle_s:
        return stop(
            spec,
            progress,
            views,
            f"nobody could show within {spec.idle_s:g} s that the release works: {progress.note}",
        )
    return progress, actions


def pause(progress: RolloutProgress) -> RolloutProgress:
    if progress.state is not RolloutState.RUNNING:
        raise RolloutError(f"a rollout that is {progress.state.value} cannot be paused")
    return progress.model_copy(update={"state": RolloutState.PAUSED})


def resume(progress: RolloutProgress) -> RolloutProgress:
    if progress.state is not RolloutState.PAUSED:
        raise RolloutError(f"a rollout that is {progress.state.value} cannot be resumed")
    return progress.model_copy(update={"state": RolloutState.RUNNING})


def stop(
    spec: RolloutSpec,
    progress: RolloutProgress,
    views: Mapping[str, DeviceView],
    reason: str,
    ending: RolloutState = RolloutState.STOPPED,
) -> tuple[RolloutProgress, list[SetSlot]]:
    """Admit nobody else, and take the release back from everyone who got it, last one first. ``ending``:
    what the rollout is then."""
    if progress.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        raise RolloutError(f"a rollout that is {progress.state.value} cannot be stopped")
    asked = [
        n
        for n, m in progress.members.items()
        if m.admitted_s is not None and m.outcome is not DeviceOutcome.SKIPPED
    ]
    touched = [n for n in asked if n in views and not progress.members[n].left]
    update: dict[str, object] = {"reason": reason, "note": None, "idle_since_s": None}
    if not touched or (ending is RolloutState.STOPPED and not spec.rollback):
        left = {n: _given_up(m) for n, m in progress.members.items()}
        return progress.model_copy(update={**update, "state": ending, "members": left}), []
    touched.sort(
        key=lambda name: (progress.members[name].wave, progress.members[name].admitted_s or 0.0), reverse=True
    )
    back = {n: _returning(progress.members[n], views.get(n)) for n in touched}
    actions = [SetSlot(name, spec.slot, desired_back(progress.members[name].before)) for name in touched]
    update |= {"state": RolloutState.ROLLING_BACK, "ending": ending, "members": {**progress.members, **back}}
    return progress.model_copy(update=update), actions


def halt(
    progress: RolloutProgress, reason: str, ending: RolloutState = RolloutState.ABORTED
) -> RolloutProgress:
    """Admit nobody else, and take nothing back. Devices that are at work finish, and are looked after until they have."""
    if progress.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        raise RolloutError(f"a rollout that is {progress.state.value} cannot be stopped")
    members = {n: _given_up(m) for n, m in progress.members.items()}
    update = {"state": ending, "reason": reason, "note": None, "idle_since_s": None, "members": members}
    return progress.model_copy(update=update)


def approve(spec: RolloutSpec, progress: RolloutProgress) -> RolloutProgress:
    """Let the next wave begin. Raises :class:`RolloutError` where none waits for that."""
    if progress.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        raise RolloutError(f"a rollout that is {progress.state.value} waits for no approval")
    coming = progress.wave + 1
    if coming > spec.last_wave or not spec.wave(coming).approval:
        raise RolloutError(
            f"the next wave of rollout {spec.id} waits for no approval",
            hint=f"`edgectl rollout status {spec.id}`",
        )
    if progress.approved >= coming:
        raise RolloutError(f"wave {coming} of rollout {spec.id} is approved already")
    return progress.model_copy(update={"approved": coming})


def _returning(m: Member, view: DeviceView | None) -> Member:
    untold = view is not None and view.unsigned
    return m.model_copy(
        update={"outcome": DeviceOutcome.RETURNING, "retry_s": None, "detail": None, "untold": untold}
    )


def _given_up(m: Member) -> Member:
    """It is not asked again."""
    return (
        m.model_copy(update={"outcome": DeviceOutcome.FAILED}) if m.outcome is DeviceOutcome.RETRYING else m
    )


def desired_back(before: DesiredSlot | None) -> DesiredSlot | ClearSlot:
    """What is written for a device that is to go back to ``before``.

    An engine that proved itself once is not compared with the one that is being taken back, and its
    maintenance window does not keep the latter alive: a bad engine would be what judges a good one.
    """
    if before is None:
        return ClearSlot(number=1)
    terms = {"shadow": None, "max_latency_ratio": None, "windows": ()}
    return before.model_copy(update={"policy": before.policy.model_copy(update=terms), "expires_s": None})


def admitted(spec: RolloutSpec, m: Member, view: DeviceView | None, now_s: float) -> Member:
    """The member once it is asked to take the release; what it has now is what it gets back."""
    before = None
    if view is not None:
        known = view.name in spec.ways_back
        before = spec.ways_back[view.name] if known else _before(view, spec.slot)
    update = {"outcome": DeviceOutcome.ADMITTED, "admitted_s": now_s, "before": before, "detail": None}
    return m.model_copy(update=update)


def _before(view: DeviceView, slot: str) -> DesiredSlot | None:
    """What the device has, or is on its way to by an earlier desired state; one that it gave up is no way back."""
    desired, r = view.desired.get(slot), view.reported.get(slot)
    if r is None or (desired is not None and r.active == desired.digest):
        return desired
    gave_up = (
        desired is not None
        and (r.digest, r.release) == (desired.digest, desired.release)
        and r.state in _FAILED
    )
    if desired is not None and not gave_up:
        return desired
    if slot in view.clear or r.active is None or r.active_release is None:
        return None
    return DesiredSlot(release=r.active_release, digest=r.active)


def _judged(spec: RolloutSpec, m: Member, view: DeviceView | None, now_s: float) -> Member:
    """What became of a member since it was admitted."""
    if m.admitted_s is None or m.left:
        return m
    settled = m.outcome in _SETTLED
    if view is None:
        return (
            m
            if settled
            else m.model_copy(update={"outcome": DeviceOutcome.SKIPPED, "detail": "it left the fleet"})
        )
    r = view.reported.get(spec.slot)
    mine = r is not None and r.digest == spec.digest and r.gen >= view.gen and r.release == spec.release
    if r is not None and mine and r.state is State.COMMITTED:
        return (
            m
            if m.outcome is DeviceOutcome.COMMITTED
            else m.model_copy(update={"outcome": DeviceOutcome.COMMITTED, "detail": r.stage})
        )
    if r is not None and mine and r.state in _FAILED:
        why = f"{r.state.value}: {r.error.detail or r.error.code}" if r.error else r.state.value
        if (
            not settled
            and r.state in _AGAIN
            and r.error is not None
            and r.error.retryable
            and m.tries < spec.retries
        ):
            wait_s = min(spec.retry_after_s * 2**m.tries, _MAX_BACKOFF_S)
            return m.model_copy(
                update={"outcome": DeviceOutcome.RETRYING, "retry_s": now_s + wait_s, "detail": why}
            )
        return m.model_copy(update={"outcome": DeviceOutcome.FAILED, "detail": why})
    if settled:
        return m
    gone_s = 0.0 if view.online else now_s - view.seen_s
    if r is not None and mine and r.state in _RISKY and gone_s > spec.lost_s:
        return m.model_copy(
            update={"outcome": DeviceOutcome.LOST, "detail": f"it went away in {r.state.value}"}
        )
    asked_in_vain = not mine and view.seen_s <= m.admitted_s  # it was away already
    if gone_s > (spec.lost_s if asked_in_vain else spec.away_s):
        return m.model_copy(update={"outcome": DeviceOutcome.AWAY, "detail": "offline"})
    if m.outcome in (DeviceOutcome.AWAY, DeviceOutcome.LOST) and view.online:
        return m.model_copy(update={"outcome": DeviceOutcome.ADMITTED, "admitted_s": now_s, "detail": None})
    # For its window, a lease or fresh metadata: it says so, and for how long it may.
    waits = mine and r is not None and r.state is State.DEFERRED
    limit_s = max(spec.deadline_s, _DEFERRED_S) if waits else spec.deadline_s
    if view.online and now_s - m.admitted_s > limit_s:
        return m.model_copy(
            update={"outcome": DeviceOutcome.LATE, "detail": f"not committed within {limit_s:g} s"}
        )
    return m


def _gate(spec: RolloutSpec, progress: RolloutProgress) -> str | None:
    canary = progress.wave == 0
    # many that go away with it are no chance
    bad = _BAD if canary else _BAD | {DeviceOutcome.LOST}
    failures = sorted((n, m.detail) for n, m in having(progress.members, bad).items())
    finished = len(failures) + len(having(progress.members, _COMMITTED))
    reason = failure_gate(
        len(failures),
        finished,
        max_rate=spec.max_failure_rate,
        max_canary=spec.max_canary_failures,
        canary=canary,
    )
    if reason is None and canary and _nobody_is_left(spec, progress):
        reason = "no canary device committed it"
    if reason:
        return f"{reason} ({failures[0][0]}: {failures[0][1]})"
    return next((d.reason for d in progress.decisions if d.verdict is GateVerdict.WORSE), None)


def _nobody_is_left(spec: RolloutSpec, progress: RolloutProgress) -> bool:
    """Every canary has failed, within what the gate allows, and no other takes its place."""
    current = [m.outcome for m in progress.members.values() if m.wave == 0 and m.outcome not in NO_CANARY]
    full = len(current) >= canary_places(spec, progress.members.values()) or not _any(
        progress, DeviceOutcome.WAITING, DeviceOutcome.AWAY
    )
    return bool(current) and full and _BAD.issuperset(current)


def _any(progress: RolloutProgress, *outcomes: DeviceOutcome) -> bool:
    return bool(having(progress.members, frozenset(outcomes)))


def _wave_is_over(spec: RolloutSpec, progress: RolloutProgress) -> bool:
    """Nobody of it is at work, and as many as have to have shown that the release works. The canary waits for one
    that was lost."""
    waited_for = BUSY | {DeviceOutcome.WAITING} | ({DeviceOutcome.LOST} if progress.wave == 0 else set())
    return (
        not _in_wave(progress, waited_for)
        and _any(progress, DeviceOutcome.COMMITTED)
        and _missing(spec, progress) == 0
    )


def _in_wave(progress: RolloutProgress, outcomes: frozenset[DeviceOutcome]) -> bool:
    """Somebody of the current wave is there with such an outcome."""
    return any(m.wave == progress.wave for m in having(progress.members, outcomes).values())


def _is_last(progress: RolloutProgress) -> bool:
    """Nobody is left for another wave."""
    waiting = having(progress.members, frozenset({DeviceOutcome.WAITING})).values()
    return not any(m.wave > progress.wave for m in waiting)


def _missing(spec: RolloutSpec, progress: RolloutProgress) -> int:
    """How many more of the current wave have to commit it before the next; none where there is no next."""
    if not spec.quorum or _is_last(progress):
        return 0
    counted = [
        m.outcome
        for m in progress.members.values()
        if m.wave == progress.wave and m.outcome not in (DeviceOutcome.SKIPPED, DeviceOutcome.SUPERSEDED)
    ]
    return max(0, math.ceil(spec.quorum * len(counted) - 1e-9) - counted.count(DeviceOutcome.COMMITTED))


def _idle_since(progress: RolloutProgress, now_s: float) -> float | None:
    """Since when nobody is at work; None: somebody is, or an operator has it wait."""
    if progress.state is RolloutState.PAUSED or _in_wave(progress, BUSY):
        return None
    return progress.idle_since_s if progress.idle_since_s is not None else now_s


def _next_wave(
    spec: RolloutSpec, progress: RolloutProgress, now_s: float, inferences: int
) -> RolloutProgress:
    """A wave is over: wait for its soak and for whoever has to approve the next one. ``inferences`` of the release so
    far."""
    if progress.wave_done_s is None:
        progress = progress.model_copy(update={"wave_done_s": now_s, "wave_done_n": inferences})
    if inferences < progress.wave_done_n:  # the controller was restarted, and counts anew
        progress = progress.model_copy(update={"wave_done_n": 0})
    empty = all(m.wave != progress.wave for m in progress.members.values())
    wave, coming = spec.wave(progress.wave), progress.wave + 1
    waited_s = now_s - (progress.wave_done_s or 0.0)
    soaking = waited_s < wave.soak_s
    unproven = wave.soak_inferences - (inferences - progress.wave_done_n)
    if not empty and unproven > 0 and waited_s > wave.soak_s + spec.idle_s:
        reason = f"the release made too few inferences within {in_words(spec.idle_s)} after {wave_name(progress.wave)}"
        return halt(progress, f"{reason}; devices keep what they have", RolloutState.STOPPED)
    if not empty and (soaking or unproven > 0):
        until = [f"{in_words(wave.soak_s)} after its last commit"] if soaking else []
        until += [f"{wave.soak_inferences} inferences of the release"] if unproven > 0 else []
        return also_noted(progress, f"{wave_name(progress.wave)} soaks: {' and '.join(until)}")
    if _is_last(progress):
        return progress.model_copy(update={"state": RolloutState.DONE, "reason": None, "note": None})
    if spec.wave(coming).approval and progress.approved < coming:
        return also_noted(progress, f"wave {coming} waits for approval: `edgectl rollout approve {spec.id}`")
    if progress.state is RolloutState.PAUSED:
        return progress
    return progress.model_copy(update={"wave": coming, "wave_done_s": None, "wave_done_n": 0, "note": None})


def _admit(
    spec: RolloutSpec,
    progress: RolloutProgress,
    views: Mapping[str, DeviceView],
    asked: NextAsked,
    now_s: float,
) -> tuple[RolloutProgress, list[SetSlot]]:
    members, actions = dict(progress.members), []
    for name in asked.now:
        m = members[name]
        members[name] = admitted(spec, m, views.get(name), now_s)
        actions.append(SetSlot(name, spec.slot, _desired(spec, m)))
    progress = progress.model_copy(update={"members": members})
    progress, again = _ask_again(spec, progress, asked.again, now_s)
    return progress, actions + again


def _desired(spec: RolloutSpec, m: Member) -> DesiredSlot:
    return DesiredSlot(
        release=spec.release, digest=spec.digest, attempt=spec.attempt + m.tries, policy=spec.policy
    )


def _ask_again(
    spec: RolloutSpec, progress: RolloutProgress, due: Iterable[str], now_s: float
) -> tuple[RolloutProgress, list[SetSlot]]:
    """Those that wait for another try are asked for the same with a raised attempt: an end that a device has
    reported stays one."""
    again = {
        n: m.model_copy(
            update={
                "outcome": DeviceOutcome.ADMITTED,
                "admitted_s": now_s,
                "tries": m.tries + 1,
                "retry_s": None,
            }
        )
        for n in due
        for m in (progress.members[n],)
    }
    actions = [SetSlot(n, spec.slot, _desired(spec, m)) for n, m in again.items()]
    return progress.model_copy(update={"members": {**progress.members, **again}}), actions


def _stragglers(
    spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView], now_s: float
) -> tuple[RolloutProgress, list[SetSlot]]:
    """Look after who was away when the rollout was over. No gate is asked any more, and nothing is taken
    back from the others."""
    members, actions = dict(progress.members), []
    for name, m in progress.members.items():
        if name in views and is_expected(m) and progress.state is RolloutState.DONE:
            m = joined(spec, m, views[name], progress.wave)
            if m.outcome is DeviceOutcome.WAITING:
                m = admitted(spec, m, views[name], now_s)
                actions.append(SetSlot(name, spec.slot, _desired(spec, m)))
            members[name] = m
            continue
        m = _judged(spec, m, views.get(name), now_s) if m.outcome in _JUDGED else m
        members[name] = m = m if progress.state is RolloutState.DONE else _given_up(m)
        desired, ours = views[name].desired.get(spec.slot) if name in views else None, _desired(spec, m)
        taken = desired is None or (desired.digest, desired.attempt) != (ours.digest, ours.attempt)
        if m.outcome in OPEN and name in views and taken and not is_expected(m):
            members[name] = m.model_copy(update={"outcome": DeviceOutcome.SUPERSEDED, "detail": None})
    retrying = having(members, frozenset({DeviceOutcome.RETRYING}))
    due = [n for n, m in retrying.items() if now_s >= (m.retry_s or 0.0)]
    progress, again = _ask_again(spec, progress.model_copy(update={"members": members}), due, now_s)
    return noted(spec, progress, views), actions + again
