"""A video stream on a double engine, driven from a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from support.pipelines import BoxEngine, box_task, make_variant

from edgectl.core.bundle import Variant
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import Pipeline, PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Record
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import EnginePool


def middle(_: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
    """Somebody in the middle of the picture, always."""
    return [(0.4, 0.3, 0.6, 0.8, 0.9, 0)]


class Rig:
    """A pipeline on a double engine, its events, and the engines it opened."""

    def __init__(
        self,
        tmp_path: Path,
        source: str,
        config: dict[str, Any] | None = None,
        *,
        out: bool = False,
        kind: Any = "surveillance",
        pool: EnginePool | None = None,
    ) -> None:
        self.folder = tmp_path
        self.events: list[Record] = []
        self.engines: list[BoxEngine] = []
        self.boxes_at: Callable[[NDArray[Any]], Any] = middle
        self.classes = 2
        self.heard = threading.Condition()
        self.out = tmp_path / "out" if out else None
        parsed = parse_config(kind, config)
        slot = PartVariant(make_variant(tmp_path / "blobs", box_task()), "yard@1", "sha256:" + "1" * 64)
        self.pipeline: Pipeline = make_pipeline(
            kind,
            PipelineArgs(
                "gate",
                source,
                {"detector": slot},
                parsed,
                self.emit,
                lambda v: self.open(v),
                self.out,
                pool=pool or EnginePool(),
            ),
        )

    def open(self, variant: Variant) -> BoxEngine:
        engine = BoxEngine(self.boxes_at, classes=self.classes)
        self.engines.append(engine)
        return engine

    def emit(self, record: Record) -> None:
        with self.heard:
            self.events.append(record)
            self.heard.notify_all()

    def hear(self, kind: str, timeout_s: float = 10) -> Record:
        def find() -> Record | None:
            return next((e for e in self.events if e["type"] == kind), None)

        with self.heard:
            assert self.heard.wait_for(lambda: find() is not None, timeout_s), f"no {kind} event"
            found = find()
        assert found is not None
        return found

    def variant(self, name: str, labels: tuple[str, ...] = ("person", "vehicle")) -> PartVariant:
        return PartVariant(
            make_variant(self.folder / name, box_task(labels), name=name), f"{name}@2", "sha256:" + "2" * 64
        )

    def wait_processed(self, n: int, timeout_s: float = 10) -> None:
        deadline = time.monotonic() + timeout_s
        while self.frames().processed < n:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def frames(self) -> Any:
        return self.pipeline.ledger.frames()  # type: ignore[attr-defined]

    def run_to_the_end(self) -> None:
        self.pipeline.start()
        assert self.pipeline.wait(30)
        self.pipeline.stop()
