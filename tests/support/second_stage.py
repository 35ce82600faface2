"""A stream with a second stage on double engines, driven from a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from support.pipelines import BoxEngine, ClassEngine, box_task, class_task, make_variant

from edgectl.core.bundle import Variant
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import Pipeline, PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Record
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import EnginePool

Boxes = list[tuple[float, float, float, float, float, int]]


ASKED: dict[str, Any] = {"part": "gear", "min_height_px": 8, "every_s": 0, "votes": 3}


def two(_: NDArray[Any]) -> Boxes:
    """A person on the left, a vehicle on the right."""
    return [(0.1, 0.3, 0.3, 0.9, 0.9, 0), (0.6, 0.3, 0.9, 0.9, 0.9, 1)]


def bright(crop: NDArray[Any]) -> list[float]:
    """A helmet where the crop is dark: the clip becomes brighter by 8 grey levels a frame."""
    return [4.0, 0.0] if float(crop.mean()) < 0.5 else [0.0, 4.0]


class Rig:
    """A stream with a detector and a second stage, both doubles."""

    def __init__(
        self,
        folder: Path,
        source: str,
        config: dict[str, Any] | None = None,
        *,
        boxes_at: Callable[[NDArray[Any]], Boxes] = two,
        logits_at: Callable[[NDArray[Any]], list[float]] = bright,
        labels: tuple[str, ...] = ("helmet", "no-helmet"),
        background: tuple[str, ...] = (),
        parts: tuple[str, ...] = ("gear",),
        out: bool = False,
        kind: str = "surveillance",
    ) -> None:
        self.folder = folder
        self.heard = threading.Condition()
        self.events: list[Record] = []
        self.second: list[ClassEngine] = []
        self.set_up: Callable[[ClassEngine], None] = lambda engine: None
        self._boxes_at, self._logits_at, self._classes = boxes_at, logits_at, len(labels)
        self.out = folder / "out" if out else None
        slots = {"detector": PartVariant(make_variant(folder / "blobs", box_task()), "yard@1")}
        for part in parts:
            variant = make_variant(folder / part, class_task(labels, background), name=part)
            slots[part] = PartVariant(variant, f"{part}@1", f"sha256:{'3' * 64}")
        parsed = parse_config(kind, {"second_stage": [ASKED], **(config or {})})
        self.pipeline: Pipeline = make_pipeline(
            kind,
            PipelineArgs("gate", source, slots, parsed, self.emit, self.open, self.out, pool=EnginePool()),
        )

    def open(self, variant: Variant) -> BoxEngine | ClassEngine:
        if variant.config.task.name != "gear":
            return BoxEngine(self._boxes_at)
        engine = ClassEngine(self._logits_at, classes=self._classes)
        self.second.append(engine)
        self.set_up(engine)
        return engine

    def emit(self, record: Record) -> None:
        with self.heard:
            self.events.append(record)
            self.heard.notify_all()

    def hear(self, wanted: Callable[[Record], bool], what: str) -> Record:
        with self.heard:
            assert self.heard.wait_for(lambda: any(map(wanted, self.events)), 20), (
                f"nothing was heard: {what}"
            )
            return next(filter(wanted, self.events))

    def of(self, type_: str) -> list[Record]:
        return [e for e in self.events if e["type"] == type_]

    def values(self, track: int) -> list[str | None]:
        """What each word on a track says, the same once."""
        said: list[str | None] = []
        for e in self.of("tracked_object"):
            value = e.get("attributes", {}).get("gear", {}).get("value")
            if e["track"] == track and said[-1:] != [value]:
                said.append(value)
        return said

    def run(self) -> Rig:
        self.pipeline.start()
        assert self.pipeline.wait(60)
        self.pipeline.stop()
        return self

    @property
    def crops(self) -> Any:
        return self.pipeline.stats().crops["gear"]

    @property
    def processed(self) -> int:
        return self.pipeline.stats().frames.processed

    def wait_processed(self, n: int) -> None:
        for _ in range(2000):
            if self.processed >= n:
                return
            time.sleep(0.01)
        raise AssertionError(f"fewer than {n} frames were processed")

    def variant(self, labels: tuple[str, ...] = ("helmet", "no-helmet")) -> PartVariant:
        return PartVariant(make_variant(self.folder / "new", class_task(labels), name="new"), "gear@2")
