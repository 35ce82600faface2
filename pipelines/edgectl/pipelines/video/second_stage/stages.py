"""All further models of a stream: those that look at crops of tracks, and those that look at the scene, for which
the region that they look at is the one track."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgectl.core.wire import Frames
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.class_map import ClassMap
from edgectl.pipelines.video.second_stage.stage import SecondStage
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["SecondStages", "Unread"]

Unread = Callable[[str, float], NDArray[np.bool_]]
"""From a part and by how much of a box's size its crops are larger on each side: the tracks (N,) that it must not look
at."""


class SecondStages:
    """Of one stream. :meth:`before_rules`, :meth:`after_rules` and :meth:`changed` belong to the analysis thread."""

    def __init__(
        self,
        stages: Sequence[SecondStage],
        regions: Mapping[str, tuple[float, float, float, float]] | None = None,
        *,
        still: bool = False,
    ) -> None:
        """``regions``: part → left, top, right, bottom, relative to the frame, of those that look at the scene.
        ``still``: pictures have nothing to do with those before them."""
        self._stages = tuple(stages)
        self._regions = dict(regions or {})
        self._still = still
        self._stuck = {stage.part: False for stage in stages}

    def __bool__(self) -> bool:
        return bool(self._stages)

    def __iter__(self) -> Iterator[SecondStage]:
        return iter(self._stages)

    def of(self, part: str) -> SecondStage | None:
        return next((stage for stage in self._stages if stage.part == part), None)

    def before_rules(
        self,
        frame: Frame,
        tracks: Tracks,
        t: float,
        unread: Unread | None,
        closed: Callable[[Frame], Frame] = lambda frame: frame,
    ) -> tuple[Tracks, list[Event]]:
        """The tracks with what is decided, and what went wrong. A recording's crops are waited for. ``unread``: what a
        part must not look at; ``closed``: see :meth:`SecondStage.look`."""
        waiting = [stage for stage in self._stages if stage.waits]
        for stage in waiting:
            stage.look(*self._what(stage, frame, tracks, t, unread), closed)
        for stage in waiting:
            stage.wait()
        events: list[Event] = []
        found: dict[int, dict[str, Attribute]] = {}
        scene: dict[str, Attribute] = {}
        maps: dict[str, ClassMap] = {}
        for stage in self._stages:
            _, seen, _, _ = self._what(stage, frame, tracks, t, None)
            events += stage.collect(seen, t)
            for track, attribute in stage.attributes().items():
                if stage.part in self._regions:
                    scene[stage.part] = attribute
                else:
                    found.setdefault(track, {})[stage.part] = attribute
            if stage.classes is not None and (region := self._regions.get(stage.part)) is not None:
                maps[stage.part] = dataclasses.replace(stage.classes, region=region)
        if found or scene or maps:
            tracks = dataclasses.replace(tracks, attributes=found, scene=scene, class_maps=maps)
        return tracks, events

    def after_rules(
        self,
        frame: Frame,
        tracks: Tracks,
        t: float,
        unread: Unread | None,
        closed: Callable[[Frame], Frame] = lambda frame: frame,
    ) -> None:
        """Send a camera's crops, once its events are out."""
        for stage in self._stages:
            if not stage.waits:
                stage.look(*self._what(stage, frame, tracks, t, unread), closed)

    def _what(
        self, stage: SecondStage, frame: Frame, tracks: Tracks, t: float, unread: Unread | None
    ) -> tuple[Frame, Tracks, float, NDArray[np.bool_] | None]:
        """What a stage looks at."""
        region = self._regions.get(stage.part)
        if region is None:
            return frame, tracks, t, None if unread is None else unread(stage.part, stage.config.margin)
        box = np.array([region], np.float32) * np.array([frame.width, frame.height] * 2, np.float32)
        # every still picture is a scene of its own
        number = frame.stamp.seq + 1 if self._still else 1
        one, cls = np.ones(1, np.float32), np.zeros(1, np.int32)
        ids = np.array([number], np.int64)
        return frame, Tracks(ids, box, one, cls, one > 0, frame.width, frame.height), t, None

    def changed(self) -> dict[str, bool]:
        """Part → whether its engine hangs, of those where that is new."""
        now = {stage.part: stage.stuck for stage in self._stages}
        changed = {part: stuck for part, stuck in now.items() if stuck != self._stuck[part]}
        self._stuck = now
        return changed

    # -- from any thread --

    def crops(self) -> dict[str, Frames]:
        """Part → what became of its crops."""
        return {stage.part: stage.crops() for stage in self._stages}

    def slots(self) -> dict[str, str]:
        """Part → digest of the bundle."""
        return {s.part: s.slot.bundle or s.slot.variant.digest for s in self._stages}

    def releases(self) -> dict[str, str]:
        return {s.part: s.slot.release for s in self._stages if s.slot.release}

    def stop(self) -> None:
        for stage in self._stages:
            stage.stop()

    def close(self) -> bool:
        """False: a call of an engine is stuck."""
        closed = [stage.close() for stage in self._stages]
        return all(closed)
