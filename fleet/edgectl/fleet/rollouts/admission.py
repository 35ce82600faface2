"""How many devices of the wave that is under way are asked now. Pure.

What holds a device back is a cap on those that are busy, a rate, a wave's ramp, or its site, of which only a part may
be out of service at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from edgectl.fleet.rollouts.selection import value_of
from edgectl.fleet.rollouts.values import (
    BUSY,
    DeviceOutcome,
    DeviceView,
    MaxUnavailable,
    Member,
    RolloutProgress,
    RolloutSpec,
    having,
)
from edgectl.fleet.rollouts.waves import order

__all__ = ["NextAsked", "admission", "most_unavailable"]

_MINUTE_S = 60.0
_RETRYING = frozenset({DeviceOutcome.RETRYING})
_WAITING = frozenset({DeviceOutcome.WAITING})
_COMMITTED = frozenset({DeviceOutcome.COMMITTED})


@dataclass(frozen=True)
class NextAsked:
    now: tuple[str, ...]
    """Devices to ask, in their order."""
    again: tuple[str, ...] = ()
    """Devices whose time for another try has come."""
    waits: bool = False
    """Others of the wave are held back by a limit."""
    held: str | None = None
    """Which, where it is their site; None: a cap or a rate, which time lifts."""


def admission(
    spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView], now_s: float
) -> NextAsked:
    """Whom to ask next: first who is due for another try, then others of the current wave."""
    members = progress.members
    due = [n for n, m in having(members, _RETRYING).items() if now_s >= (m.retry_s or 0.0)]
    waiting = [n for n, m in having(members, _WAITING).items() if m.wave == progress.wave]
    lately = _lately(spec, progress, now_s)
    again = tuple(due if lately is None else due[:lately])
    if not waiting:
        return NextAsked((), again)
    places = _places(spec, progress, None if lately is None else lately - len(again))
    rooms = _Rooms(spec.max_unavailable, members, views) if spec.max_unavailable else None
    found: list[str] = []
    crowded: Counter[str] = Counter()
    for name in order(waiting, spec.release) if places != 0 else ():
        if places is not None and len(found) >= places:
            break
        if rooms is not None and not rooms.take(name):
            crowded[rooms.of(name)] += 1
            continue
        found.append(name)
    held = None
    if not found and crowded and spec.max_unavailable is not None:
        room, n = crowded.most_common(1)[0]
        limit = spec.max_unavailable
        held = f"{n} of {limit.per} {room} wait: {limit.share:.0%} of it may be away or busy at once"
    return NextAsked(tuple(found), again, len(found) < len(waiting), held)


def most_unavailable(limit: MaxUnavailable, devices: int) -> int:
    """How many of a room's ``devices`` may be out of service at once."""
    return max(1, int(limit.share * devices + 1e-9))


def _lately(spec: RolloutSpec, progress: RolloutProgress, now_s: float) -> int | None:
    """How many may still be asked within this minute; None: no limit."""
    limits: list[int] = []
    if spec.per_minute is not None:
        limits.append(spec.per_minute)
    if (ramp := spec.wave(progress.wave).ramp) is not None:
        done = having(progress.members, _COMMITTED).values()
        committed = sum(m.wave == progress.wave for m in done)
        limits.append(int(ramp.per_minute(committed)))
    if not limits:
        return None
    began_s = now_s - _MINUTE_S
    asked = sum(m.admitted_s is not None and m.admitted_s > began_s for m in progress.members.values())
    return max(0, min(limits) - asked)


def _places(spec: RolloutSpec, progress: RolloutProgress, lately: int | None) -> int | None:
    """How many of the wave may be asked now; None: no limit."""
    if spec.in_flight is None:
        return lately
    free = max(0, spec.in_flight - len(having(progress.members, BUSY)))
    return free if lately is None else min(free, lately)


class _Rooms:
    """Sites, or whatever devices share: how many of each may still go out of service. One always may, however many are
    away: else one dead device would keep all others of its site from ever being asked."""

    def __init__(
        self, limit: MaxUnavailable, members: Mapping[str, Member], views: Mapping[str, DeviceView]
    ) -> None:
        self._room = {n: value_of(views[n], limit.per) for n in members if n in views}
        self._offline = {n for n in self._room if not views[n].online}
        size = Counter(self._room.values())
        self._left = {room: most_unavailable(limit, n) for room, n in size.items()}
        self._busy = Counter(self._room[n] for n in self._room if members[n].outcome in BUSY)
        for name, room in self._room.items():
            if name in self._offline or members[name].outcome in BUSY:
                self._left[room] -= 1

    def of(self, device: str) -> str:
        return self._room.get(device, "-")

    def take(self, device: str) -> bool:
        """Whether it may be asked now. One that is offline is out of service already."""
        room = self._room.get(device)
        if room is None or device in self._offline:
            return True
        if self._left[room] <= 0 and self._busy[room]:
            return False
        self._left[room] -= 1
        self._busy[room] += 1
        return True
