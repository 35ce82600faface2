"""Rules: one file each, pure, in seconds of capture time, replayable. One table names them;
:class:`RuleSet` runs those of one stream in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgectl.core.errors import EngineError, UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.pipelines.rules.attributes import AttributeFilter
from edgectl.pipelines.rules.config import RULES, RulesConfig, classes_of, names_of
from edgectl.pipelines.rules.failure import check_made, line_of
from edgectl.pipelines.rules.ground import Ground
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
from edgectl.pipelines.rules.recent import WARM_S, RecentTracks, SeenFrame
from edgectl.pipelines.rules.review import ReviewRule
from edgectl.pipelines.rules.scene import SceneRule
from edgectl.pipelines.rules.succession import (
    ALWAYS,
    NotingContext,
    OpenAlarms,
    Switched,
    carry_over,
    meaning_of,
    stay_switched,
    told_by_succession,
)
from edgectl.pipelines.rules.zone import ZoneRule
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.lanes import CameraConfig, Lanes
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["RULES", "SAVED", "RuleSet", "RulesConfig", "Successor"]

_TRIAL_S = 60.0
"""A rule that fails so soon after it took over is the configuration's fault, and the one before comes back."""

SAVED = "edgectl.rules/1"
"""Names the format of what :meth:`RuleSet.save` gives."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Successor:
    """Rules that are ready to take over. See :meth:`RuleSet.prepare`."""

    rules: RuleSet
    blank: Mapping[str, Mapping[str, Any]]
    """What each lasting one knew when it was made."""
    switched: Switched
    until_s: float | None
    """The last frame that it has seen; None: it has seen none."""
    final: bool = False
    """The configuration before does not come back."""


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
        self._attributes = attributes or {}
        _check_attributes(config, self._attributes)
        for who, classes, key in classes_of(config):
            if unknown := set(classes) - set(labels):
                name = min(unknown)
                raise UsageError(
                    f"{who} names class {name!r}, which the model does not know",
                    hint=did_you_mean(name, labels, there_are="it knows "),
                    key=key(name),
                )
        self.config = config
        self.labels = labels
        self._camera = camera
        self.zones = [ZoneRule(name, zone, labels) for name, zone in config.zones.items()]
        self._zones = {z.name: z for z in self.zones}
        ground = None if config.ground is None else Ground(config.ground)
        settings = {
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
        self._asking = {
            f"zone:{name}": AttributeFilter(zone.attributes, {})
            for name, zone in config.zones.items()
            if zone.attributes
        }
        """Step → what it sees, where it asks for attributes."""
        for rule in config.rules:
            zones = self._zones
            if rule.attributes:
                zones = {name: ZoneRule(name, config.zones[name], labels) for name in rule.zone_names()}
                self._asking[rule.id] = AttributeFilter(rule.attributes, zones)
            context = NotingContext(labels, zones, camera or CameraConfig(), ground, config.time_zone)
            with RULES.using(names_of(type(rule).model_fields)[0]) as type_:
                self.rules[rule.id] = type_.make(rule, context)
            # without what is not asked for, so that counts of a time before there were attributes go on
            left_out = None if rule.attributes else {"attributes"}
            self._settings[rule.id] = rule.model_dump(mode="json", exclude=left_out)
            self._meaning[rule.id] = meaning_of(rule, config.zones, context.noted, settings)
        self._steps: dict[str, Rule] = {f"zone:{z.name}": z for z in self.zones}
        self._steps["lifecycle"] = LifecycleRule(labels, self.zones, config.update_s)
        self._steps["scene"] = SceneRule()
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
        final: bool = False,
    ) -> Successor:
        """Other zones and rules for the same stream, warmed on the last minute (or on what was ``after_s``). Nothing
        changes before :meth:`succeed`. Callable from any thread, while another one steps. ``told``: what the event
        says of the configuration, such as its digest. ``final``: a rule that fails soon does not bring the configuration
        before back: engines have changed with it. Raises :class:`UsageError` like the constructor, and
        :class:`EngineError` for a rule that fails on those tracks."""
        new = RuleSet(config, self.labels, self._camera, self._attributes)
        blank = {name: rule.lasting() for name, rule in new._steps.items() if isinstance(rule, Lasting)}
        last_s = self._recent.last_s
        if after_s is None:
            after_s = -1.0 if last_s is None else round(last_s - WARM_S, 6)
        for name, rule in new._steps.items():
            stay_switched(self._steps.get(name), rule)
        new._watch(self._recent.between(after_s, last_s))
        values = config.model_dump(
            mode="json", include={*RulesConfig.model_fields, "second_stage", "scene"}, exclude_unset=True
        )
        return Successor(new, blank, Switched(values, after_s, told or {}, phase), last_s, final)

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
                hint=did_you_mean(name, self.switches),
            )
        self._asked.append((name, on))

    def reset(self, name: str) -> None:
        """Let a rule's counts begin anew before the next step, which tells it as an event ``reset``. Callable from
        any thread. Raises :class:`UsageError` for a rule that does not count."""
        if not isinstance(self.rules.get(name), Resettable):
            counting = [n for n, rule in self.rules.items() if isinstance(rule, Resettable)]
            raise UsageError(
                f"there is no rule {name[:64]!r} that counts",
                hint=did_you_mean(name, counting),
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
                asking = self._asking.get(name)
                made = rule.step(now if asking is None else asking.step(now, self._zones))
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
                if tracks.attributes:
                    made = [_with_attributes(event, tracks) for event in made]
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

    def _watch(self, frames: Sequence[SeenFrame]) -> None:
        """See frames that are over; what is made of them is told by nobody."""
        for frame in frames:
            self.step(*frame)

    def _give_way(self, successor: Successor, t: float) -> list[Event]:
        """Become the successor; what the event ``configuration`` says, and all that has to be told with it."""
        first_s, until_s, switched = self._recent.first_s, successor.until_s, successor.switched
        if until_s is not None and first_s is not None and until_s < first_s:
            # so long ago that frames between are forgotten
            successor = self.prepare(
                successor.rules.config,
                switched.told,
                phase=switched.phase,  # type: ignore[arg-type]
                final=successor.final,
            )
            until_s, switched = successor.until_s, successor.switched
        new = successor.rules
        new._watch(self._recent.between(-1.0 if until_s is None else until_s))
        same = [
            name
            for name in new._steps
            if name in self._steps and (name in ALWAYS or self._meaning.get(name) == new._meaning.get(name))
        ]
        events = told_by_succession(self._steps, new._steps, same, self._open, new._open, t)
        carry_over(self._steps, new._steps, same, successor.blank)
        new._motion.restore(self._motion.snapshot())
        for name in self._asking.keys() & new._asking.keys() & set(same):
            new._asking[name].restore(self._asking[name].snapshot())
        begun = [name for name in new._steps if name not in same]
        data = {
            **switched.told,
            "kept": [_shown(name) for name in same if name not in ALWAYS],
            "begun": [_shown(name) for name in begun],
            "gone": [_shown(name) for name in self._steps if name not in new._steps],
            "reset": [event.rule for event in events if event.type == "reset"],
        }
        is_trial = switched.phase == "applied" and not successor.final
        self._trial = (self.config, frozenset(begun), t + _TRIAL_S) if is_trial else None
        self.switched = switched
        self.config, self.zones, self.rules = new.config, new.zones, new.rules
        self._steps, self._meaning, self._settings = new._steps, new._meaning, new._settings
        self._motion, self._open = new._motion, new._open
        self._zones, self._asking = new._zones, new._asking
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
        names = [_shown(name) for name in self._steps if name not in (*ALWAYS, "review")]
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


def _with_attributes(event: Event, tracks: Tracks) -> Event:
    """What is decided of the object that it tells of, in each event of a rule."""
    found = tracks.attributes.get(event.data.get("track", 0))
    if not found or "attributes" in event.data:
        return event
    return replace(event, data={**event.data, "attributes": shown_attributes(found)})


def _check_attributes(config: RulesConfig, known: Mapping[str, Sequence[str]]) -> None:
    for where_, asked in config.attribute_names():
        for part, values in asked.items():
            if part not in known:
                raise UsageError(
                    f"{where_} asks for the attribute {part!r}, which no second stage gives",
                    hint=did_you_mean(part, known),
                )
            if known[part] and (unknown := set(values) - set(known[part])):
                raise UsageError(
                    f"{where_} asks for {part} {min(unknown)!r}, which the model does not know",
                    hint=did_you_mean(min(unknown), known[part], there_are="it knows "),
                )


def _said_blindly(event: Event, blind: str) -> Event:
    return replace(event, data={**event.data, "blind": blind})


def _shown(step: str) -> str:
    return step.removeprefix("zone:")
