"""Other rules take over while a stream runs: what goes on as it was, what begins anew, and what has to be told.

A zone or rule whose meaning is the same goes on with its state, its counts and its alarms. One with other settings, or a
new one, has seen the last minute of tracks before it takes over. An alarm that it would have told by then is told now,
and one that it would not know of is ended, both with the reason ``configuration``: who listens hears an end for each
start. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgectl.core.schema import Config
from edgectl.pipelines.rules.base import RuleConfig, RuleContext
from edgectl.pipelines.rules.observation import Lasting, Resettable, Rule, Switchable
from edgectl.pipelines.rules.review import ReviewRule
from edgectl.pipelines.rules.zone import ZoneConfig, ZoneRule
from edgectl.pipelines.stream.events import Event

__all__ = [
    "ALWAYS",
    "NotingContext",
    "OpenAlarms",
    "Switched",
    "carry_over",
    "meaning_of",
    "stay_switched",
    "told_by_succession",
]

_OVER = frozenset({"end", "leave", "clear"})
_REASON = "configuration"
ALWAYS = ("lifecycle", "scene")
"""Steps that say what there is, whatever the rules are: they go on."""


@dataclass(frozen=True)
class Switched:
    """That other rules took over, as it stands in the track log."""

    rules: Mapping[str, Any]
    """The configuration of zones and rules, as JSON values."""
    after_s: float
    """They were warmed on the frames behind this time."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """What the event ``configuration`` says besides what follows from the rules."""
    phase: str = "applied"


_NOTED = frozenset({"ground", "camera", "time_zone"})


@dataclass(frozen=True)
class NotingContext(RuleContext):
    """Notes which of the stream's settings a rule has looked at: it means something else when they change."""

    noted: set[str] = field(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        if name in _NOTED:
            object.__getattribute__(self, "noted").add(name)
        return object.__getattribute__(self, name)


def meaning_of(
    rule: RuleConfig, zones: Mapping[str, ZoneConfig], noted: Iterable[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """All that says what a rule does, as JSON values: two rules of the same meaning do the same."""
    return {
        "rule": _dump(rule),
        "zones": {name: _dump(zones[name]) for name in sorted(set(rule.zone_names()))},
        "of": {name: settings[name] for name in sorted(noted)},
    }


class OpenAlarms:
    """What was told to have begun, and not told to be over."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str | None, Any], Event] = {}

    def follow(self, step: str, events: Sequence[Event]) -> None:
        """``step``: who made them."""
        for event in events:
            if event.phase is None:
                continue
            what = event.data.get("track", event.data.get("name"))
            key = (step, event.type, event.rule, what)
            if event.phase in _OVER:
                self._open.pop(key, None)
            else:
                self._open[key] = event

    def of(self, steps: Iterable[str]) -> dict[tuple[str, str, str | None, Any], Event]:
        wanted = set(steps)
        return {key: event for key, event in self._open.items() if key[0] in wanted}

    def adopt(self, entries: Mapping[tuple[str, str, str | None, Any], Event]) -> None:
        self._open.update(entries)

    def forget(self, steps: Iterable[str]) -> None:
        for key in self.of(steps):
            del self._open[key]


def carry_over(
    old: Mapping[str, Rule],
    new: Mapping[str, Rule],
    same: Iterable[str],
    blank: Mapping[str, Mapping[str, Any]],
) -> None:
    """Give the new steps what goes on: all of those that mean the ``same``. Others do not count what happened before
    they were there (``blank``: what each lasting one knew when it was made), but stay switched as somebody switched
    them."""
    unchanged = set(same)
    for name, rule in new.items():
        if name in unchanged:
            rule.restore(old[name].snapshot())
            continue
        if isinstance(rule, Lasting):
            rule.recall(dict(blank[name]))
        before = old.get(name)
        stay_switched(before, rule)
        if isinstance(rule, ReviewRule):
            # one that was begun ends with its rules; numbers go on
            number = before.lasting()["number"] if isinstance(before, ReviewRule) else 0
            rule.restore({**rule.snapshot(), "review": None, "number": number})


def stay_switched(before: Rule | None, rule: Rule) -> None:
    """Whoever armed or disarmed a rule meant the one of that name."""
    if isinstance(before, Switchable) and isinstance(rule, Switchable) and rule.armed != before.armed:
        rule.switch(before.armed)


def told_by_succession(
    old: Mapping[str, Rule],
    new: Mapping[str, Rule],
    same: Iterable[str],
    were: OpenAlarms,
    are: OpenAlarms,
    t: float,
) -> list[Event]:
    """``reset`` for each count that begins anew, an end for what is over with the old rules, a start for what the new
    ones know. ``are`` goes on with what stays."""
    unchanged = {*same, *ALWAYS}
    before = were.of(name for name in old if name not in unchanged)
    are.forget(
        [name for name, rule in new.items() if name not in unchanged and not _speaks(rule, old.get(name))]
    )
    now = are.of(name for name in new if name not in unchanged)
    events = []
    for name, rule in new.items():
        was = old.get(name)
        if (
            name not in unchanged
            and was is not None
            and isinstance(rule, Lasting)
            and isinstance(was, Lasting)
        ):
            counted = was.lasting() if isinstance(was, Resettable) else None
            data = {"reason": "settings_changed", **({} if counted is None else {"was": counted})}
            events.append(Event("reset", t, None, name, data))
    inside = {step.name: len(step.inside) for step in new.values() if isinstance(step, ZoneRule)}
    for key in sorted(before.keys() - now.keys(), key=str):
        events.append(_now(before[key], t, "leave" if key[1] == "zone" else "end", inside))
    for key in sorted(now.keys() - before.keys(), key=str):
        events.append(_now(now[key], t, now[key].phase, inside))
    are.forget(unchanged)
    are.adopt(were.of(name for name in unchanged if name in new))
    return events


def _speaks(rule: Rule, before: Rule | None) -> bool:
    """Whether what a rule has made of the last minute is told."""
    is_off = isinstance(before, Switchable) and not before.armed
    return not is_off and not isinstance(rule, ReviewRule)


def _now(event: Event, t: float, phase: str | None, inside: Mapping[str, int]) -> Event:
    data = {**event.data, "reason": _REASON}
    if "occupancy" in data and event.rule is not None:
        data["occupancy"] = inside.get(event.rule, 0)
    if event.type == "review" and phase == "end":
        data["end_s"] = round(t, 6)
    return replace(event, t_s=t, phase=phase, data=data)


def _dump(config: Config) -> Any:
    return config.model_dump(mode="json")
