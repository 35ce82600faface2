"""Rules on tracks: pure, in seconds of capture time, replayable. :class:`RuleSet` runs those of one stream
in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgectl.core.errors import UsageError
from edgectl.pipelines.config import LineConfig, LoiterConfig, OccupancyConfig, PipelineConfig
from edgectl.pipelines.rules.base import Rule
from edgectl.pipelines.rules.lifecycle import LifecycleRule
from edgectl.pipelines.rules.line import LineRule
from edgectl.pipelines.rules.loiter import LoiterRule
from edgectl.pipelines.rules.occupancy import OccupancyRule
from edgectl.pipelines.rules.zone import ZoneRule
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["LifecycleRule", "LineRule", "LoiterRule", "OccupancyRule", "Rule", "RuleSet", "ZoneRule"]


class RuleSet:
    """Zones first, then the object life cycle, then the rules in the order of the configuration."""

    def __init__(self, config: PipelineConfig, labels: Sequence[str]) -> None:
        """Raises :class:`UsageError` if a rule or zone names a class that the model does not know."""
        for where, classes in _classes(config):
            if unknown := set(classes) - set(labels):
                raise UsageError(
                    f"{where} names class {min(unknown)!r}, which the model does not know",
                    hint=f"it knows {', '.join(labels[:20])}",
                )
        self.zones = [ZoneRule(name, zone, labels) for name, zone in config.zones.items()]
        by_name = {z.name: z for z in self.zones}
        self.lines = [LineRule(r, labels) for r in config.rules if isinstance(r, LineConfig)]
        self._rules: dict[str, Rule] = {f"zone:{z.name}": z for z in self.zones}
        self._rules["lifecycle"] = LifecycleRule(labels, self.zones, config.update_s)
        lines = iter(self.lines)
        for r in config.rules:
            if isinstance(r, LineConfig):
                self._rules[r.id] = next(lines)
            elif isinstance(r, LoiterConfig):
                self._rules[r.id] = LoiterRule(r, by_name[r.loiter.zone])
            elif isinstance(r, OccupancyConfig):
                self._rules[r.id] = OccupancyRule(r, by_name[r.occupancy.zone])

    def step(self, tracks: Tracks, t: float) -> list[Event]:
        return [event for rule in self._rules.values() for event in rule.step(tracks, t)]

    def snapshot(self) -> dict[str, Any]:
        return {name: rule.snapshot() for name, rule in self._rules.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot; rules that it does not know start anew."""
        for name, rule in self._rules.items():
            if name in state:
                rule.restore(state[name])


def _classes(config: PipelineConfig) -> list[tuple[str, Sequence[str]]]:
    named: list[tuple[str, Sequence[str]]] = [
        (f"zone {name!r}", z.classes) for name, z in config.zones.items()
    ]
    return named + [(f"rule {r.id!r}", r.classes) for r in config.rules if isinstance(r, LineConfig)]
