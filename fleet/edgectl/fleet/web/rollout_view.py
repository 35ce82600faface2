"""A rollout as its page shows it: waves that fill, who is at work or in trouble, what the gates have seen, what may be
done with it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from edgectl.core.durations import in_words
from edgectl.fleet.rollouts.gates import lower_bound, upper_bound
from edgectl.fleet.rollouts.values import (
    ACTIVE,
    DeviceOutcome,
    Member,
    RolloutProgress,
    RolloutSpec,
    RolloutState,
)
from edgectl.fleet.web.charts import Strip, strip
from edgectl.fleet.web.words import second

__all__ = [
    "ACTS",
    "Act",
    "Failures",
    "GateTable",
    "SeenRollout",
    "WaveLine",
    "acts_of",
    "failures_of",
    "gate_table",
    "members_of",
    "seen",
    "terms_of",
    "waves_of",
    "whole_bar",
]

_QUIET = frozenset({DeviceOutcome.COMMITTED, DeviceOutcome.WAITING, DeviceOutcome.RESTORED})
"""Outcomes that nobody has to look at."""
_GOING_ON = frozenset({DeviceOutcome.ADMITTED, DeviceOutcome.RETRYING, DeviceOutcome.RETURNING})
_FAILED = frozenset({DeviceOutcome.FAILED, DeviceOutcome.STRANDED})
_AWAY = frozenset({DeviceOutcome.AWAY, DeviceOutcome.LOST, DeviceOutcome.LATE})

_BACK = frozenset({DeviceOutcome.RESTORED, DeviceOutcome.SKIPPED, DeviceOutcome.SUPERSEDED})
"""There is nothing to take back."""
_JUDGED = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.DONE})
"""Here outcomes say how the release did."""


@dataclass(frozen=True)
class Act:
    op: str
    label: str
    question: str
    """What it does, for whoever is asked whether he means it."""
    danger: bool = False


ACTS = {
    a.op: a
    for a in (
        Act("pause", "Pause", "No other device is asked. Those that have begun go on."),
        Act("resume", "Resume", "It goes on where it was paused."),
        Act("approve", "Approve the next wave", "The next wave begins as soon as its other terms are met."),
        Act("halt", "Halt", "It ends here. No other device is asked, and devices keep what they have.", True),
        Act("abort", "Abort", "It ends, and devices that have the release get back what they had.", True),
        Act("rollback", "Roll back", "Every device that has the release gets back what it had before.", True),
        Act(
            "skip",
            "Skip",
            "The rollout goes on without this device. It keeps, or gets back, what it had.",
            True,
        ),
    )
}


def acts_of(spec: RolloutSpec, progress: RolloutProgress) -> list[Act]:
    """What makes sense in its state."""
    state = progress.state
    if state is RolloutState.RUNNING or state is RolloutState.PAUSED:
        first = ["pause"] if state is RolloutState.RUNNING else ["resume"]
        waits = progress.wave < spec.last_wave and any(
            spec.wave(n).approval and n > progress.approved for n in range(1, spec.last_wave + 1)
        )
        return [ACTS[op] for op in (*first, *(["approve"] if waits else []), "halt", "abort")]
    if state is RolloutState.ROLLING_BACK:
        return []
    has = any(
        m.admitted_s is not None and not m.left and m.outcome not in _BACK for m in progress.members.values()
    )
    return [ACTS["rollback"]] if has else []


@dataclass(frozen=True)
class WaveLine:
    number: int
    name: str
    devices: int
    committed: int
    bar: Strip
    others: str
    """Outcomes besides committed, with counts."""
    terms: str
    current: bool


@dataclass(frozen=True)
class SeenRollout:
    """All that a rollout's page shows of one step of it."""

    spec: RolloutSpec
    progress: RolloutProgress
    acts: list[Act]
    waves: list[WaveLine]
    failures: Failures | None
    gates: GateTable | None
    counts: list[tuple[str, int]]
    """Devices by outcome."""
    members: list[tuple[str, Member]]
    """Of the outcome that was asked for."""

    @property
    def sentence(self) -> str:
        """Where it stands, for who does not see the bars."""
        state = self.progress.state.value.replace("_", " ")
        where = next(
            (f", {w.name}: {w.committed} of {w.devices} committed" for w in self.waves if w.current), ""
        )
        return f"{self.spec.id} is {state}{where}"


def seen(spec: RolloutSpec, progress: RolloutProgress, outcome: str = "") -> SeenRollout:
    """``outcome``: as in :func:`members_of`."""
    return SeenRollout(
        spec,
        progress,
        acts_of(spec, progress),
        waves_of(spec, progress),
        failures_of(spec, progress),
        gate_table(progress),
        sorted(Counter(m.outcome.value for m in progress.members.values()).items()),
        members_of(progress, outcome),
    )


def waves_of(spec: RolloutSpec, progress: RolloutProgress) -> list[WaveLine]:
    """A line a wave, those without devices too."""
    counts: dict[int, Counter[DeviceOutcome]] = {n: Counter() for n in range(spec.last_wave + 1)}
    for m in progress.members.values():
        counts.setdefault(m.wave, Counter())[m.outcome] += 1
    return [
        WaveLine(
            number=n,
            name="canary" if n == 0 else f"wave {n}",
            devices=found.total(),
            committed=found[DeviceOutcome.COMMITTED],
            bar=strip(_kinds(found), max(1, found.total())),
            others=", ".join(
                f"{k} {o.value}" for o, k in sorted(found.items()) if o is not DeviceOutcome.COMMITTED
            ),
            terms=terms_of(spec, progress, n),
            current=progress.wave == n and progress.state in ACTIVE,
        )
        for n, found in sorted(counts.items())
    ]


def whole_bar(progress: RolloutProgress) -> Strip:
    """All its devices in one bar."""
    found = Counter(m.outcome for m in progress.members.values())
    return strip(_kinds(found), max(1, found.total()))


def _kinds(found: Mapping[DeviceOutcome, int]) -> dict[str, int]:
    """The parts of a bar."""
    kinds = {"committed": 0, "busy": 0, "failed": 0, "away": 0, "back": 0, "waiting": 0}
    for outcome, n in found.items():
        kinds[_kind(outcome)] += n
    return kinds


def _kind(outcome: DeviceOutcome) -> str:
    if outcome is DeviceOutcome.COMMITTED:
        return "committed"
    if outcome in _GOING_ON:
        return "busy"
    if outcome in _FAILED:
        return "failed"
    if outcome in _AWAY:
        return "away"
    return "waiting" if outcome is DeviceOutcome.WAITING else "back"


def terms_of(spec: RolloutSpec, progress: RolloutProgress, number: int) -> str:
    """What a wave waits for, in words."""
    wave = spec.wave(number)
    found = []
    if number and wave.share is not None and spec.waves:
        found.append(f"to {wave.share:.0%} of all")
    if wave.approval:
        found.append("approved" if progress.approved >= number else "needs approval")
    if wave.soak_s:
        found.append(f"soaks {in_words(wave.soak_s)}")
    if wave.soak_inferences:
        found.append(f"{wave.soak_inferences} inferences")
    if wave.ramp is not None:
        found.append(
            f"ramp from {wave.ramp.start:g} a minute, times {wave.ramp.factor:g} every {wave.ramp.every}, {wave.ramp.most:g} at most"
        )
    return ", ".join(found)


def members_of(progress: RolloutProgress, outcome: str = "") -> list[tuple[str, Member]]:
    """Those of one outcome; ``all``; or, without one, those that are at work or in trouble, trouble first."""
    if outcome == "all":
        found = progress.members.items()
    elif outcome:
        return sorted((n, m) for n, m in progress.members.items() if m.outcome.value == outcome)
    else:
        found = {n: m for n, m in progress.members.items() if m.outcome not in _QUIET}.items()
    return sorted(found, key=lambda i: (i[1].outcome in _GOING_ON, i[1].wave, i[0]))


@dataclass(frozen=True)
class Failures:
    """Devices that failed of those that came to an end, with the exact 95 % interval of the rate (Clopper & Pearson,
    each bound one-sided at 97.5 %)."""

    failed: int
    finished: int
    low: float
    high: float
    allowed: str


def failures_of(spec: RolloutSpec, progress: RolloutProgress) -> Failures | None:
    """None once the release is taken back: then devices are counted by whether they are back."""
    if progress.ending is not None or progress.state not in _JUDGED:
        return None
    outcomes = Counter(m.outcome for m in progress.members.values() if m.admitted_s is not None)
    failed = outcomes[DeviceOutcome.FAILED]
    finished = failed + outcomes[DeviceOutcome.COMMITTED]
    canary = progress.wave == 0
    allowed = f"{spec.max_canary_failures} of the canary" if canary else f"{spec.max_failure_rate:.1%} of all"
    low, high = lower_bound(failed, finished, 0.975), upper_bound(failed, finished, 0.975)
    return Failures(failed, finished, low, high, allowed)


@dataclass(frozen=True)
class GateTable:
    """What gates have decided, as a table: whatever numbers and words their records have."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    evidence: tuple[float | None, ...]
    """Of each row, how far the bet has come: 1 is where it stops the rollout. None: it does not bet."""


_LONG = frozenset({"reason"})


def gate_table(progress: RolloutProgress) -> GateTable | None:
    """Of the records that a rollout's progress carries under ``decisions``; None: it carries none."""
    records = [_fields(r) for r in getattr(progress, "decisions", ()) if isinstance(r, BaseModel)]
    if not records:
        return None
    columns = [c for c in dict.fromkeys(c for r in records for c in r) if any(r.get(c) for r in records)]
    columns.sort(key=lambda c: c in _LONG)
    return GateTable(
        tuple(c.removesuffix("_s").replace("_", " ") for c in columns),
        tuple(tuple(_cell(c, r.get(c)) for c in columns) for r in records),
        tuple(_evidence(r) for r in records),
    )


def _fields(record: BaseModel) -> dict[str, Any]:
    """Plain values as they are; of lists, how long they are; what is nested deeper is left out."""
    found: dict[str, Any] = {}
    for name in type(record).model_fields:
        value = getattr(record, name)
        value = getattr(value, "value", value)
        if isinstance(value, (str, int, float)) or value is None:
            found[name] = value
        elif isinstance(value, (list, tuple)):
            found[name] = ", ".join(value) if all(isinstance(v, str) for v in value) else len(value)
    return found


def _cell(column: str, value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.endswith("_s") and isinstance(value, float) and value > 1e9:
        return second(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _evidence(record: Mapping[str, Any]) -> float | None:
    log, alpha = record.get("log_wealth"), record.get("alpha")
    if not isinstance(log, float) or not isinstance(alpha, float) or not 0 < alpha < 1:
        return None
    return min(1.0, max(0.0, log / -math.log(alpha)))
