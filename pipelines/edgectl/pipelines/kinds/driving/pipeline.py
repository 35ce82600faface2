"""Driving: detector → tracker → rules, lane finder → departure and collision warnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import UsageError
from edgectl.pipelines.kinds import KindType
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.config import PipelineConfig, VideoConfig
from edgectl.pipelines.kinds.driving.ego import EgoConfig, Speed
from edgectl.pipelines.kinds.second_stage import attribute_values
from edgectl.pipelines.kinds.video_runner import VideoPipeline
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.rules.collision import CollisionConfig, CollisionRule
from edgectl.pipelines.rules.lane_departure import DepartureRule, LaneDepartureConfig
from edgectl.pipelines.sources import SourceInfo
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.stream.governor import LoadLimits
from edgectl.pipelines.video.draw import draw_classes, draw_label, draw_polyline, draw_scene, draw_tracks
from edgectl.pipelines.video.lanes import CameraConfig, LaneFinder, Lanes
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["KIND", "DrivingAnalyser", "DrivingConfig"]

BUDGET_MS = 100.0
_COCO_VEHICLES = ("car", "truck", "bus", "motorcycle")
_LANE, _WARN, _TEXT = (60, 200, 60), (40, 40, 230), (90, 60, 20)  # BGR


class DrivingConfig(VideoConfig):
    has: ClassVar[frozenset[Literal["lanes", "speed"]]] = frozenset({"lanes", "speed"})

    camera: CameraConfig = CameraConfig()
    ego: EgoConfig = EgoConfig()
    govern: LoadLimits = LoadLimits()


def _make(args: PipelineArgs) -> VideoPipeline:
    """A COCO detector's road users are merged into ``vehicle``, and the two warnings are given, unless the
    configuration says otherwise."""
    labels = args.engines["detector"].variant.config.task.labels
    complete = partial(_complete, labels=labels)
    whole = complete(args.config)

    def analyser(labels: Sequence[str], info: SourceInfo) -> DrivingAnalyser:
        return DrivingAnalyser(whole, labels, attribute_values(args))

    return VideoPipeline("driving", args, whole, analyser, BUDGET_MS, govern=whole.govern, complete=complete)


def _complete(config: PipelineConfig, labels: Sequence[str]) -> DrivingConfig:
    """With what is not said."""
    assert isinstance(config, DrivingConfig)
    if not config.merge and not config.classes:
        vehicles = tuple(label for label in _COCO_VEHICLES if label in labels)
        keep = tuple(label for label in ("person", "bicycle") if label in labels)
        if vehicles:
            config = config.model_copy(update={"merge": {"vehicle": vehicles}, "classes": ("vehicle", *keep)})
    if not any(isinstance(r, CollisionConfig | LaneDepartureConfig) for r in config.rules):
        warnings = (
            LaneDepartureConfig(id="ldw", lane_departure=LaneDepartureConfig.LaneDeparture()),
            CollisionConfig(id="fcw", collision=CollisionConfig.Collision()),
        )
        if taken := {r.id for r in config.rules} & {w.id for w in warnings}:
            raise UsageError(
                f"rule id {min(taken)!r} is taken by the default warnings",
                hint="choose another id, or configure the warnings",
            )
        config = config.model_copy(update={"rules": (*config.rules, *warnings)})
    return config


KIND = KindType(
    ("detector",),
    DrivingConfig,
    _make,
    "a dash camera: detector, tracker, lanes, collision and departure warnings",
)


class DrivingAnalyser:
    def __init__(
        self,
        config: DrivingConfig,
        labels: Sequence[str],
        attributes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._labels = labels
        self._rules = RuleSet(config, labels, config.camera, attributes)
        self._finder = LaneFinder(horizon=config.camera.horizon, hood=config.camera.hood)
        self._speed = Speed(config.ego)
        self._hood = config.camera.hood
        self._look_up()
        self._lanes: Lanes | None = None
        self._in_lane = 0

    def step(self, frame: Frame, tracks: Tracks, t: float) -> list[Event]:
        lanes = self._finder.find(frame.luma(), t, tracks.xyxy[tracks.seen])
        self._lanes = lanes
        self._in_lane += lanes is not None
        events = self._rules.step(tracks, t, lanes, self._speed.at(t, frame.sensors))
        if self._rules.switched is not None:
            self._look_up()
        return events

    def prepare(self, config: Any, told: Mapping[str, Any], *, final: bool = False) -> Callable[[], None]:
        return partial(self._rules.succeed, self._rules.prepare(config, told, final=final))

    @property
    def switched(self) -> Mapping[str, Any] | None:
        switched = self._rules.switched
        return None if switched is None else asdict(switched)

    def _look_up(self) -> None:
        rules = self._rules.rules.values()
        self._collision = [rule for rule in rules if isinstance(rule, CollisionRule)]
        self._departure = [rule for rule in rules if isinstance(rule, DepartureRule)]

    def overlay(self, shown: Tracks) -> Callable[[NDArray[Any]], None]:
        lanes, labels, hood = self._lanes, self._labels, self._hood
        offset = next((d.offset_m for d in self._departure if d.offset_m is not None), None)
        urgent = next((c.nearest() for c in self._collision), None)
        warned = {int(i) for c in self._collision for i in shown.ids if c.level(int(i))}

        def draw(image: NDArray[Any]) -> None:
            height = image.shape[0]
            draw_classes(image, shown)
            if lanes is not None:
                left, right = lanes.polyline(height * hood)
                area = np.concatenate([left, right[::-1]])
                shaded = image.copy()
                cv2.fillPoly(shaded, [np.rint(area).astype(np.int32)], _LANE)
                cv2.addWeighted(shaded, 0.25, image, 0.75, 0, dst=image)
                for side in (left, right):
                    draw_polyline(image, side, _LANE, closed=False, width=3)
            draw_tracks(image, shown, labels)
            draw_scene(image, shown)
            for row in np.nonzero(np.isin(shown.ids, list(warned)))[0]:
                x1, y1, x2, y2 = (round(float(v)) for v in shown.xyxy[row])
                cv2.rectangle(image, (x1 - 4, y1 - 4), (x2 + 4, y2 + 4), _WARN, 4)
            texts = [f"offset {offset:+.2f} m"] if offset is not None else []
            texts += [f"track {urgent[0]}: {urgent[1]:.1f} s"] if urgent is not None else []
            for i, text in enumerate(texts):
                draw_label(image, text, (8, 24 + 22 * i), _TEXT)

        return draw

    def counters(self) -> dict[str, int]:
        return {"frames_with_lane": self._in_lane}

    def close(self) -> None:
        pass
