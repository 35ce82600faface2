"""Surveillance: detector → tracker → rules, drawn for the annotated video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.kinds import KindType
from edgectl.pipelines.kinds.base import PipelineArgs
from edgectl.pipelines.kinds.config import VideoConfig
from edgectl.pipelines.kinds.video_runner import VideoPipeline
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.rules.line import LineConfig, LineRule
from edgectl.pipelines.rules.observation import pixels
from edgectl.pipelines.sources import SourceInfo
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.draw import draw_label, draw_polyline, draw_tracks
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["KIND", "SurveillanceAnalyser", "SurveillanceConfig"]

BUDGET_MS = 250.0
_ZONE, _LINE = (200, 160, 40), (40, 40, 230)  # BGR


class SurveillanceConfig(VideoConfig):
    pass


def _make(args: PipelineArgs) -> VideoPipeline:
    config = args.config
    assert isinstance(config, SurveillanceConfig)

    def analyser(labels: Sequence[str], info: SourceInfo) -> SurveillanceAnalyser:
        return SurveillanceAnalyser(config, labels)

    return VideoPipeline("surveillance", args, config, analyser, BUDGET_MS, looks=False)


KIND = KindType(("detector",), SurveillanceConfig, _make, "who and what goes where: detector, tracker, rules")


class SurveillanceAnalyser:
    def __init__(self, config: VideoConfig, labels: Sequence[str]) -> None:
        self._config = config
        self._labels = labels
        self._rules = RuleSet(config, labels)
        self._lines = [rule for rule in self._rules.rules.values() if isinstance(rule, LineRule)]
        self._tracks: Tracks | None = None

    def step(self, frame: Frame, tracks: Tracks, t: float) -> list[Event]:
        self._tracks = tracks
        return self._rules.step(tracks, t)

    def overlay(self) -> Callable[[NDArray[Any]], None]:
        tracks, labels, config = self._tracks, self._labels, self._config
        lines = [
            (line.name, sum(line.counts["in"].values()), sum(line.counts["out"].values()))
            for line in self._lines
        ]
        zones = {z.name: len(z.inside) for z in self._rules.zones}
        segments = {r.id: r.line for r in config.rules if isinstance(r, LineConfig)}

        def draw(image: NDArray[Any]) -> None:
            height, width = image.shape[:2]
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
            if tracks is not None:
                draw_tracks(image, tracks, labels)

        return draw

    def counters(self) -> dict[str, int]:
        counts = {}
        for line in self._lines:
            for direction, by_label in line.counts.items():
                counts[f"{line.name}:{direction}"] = sum(by_label.values())
        return counts


def _inside(point: NDArray[np.float64], width: int, height: int) -> tuple[int, int]:
    return int(np.clip(point[0], 2, width - 80)), int(np.clip(point[1], 16, height - 4))
