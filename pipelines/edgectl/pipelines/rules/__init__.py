"""Rules: one file each, pure, in seconds of capture time, replayable. One table names them;
:class:`RuleSet` runs those of one stream in order."""

from __future__ import annotations

import json
import logging
import traceback
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from edgectl.core.errors import EngineError, UsageError
from edgectl.core.schema import Config, Name, first_problem
from edgectl.pipelines.registry import Registry
from edgectl.pipelines.rules.attributes import AttributeFilter
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.ground import Ground, GroundConfig
from edgectl.pipelines.rules.lifecycle import LifecycleRule
from edgectl.pipelines.rules.motion import MotionEstimator
from edgectl.pipelines.rules.observation import (
    Lasting,
    Observation,
    Resettable,
    Rule,
    Switchable,
    Wall,
    shown_attributes,
)
from edgectl.pipelines.rules.predicate import Explained, Explains
from edgectl.pipelines.rules.review import ReviewConfig, ReviewRule
from edgectl.pipelines.rules.scene import SceneRule
from edgectl.pipelines.rules.schedule import check_time_zone
from edgectl.pipelines.rules.zone import ZoneConfig, ZoneRule
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.lanes import CameraConfig, Lanes
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["RULES", "SAVED", "RuleSet", "RulesConfig"]

SAVED = "edgectl.rules/1"
"""Names the format of what :meth:`RuleSet.save` gives."""

_log = logging.getLogger(__name__)

RULES = Registry(
    "rule",
    "edgectl.rules",
    RuleType,
    {
        "line": "edgectl.pipelines.rules.line:RULE",
        "loiter": "edgectl.pipelines.rules.loiter:RULE",
        "occupancy": "edgectl.pipelines.rules.occupancy:RULE",
        "intrusion": "edgectl.pipelines.rules.intrusion:RULE",
        "density": "edgectl.pipelines.rules.density:RULE",
        "speed": "edgectl.pipelines.rules.speed:RULE",
        "stationary": "edgectl.pipelines.rules.stationary:RULE",
        "abandoned": "edgectl.pipelines.rules.abandoned:RULE",
        "wrong_way": "edgectl.pipelines.rules.wrong_way:RULE",
        "turn": "edgectl.pipelines.rules.turn:RULE",
        "traffic": "edgectl.pipelines.rules.traffic:RULE",
        "sudden_stop": "edgectl.pipelines.rules.sudden_stop:RULE",
        "fall": "edgectl.pipelines.rules.fall:RULE",
        "running": "edgectl.pipelines.rules.running:RULE",
        "unusual_path": "edgectl.pipelines.rules.unusual_path:RULE",
        "collision": "edgectl.pipelines.rules.collision:RULE",
        "lane_departure": "edgectl.pipelines.rules.lane_departure:RULE",
    },
)


class RulesConfig(Config):
    """The part of a stream's configuration that makes its rules."""

    has: ClassVar[frozenset[Literal["lanes", "speed"]]] = frozenset()
    """What this kind of pipeline gives rules besides tracks."""

    zones: dict[Name, ZoneConfig] = Field(default={}, max_length=64)
    """Areas of the picture, by name."""
    rules: tuple[SerializeAsAny[RuleConfig], ...] = Field(default=(), max_length=64)
    """What makes events of tracks, each with an ``id``; see below."""
    update_s: float = Field(default=30.0, gt=0, le=86400)
    """How often a tracked object is reported while nothing changes."""
    ground: GroundConfig | None = None
    """Four points of the ground whose places in metres are known; what measures in metres needs them."""
    time_zone: str = "UTC"
    """Of the site, such as `Europe/Berlin`: for rules with hours."""
    review: ReviewConfig | None = None
    """What happens at the same time is told once, as `review`. none: it is not."""

    @field_validator("rules", mode="before")
    @classmethod
    def _one_type_each(cls, rules: Any) -> Any:
        """Pick each rule's model by its key, so that a mistake is reported for the rule that was meant."""
        if not isinstance(rules, list | tuple):
            raise ValueError("it must be a list; each rule begins with `- id:`")
        return tuple(cls._rule(r, i) for i, r in enumerate(rules, 1))

    @classmethod
    def _rule(cls, value: Any, place: int) -> RuleConfig:
        """``place``: in the list, from 1; it names a rule without an id."""
        if isinstance(value, RuleConfig):
            return value
        if not isinstance(value, dict):
            raise ValueError("a rule is a mapping with an id and one of: " + ", ".join(RULES.names()))
        rule = f"rule {value['id']!r}" if "id" in value else f"the rule in place {place}"
        names = _names(value)
        if len(names) != 1:
            others = [] if names else [key for key in value if key != "id"]
            unknown = f", and there is no rule {str(others[0])[:64]!r}" if others else ""
            raise ValueError(f"{rule} needs exactly one of: {', '.join(RULES.names())}{unknown}")
        type_ = RULES.get(names[0])
        if missing := type_.needs - cls.has:
            raise ValueError(
                f"{rule}: {names[0]} needs {' and '.join(sorted(missing))}, which this kind of pipeline does not have"
            )
        try:
            return type_.config.model_validate(value)
        except ValidationError as e:
            raise ValueError(f"{rule}: {first_problem(e)}") from e

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return check_time_zone(name)

    def attribute_names(self) -> list[tuple[str, Mapping[str, Sequence[str]]]]:
        """Where attributes are asked for, and which values of which."""
        zones = [(f"zone {name!r}", zone.attributes) for name, zone in self.zones.items()]
        return [*zones, *((f"rule {rule.id!r}", rule.attributes) for rule in self.rules)]

    @model_validator(mode="after")
    def _names_exist(self) -> RulesConfig:
        ids = [r.id for r in self.rules]
        if twice := {i for i in ids if ids.count(i) > 1}:
            raise ValueError(f"rule id {min(twice)!r} is used twice")
        for rule in self.rules:
            if unknown := set(rule.zone_names()) - set(self.zones):
                raise ValueError(f"rule {rule.id!r} names zone {min(unknown)!r}, which does not exist")
            if rule.needs_ground() and self.ground is None:
                raise ValueError(f"rule {rule.id!r} measures in metres, and there is no ground")
        if self.review is not None and (unknown := set(self.review.names()) - {*self.zones, *ids}):
            raise ValueError(f"review names {min(unknown)!r}, which is no rule or zone")
        return self


class RuleSet:
    """Zones first, then the object life cycle, then the rules in the order of the configuration, then the review."""

    def __init__(
        self,
        config: RulesConfig,
        labels: Sequence[str],
        camera: CameraConfig | None = None,
        attributes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """``attributes``: part of a second stage → the values that it can decide for; none: any text.

        Raises :class:`UsageError` if a rule or zone names a class or an attribute that the model does not know.
        """
        _check_attributes(config, attributes or {})
        for where, classes in _classes(config):
            if unknown := set(classes) - set(labels):
                raise UsageError(
                    f"{where} names class {min(unknown)!r}, which the model does not know",
                    hint=f"it knows {', '.join(labels[:20])}",
                )
        self.zones = [ZoneRule(name, zone, labels) for name, zone in config.zones.items()]
        self._zones = {z.name: z for z in self.zones}
        context = RuleContext(
            labels,
            self._zones,
            camera or CameraConfig(),
            None if config.ground is None else Ground(config.ground),
            config.time_zone,
        )
        self.rules: dict[str, Rule] = {}
        """Id → rule, without the zones."""
        self._settings: dict[str, Any] = {}
        """Id → what the rule was configured with, as JSON values."""
        self._asking = {
            f"zone:{name}": AttributeFilter(zone.attributes, {})
            for name, zone in config.zones.items()
            if zone.attributes
        }
        """Step → what it sees, where it asks for attributes."""
        for rule in config.rules:
            own = context
            if rule.attributes:
                shown = {name: ZoneRule(name, config.zones[name], labels) for name in rule.zone_names()}
                self._asking[rule.id] = AttributeFilter(rule.attributes, shown)
                own = replace(context, zones=shown)
            with RULES.using(_names(type(rule).model_fields)[0]) as type_:
                self.rules[rule.id] = type_.make(rule, own)
            # without what is not asked for, so that counts of a time before there were attributes go on
            left_out = None if rule.attributes else {"attributes"}
            self._settings[rule.id] = rule.model_dump(mode="json", exclude=left_out)
        self._steps: dict[str, Rule] = {f"zone:{z.name}": z for z in self.zones}
        self._steps["lifecycle"] = LifecycleRule(labels, self.zones, config.update_s)
        self._steps["scene"] = SceneRule()
        self._steps |= self.rules
        if config.review is not None:
            self._steps["review"] = ReviewRule(config.review)
        self._motion = MotionEstimator()
        self._now: Observation | None = None
        """What the last step looked at."""
        self._asked: deque[tuple[str, bool | None]] = deque()
        """Rules to switch on or off, or (None) to reset, before the next step."""
        self._begun_anew: list[tuple[str, str]] = []
        """Rules that were not loaded, and why."""

    @property
    def switches(self) -> dict[str, bool]:
        """Id → whether it is armed, of the rules that can be switched."""
        return {name: rule.armed for name, rule in self.rules.items() if isinstance(rule, Switchable)}

    def switch(self, name: str, on: bool) -> None:
        """Arm or disarm a rule before the next step, which tells it as an event ``switch``. Callable from any
        thread. Raises :class:`UsageError` for a rule that has no switch."""
        if name not in self.switches:
            raise UsageError(
                f"there is no rule {name[:64]!r} that can be armed",
                hint=f"there are: {', '.join(self.switches) or 'none'}",
            )
        self._asked.append((name, on))

    def reset(self, name: str) -> None:
        """Let a rule's counts begin anew before the next step, which tells it as an event ``reset``. Callable from
        any thread. Raises :class:`UsageError` for a rule that does not count."""
        if not isinstance(self.rules.get(name), Resettable):
            counting = [n for n, rule in self.rules.items() if isinstance(rule, Resettable)]
            raise UsageError(
                f"there is no rule {name[:64]!r} that counts",
                hint=f"there are: {', '.join(counting) or 'none'}",
            )
        self._asked.append((name, None))

    def step(
        self,
        tracks: Tracks,
        t: float,
        lanes: Lanes | None = None,
        speed_mps: float | None = None,
        wall: Wall | None = None,
    ) -> list[Event]:
        """Raises :class:`EngineError` that names the rule, for a rule that fails: it may be another
        package's."""
        events = self._obey(t)
        now = self._now = Observation(tracks, t, lanes, speed_mps, wall, events, self._motion.step(tracks, t))
        for name, rule in self._steps.items():
            try:
                asking = self._asking.get(name)
                made = rule.step(now if asking is None else asking.step(now, self._zones))
                if made:
                    _check(made)
            except Exception as e:
                _log.debug("rule %s", name, exc_info=True)
                raise EngineError(
                    f"rule {name!r} failed at {t:.3f} s: {type(e).__name__}: {e}",
                    hint=_line(e, type(rule).__module__),
                ) from e
            events += [_with_attributes(event, tracks) for event in made] if tracks.attributes else made
        # An object is new before anything else is said of it.
        return sorted(events, key=lambda event: not (event.type == "tracked_object" and event.phase == "new"))

    def explain(self) -> dict[str, list[Explained]]:
        """Zone or rule → what it asked of each track, or of the scene, in the last step. Rules that do not explain
        themselves are left out."""
        if self._now is None:
            return {}
        explained = {}
        for name, rule in self._steps.items():
            if isinstance(rule, Explains):
                asking = self._asking.get(name)
                if asking is None:
                    found = rule.explain(self._now)
                else:
                    found = asking.explain(self._now, rule.explain(asking.seen(self._now)))
                explained[name.removeprefix("zone:")] = found
        return explained

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON values."""
        rules = {name: rule.snapshot() for name, rule in self._steps.items()}
        asking = {name: one.snapshot() for name, one in self._asking.items()}
        return {"motion": self._motion.snapshot(), "rules": rules, "asking": asking}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot; rules that it does not know start anew."""
        self._motion.restore(state["motion"])
        for name, rule in self._steps.items():
            if name in state["rules"]:
                rule.restore(state["rules"][name])
        for name, asking in self._asking.items():
            asking.restore(state.get("asking", {}).get(name, []))

    def save(self) -> dict[str, Any]:
        """What outlasts the process, as JSON values: counts, switches, what was learned. Nothing about tracks, whose
        ids mean other objects then."""
        kept = {
            name: {"settings": self._settings.get(name), "state": rule.lasting()}
            for name, rule in self._steps.items()
            if isinstance(rule, Lasting)
        }
        return {"schema": SAVED, "rules": kept}

    def load(self, saved: Any) -> None:
        """Go on from what :meth:`save` gave. A rule whose settings are others now, or whose state is not
        understood, begins anew; the next step tells each as an event ``reset`` with its ``reason``."""
        known = (
            isinstance(saved, dict) and saved.get("schema") == SAVED and isinstance(saved.get("rules"), dict)
        )
        for name, rule in self._steps.items():
            if not isinstance(rule, Lasting):
                continue
            entry = saved["rules"].get(name) if known else None
            if known and entry is None:  # a new rule
                continue
            try:
                if entry is None:
                    raise ValueError("unknown format")
                if entry["settings"] != self._settings.get(name):
                    self._begun_anew.append((name, "settings_changed"))
                    continue
                rule.recall(entry["state"])
            except (KeyError, TypeError, ValueError, AttributeError):
                self._begun_anew.append((name, "not_understood"))

    def _obey(self, t: float) -> list[Event]:
        """What was asked for from outside since the step before."""
        events = [Event("reset", t, None, name, {"reason": reason}) for name, reason in self._begun_anew]
        self._begun_anew.clear()
        while self._asked:
            name, on = self._asked.popleft()
            rule = self.rules[name]
            if on is None and isinstance(rule, Resettable):
                events.append(Event("reset", t, None, name, {"reason": "asked", "was": rule.reset()}))
            elif on is not None and isinstance(rule, Switchable) and rule.armed != on:
                rule.switch(on)
                events.append(Event("switch", t, None, name, {"on": on}))
        return events


def _with_attributes(event: Event, tracks: Tracks) -> Event:
    """What is decided of the object that it tells of, in each event of a rule."""
    found = tracks.attributes.get(event.data.get("track", 0))
    if not found or "attributes" in event.data:
        return event
    return replace(event, data={**event.data, "attributes": shown_attributes(found)})


def _check_attributes(config: RulesConfig, known: Mapping[str, Sequence[str]]) -> None:
    for where, asked in config.attribute_names():
        for part, values in asked.items():
            if part not in known:
                raise UsageError(f"{where} asks for the attribute {part!r}, which no second stage gives")
            if known[part] and (unknown := set(values) - set(known[part])):
                raise UsageError(
                    f"{where} asks for {part} {min(unknown)!r}, which the model does not know",
                    hint=f"it knows {', '.join(known[part][:20])}",
                )


def _check(made: Sequence[Event]) -> None:
    """Raises :class:`TypeError` for what no sink could write."""
    if not isinstance(made, list | tuple) or not all(isinstance(event, Event) for event in made):
        raise TypeError("step must return a list of Event")
    for event in made:
        json.dumps(dict(event.data))


def _line(e: Exception, module: str) -> str | None:
    """The line of the rule's own module that failed."""
    own = [
        f"look at {Path(frame.f_code.co_filename).name}, line {line}"
        for frame, line in traceback.walk_tb(e.__traceback__)
        if frame.f_globals.get("__name__") == module
    ]
    return own[-1] if own else None


def _names(keys: Iterable[str]) -> list[str]:
    """Those of the keys of an entry that are names of rules. Ours come first: an option of theirs may be called
    like another package's rule."""
    found = set(keys)
    return [name for name in RULES.own if name in found] or [key for key in keys if key in RULES]


def _classes(config: RulesConfig) -> list[tuple[str, Sequence[str]]]:
    named: list[tuple[str, Sequence[str]]] = [
        (f"zone {name!r}", z.classes) for name, z in config.zones.items()
    ]
    return named + [(f"rule {r.id!r}", r.label_names()) for r in config.rules]
