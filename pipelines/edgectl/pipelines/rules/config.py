"""The table of rules, and the part of a stream's configuration that makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

from edgectl.core.nearest import did_you_mean, nearest
from edgectl.core.schema import Config, Key, Name, mistakes_below, wrong_at
from edgectl.pipelines.registry import Registry
from edgectl.pipelines.rules.base import RuleConfig, RuleType
from edgectl.pipelines.rules.ground import GroundConfig
from edgectl.pipelines.rules.places import find, where
from edgectl.pipelines.rules.review import ReviewConfig
from edgectl.pipelines.rules.schedule import check_time_zone
from edgectl.pipelines.rules.zone import ZoneConfig

__all__ = ["RULES", "RulesConfig", "classes_of", "names_of"]

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
        names = names_of(value)
        if len(names) != 1:
            others = [] if names else [key for key in value if key not in RuleConfig.model_fields]
            there = names[1:2] or others[:1]
            what = f"a rule needs exactly one of: {', '.join(RULES.names())}"
            if near := [rule for key in others for rule in nearest(str(key), RULES.names())]:
                what = f"there is no such rule: did you mean {' or '.join(map(repr, near))}?"
            elif others:
                what += f", and there is no rule {str(others[0])[:64]!r}"
            raise wrong_at((place, *map(str, there)), what)
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

    def attribute_names(self) -> list[tuple[str, Mapping[str, Sequence[str]]]]:
        """Where attributes are asked for, and which values of which."""
        zones = [(f"zone {name!r}", zone.attributes) for name, zone in self.zones.items()]
        return [*zones, *((f"rule {rule.id!r}", rule.attributes) for rule in self.rules)]

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
                    f"rule {rule.id!r} names zone {zone!r}, which does not exist: {did_you_mean(zone, self.zones)}",
                )
            if rule.needs_ground() and self.ground is None:
                raise wrong_at(("rules", i), f"rule {rule.id!r} measures in metres, and there is no ground")
        if self.review is not None and (unknown := set(self.review.names()) - {*self.zones, *ids}):
            name = min(unknown)
            raise wrong_at(
                ("review", *find(self.review.model_dump(mode="json"), name)),
                f"{name!r} is no rule or zone: {did_you_mean(name, [*self.zones, *ids])}",
            )
        return self


def names_of(keys: Iterable[str]) -> list[str]:
    """Those of the keys of an entry that are names of rules. Ours come first: an option of theirs may be called
    like another package's rule."""
    found = set(keys)
    return [name for name in RULES.own if name in found] or [key for key in keys if key in RULES]


def classes_of(config: RulesConfig) -> list[tuple[str, Sequence[str], Callable[[str], Key]]]:
    """Who names which labels, and where one of them stands."""
    named: list[tuple[str, Sequence[str], Callable[[str], Key]]] = [
        (f"zone {name!r}", z.classes, partial(where, "zones", name, z)) for name, z in config.zones.items()
    ]
    return named + [
        (f"rule {r.id!r}", r.label_names(), partial(where, "rules", i, r)) for i, r in enumerate(config.rules)
    ]
