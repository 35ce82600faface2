"""The rollout planner: who gets the release next, when to go on, when to stop and take it back. Pure.

``decide`` looks at what devices report and returns the new progress and the actions that bring it about; the
controller stores the progress first and acts then, and every action may be repeated. Success is COMMITTED,
nothing less. Presence is no verdict: a device that is away has not failed, and nobody waits for it longer
than the rollout's terms say. What an operator may do with a rollout, and the way back, are in
:mod:`edgectl.fleet.rollouts.takeback`, whose ``advance`` the controller calls; the values that all of them
speak of, in :mod:`edgectl.fleet.rollouts.values`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from edgectl.core.errors import RolloutError
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import ClearSlot, DesiredSlot
from edgectl.fleet.rollouts.gates import failure_gate, latency_gate
from edgectl.fleet.rollouts.values import (
    ACTIVE,
    BUSY,
    OPEN,
    DeviceOutcome,
    DeviceView,
    LatencyEvidence,
    Member,
    RolloutProgress,
    RolloutRequest,
    RolloutSpec,
    RolloutState,
    SetSlot,
)

__all__ = [
    "ACTIVE",
    "DeviceOutcome",
    "DeviceView",
    "LatencyEvidence",
    "Member",
    "RolloutProgress",
    "RolloutRequest",
    "RolloutSpec",
    "RolloutState",
    "SetSlot",
    "admitted",
    "decide",
    "desired_back",
    "fits",
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
_MAX_BACKOFF_S = 6 * 3600.0
_DEFERRED_S = 8 * 86400.0
"""A device gives up after 7 days of DEFERRED by itself; one that says so for longer counts anew after
every start."""


_SETTLED = frozenset({DeviceOutcome.COMMITTED, DeviceOutcome.FAILED, DeviceOutcome.LATE})
_JUDGED = _SETTLED | {DeviceOutcome.ADMITTED, DeviceOutcome.AWAY, DeviceOutcome.LOST}
"""What a device says later changes these, too: it commits after its deadline, or what it had committed
does not survive."""
_NO_CANARY = frozenset({DeviceOutcome.AWAY, DeviceOutcome.SKIPPED, DeviceOutcome.SUPERSEDED})
"""Another device takes the place of such a canary. A lost one keeps it: the release may have been its end."""


def order(devices: Iterable[str], release: str) -> list[str]:
    """Deterministic, the same after a restart, and other devices are the canaries of the next release."""
    return sorted(devices, key=lambda d: hashlib.sha256(f"{d}\0{release}".encode()).digest())


def decide(
    spec: RolloutSpec,
    progress: RolloutProgress,
    views: Mapping[str, DeviceView],
    now_s: float,
    evidence: LatencyEvidence | None = None,
) -> tuple[RolloutProgress, list[SetSlot]]:
    """One step of a rollout that takes nothing back. Returns the new progress and what to write; the same
    input gives the same answer."""
    if progress.state in (RolloutState.DONE, RolloutState.STOPPED) and progress.unfinished:
        return _stragglers(spec, progress, views, now_s)
    if progress.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        return progress, []
    members = _selected(spec, progress, views)
    members = {name: _judged(spec, m, views.get(name), now_s) for name, m in members.items()}
    progress = progress.model_copy(update={"members": members})
    if reason := _gate(spec, progress, evidence):
        return stop(spec, progress, views, reason)
    if _wave_is_over(progress):
        return _next_wave(spec, _noted(spec, progress, views, None), now_s), []
    actions: list[SetSlot] = []
    if progress.state is RolloutState.RUNNING:
        progress, actions = _admit(spec, progress, views, now_s)
    since = _idle_since(progress, now_s)
    progress = _noted(spec, progress.model_copy(update={"idle_since_s": since}), views, since)
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


def admitted(m: Member, view: DeviceView | None, slot: str, now_s: float) -> Member:
    """The member once it is asked to take the release; what it has now is what it gets back."""
    before = None if view is None else _before(view, slot)
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


def fits(spec: RolloutSpec, view: DeviceView) -> bool:
    """Whether the rollout is for this device."""
    named = not spec.devices or view.name in spec.devices
    return named and spec.slot in view.slots and all(view.labels.get(k) == v for k, v in spec.labels.items())


def _selected(
    spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView]
) -> dict[str, Member]:
    """Members so far, and newcomers, who enter the wave that runs, under its gates. The canary is made of
    devices that are there."""
    members = dict(progress.members)
    for name in spec.devices:
        if name not in views and name not in members:
            members[name] = Member(wave=1, outcome=DeviceOutcome.AWAY, detail=_NEVER_SEEN)
    members.update(
        {n: _arrived(spec, m, views[n]) for n, m in members.items() if n in views and _is_expected(m)}
    )
    newcomers = [n for n, v in views.items() if (n not in members or members[n].left) and fits(spec, v)]
    members.update({name: Member(wave=1) for name in order(newcomers, spec.release)})
    if progress.wave == 0:
        here = {n for n, v in views.items() if v.online}
        for name, m in members.items():
            if m.wave == 0 and m.outcome is DeviceOutcome.WAITING and name not in here:
                members[name] = m.model_copy(update={"wave": 1})
        waiting = [
            n
            for n in order(members, spec.release)
            if members[n].outcome is DeviceOutcome.WAITING and n in here
        ]
        places = spec.canary - sum(m.wave == 0 and m.outcome not in _NO_CANARY for m in members.values())
        for name in [n for n in waiting if members[n].wave != 0][: max(0, places)]:
            members[name] = members[name].model_copy(update={"wave": 0})
    return members


_NEVER_SEEN = "it was never there"


def _is_expected(m: Member) -> bool:
    """A device that was named and not there when the rollout began."""
    return m.outcome is DeviceOutcome.AWAY and m.admitted_s is None


def _arrived(spec: RolloutSpec, m: Member, view: DeviceView) -> Member:
    if fits(spec, view):
        return m.model_copy(update={"outcome": DeviceOutcome.WAITING, "detail": None})
    return m.model_copy(
        update={"outcome": DeviceOutcome.SKIPPED, "detail": f"it has no slot {spec.slot}, or other labels"}
    )


def _judged(spec: RolloutSpec, m: Member, view: DeviceView | None, now_s: float) -> Member:
    """What became of a member since it was admitted."""
    if m.outcome not in _JUDGED or m.admitted_s is None or m.left:
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


def _gate(spec: RolloutSpec, progress: RolloutProgress, evidence: LatencyEvidence | None) -> str | None:
    canary = progress.wave == 0
    # many that go away with it are no chance
    bad = {DeviceOutcome.FAILED, DeviceOutcome.LATE} | (set() if canary else {DeviceOutcome.LOST})
    failures = sorted((n, m.detail) for n, m in progress.members.items() if m.outcome in bad)
    finished = sum(m.outcome in bad | {DeviceOutcome.COMMITTED} for m in progress.members.values())
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
    if evidence is None or spec.max_latency_ratio is None:
        return None
    return latency_gate(
        evidence.before, evidence.after, percentile=spec.policy.percentile, max_ratio=spec.max_latency_ratio
    )


def _nobody_is_left(spec: RolloutSpec, progress: RolloutProgress) -> bool:
    """Every canary has failed, within what the gate allows, and no other takes its place."""
    current = [m.outcome for m in progress.members.values() if m.wave == 0 and m.outcome not in _NO_CANARY]
    full = len(current) >= spec.canary or not _any(progress, DeviceOutcome.WAITING, DeviceOutcome.AWAY)
    return bool(current) and full and all(o in (DeviceOutcome.FAILED, DeviceOutcome.LATE) for o in current)


def _any(progress: RolloutProgress, *outcomes: DeviceOutcome) -> bool:
    return any(m.outcome in outcomes for m in progress.members.values())


def _wave_is_over(progress: RolloutProgress) -> bool:
    """Nobody of it is at work, and somebody has shown that the release works. The canary waits for one
    that was lost."""
    current = [m.outcome for m in progress.members.values() if m.wave == progress.wave]
    waited_for = BUSY | {DeviceOutcome.WAITING} | ({DeviceOutcome.LOST} if progress.wave == 0 else set())
    return _any(progress, DeviceOutcome.COMMITTED) and not waited_for.intersection(current)


def _idle_since(progress: RolloutProgress, now_s: float) -> float | None:
    """Since when nobody is at work; None: somebody is, or an operator has it wait."""
    current = [m.outcome for m in progress.members.values() if m.wave == progress.wave]
    if progress.state is RolloutState.PAUSED or BUSY.intersection(current):
        return None
    return progress.idle_since_s if progress.idle_since_s is not None else now_s


def _next_wave(spec: RolloutSpec, progress: RolloutProgress, now_s: float) -> RolloutProgress:
    later = [
        m for m in progress.members.values() if m.wave > progress.wave and m.outcome is DeviceOutcome.WAITING
    ]
    if not later:
        return progress.model_copy(update={"state": RolloutState.DONE, "reason": None})
    since = progress.wave_done_s if progress.wave_done_s is not None else now_s
    if now_s - since < spec.soak_s or progress.state is RolloutState.PAUSED:
        return progress.model_copy(update={"wave_done_s": since})
    return progress.model_copy(update={"wave": progress.wave + 1, "wave_done_s": None})


def _admit(
    spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView], now_s: float
) -> tuple[RolloutProgress, list[SetSlot]]:
    members, actions = dict(progress.members), []
    for name in order(members, spec.release):
        m = members[name]
        if m.wave == progress.wave and m.outcome is DeviceOutcome.WAITING:
            members[name] = admitted(m, views.get(name), spec.slot, now_s)
            actions.append(SetSlot(name, spec.slot, _desired(spec, m)))
    progress, again = _ask_again(spec, progress.model_copy(update={"members": members}), now_s)
    return progress, actions + again


def _desired(spec: RolloutSpec, m: Member) -> DesiredSlot:
    return DesiredSlot(
        release=spec.release, digest=spec.digest, attempt=spec.attempt + m.tries, policy=spec.policy
    )


def _ask_again(
    spec: RolloutSpec, progress: RolloutProgress, now_s: float
) -> tuple[RolloutProgress, list[SetSlot]]:
    """Who waits for another try is asked for the same with a raised attempt: an end that a device has
    reported stays one."""
    due = {
        n: m
        for n, m in progress.members.items()
        if m.outcome is DeviceOutcome.RETRYING and now_s >= (m.retry_s or 0.0)
    }
    again = {
        n: m.model_copy(
            update={
                "outcome": DeviceOutcome.ADMITTED,
                "admitted_s": now_s,
                "tries": m.tries + 1,
                "retry_s": None,
            }
        )
        for n, m in due.items()
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
        if name in views and _is_expected(m) and progress.state is RolloutState.DONE:
            m = _arrived(spec, m, views[name])
            if m.outcome is DeviceOutcome.WAITING:
                m = admitted(m, views[name], spec.slot, now_s)
                actions.append(SetSlot(name, spec.slot, _desired(spec, m)))
            members[name] = m
            continue
        m = members[name] = _judged(spec, m, views.get(name), now_s)
        desired, ours = views[name].desired.get(spec.slot) if name in views else None, _desired(spec, m)
        taken = desired is None or (desired.digest, desired.attempt) != (ours.digest, ours.attempt)
        if m.outcome in OPEN and name in views and taken and not _is_expected(m):
            members[name] = m.model_copy(update={"outcome": DeviceOutcome.SUPERSEDED, "detail": None})
    progress, again = _ask_again(spec, progress.model_copy(update={"members": members}), now_s)
    return _noted(spec, progress, views, None), actions + again


def _noted(
    spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView], idle_since_s: float | None
) -> RolloutProgress:
    """With whom it waits for, for people. Nothing in it changes with time alone: every change is written
    down."""
    members = {
        n: m for n, m in progress.members.items() if m.wave == progress.wave or progress.state not in ACTIVE
    }
    lost = [n for n, m in members.items() if m.outcome is DeviceOutcome.LOST]
    gone = [n for n, m in members.items() if m.outcome in BUSY and n in views and not views[n].online]
    unsigned = [n for n, m in members.items() if m.outcome in BUSY and n in views and views[n].unsigned]
    notes = []
    if unsigned:
        notes.append(f"{names(unsigned)}: waits for `edgectl rollout approve`")
    if lost:
        notes.append(
            f"{names(lost)} went away in the middle of an activation; `edgectl rollout skip {spec.id} {lost[0]}` goes on without"
        )
    elif idle_since_s is not None and progress.wave == 0:
        absent = [
            n for n, m in progress.members.items() if m.outcome in (DeviceOutcome.WAITING, DeviceOutcome.AWAY)
        ]
        notes.append(
            f"nobody is there to be the canary: {names(absent) or f'no device with slot {spec.slot} is known'}"
        )
    elif gone:
        notes.append(f"{names(gone)}: away, waited for {spec.away_s:g} s at most")
    if progress.state not in ACTIVE:
        away = [n for n, m in members.items() if m.outcome is DeviceOutcome.AWAY]
        notes += [f"{names(away)}: away, takes it when it is back"] if away else []
    return progress.model_copy(update={"note": "; ".join(notes) or None})


def names(devices: Iterable[str]) -> str:
    """A few of them, for a sentence: ``a, b, c and 4 more``."""
    found = sorted(devices)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
