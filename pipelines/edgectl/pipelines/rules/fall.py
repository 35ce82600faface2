"""Somebody falls: who stood upright lies within a moment, and stays so.

Where the model finds the keypoints of a person, by the torso: it leans, and no legs stand under it. Else by the box:
who bends, sits down or is hidden by a table may look like a fall then. A fall towards the camera may not look like one
either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.rules.alarms import Alarms, Judged
from edgectl.pipelines.rules.base import RuleConfig, RuleContext, RuleType
from edgectl.pipelines.rules.body import Body, body
from edgectl.pipelines.rules.observation import EDGE, Observation, Seconds, because, wanted
from edgectl.pipelines.rules.predicate import Explained, Predicate, counts_as
from edgectl.pipelines.stream.events import Event

__all__ = ["RULE", "FallConfig", "FallRule"]

_UPRIGHT, _LYING = 1.4, 0.9
"""Height over width."""
_LOWER = 0.7
"""Of the height when it stood: who lies is lower. A box that only grows wider is no fall."""
_UPRIGHT_DEG, _LYING_DEG = 35.0, 60.0
"""Of the torso, from upright."""
_LEGS = 0.5
"""Of the legs' length under the hips: who bends down still stands on them."""
_STOOD_S = 0.5

_Stance = Literal["upright", "between", "lying", "unclear"]


class FallConfig(RuleConfig):
    class Fallen(Config):
        zone: str | None = None
        """Name of the zone. none: everywhere."""
        within_s: float = Field(default=1.5, gt=0, le=10)
        """Who takes longer lies down."""
        stay_s: Seconds = 2.0
        """How long somebody must lie."""
        classes: tuple[str, ...] = ("person",)
        """Labels that count."""

    fall: Fallen

    def zone_names(self) -> tuple[str, ...]:
        return () if self.fall.zone is None else (self.fall.zone,)

    def label_names(self) -> tuple[str, ...]:
        return self.fall.classes


@dataclass(slots=True)
class _Posture:
    since: float | None = None
    """Since when it is upright."""
    upright: float | None = None
    """When it was last upright, after it had been for a while."""
    height: float = 0.0
    """Then, pixels."""
    lying: float | None = None
    """Since when it lies."""
    fell: bool = False


class FallRule:
    """Events ``fall`` with phase ``start`` and ``end``."""

    def __init__(self, config: FallConfig, context: RuleContext) -> None:
        c = config.fall
        self._c = c
        self._labels = context.labels
        self._zone = None if c.zone is None else context.zones[c.zone]
        self._classes = wanted(c.classes, context.labels)
        self._postures: dict[int, _Posture] = {}
        self._alarms = Alarms("fall", config.id, context.labels, hold_s=c.stay_s, clear_s=1.0)

    def step(self, now: Observation) -> list[Event]:
        for track in [track for track in self._postures if track not in now.alive]:
            del self._postures[track]
        return self._alarms.step(now, self._judge(now))

    def explain(self, now: Observation) -> list[Explained]:
        return self._alarms.explain(now, lambda row: (counts_as(now.cls[row], self._classes, self._labels),))

    def _before(self, now: Observation, row: int) -> tuple[Predicate, ...]:
        """What is asked before the posture."""
        return () if self._zone is None else (self._zone.predicate(now.ids[row]),)

    def snapshot(self) -> dict[str, Any]:
        postures = {str(track): asdict(posture) for track, posture in self._postures.items()}
        return {"postures": postures, "alarms": self._alarms.snapshot()}

    def restore(self, state: dict[str, Any]) -> None:
        self._postures = {int(track): _Posture(**posture) for track, posture in state["postures"].items()}
        self._alarms.restore(state["alarms"])

    def _judge(self, now: Observation) -> Iterator[Judged]:
        width, height = now.tracks.width, now.tracks.height
        boxes = now.tracks.xyxy.tolist()
        for row in now.rows:
            if now.cls[row] not in self._classes:
                continue
            x1, y1, x2, y2 = boxes[row]
            held = body(now.tracks, row)
            cut = min(x1 / width, y1 / height) <= EDGE or max(x2 / width, y2 / height) >= 1 - EDGE
            if self._zone is not None and now.ids[row] not in self._zone.inside:
                yield Judged(row, self._before(now, row), {})
                continue
            if cut and held is None:
                continue
            posture = self._postures.setdefault(now.ids[row], _Posture())
            if held is not None:
                what, value, limit, unit = "torso leans", held.lean_deg, _LYING_DEG, "°"
                self._advance(posture, now.t, _by_body(held), y2 - y1)
            else:
                what, value, limit, unit = "height over width", (y2 - y1) / max(x2 - x1, 1.0), _LYING, ""
                self._advance(posture, now.t, _by_box(value, y2 - y1, posture.height), y2 - y1)
            asked = (
                *self._before(now, row),
                Predicate("lies", posture.lying is not None, value, limit, unit or what, posture.lying),
                Predicate("stood a moment before", posture.fell, limit=self._c.within_s, unit="s"),
            )
            by = "box" if held is None else "pose"
            yield Judged(row, asked, {"measured_by": by, "because": because(what, value, limit, unit)})

    def _advance(self, posture: _Posture, t: float, stance: _Stance, height: float) -> None:
        if stance == "upright":
            posture.since = t if posture.since is None else posture.since
            if t - posture.since >= _STOOD_S - 1e-9:
                posture.upright, posture.height = t, height
            posture.lying, posture.fell = None, False
            return
        posture.since = None
        if stance == "between":
            posture.fell = False
        if stance != "lying":
            return
        if posture.lying is None:
            posture.lying = t
            posture.fell = posture.upright is not None and t - posture.upright <= self._c.within_s


def _by_box(ratio: float, height: float, stood: float) -> _Stance:
    """``ratio``: height over width; ``stood``: the height of the box when it stood."""
    if ratio >= _UPRIGHT:
        return "upright"
    if ratio > _LYING:
        return "between"
    return "unclear" if height > _LOWER * stood else "lying"


def _by_body(held: Body) -> _Stance:
    if held.lean_deg <= _UPRIGHT_DEG:
        return "upright"
    stands = held.legs_under is not None and held.legs_under >= _LEGS
    return "lying" if held.lean_deg >= _LYING_DEG and not stands else "between"


RULE = RuleType(
    FallConfig,
    FallRule,
    "somebody who stood lies within a moment and stays so, by keypoints (`measured_by: pose`) or by the box: `fall`, phase `start`, `end`",
)
