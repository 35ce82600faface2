"""The rollout planner: who gets the release next, when to go on, when to stop and take it back. Pure.

``plan`` looks at what devices report and returns the new progress and the actions that bring it about; the controller stores
the progress first and acts then, and every action may be repeated. Success is COMMITTED, nothing less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from pydantic import Field

from edgectl.core.errors import RolloutError
from edgectl.core.histogram import Histogram
from edgectl.core.schema import Digest, Message, Name, Terms
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import DesiredSlot, Policy, ReportedSlot
from edgectl.fleet.gates import failure_gate, latency_gate

__all__ = [
    "ACTIVE", "DeviceView", "Evidence", "Member", "Outcome", "Progress", "RolloutRequest", "RolloutSpec", "RolloutState", "SetSlot", "order", "pause",
    "plan", "resume", "stop",
]  # fmt: skip

_RISKY = frozenset({State.ACTIVATING, State.PROBATION, State.ROLLING_BACK})
_FAILED = TERMINAL - {State.COMMITTED}
_AGAIN = frozenset({State.FAILED, State.EXPIRED})
"""Ends before anything was activated: where the device says that it was not the release's fault, it is worth another try."""
_MAX_BACKOFF_S = 6 * 3600.0


class RolloutState(str, Enum):
    RUNNING = "running"
    PAUSED = "paused"
    """Nobody new; devices that began go on."""
    ROLLING_BACK = "rolling_back"
    STOPPED = "stopped"
    DONE = "done"


ACTIVE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK})


class Outcome(str, Enum):
    WAITING = "waiting"
    ADMITTED = "admitted"
    RETRYING = "retrying"
    """It could not, for a reason that passes (no space, no time); it is asked again."""
    COMMITTED = "committed"
    FAILED = "failed"
    AWAY = "away"
    """Offline; it takes the release when it is back, and nobody waits for it."""
    RESTORED = "restored"
    SUPERSEDED = "superseded"
    """Another release took the slot before the device was back."""
    STRANDED = "stranded"
    """It was to go back, and did not take what it had before either: somebody has to look at it."""


_OPEN = frozenset({Outcome.ADMITTED, Outcome.RETRYING, Outcome.AWAY})


class RolloutRequest(Terms):
    """What ``edgectl rollout start`` asks for. Times in seconds."""

    release: str
    slot: Name
    policy: Policy = Policy()
    labels: dict[str, str] = {}
    """Only devices with all of these labels."""
    devices: tuple[Name, ...] = ()
    """Only these devices; empty: all that have the slot."""
    canary: int = Field(default=1, ge=1)
    soak_s: float = Field(default=0.0, ge=0)
    """Time between the last commit of the canary and the rest."""
    deadline_s: float = Field(default=24 * 3600.0, gt=0)
    """From admission to COMMITTED, while online."""
    max_canary_failures: int = Field(default=0, ge=0)
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    max_latency_ratio: float | None = Field(default=1.5, gt=0)
    retries: int = Field(default=3, ge=0, le=20)
    """How often a device is asked again that could not fetch or store the release."""
    retry_after_s: float = Field(default=300.0, gt=0)
    """Until the first of them; each takes twice as long as the one before, at most 6 h."""
    rollback: bool = True
    """On failure, devices that already have the release get back what they had."""


class RolloutSpec(RolloutRequest):
    """What is wanted, as the planner takes it."""

    id: str
    digest: Digest
    attempt: int = Field(default=1, ge=1)
    lost_s: float = Field(default=90.0, gt=0)
    """Gone for this long in the middle of an activation counts as a failure."""
    away_s: float = Field(default=600.0, gt=0)
    """Offline for this long before an activation: nobody waits for it."""


class Member(Message):
    wave: int
    outcome: Outcome = Outcome.WAITING
    admitted_s: float | None = None
    tries: int = 0
    """How often it was asked again."""
    retry_s: float | None = None
    """When it is asked again."""
    before: DesiredSlot | None = None
    detail: str | None = None


class Progress(Message):
    state: RolloutState = RolloutState.RUNNING
    reason: str | None = None
    wave: int = 0
    wave_done_s: float | None = None
    members: dict[str, Member] = {}

    @property
    def unfinished(self) -> bool:
        """Somebody still has to be looked after: also when a rollout is done, those who are not back yet."""
        stragglers = self.state is RolloutState.DONE and any(m.outcome in _OPEN for m in self.members.values())
        return self.state in ACTIVE or stragglers


@dataclass(frozen=True)
class DeviceView:
    """A device as the controller knows it. Times are Unix seconds."""

    name: str
    online: bool
    seen_s: float
    slots: frozenset[str]
    labels: Mapping[str, str]
    desired: Mapping[str, DesiredSlot]
    reported: Mapping[str, ReportedSlot]
    gen: int = 0
    """Of the desired document."""
    reported_gen: int = 0


@dataclass(frozen=True)
class Evidence:
    """Engine latency of the devices in the rollout, with what they had and with the release."""

    before: Histogram
    after: Histogram


@dataclass(frozen=True)
class SetSlot:
    """Write this into the device's ``desired``; None removes the slot."""

    device: str
    slot: str
    desired: DesiredSlot | None


def order(devices: Iterable[str], release: str) -> list[str]:
    """Deterministic, the same after a restart, and other devices are the canaries of the next release."""
    return sorted(devices, key=lambda d: hashlib.sha256(f"{d}\0{release}".encode()).digest())


def plan(
    spec: RolloutSpec, progress: Progress, views: Mapping[str, DeviceView], now_s: float, evidence: Evidence | None = None
) -> tuple[Progress, list[SetSlot]]:
    """One step. Returns the new progress and what to write; the same input gives the same answer."""
    if progress.state is RolloutState.DONE and progress.unfinished:
        return _stragglers(spec, progress, views, now_s)
    if progress.state not in ACTIVE:
        return progress, []
    if progress.state is RolloutState.ROLLING_BACK:
        return _going_back(progress, views, spec.slot), []
    members = _selected(spec, progress, views)
    members = {name: _judged(spec, m, views.get(name), now_s) for name, m in members.items()}
    progress = progress.model_copy(update={"members": members})
    if reason := _gate(spec, progress, evidence):
        return stop(spec, progress, reason)
    current = [m for m in members.values() if m.wave == progress.wave]
    if all(m.outcome not in (Outcome.WAITING, Outcome.ADMITTED, Outcome.RETRYING) for m in current) and members:
        return _next_wave(spec, progress, now_s), []
    if progress.state is RolloutState.PAUSED:
        return progress, []
    return _admit(spec, progress, views, now_s)


def pause(progress: Progress) -> Progress:
    if progress.state is not RolloutState.RUNNING:
        raise RolloutError(f"a rollout that is {progress.state.value} cannot be paused")
    return progress.model_copy(update={"state": RolloutState.PAUSED})


def resume(progress: Progress) -> Progress:
    if progress.state is not RolloutState.PAUSED:
        raise RolloutError(f"a rollout that is {progress.state.value} cannot be resumed")
    return progress.model_copy(update={"state": RolloutState.RUNNING})


def stop(spec: RolloutSpec, progress: Progress, reason: str) -> tuple[Progress, list[SetSlot]]:
    """Admit nobody else, and take the release back from everyone who got it, last one first."""
    if progress.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        raise RolloutError(f"a rollout that is {progress.state.value} cannot be stopped")
    touched = [name for name, m in progress.members.items() if m.admitted_s is not None]
    if not spec.rollback or not touched:
        return progress.model_copy(update={"state": RolloutState.STOPPED, "reason": reason}), []
    touched.sort(key=lambda name: (progress.members[name].wave, progress.members[name].admitted_s or 0.0), reverse=True)
    actions = [SetSlot(name, spec.slot, progress.members[name].before) for name in touched]
    return progress.model_copy(update={"state": RolloutState.ROLLING_BACK, "reason": reason}), actions


def _selected(spec: RolloutSpec, progress: Progress, views: Mapping[str, DeviceView]) -> dict[str, Member]:
    """Members so far, and newcomers: in the canary until it is full, later in the wave that runs, under its gates."""
    members = dict(progress.members)
    fitting = (n for n, v in views.items() if n not in members and _fits(spec, v))
    for name in order(fitting, spec.release):
        canaries = sum(m.wave == 0 for m in members.values())
        members[name] = Member(wave=0 if progress.wave == 0 and canaries < spec.canary else 1)
    return members


def _fits(spec: RolloutSpec, view: DeviceView) -> bool:
    named = not spec.devices or view.name in spec.devices
    return named and spec.slot in view.slots and all(view.labels.get(k) == v for k, v in spec.labels.items())


def _judged(spec: RolloutSpec, m: Member, view: DeviceView | None, now_s: float) -> Member:
    """What became of a member since it was admitted."""
    if m.outcome not in (Outcome.ADMITTED, Outcome.AWAY) or m.admitted_s is None:
        return m
    if view is None:
        return m.model_copy(update={"outcome": Outcome.AWAY})
    r = view.reported.get(spec.slot)
    mine = r is not None and r.digest == spec.digest and r.gen >= view.gen and r.release == spec.release
    if r is not None and mine and r.state is State.COMMITTED:
        return m.model_copy(update={"outcome": Outcome.COMMITTED, "detail": r.stage})
    if r is not None and mine and r.state in _FAILED:
        why = f"{r.state.value}: {r.error.detail or r.error.code}" if r.error else r.state.value
        if r.state in _AGAIN and r.error is not None and r.error.retryable and m.tries < spec.retries:
            wait_s = min(spec.retry_after_s * 2**m.tries, _MAX_BACKOFF_S)
            return m.model_copy(update={"outcome": Outcome.RETRYING, "retry_s": now_s + wait_s, "detail": why})
        return m.model_copy(update={"outcome": Outcome.FAILED, "detail": why})
    gone_s = 0.0 if view.online else now_s - max(view.seen_s, m.admitted_s)
    if r is not None and mine and r.state in _RISKY and gone_s > spec.lost_s:
        return m.model_copy(update={"outcome": Outcome.FAILED, "detail": "lost after activation"})
    if gone_s > spec.away_s:
        return m.model_copy(update={"outcome": Outcome.AWAY, "detail": "offline"})
    if m.outcome is Outcome.AWAY and view.online:
        return m.model_copy(update={"outcome": Outcome.ADMITTED, "admitted_s": now_s, "detail": None})
    waits = (
        mine and r is not None and r.state is State.DEFERRED
    )  # for its window, a lease or fresh metadata: it says so, and for how long it may
    if view.online and not waits and now_s - m.admitted_s > spec.deadline_s:
        return m.model_copy(update={"outcome": Outcome.FAILED, "detail": f"not committed within {spec.deadline_s:g} s"})
    return m


def _gate(spec: RolloutSpec, progress: Progress, evidence: Evidence | None) -> str | None:
    failures = sorted((n, m.detail) for n, m in progress.members.items() if m.outcome is Outcome.FAILED)
    finished = sum(m.outcome in (Outcome.FAILED, Outcome.COMMITTED) for m in progress.members.values())
    reason = failure_gate(
        len(failures),
        finished,
        max_rate=spec.max_failure_rate,
        max_canary=spec.max_canary_failures,
        canary=progress.wave == 0,
    )
    if reason:
        return f"{reason} ({failures[0][0]}: {failures[0][1]})"
    if evidence is None or spec.max_latency_ratio is None:
        return None
    return latency_gate(evidence.before, evidence.after, percentile=spec.policy.percentile, max_ratio=spec.max_latency_ratio)


def _next_wave(spec: RolloutSpec, progress: Progress, now_s: float) -> Progress:
    later = [m for m in progress.members.values() if m.wave > progress.wave]
    committed = any(m.outcome is Outcome.COMMITTED for m in progress.members.values())
    if not committed:
        return progress  # nobody has shown yet that the release works; who is away may come back
    if not later:
        return progress.model_copy(update={"state": RolloutState.DONE, "reason": None})
    since = progress.wave_done_s if progress.wave_done_s is not None else now_s
    if now_s - since < spec.soak_s or progress.state is RolloutState.PAUSED:
        return progress.model_copy(update={"wave_done_s": since})
    return progress.model_copy(update={"wave": progress.wave + 1, "wave_done_s": None})


def _admit(
    spec: RolloutSpec, progress: Progress, views: Mapping[str, DeviceView], now_s: float
) -> tuple[Progress, list[SetSlot]]:
    members, actions = dict(progress.members), []
    for name in order(members, spec.release):
        m = members[name]
        if m.wave == progress.wave and m.outcome is Outcome.WAITING:
            before = views[name].desired.get(spec.slot) if name in views else None
            members[name] = m.model_copy(update={"outcome": Outcome.ADMITTED, "admitted_s": now_s, "before": before})
            actions.append(SetSlot(name, spec.slot, _wish(spec, m)))
    progress, again = _ask_again(spec, progress.model_copy(update={"members": members}), now_s)
    return progress, actions + again


def _wish(spec: RolloutSpec, m: Member) -> DesiredSlot:
    return DesiredSlot(release=spec.release, digest=spec.digest, attempt=spec.attempt + m.tries, policy=spec.policy)


def _ask_again(spec: RolloutSpec, progress: Progress, now_s: float) -> tuple[Progress, list[SetSlot]]:
    """Who waits for another try gets the same wish with a raised attempt: an end that a device has reported stays one."""
    due = {n: m for n, m in progress.members.items() if m.outcome is Outcome.RETRYING and now_s >= (m.retry_s or 0.0)}
    again = {
        n: m.model_copy(update={"outcome": Outcome.ADMITTED, "admitted_s": now_s, "tries": m.tries + 1, "retry_s": None})
        for n, m in due.items()
    }
    actions = [SetSlot(n, spec.slot, _wish(spec, m)) for n, m in again.items()]
    return progress.model_copy(update={"members": {**progress.members, **again}}), actions


def _stragglers(
    spec: RolloutSpec, progress: Progress, views: Mapping[str, DeviceView], now_s: float
) -> tuple[Progress, list[SetSlot]]:
    """Look after who was away when the rollout was done. No gate is asked any more, and nothing is taken back from the others."""
    members = {n: _judged(spec, m, views.get(n), now_s) for n, m in progress.members.items()}
    for name, m in members.items():
        wish, ours = views[name].desired.get(spec.slot) if name in views else None, _wish(spec, m)
        if m.outcome in _OPEN and name in views and (wish is None or (wish.digest, wish.attempt) != (ours.digest, ours.attempt)):
            members[name] = m.model_copy(update={"outcome": Outcome.SUPERSEDED, "detail": None})
    return _ask_again(spec, progress.model_copy(update={"members": members}), now_s)


def _going_back(progress: Progress, views: Mapping[str, DeviceView], slot: str) -> Progress:
    """Wait until every online device that was touched runs what it had before, or has given that up; then the rollout is stopped."""
    members = {name: _back(m, views.get(name), slot) for name, m in progress.members.items()}
    touched = (
        name for name, m in members.items() if m.admitted_s is not None and m.outcome not in (Outcome.RESTORED, Outcome.STRANDED)
    )
    waiting = any(name in views and views[name].online for name in touched)
    state = RolloutState.ROLLING_BACK if waiting else RolloutState.STOPPED
    reason = progress.reason
    if not waiting and (lost := sorted(name for name, m in members.items() if m.outcome is Outcome.STRANDED)):
        reason = f"{reason}; {len(lost)} could not take back what was before ({lost[0]}: {members[lost[0]].detail})"
    return progress.model_copy(update={"members": members, "state": state, "reason": reason})


def _back(m: Member, view: DeviceView | None, slot: str) -> Member:
    """What became of a member since the release was taken back. One that had nothing before only has to come to an end."""
    r = view.reported.get(slot) if view else None
    if m.admitted_s is None or view is None or r is None or r.state not in TERMINAL:
        return m
    if m.before is None or r.active == m.before.digest:
        return m.model_copy(update={"outcome": Outcome.RESTORED})
    if r.digest == m.before.digest and r.gen >= view.gen:  # this is its last word on it: what was before may be withdrawn by now
        why = f"{r.state.value}: {r.error.detail or r.error.code}" if r.error else r.state.value
        return m.model_copy(update={"outcome": Outcome.STRANDED, "detail": why})
    return m
