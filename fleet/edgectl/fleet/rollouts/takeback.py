"""Taking a release back: what an operator may ask of a rollout in every state, and how devices go back to
what they had. Pure.

Each device gets back what it had before this rollout, or an empty slot. A device that has another release by
now keeps that. One that is away holds nothing up: what it is to run is on the broker, and its outcome is told
when it is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgectl.core.errors import RolloutError
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import MAX_GEN, ClearSlot, DesiredSlot, ReportedSlot
from edgectl.fleet.rollouts.planner import (
    ACTIVE,
    DeviceOutcome,
    DeviceView,
    GateEvidence,
    Member,
    RolloutProgress,
    RolloutSpec,
    RolloutState,
    SetSlot,
    decide,
    desired_back,
    fits,
    names,
    stop,
)
from edgectl.fleet.rollouts.values import OPEN_BACK

__all__ = ["abort", "advance", "busy", "needs", "rollback", "skip"]

_HELD = frozenset({State.DEFERRED, State.STAGED, State.CLEARING})
"""Here the stage says what it waits for; elsewhere it counts, and every change is written down."""
_CLOSED = frozenset(
    {DeviceOutcome.RESTORED, DeviceOutcome.STRANDED, DeviceOutcome.SKIPPED, DeviceOutcome.SUPERSEDED}
)


def advance(
    spec: RolloutSpec,
    progress: RolloutProgress,
    views: Mapping[str, DeviceView],
    now_s: float,
    evidence: GateEvidence | None = None,
) -> tuple[RolloutProgress, list[SetSlot]]:
    """One step of a rollout, whichever way it goes. Returns the new progress and what to write; the same
    input gives the same answer."""
    if progress.state is RolloutState.ROLLING_BACK or (progress.ending is not None and progress.unfinished):
        untold = [n for n, m in progress.members.items() if n in views and _is_untold(spec, m, views[n])]
        return _going_back(spec, progress, views, now_s), [
            SetSlot(n, spec.slot, ClearSlot(number=1)) for n in untold
        ]
    return decide(spec, progress, views, now_s, evidence)


def abort(
    spec: RolloutSpec,
    progress: RolloutProgress,
    views: Mapping[str, DeviceView],
    reason: str = "aborted by the operator",
) -> tuple[RolloutProgress, list[SetSlot]]:
    """Stop a rollout that is under way, and take the release back. One that is taking it back already goes on
    doing so.

    Raises :class:`RolloutError` for one that has ended.
    """
    if progress.state is RolloutState.ROLLING_BACK:
        return progress, []
    if progress.state not in ACTIVE:
        raise RolloutError(
            f"rollout {spec.id} is {progress.state.value}: there is nothing left to abort",
            hint=f"`edgectl rollout rollback {spec.id}` takes {spec.release} back from the devices that have it",
        )
    return stop(spec, progress, views, reason, RolloutState.ABORTED)


def rollback(
    spec: RolloutSpec,
    progress: RolloutProgress,
    views: Mapping[str, DeviceView],
    rollouts: Iterable[tuple[RolloutSpec, RolloutProgress]] = (),
) -> tuple[RolloutProgress, list[SetSlot]]:
    """Take the release back from every device that has it by this rollout, whatever became of the rollout.

    Where it was taken back before, devices that could not go back are asked once more. With nothing to do,
    nothing changes. ``rollouts``: all there are. Raises :class:`RolloutError` if another one is at work in
    the slot.
    """
    newer = _newer(spec, [(s, p) for s, p in rollouts if s.slot == spec.slot and s.id != spec.id])
    if progress.state in ACTIVE:
        return abort(spec, progress, views, "taken back by the operator")
    members, actions = dict(progress.members), []
    for name, m in progress.members.items():
        if m.admitted_s is not None and name in views and not m.left:
            members[name], action = _asked(spec, m, views[name], newer)
            actions += [action] if action is not None else []
    if not any(m.outcome is DeviceOutcome.RETURNING for m in members.values()):
        return progress.model_copy(update={"members": members}), []
    update = {
        "state": RolloutState.ROLLING_BACK,
        "ending": RolloutState.ROLLED_BACK,
        "back_since_s": None,
        "members": members,
    }
    return progress.model_copy(
        update={**update, "reason": "taken back by the operator", "note": None}
    ), actions


def _newer(spec: RolloutSpec, others: list[tuple[RolloutSpec, RolloutProgress]]) -> int | None:
    """The first attempt of a later rollout of the same release."""
    for other, progress in others:
        if progress.state in ACTIVE:
            raise RolloutError(
                f"rollout {other.id} of {other.release} is {progress.state.value} in slot {spec.slot}",
                hint=f"`edgectl rollout abort {other.id}` first (it gives devices back what they had), then roll {spec.id} back",
            )
    return min(
        (s.attempt for s, _ in others if s.digest == spec.digest and s.attempt > spec.attempt), default=None
    )


def _asked(
    spec: RolloutSpec, m: Member, view: DeviceView, newer: int | None
) -> tuple[Member, SetSlot | None]:
    """A member of a rollout that has ended, asked (again) to go back."""
    returning = m.model_copy(
        update={"outcome": DeviceOutcome.RETURNING, "retry_s": None, "detail": None, "untold": False}
    )
    if _is_ours(spec, view, newer if newer is not None else MAX_GEN):
        return returning, SetSlot(view.name, spec.slot, desired_back(m.before))
    if not _is_before(spec, m, view):
        return m.model_copy(update={"outcome": DeviceOutcome.SUPERSEDED, "detail": _has(spec, view)}), None
    if m.outcome in (DeviceOutcome.RESTORED, DeviceOutcome.SKIPPED):
        return m, None
    if m.outcome is not DeviceOutcome.STRANDED:
        return returning, None  # what it is to do is written already
    desired = _once_more(spec, m, view)
    if isinstance(desired, DesiredSlot):
        returning = returning.model_copy(update={"before": desired})
    return returning, SetSlot(view.name, spec.slot, desired)


def _once_more(spec: RolloutSpec, m: Member, view: DeviceView) -> DesiredSlot | ClearSlot:
    """The same desired state, so that a device which gave it up tries it again."""
    if m.before is None:
        now = view.clear.get(spec.slot)
        return ClearSlot(number=min(MAX_GEN, (now.number if now else 0) + 1))
    attempt = max(m.before.attempt, view.desired[spec.slot].attempt) + 1
    return m.before.model_copy(update={"attempt": min(MAX_GEN, attempt)})


def skip(
    spec: RolloutSpec, progress: RolloutProgress, device: str, view: DeviceView | None
) -> tuple[RolloutProgress, list[SetSlot]]:
    """Go on without a device. What it was asked to take is taken back, unless it has left the fleet.
    Raises :class:`RolloutError`."""
    if progress.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        raise RolloutError(f"rollout {spec.id} is {progress.state.value}: nobody can be skipped any more")
    m = progress.members.get(device) or (Member(wave=1) if view is not None and fits(spec, view) else None)
    if m is None:
        raise RolloutError(
            f"{device} is not in rollout {spec.id}", hint=f"`edgectl rollout status {spec.id}` shows who is"
        )
    if m.outcome is DeviceOutcome.SKIPPED:
        return progress, []
    if m.outcome is DeviceOutcome.COMMITTED:
        raise RolloutError(
            f"{device} runs {spec.release} already",
            hint=f"`edgectl rollout abort {spec.id}` takes it back from all devices",
        )
    skipped = m.model_copy(
        update={"outcome": DeviceOutcome.SKIPPED, "retry_s": None, "detail": "skipped by the operator"}
    )
    there = view is not None and not m.left
    actions = (
        [SetSlot(device, spec.slot, desired_back(m.before))] if m.admitted_s is not None and there else []
    )
    return progress.model_copy(update={"members": {**progress.members, device: skipped}}), actions


def leave(progress: RolloutProgress, device: str) -> RolloutProgress:
    """Go on without a device that left the fleet: nobody waits for it. What it had committed or failed
    before stays true."""
    m = progress.members.get(device)
    if m is None or m.left:
        return progress
    stays = m.outcome in _CLOSED | {DeviceOutcome.COMMITTED, DeviceOutcome.FAILED}
    detail = f"{m.detail}; it left the fleet" if stays and m.detail else "it left the fleet"
    gone = _at(m, m.outcome if stays else DeviceOutcome.SKIPPED, detail).model_copy(
        update={"retry_s": None, "left": True}
    )
    return progress.model_copy(update={"members": {**progress.members, device: gone}})


def busy(spec: RolloutSpec, progress: RolloutProgress) -> RolloutError:
    """Why no other rollout can begin in the slot of this one, and what to do about it."""
    todo = {
        RolloutState.RUNNING: f"wait for it, or `edgectl rollout abort {spec.id}`",
        RolloutState.PAUSED: f"`edgectl rollout resume {spec.id}`, or `edgectl rollout abort {spec.id}`",
    }.get(
        progress.state,
        f"it ends by itself, {spec.back_s:g} s after it began to at the latest; `edgectl rollout status {spec.id}` shows whom it waits for",
    )
    return RolloutError(
        f"rollout {spec.id} of {spec.release} is still {progress.state.value} in slot {spec.slot}", hint=todo
    )


def needs(spec: RolloutSpec, progress: RolloutProgress, release: str) -> str | None:
    """What a rollout still wants with ``release``, as the end of a sentence; None: nothing."""
    if spec.release == release and progress.state in (RolloutState.RUNNING, RolloutState.PAUSED):
        return f"rollout {spec.id} of it is {progress.state.value}"
    expected = OPEN_BACK if progress.ending is not None else {DeviceOutcome.RETURNING}
    back = [
        n
        for n, m in progress.members.items()
        if m.outcome in expected and m.before and m.before.release == release
    ]
    return f"rollout {spec.id} takes {names(back)} back to it" if back else None


def _going_back(
    spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView], now_s: float
) -> RolloutProgress:
    """One step of a rollout that takes its release back, or has: until every device that is there runs
    what it had before, or has given that up, or ``back_s`` have passed; then the rollout is over, and the
    others are looked after as they come back."""
    since = progress.back_since_s if progress.back_since_s is not None else now_s
    over = progress.state is not RolloutState.ROLLING_BACK
    late = over or now_s - since > spec.back_s
    members = {n: _back(spec, m, views.get(n), now_s, late) for n, m in progress.members.items()}
    waiting = any(m.outcome is DeviceOutcome.RETURNING for m in members.values())
    update: dict[str, object] = {"members": members, "back_since_s": since, "note": _note(members)}
    if not over and not waiting:
        update |= {
            "state": progress.ending or RolloutState.STOPPED,
            "ending": progress.ending or RolloutState.STOPPED,
        }
        if lost := sorted(n for n, m in members.items() if m.outcome is DeviceOutcome.STRANDED):
            why = f"{len(lost)} could not take back what was before ({lost[0]}: {members[lost[0]].detail})"
            update["reason"] = f"{progress.reason}; {why}"
    return progress.model_copy(update=update)


def _back(spec: RolloutSpec, m: Member, view: DeviceView | None, now_s: float, late: bool) -> Member:
    """What became of a member since the release was taken back from it."""
    if m.admitted_s is None or m.outcome in _CLOSED or m.left:
        return m
    if view is None:
        return _at(m, DeviceOutcome.SKIPPED, "it left the fleet")
    if not _is_ours(spec, view, spec.attempt + m.tries + 1) and not _is_before(spec, m, view):
        return _at(m, DeviceOutcome.SUPERSEDED, _has(spec, view))
    if _is_untold(spec, m, view):
        return _at(m, DeviceOutcome.RETURNING, None)
    r = view.reported.get(spec.slot)
    is_back = r is not None and r.active == (m.before.digest if m.before else None)
    if is_back and m.untold:  # nor can it be told any more: it is as it was
        return _at(m, DeviceOutcome.RESTORED, None)
    if r is not None and r.state in TERMINAL and r.gen >= view.gen:
        if is_back:
            return _at(m, DeviceOutcome.RESTORED, None)
        still = (
            f"it runs {r.active_release}"
            if r.state is State.COMMITTED and r.active_release
            else r.state.value
        )
        why = f"{r.state.value}: {r.error.detail or r.error.code}" if r.error else still
        # this is its last word on it: what was before may be withdrawn by now
        return _at(m, DeviceOutcome.STRANDED, why)
    if not view.online and now_s - view.seen_s > spec.lost_s:
        return _at(m, DeviceOutcome.AWAY, "offline")
    if late:
        return _at(m, DeviceOutcome.LATE, f"not back within {spec.back_s:g} s{_doing(r, view)}")
    return _at(m, DeviceOutcome.RETURNING, _doing(r, view).removeprefix(": ") or None)


def _is_untold(spec: RolloutSpec, m: Member, view: DeviceView) -> bool:
    """Its slot is to be empty, and nobody has said so: the way back was begun by a controller that only
    removed its entry from ``desired``."""
    expected = m.admitted_s is not None and m.before is None and m.outcome not in _CLOSED and not m.left
    return expected and spec.slot not in view.desired and spec.slot not in view.clear


def _doing(r: ReportedSlot | None, view: DeviceView) -> str:
    """Why it is not back yet."""
    if view.unsigned:
        return ": waits for `edgectl rollout approve`"
    if r is None or r.state in TERMINAL:
        return ""
    return f": {r.state.value}{f', {r.stage}' if r.stage and r.state in _HELD else ''}"


def _at(m: Member, outcome: DeviceOutcome, detail: str | None) -> Member:
    return m.model_copy(update={"outcome": outcome, "detail": detail})


def _is_ours(spec: RolloutSpec, view: DeviceView, until: int) -> bool:
    """What is wanted of the device is this rollout's release. ``until``: the first attempt that is not of
    this rollout."""
    desired = view.desired.get(spec.slot)
    return desired is not None and desired.digest == spec.digest and spec.attempt <= desired.attempt < until


def _is_before(spec: RolloutSpec, m: Member, view: DeviceView) -> bool:
    desired = view.desired.get(spec.slot)
    return desired is None if m.before is None else desired is not None and desired.digest == m.before.digest


def _has(spec: RolloutSpec, view: DeviceView) -> str:
    desired = view.desired.get(spec.slot)
    return f"another rollout gave it {desired.release}" if desired else "its slot was cleared"


def _note(members: Mapping[str, Member]) -> str | None:
    found = []
    for outcome, what in (
        (DeviceOutcome.AWAY, "away, goes back when it is back"),
        (DeviceOutcome.LATE, "has not gone back yet"),
    ):
        if which := [n for n, m in members.items() if m.outcome is outcome and m.admitted_s is not None]:
            found.append(f"{names(which)}: {what}")
    return "; ".join(found) or None
