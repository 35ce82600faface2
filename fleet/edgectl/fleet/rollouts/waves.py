"""Who is in which wave of a rollout. Pure.

All devices that a rollout selects stand in one order, in which every beginning has its share of every stratum: a wave
is the next piece of it. Who comes later enters the wave that is under way, under its gates; the canary only where it
has a free place.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from edgectl.fleet.rollouts.selection import parse_query, value_of
from edgectl.fleet.rollouts.values import (
    DeviceOutcome,
    DeviceView,
    Member,
    RolloutProgress,
    RolloutSpec,
    having,
)

__all__ = ["NO_CANARY", "canary_places", "fits", "is_expected", "joined", "order", "selected", "stratum_of"]

NO_CANARY = frozenset({DeviceOutcome.AWAY, DeviceOutcome.SKIPPED, DeviceOutcome.SUPERSEDED})
"""Another device takes the place of such a canary. A lost one keeps it: the release may have been its end."""
_AWAY = frozenset({DeviceOutcome.AWAY})
_NEVER_SEEN = "it was never there"


def fits(spec: RolloutSpec, view: DeviceView) -> bool:
    """Whether the rollout is for this device."""
    named = not spec.devices or view.name in spec.devices
    labelled = all(view.labels.get(k) == v for k, v in spec.labels.items())
    return named and labelled and spec.slot in view.slots and parse_query(spec.select)(view)


def stratum_of(spec: RolloutSpec, view: DeviceView) -> str:
    """``north/jetson-orin``; a value that it lacks is ``-``."""
    return "/".join(value_of(view, f) for f in spec.strata)


def order(devices: Iterable[str], release: str) -> list[str]:
    """Deterministic, the same after a restart, and other devices are the canaries of the next release."""
    return sorted(devices, key=_places(release).__getitem__)


class _PlacesInOrder(dict[str, bytes]):
    """Device → its place, worked out once: whoever waits is put in order with every tick."""

    def __init__(self, release: str) -> None:
        self._release = release

    def __missing__(self, device: str) -> bytes:
        self[device] = place = hashlib.sha256(f"{device}\0{self._release}".encode()).digest()
        return place


@functools.lru_cache(maxsize=8)
def _places(release: str) -> _PlacesInOrder:
    return _PlacesInOrder(release)


def selected(
    spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView]
) -> dict[str, Member]:
    """Members so far, and newcomers. The canary is made of devices that are there."""
    members = dict(progress.members)
    for name in spec.devices:
        if name not in views and name not in members:
            members[name] = Member(wave=1, outcome=DeviceOutcome.AWAY, detail=_NEVER_SEEN)
    late = max(1, progress.wave)
    members.update(
        {
            n: joined(spec, m, views[n], late)
            for n, m in having(members, _AWAY).items()
            if n in views and is_expected(m)
        }
    )
    newcomers = [n for n, v in views.items() if (n not in members or members[n].left) and fits(spec, v)]
    members.update(
        {n: Member(wave=late, stratum=stratum_of(spec, views[n])) for n in order(newcomers, spec.release)}
    )
    if progress.wave == 0:
        canaries = _canaries(spec, members, views)
        if newcomers or canaries != {n for n, m in members.items() if m.wave == 0}:
            members = _placed(spec, members, canaries)
    return members


def is_expected(m: Member) -> bool:
    """A device that was named and not there when the rollout began."""
    return m.outcome is DeviceOutcome.AWAY and m.admitted_s is None


def joined(spec: RolloutSpec, m: Member, view: DeviceView, wave: int) -> Member:
    """One that is expected, and there: in the wave that is under way, unless its own is to come."""
    if fits(spec, view):
        update = {
            "outcome": DeviceOutcome.WAITING,
            "detail": None,
            "stratum": stratum_of(spec, view),
            "wave": max(m.wave, wave),
        }
        return m.model_copy(update=update)
    return m.model_copy(
        update={
            "outcome": DeviceOutcome.SKIPPED,
            "detail": f"it has no slot {spec.slot}, or the rollout does not select it",
        }
    )


def canary_places(spec: RolloutSpec, members: Iterable[Member]) -> int:
    """How many devices the canary is to have."""
    if spec.canary_devices:
        return len(set(spec.canary_devices))
    sizes = Counter(m.stratum for m in members if not is_expected(m))
    return max(spec.canary, sum(min(spec.canary_per_stratum, n) for n in sizes.values()))


def _canaries(spec: RolloutSpec, members: Mapping[str, Member], views: Mapping[str, DeviceView]) -> set[str]:
    """Those that began keep their places; the others go to who is there, of each stratum what it is to have at least."""
    chosen = {n for n, m in members.items() if m.wave == 0 and m.outcome is not DeviceOutcome.WAITING}
    if spec.canary_devices:
        return chosen | (set(spec.canary_devices) & members.keys())
    serving = [members[n] for n in chosen if members[n].outcome not in NO_CANARY]
    places = canary_places(spec, members.values()) - len(serving)
    waiting = [n for n, m in members.items() if m.outcome is DeviceOutcome.WAITING and n in views]
    candidates = _in_order(spec, {n: members[n] for n in waiting if views[n].online})
    if spec.canary_per_stratum:
        has: dict[str, int] = defaultdict(int)
        for m in serving:
            has[m.stratum] += 1
        for name in candidates:
            if places > 0 and has[members[name].stratum] < spec.canary_per_stratum:
                has[members[name].stratum] += 1
                chosen.add(name)
                places -= 1
    for name in candidates:
        if places > 0 and name not in chosen:
            chosen.add(name)
            places -= 1
    return chosen


def _placed(spec: RolloutSpec, members: Mapping[str, Member], canaries: set[str]) -> dict[str, Member]:
    """Every member in its wave, as long as none but the canary has begun."""
    found = {n: m.model_copy(update={"wave": 0}) if n in canaries else m for n, m in members.items()}
    rest = _in_order(spec, {n: m for n, m in found.items() if n not in canaries})
    total, done = len(found), len(canaries)
    for number in range(1, spec.last_wave + 1):
        wave = spec.wave(number)
        until = done + wave.count if wave.count is not None else math.ceil((wave.share or 1.0) * total - 1e-9)
        piece, rest = rest[: max(0, until - done)], rest[max(0, until - done) :]
        done += len(piece)
        found.update({n: found[n].model_copy(update={"wave": number}) for n in piece})
    return found


def _in_order(spec: RolloutSpec, members: Mapping[str, Member]) -> list[str]:
    """Every beginning of it has its share of every stratum."""
    if not spec.strata:
        return order(members, spec.release)
    strata: dict[str, list[str]] = defaultdict(list)
    for name in order(members, spec.release):
        strata[members[name].stratum].append(name)
    places = [
        ((i + 0.5) / len(names), k, name)
        for k, (_, names) in enumerate(sorted(strata.items()))
        for i, name in enumerate(names)
    ]
    return [name for _, _, name in sorted(places)]
