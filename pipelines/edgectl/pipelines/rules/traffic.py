"""Traffic by lane: how many, how many an hour, and how far apart in time they follow each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import Field

from edgectl.core.schema import Config, Name
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.line import LineConfig, LineRule
from edgectl.pipelines.rules.observation import Observation, because
from edgectl.pipelines.rules.predicate import Explained
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.video.polygon import Relative

__all__ = ["RULE", "TrafficConfig", "TrafficRule"]


class TrafficConfig(RuleConfig):
    class Traffic(Config):
        lanes: dict[Name, tuple[Relative, Relative, Relative, Relative]] = Field(min_length=1, max_length=16)
        """A line across each lane, by the lane's name."""
        every_s: float = Field(default=300.0, ge=1, le=86400)
        """How often the flow is told."""
        close_s: float | None = Field(default=None, gt=0, le=60)
        """Who follows by less is told at once, as `headway`. none: nobody is."""
        classes: tuple[str, ...] = ()
        """Labels that count; empty: all."""

    traffic: Traffic

    def label_names(self) -> tuple[str, ...]:
        return self.traffic.classes


@dataclass(slots=True)
class _Lane:
    count: dict[str, int] = field(default_factory=dict)
    """By label, in this period."""
    last: float | None = None
    """When the last one crossed."""
    headways: int = 0
    total_s: float = 0.0
    least_s: float | None = None


class TrafficRule:
    """Events ``traffic`` every ``every_s``: by lane ``count``, ``per_hour``, ``headway_s`` (mean and least); and
    ``headway`` for who follows too closely."""

    def __init__(self, config: TrafficConfig, context: RuleContext) -> None:
        c = config.traffic
        self._id = config.id
        self._every_s, self._close_s = c.every_s, c.close_s
        self._lines = {
            name: LineRule(LineConfig(id=config.id, line=line, classes=c.classes), context.labels)
            for name, line in c.lanes.items()
        }
        self._lanes = {name: _Lane() for name in c.lanes}
        self._begin: float | None = None

    def step(self, now: Observation) -> list[Event]:
        events: list[Event] = []
        if self._begin is None:
            self._begin = now.t
        if now.t - self._begin >= self._every_s - 1e-9:
            events.append(self._told(now.t, now.t - self._begin))
            self._begin = now.t
        for name, line in self._lines.items():
            for crossing in line.step(now):
                events += self._crossed(name, crossing)
        return events

    def explain(self, now: Observation) -> list[Explained]:
        """Who is counted, lane by lane."""
        return [
            Explained(one.track, one.on, tuple(p._replace(what=f"lane {name}: {p.what}") for p in one.asked))
            for name, line in self._lines.items()
            for one in line.explain(now)
        ]

    def snapshot(self) -> dict[str, Any]:
        return {
            "begin": self._begin,
            "lanes": {name: asdict(lane) for name, lane in self._lanes.items()},
            "lines": {name: line.snapshot() for name, line in self._lines.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._begin = state["begin"]
        for name in self._lanes:
            if name in state["lanes"]:
                self._lanes[name] = _Lane(**state["lanes"][name])
                self._lines[name].restore(state["lines"][name])

    def _crossed(self, name: str, crossing: Event) -> list[Event]:
        lane, label = self._lanes[name], crossing.data["label"]
        lane.count[label] = lane.count.get(label, 0) + 1
        last, lane.last = lane.last, crossing.t_s
        if last is None:
            return []
        headway = crossing.t_s - last
        lane.headways += 1
        lane.total_s += headway
        lane.least_s = headway if lane.least_s is None else min(lane.least_s, headway)
        if self._close_s is None or headway >= self._close_s:
            return []
        about = {k: crossing.data[k] for k in ("track", "label", "score", "box", "frame_size")}
        why = because("follows after", headway, self._close_s, "s")
        data = {**about, "lane": name, "headway_s": round(headway, 3), "because": why}
        return [Event("headway", crossing.t_s, None, self._id, data)]

    def _told(self, t: float, seconds: float) -> Event:
        lanes = {}
        for name, lane in self._lanes.items():
            n = sum(lane.count.values())
            lanes[name] = {
                "count": dict(sorted(lane.count.items())),
                "per_hour": round(n * 3600 / seconds, 1),
                "headway_s": round(lane.total_s / lane.headways, 3) if lane.headways else None,
                "least_headway_s": None if lane.least_s is None else round(lane.least_s, 3),
            }
            self._lanes[name] = _Lane(last=lane.last)
        return Event("traffic", t, None, self._id, {"seconds": round(seconds, 3), "lanes": lanes})


RULE = RuleType(
    TrafficConfig,
    TrafficRule,
    "how many pass in each lane, and how close behind each other: `traffic` every `every_s`, `headway`",
)
