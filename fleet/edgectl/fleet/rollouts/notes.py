"""What a rollout says to people about whom or what it waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone

from edgectl.fleet.rollouts.values import (
    ACTIVE,
    BUSY,
    OPEN,
    DeviceOutcome,
    DeviceView,
    RolloutProgress,
    RolloutSpec,
    having,
)

__all__ = ["also_noted", "names", "noted", "starts", "wave_name"]

_LOST = frozenset({DeviceOutcome.LOST})
_AWAY = frozenset({DeviceOutcome.AWAY})
_ABSENT = _AWAY | {DeviceOutcome.WAITING}


def noted(
    spec: RolloutSpec,
    progress: RolloutProgress,
    views: Mapping[str, DeviceView],
    *,
    idle: bool = False,
    held: str | None = None,
    missing: int = 0,
) -> RolloutProgress:
    """With whom it waits for. Nothing in it changes with time alone: every change is written down.

    ``idle``: nobody is at work; ``held``: why others are not asked; ``missing``: how many of the wave have to commit it
    that have not.
    """
    members = having(progress.members, OPEN)
    if progress.state in ACTIVE:
        members = {n: m for n, m in members.items() if m.wave == progress.wave}
    lost = list(having(members, _LOST))
    busy = [views[n] for n in having(members, BUSY) if n in views]
    gone = [view.name for view in busy if not view.online]
    unsigned = [view.name for view in busy if view.unsigned]
    notes = []
    if unsigned:
        notes.append(f"{names(unsigned)}: waits for a signature: `edgectl rollout approve --key KEY`")
    if lost:
        notes.append(
            f"{names(lost)} went away in the middle of an activation; `edgectl rollout skip {spec.id} {lost[0]}` goes on without"
        )
    elif idle and progress.wave == 0:
        absent = having(progress.members, _ABSENT)
        notes.append(
            f"nobody is there to be the canary: {names(absent) or f'no device with slot {spec.slot} is known'}"
        )
    elif gone:
        notes.append(f"{names(gone)}: away, waited for {spec.away_s:g} s at most")
    if held is not None:
        notes.append(held)
    elif idle and missing and not lost and progress.wave > 0:
        notes.append(
            f"{wave_name(progress.wave)} waits for {missing} more to commit it: {spec.quorum:.0%} have to"
        )
    if progress.state not in ACTIVE:
        away = having(members, _AWAY)
        notes += [f"{names(away)}: away, takes it when it is back"] if away else []
    return progress.model_copy(update={"note": "; ".join(notes) or None})


def names(devices: Iterable[str]) -> str:
    """A few of them, for a sentence: ``a, b, c and 4 more``."""
    found = sorted(devices)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def also_noted(progress: RolloutProgress, note: str) -> RolloutProgress:
    return progress.model_copy(update={"note": "; ".join(filter(None, (progress.note, note)))})


def starts(start_s: float) -> str:
    return f"begins at {datetime.fromtimestamp(start_s, timezone.utc):%Y-%m-%d %H:%M} UTC"


def wave_name(number: int) -> str:
    return f"wave {number}" if number else "the canary"
