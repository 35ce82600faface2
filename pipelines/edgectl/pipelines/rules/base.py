"""What the table of rules holds of each: its configuration, how it is made, and what it may know then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgectl.core.schema import Config, Name
from edgectl.pipelines.rules.attributes import AttributesAsked
from edgectl.pipelines.rules.ground import Ground
from edgectl.pipelines.rules.observation import Rule
from edgectl.pipelines.rules.zone import ZoneRule
from edgectl.pipelines.video.lanes import CameraConfig

__all__ = ["RuleConfig", "RuleContext", "RuleType"]


class RuleConfig(Config):
    """One entry of ``rules``. The key that is called like the rule says which rule it is."""

    id: Name
    """What its events and files call it."""
    attributes: AttributesAsked = {}
    """Only tracks of which a second stage has decided this: `gear: [no-helmet]`. What is undecided does not count."""

    def zone_names(self) -> tuple[str, ...]:
        """Names of the zones that it needs: they must exist."""
        return ()

    def label_names(self) -> tuple[str, ...]:
        """Labels that it names: the model must know them."""
        return ()

    def needs_ground(self) -> bool:
        """Whether it needs ``ground``."""
        return False


@dataclass(frozen=True)
class RuleContext:
    """What a rule may know of its stream when it is made."""

    labels: Sequence[str]
    """``labels[i]`` names class ``i`` of the tracks."""
    zones: Mapping[str, ZoneRule] = field(default_factory=dict)
    """Each has taken its step before the rules take theirs."""
    camera: CameraConfig = field(default_factory=CameraConfig)
    ground: Ground | None = None
    """From the picture to metres on the ground, where four points were measured."""
    time_zone: str = "UTC"
    """Of the site."""


@dataclass(frozen=True)
class RuleType:
    config: type[RuleConfig]
    make: Callable[[Any, RuleContext], Rule]
    """From its configuration and the stream's context."""
    doc: str
    """One line: what it tells, and the events that it makes."""
    needs: frozenset[Literal["lanes", "speed"]] = frozenset()
    """What it needs besides tracks. It is refused in a kind of pipeline that does not have it."""
