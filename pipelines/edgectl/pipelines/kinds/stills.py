"""Still pictures: one picture is one answer. Nothing is tracked, no time passes between two of them, and
rules in seconds do not apply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import UsageError
from edgectl.pipelines.rules import RulesConfig
from edgectl.pipelines.rules.observation import describe, shown_attributes
from edgectl.pipelines.rules.occupancy import OccupancyConfig
from edgectl.pipelines.rules.zone import ZoneRule
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.draw import draw_classes, draw_scene, draw_tracks
from edgectl.pipelines.video.duplicates import one_label_each
from edgectl.pipelines.video.tracker import TrackConfig, Tracks

__all__ = ["StillAnalyser", "StillObjects"]


class StillObjects:
    """Stands where a tracker stands: every detection that would start a track is an object at once, with a
    number of its own."""

    def __init__(self, config: TrackConfig) -> None:
        self._config = config
        self._next = 1

    def update(
        self,
        found: Detections,
        t: float,
        width: int,
        height: int,
        camera: NDArray[np.float64] | None = None,
    ) -> Tracks:
        found = found.select(np.nonzero(found.score >= self._config.high)[0])
        if self._config.one_object_iou is not None:
            found = one_label_each(found, self._config.one_object_iou)
        ids = np.arange(self._next, self._next + len(found), dtype=np.int64)
        self._next += len(found)
        return Tracks(
            ids,
            found.xyxy,
            found.score,
            found.cls,
            np.ones(len(found), np.bool_),
            width,
            height,
            keypoints=found.keypoints,
            masks=found.masks,
        )

    def adopt(self, config: TrackConfig, period_s: float | None) -> None:
        self._config = config


class StillAnalyser:
    """One event ``detections`` per picture, also for one without objects: ``objects`` (label, score, box,
    keypoints, zones, ``attributes`` where a second stage tells some), ``found`` (label → how many), ``zones`` (name →
    how many), ``over``, the occupancy rules whose limit the picture reaches, and ``scene``, where classifiers look at
    the whole picture (part → ``value`` and ``score``)."""

    def __init__(self, config: RulesConfig, labels: Sequence[str]) -> None:
        self._labels = labels
        self._zones = [ZoneRule(name, zone, labels) for name, zone in config.zones.items()]
        self._limits = [r for r in config.rules if isinstance(r, OccupancyConfig)]
        self._pictures = self._found = 0

    def step(self, frame: Frame, tracks: Tracks, t: float) -> list[Event]:
        self._pictures += 1
        self._found += len(tracks)
        inside = {zone.name: zone.holds(tracks) for zone in self._zones}
        objects = []
        for row in range(len(tracks)):
            about = {
                k: v
                for k, v in describe(tracks, row, self._labels).items()
                if k not in ("track", "frame_size")
            }
            objects.append(about | {"zones": [name for name, mask in inside.items() if mask[row]]})
        counts = {name: int(mask.sum()) for name, mask in inside.items()}
        data = {
            "picture": frame.name,
            "frame_size": [frame.width, frame.height],
            "found": dict(sorted(Counter(o["label"] for o in objects).items())),
            "objects": objects,
            "zones": counts,
            "over": [r.id for r in self._limits if counts[r.occupancy.zone] >= r.occupancy.high],
        }
        if tracks.scene:
            data["scene"] = shown_attributes(tracks.scene)
        return [Event("detections", t, None, None, data)]

    def overlay(self, shown: Tracks) -> Callable[[NDArray[Any]], None]:
        labels = self._labels

        def draw(image: NDArray[Any]) -> None:
            draw_classes(image, shown)
            draw_tracks(image, shown, labels)
            draw_scene(image, shown)

        return draw

    switched = None

    def prepare(self, config: Any, told: Mapping[str, Any]) -> Callable[[], None]:
        raise UsageError("a folder of pictures is looked at with one configuration", hint="start it again")

    def counters(self) -> dict[str, int]:
        return {"pictures": self._pictures, "objects": self._found}

    def close(self) -> None:
        pass
