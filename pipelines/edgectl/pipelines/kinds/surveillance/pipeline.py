"""Surveillance: detector → tracker → rules, drawn for the annotated video."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.kinds import KindType
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.config import VideoConfig
from edgectl.pipelines.kinds.kept import KeptState
from edgectl.pipelines.kinds.second_stage import attribute_values
from edgectl.pipelines.kinds.video_runner import VideoPipeline
from edgectl.pipelines.rules import RulesConfig, RuleSet
from edgectl.pipelines.rules.line import LineConfig, LineRule
from edgectl.pipelines.rules.observation import Lasting, Wall, pixels
from edgectl.pipelines.rules.traffic import TrafficConfig
from edgectl.pipelines.rules.wrong_way import WrongWayConfig
from edgectl.pipelines.sources import SourceInfo
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.stream.governor import GovernorConfig
from edgectl.pipelines.video.draw import draw_classes, draw_label, draw_polyline, draw_scene, draw_tracks
from edgectl.pipelines.video.health.judge import HealthConfig
from edgectl.pipelines.video.health.watch import CAMERA
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["KIND", "SurveillanceAnalyser", "SurveillanceConfig"]

BUDGET_MS = 250.0
_ZONE, _LINE, _ALARM = (200, 160, 40), (40, 40, 230), (0, 0, 255)  # BGR
_KEEP_S, _KEEP_COUNTED_S = 60.0, 1.0
"""How often the rules' counts are written; how soon after something was counted."""


class SurveillanceConfig(VideoConfig):
    govern: GovernorConfig = GovernorConfig()
    health: HealthConfig = HealthConfig()

    def event_names(self) -> frozenset[str]:
        return super().event_names() | ({CAMERA} if self.health.on else set())


def _make(args: PipelineArgs) -> VideoPipeline:
    config = args.config
    assert isinstance(config, SurveillanceConfig)

    def analyser(labels: Sequence[str], info: SourceInfo) -> SurveillanceAnalyser:
        kept = None if args.out is None else KeptState(args.out / "rules.json", args.stream)
        return SurveillanceAnalyser(config, labels, kept, attribute_values(args))

    return VideoPipeline(
        "surveillance", args, config, analyser, BUDGET_MS, looks=False, govern=config.govern, health=_health
    )


def _health(config: VideoConfig) -> HealthConfig | None:
    return config.health if isinstance(config, SurveillanceConfig) else None


KIND = KindType(("detector",), SurveillanceConfig, _make, "who and what goes where: detector, tracker, rules")


class SurveillanceAnalyser:
    """Rules on tracks. Their counts outlast the process in ``kept``, where there is one."""

    def __init__(
        self,
        config: RulesConfig,
        labels: Sequence[str],
        kept: KeptState | None = None,
        attributes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._labels = labels
        self.rules = RuleSet(config, labels, attributes=attributes)
        self._alarms: dict[int, set[str]] = {}
        self._file = kept
        self._kept_at = -math.inf
        self._look_up()
        if self._kept is not None and (state := self._kept.read()) is not None:
            self.rules.load(state)

    def step(self, frame: Frame, tracks: Tracks, t: float) -> list[Event]:
        events = self.rules.step(tracks, t, wall=Wall.of(frame.stamp), blind=frame.view)
        if self.rules.switched is not None:
            self._look_up()
            self._kept_at = -math.inf
        self._follow(events, tracks)
        self._keep(events, t)
        return events

    def prepare(self, config: Any, told: Mapping[str, Any], *, final: bool = False) -> Callable[[], None]:
        return partial(self.rules.succeed, self.rules.prepare(config, told, final=final))

    @property
    def switched(self) -> Mapping[str, Any] | None:
        switched = self.rules.switched
        return None if switched is None else asdict(switched)

    def _look_up(self) -> None:
        """What is drawn and kept of the rules that there are."""
        self._config = self.rules.config
        self._lines = [rule for rule in self.rules.rules.values() if isinstance(rule, LineRule)]
        self._lasting = {name for name, rule in self.rules.rules.items() if isinstance(rule, Lasting)}
        self._kept = self._file if self._lasting else None

    def close(self) -> None:
        if self._kept is not None:
            self._kept.keep(self.rules.save())
        if self._file is not None:
            self._file.close()

    def overlay(self, shown: Tracks) -> Callable[[NDArray[Any]], None]:
        labels, config = self._labels, self._config
        lines = [
            (line.name, sum(line.counts["in"].values()), sum(line.counts["out"].values()))
            for line in self._lines
        ]
        zones = {z.name: len(z.inside) for z in self.rules.zones}
        segments = {r.id: r.line for r in config.rules if isinstance(r, LineConfig)}
        lanes = {
            name: line
            for r in config.rules
            if isinstance(r, TrafficConfig)
            for name, line in r.traffic.lanes.items()
        }
        arrows = [r.wrong_way.allowed for r in config.rules if isinstance(r, WrongWayConfig)]
        alarms = {track: sorted(names) for track, names in self._alarms.items()}

        def draw(image: NDArray[Any]) -> None:
            height, width = image.shape[:2]
            draw_classes(image, shown)
            for name, n in zones.items():
                corners = pixels(config.zones[name].polygon, width, height)
                draw_polyline(image, corners, _ZONE, closed=True)
                draw_label(image, f"{name}: {n}", _inside(corners[0], width, height), _ZONE)
            for name, n_in, n_out in lines:
                ends = pixels(segments[name], width, height)
                draw_polyline(image, ends, _LINE, closed=False)
                draw_label(
                    image, f"{name}: in {n_in} out {n_out}", _inside(ends.mean(axis=0), width, height), _LINE
                )
            for name, lane in lanes.items():
                ends = pixels(lane, width, height)
                draw_polyline(image, ends, _LINE, closed=False)
                draw_label(image, name, _inside(ends.mean(axis=0), width, height), _LINE)
            for arrow in arrows:
                start, end = np.rint(pixels(arrow, width, height)).astype(int).tolist()
                cv2.arrowedLine(image, start, end, _ZONE, 2, cv2.LINE_AA, tipLength=0.06)
            draw_tracks(image, shown, labels)
            draw_scene(image, shown)
            for row, track in enumerate(shown.ids.tolist()):
                if track in alarms:
                    x1, y1, x2, y2 = (round(float(v)) for v in shown.xyxy[row])
                    cv2.rectangle(image, (x1 - 3, y1 - 3), (x2 + 3, y2 + 3), _ALARM, 3)
                    below = _inside(np.array([x1, y2 + 18.0]), width, height)
                    draw_label(image, ", ".join(alarms[track]), below, _ALARM)

        return draw

    def _follow(self, events: Sequence[Event], tracks: Tracks) -> None:
        """Which alarms of which tracks are on, for the picture."""
        for event in events:
            track = event.data.get("track")
            if event.rule is None or track is None:
                continue
            if event.phase == "start":
                self._alarms.setdefault(track, set()).add(event.rule)
            elif event.phase == "end":
                self._alarms.get(track, set()).discard(event.rule)
        here = set(tracks.ids.tolist())
        self._alarms = {i: names for i, names in self._alarms.items() if names and i in here}

    def _keep(self, events: Sequence[Event], t: float) -> None:
        if self._kept is None:
            return
        counted = any(event.rule in self._lasting for event in events)
        if t - self._kept_at >= (_KEEP_COUNTED_S if counted else _KEEP_S):
            self._kept.keep(self.rules.save())
            self._kept_at = t

    def counters(self) -> dict[str, int]:
        counts = {}
        for line in self._lines:
            for direction, by_label in line.counts.items():
                counts[f"{line.name}:{direction}"] = sum(by_label.values())
        return counts


def _inside(point: NDArray[np.float64], width: int, height: int) -> tuple[int, int]:
    return int(np.clip(point[0], 2, width - 80)), int(np.clip(point[1], 16, height - 4))
