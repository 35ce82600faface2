"""Rules: one file each, pure, in seconds of capture time, replayable. One table names them;
:class:`RuleSet` runs those of one stream in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from edgectl.core.errors import EngineError, UsageError
from edgectl.core.schema import Config, Key, Name, mistakes_below, wrong_at
from edgectl.pipelines.registry import Registry
from edgectl.pipelines.rules.base import RuleConfig, RuleType
from edgectl.pipelines.rules.failure import check_made, line_of
from edgectl.pipelines.rules.ground import Ground, GroundConfig
from edgectl.pipelines.rules.lifecycle import LifecycleRule
from edgectl.pipelines.rules.motion import MotionEstimator
from edgectl.pipelines.rules.observation import Lasting, Observation, Resettable, Rule, Switchable, Wall
from edgectl.pipelines.rules.places import find, where
from edgectl.pipelines.rules.predicate import Explained, Explains
from edgectl.pipelines.rules.recent import WARM_S, RecentTracks, SeenFrame
from edgectl.pipelines.rules.review import ReviewConfig, ReviewRule
from edgectl.pipelines.rules.schedule import check_time_zone
from edgectl.pipelines.rules.succession import (
    NotingContext,
    OpenAlarms,
    Switched,
    carry_over,
    meaning_of,
    stay_switched,
    told_by_succession,
)
from edgectl.pipelines.rules.zone import ZoneConfig, ZoneRule
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.lanes import CameraConfig, Lanes
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["RULES", "SAVED", "RuleSet", "RulesConfig", "Successor"]

_TRIAL_S = 60.0
"""A rule that fails so soon after it took over is the configuration's fault, and the one before comes back."""

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
        return tuple(cls._rule(r, i) for i, r in enumerate(rules))

    @classmethod
    def _rule(cls, value: Any, place: int) -> RuleConfig:
        """``place``: in the list, from 0."""
        if isinstance(value, RuleConfig):
            return value
        if not isinstance(value, dict):
            raise wrong_at((place,), "a rule is a mapping with an id and one of: " + ", ".join(RULES.names()))
        names = _names(value)
        if len(names) != 1:
            others = [] if names else [key for key in value if key != "id"]
            unknown = f", and there is no rule {str(others[0])[:64]!r}" if others else ""
            there = names[1:2] or others[:1]
            raise wrong_at(
                (place, *map(str, there)), f"a rule needs exactly one of: {', '.join(RULES.names())}{unknown}"
            )
        type_ = RULES.get(names[0])
        if missing := type_.needs - cls.has:
            what = f"needs {' and '.join(sorted(missing))}, which this kind of pipeline does not have"
            raise wrong_at((place, names[0]), what)
        try:
            return type_.config.model_validate(value)
        except ValidationError as e:
            raise mistakes_below((place,), e) from e

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return check_time_zone(name)

    @model_validator(mode="after")
    def _names_exist(self) -> RulesConfig:
        ids = [r.id for r in self.rules]
        for i, rule in enumerate(self.rules):
            if rule.id in ids[:i]:
                raise wrong_at(
                    ("rules", i, "id"), f"{rule.id!r} is used twice, first by rules.{ids.index(rule.id)}"
                )
            if unknown := set(rule.zone_names()) - set(self.zones):
                zone = min(unknown)
                raise wrong_at(
                    where("rules", i, rule, zone),
                    f"rule {rule.id!r} names zone {zone!r}, which does not exist",
                )
            if rule.needs_ground() and self.ground is None:
                raise wrong_at(("rules", i), f"rule {rule.id!r} measures in metres, and there is no ground")
        if self.review is not None and (unknown := set(self.review.names()) - {*self.zones, *ids}):
            name = min(unknown)
            raise wrong_at(
                ("review", *find(self.review.model_dump(mode="json"), name)),
                f"{name!r} is no rule or zone",
            )
        return self


@dataclass(frozen=True)
class Successor:
    """Rules that are ready to take over. See :meth:`RuleSet.prepare`."""

    rules: RuleSet
    blank: Mapping[str, Mapping[str, Any]]
    """What each lasting one knew when it was made."""
    switched: Switched
    until_s: float | None
    """The last frame that it has seen; None: it has seen none."""


class RuleSet:
    """Zones first, then the object life cycle, then the rules in the order of the configuration, then the review."""

    def __init__(
        self, config: RulesConfig, labels: Sequence[str], camera: CameraConfig | None = None
    ) -> None:
        """Raises :class:`UsageError` if a rule or zone names a class that the model does not know."""
        for who, classes, key in _classes(config):
            if unknown := set(classes) - set(labels):
                name = min(unknown)
                raise UsageError(
                    f"{who} names class {name!r}, which the model does not know",
                    hint=f"it knows {', '.join(labels[:20])}",
                    key=key(name),
                )
        self.config = config
        self.labels = labels
        self._camera = camera
        self.zones = [ZoneRule(name, zone, labels) for name, zone in config.zones.items()]
        ground = None if config.ground is None else Ground(config.ground)
        shown = {
            "ground": None if config.ground is None else config.ground.model_dump(mode="json"),
            "camera": (camera or CameraConfig()).model_dump(mode="json"),
            "time_zone": config.time_zone,
        }
        self._meaning: dict[str, Any] = {
            f"zone:{name}": zone.model_dump(mode="json") for name, zone in config.zones.items()
        }
        """Name of a step → all that says what it does."""
        self.rules: dict[str, Rule] = {}
        """Id → rule, without the zones."""
        self._settings: dict[str, Any] = {}
        """Id → what the rule was configured with, as JSON values."""
        for rule in config.rules:
            context = NotingContext(
                labels,
                {z.name: z for z in self.zones},
                camera or CameraConfig(),
                ground,
                config.time_zone,
            )
            with RULES.using(_names(type(rule).model_fields)[0]) as type_:
                self.rules[rule.id] = type_.make(rule, context)
            self._settings[rule.id] = rule.model_dump(mode="json")
            self._meaning[rule.id] = meaning_of(rule, config.zones, context.noted, shown)
        self._steps: dict[str, Rule] = {f"zone:{z.name}": z for z in self.zones}
        self._steps["lifecycle"] = LifecycleRule(labels, self.zones, config.update_s)
        self._steps |= self.rules
        if config.review is not None:
            self._steps["review"] = ReviewRule(config.review)
            self._meaning["review"] = config.review.model_dump(mode="json")
        self._motion = MotionEstimator()
        self._now: Observation | None = None
        """What the last step looked at."""
        self._asked: deque[tuple[str, bool | None]] = deque()
        """Rules to switch on or off, or (None) to reset, before the next step."""
        self._begun_anew: list[tuple[str, str]] = []
        """Rules that were not loaded, and why."""
        self._recent = RecentTracks()
        self._open = OpenAlarms()
        self._successor: Successor | None = None
        """To take over before the next step."""
        self._trial: tuple[RulesConfig, frozenset[str], float] | None = None
        """The configuration before, the steps that it did not have, and until when it comes back if one of them
        fails."""
        self._blind: str | None = None
        self.switched: Switched | None = None
        """That other rules took over in the last step."""

    def prepare(
        self,
        config: RulesConfig,
        told: Mapping[str, Any] | None = None,
        *,
        after_s: float | None = None,
        phase: Literal["applied", "reverted"] = "applied",
    ) -> Successor:
        """Other zones and rules for the same stream, warmed on the last minute (or on what was ``after_s``). Nothing
        changes before :meth:`succeed`. Callable from any thread, while another one steps. ``told``: what the event
        says of the configuration, such as its digest. Raises :class:`UsageError` like the constructor, and
        :class:`EngineError` for a rule that fails on those tracks."""
        new = RuleSet(config, self.labels, self._camera)
        blank = {name: rule.lasting() for name, rule in new._steps.items() if isinstance(rule, Lasting)}
        last_s = self._recent.last_s
        if after_s is None:
            after_s = -1.0 if last_s is None else round(last_s - WARM_S, 6)
        for name, rule in new._steps.items():
            stay_switched(self._steps.get(name), rule)
        new._watch(self._recent.between(after_s, last_s))
        values = config.model_dump(mode="json", include=set(RulesConfig.model_fields), exclude_unset=True)
        return Successor(new, blank, Switched(values, after_s, told or {}, phase), last_s)

    def succeed(self, successor: Successor) -> None:
        """Let prepared rules take over before the next step, which tells it as an event ``configuration``. From any
        thread."""
        self._successor = successor

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
        blind: str | None = None,
    ) -> list[Event]:
        """``blind``: what is wrong with what the camera sees; whatever is made meanwhile says so. Raises
        :class:`EngineError` that names the rule, for a rule that fails: it may be another
        package's."""
        self.switched = None
        successor, self._successor = self._successor, None
        events = [] if successor is None else self._give_way(successor, t)
        events += [*self._obey(t), *self._see(blind, t)]
        now = self._now = Observation(tracks, t, lanes, speed_mps, wall, events, self._motion.step(tracks, t))
        for name, rule in self._steps.items():
            try:
                made = rule.step(now)
                if made:
                    check_made(made)
            except Exception as e:
                _log.debug("rule %s", name, exc_info=True)
                error = EngineError(
                    f"rule {name!r} failed at {t:.3f} s: {type(e).__name__}: {e}",
                    hint=line_of(e, type(rule).__module__),
                )
                if not self._go_back(name, t, error):
                    raise error from e
                continue
            if made:
                self._open.follow(name, made)
                events += made if blind is None else [_said_blindly(event, blind) for event in made]
        self._recent.keep(SeenFrame(tracks, t, lanes, speed_mps, wall))
        # An object is new before anything else is said of it.
        return sorted(events, key=lambda event: not (event.type == "tracked_object" and event.phase == "new"))

    def inside(self) -> dict[str, dict[int, str]]:
        """Zone → track → label, of who is in it now."""
        return {
            z.name: {track: self.labels[stay.cls] for track, stay in z.inside.items()} for z in self.zones
        }

    def explain(self) -> dict[str, list[Explained]]:
        """Zone or rule → what it asked of each track, or of the scene, in the last step. Rules that do not explain
        themselves are left out."""
        if self._now is None:
            return {}
        named = [(name.removeprefix("zone:"), rule) for name, rule in self._steps.items()]
        return {name: rule.explain(self._now) for name, rule in named if isinstance(rule, Explains)}

    def snapshot(self) -> dict[str, Any]:
        """The whole state as JSON values."""
        rules = {name: rule.snapshot() for name, rule in self._steps.items()}
        return {"motion": self._motion.snapshot(), "rules": rules}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot; rules that it does not know start anew."""
        self._motion.restore(state["motion"])
        for name, rule in self._steps.items():
            if name in state["rules"]:
                rule.restore(state["rules"][name])

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

    def _watch(self, frames: Sequence[SeenFrame]) -> None:
        """See frames that are over; what is made of them is told by nobody."""
        for frame in frames:
            self.step(*frame)

    def _give_way(self, successor: Successor, t: float) -> list[Event]:
        """Become the successor; what the event ``configuration`` says, and all that has to be told with it."""
        first_s, until_s, switched = self._recent.first_s, successor.until_s, successor.switched
        if until_s is not None and first_s is not None and until_s < first_s:
            # so long ago that frames between are forgotten
            successor = self.prepare(successor.rules.config, switched.told, phase=switched.phase)  # type: ignore[arg-type]
            until_s, switched = successor.until_s, successor.switched
        new = successor.rules
        new._watch(self._recent.between(-1.0 if until_s is None else until_s))
        same = [
            name
            for name in new._steps
            if name in self._steps
            and (name == "lifecycle" or self._meaning.get(name) == new._meaning.get(name))
        ]
        events = told_by_succession(self._steps, new._steps, same, self._open, new._open, t)
        carry_over(self._steps, new._steps, same, successor.blank)
        new._motion.restore(self._motion.snapshot())
        begun = [name for name in new._steps if name not in same]
        data = {
            **switched.told,
            "kept": [_shown(name) for name in same if name != "lifecycle"],
            "begun": [_shown(name) for name in begun],
            "gone": [_shown(name) for name in self._steps if name not in new._steps],
            "reset": [event.rule for event in events if event.type == "reset"],
        }
        is_trial = switched.phase == "applied"
        self._trial = (self.config, frozenset(begun), t + _TRIAL_S) if is_trial else None
        self.switched = switched
        self.config, self.zones, self.rules = new.config, new.zones, new.rules
        self._steps, self._meaning, self._settings = new._steps, new._meaning, new._settings
        self._motion, self._open = new._motion, new._open
        return [Event("configuration", t, switched.phase, None, data), *events]

    def _go_back(self, name: str, t: float, error: EngineError) -> bool:
        """Whether the configuration before comes back with the next frame, because a rule failed that came with this
        one."""
        if self._trial is None or self._successor is not None:
            return self._successor is not None
        config, begun, until_s = self._trial
        if name not in begun or t > until_s:
            return False
        said = error.message if error.hint is None else f"{error.message} ({error.hint})"
        self.succeed(self.prepare(config, {"detail": said[:500]}, phase="reverted"))
        return True

    def _see(self, blind: str | None, t: float) -> list[Event]:
        """Say once that zones and rules are blind, and once that they see again."""
        before, self._blind = self._blind, blind
        if blind == before:
            return []
        names = [_shown(name) for name in self._steps if name not in ("lifecycle", "review")]
        data = {"name": "rules", "available": blind is None, "reason": blind or before, "rules": names}
        return [Event("capability", t, "end" if blind is None else "start", None, data)]

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


def _names(keys: Iterable[str]) -> list[str]:
    """Those of the keys of an entry that are names of rules. Ours come first: an option of theirs may be called
    like another package's rule."""
    found = set(keys)
    return [name for name in RULES.own if name in found] or [key for key in keys if key in RULES]


def _classes(config: RulesConfig) -> list[tuple[str, Sequence[str], Callable[[str], Key]]]:
    """Who names which labels, and where one of them stands."""
    named: list[tuple[str, Sequence[str], Callable[[str], Key]]] = [
        (f"zone {name!r}", z.classes, partial(where, "zones", name, z)) for name, z in config.zones.items()
    ]
    return named + [
        (f"rule {r.id!r}", r.label_names(), partial(where, "rules", i, r)) for i, r in enumerate(config.rules)
    ]


def _said_blindly(event: Event, blind: str) -> Event:
    return replace(event, data={**event.data, "blind": blind})


def _shown(step: str) -> str:
    return step.removeprefix("zone:")
