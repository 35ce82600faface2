"""All parts of a stream's second stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgectl.core.wire import Frames
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.second_stage.stage import SecondStage
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["SecondStages"]


class SecondStages:
    """Of one stream. :meth:`before_rules`, :meth:`after_rules` and :meth:`changed` belong to the analysis thread."""

    def __init__(self, stages: Sequence[SecondStage]) -> None:
        self._stages = tuple(stages)
        self._stuck = {stage.part: False for stage in stages}

    def __bool__(self) -> bool:
        return bool(self._stages)

    def __iter__(self) -> Iterator[SecondStage]:
        return iter(self._stages)

    def of(self, part: str) -> SecondStage | None:
        return next((stage for stage in self._stages if stage.part == part), None)

    def before_rules(
        self, frame: Frame, tracks: Tracks, t: float, hidden: NDArray[np.bool_] | None
    ) -> tuple[Tracks, list[Event]]:
        """The tracks with what is decided, and what went wrong. A recording's crops are waited for."""
        waiting = [stage for stage in self._stages if stage.waits]
        for stage in waiting:
            stage.look(frame, tracks, t, hidden)
        for stage in waiting:
            stage.wait()
        events = [event for stage in self._stages for event in stage.collect(tracks, t)]
        found: dict[int, dict[str, Attribute]] = {}
        for stage in self._stages:
            for track, attribute in stage.attributes().items():
                found.setdefault(track, {})[stage.part] = attribute
        return (dataclasses.replace(tracks, attributes=found) if found else tracks), events

    def after_rules(self, frame: Frame, tracks: Tracks, t: float, hidden: NDArray[np.bool_] | None) -> None:
        """Send a camera's crops, once its events are out."""
        for stage in self._stages:
            if not stage.waits:
                stage.look(frame, tracks, t, hidden)

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
