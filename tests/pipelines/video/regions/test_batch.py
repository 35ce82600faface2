"""The regions of a frame in as few calls as the engine's batch allows: a real engine, as the builder opens its batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from support.pipelines import make_variant

from edgectl.builder.variants.batched import open_batch
from edgectl.core.bundle import LAYER_ENGINE, SessionSettings, Variant
from edgectl.engines.base import Engine, Outputs
from edgectl.engines.finalise.open import open_model
from edgectl.models.catalogue import reference
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Record, Sink, StreamOutput
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.tasks import load_task

SIZE = (1280, 720)


def three_walk(path: Path) -> Path:
    """Three small bright things, far from each other, for three seconds."""
    ground = np.random.default_rng(5).integers(40, 150, (9, 16, 3), dtype=np.uint8)
    still = np.asarray(cv2.resize(ground, SIZE, interpolation=cv2.INTER_CUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *SIZE, "yuv420p", 8_000_000
        for i in range(30):
            image = still.copy()
            for x, y in ((60 + 5 * i, 100), (900 + 5 * i, 150), (400 + 5 * i, 600)):
                image[y : y + 24, x : x + 16] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


class Counted:
    """A real engine; how many pictures each call had."""

    def __init__(self, engine: Engine) -> None:
        self.inputs, self.outputs, self.runtime = engine.inputs, engine.outputs, engine.runtime
        self._engine = engine
        self.calls: list[int] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Outputs:
        self.calls.append(len(next(iter(feeds.values()))))
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


class Boxes(Sink):
    name = "boxes"
    tracks = True

    def __init__(self) -> None:
        self.seen: list[NDArray[np.float32]] = []

    def write(self, output: StreamOutput) -> None:
        if output.tracks is not None:
            self.seen.append(output.tracks.xyxy)


def looked_at(folder: Path, clip: Path, model: bytes, batch: int) -> tuple[list[int], list[NDArray[Any]]]:
    """The calls of a run, and the boxes of each frame."""
    variant = make_variant(folder, load_task(str(reference("yard-detector").task)), model)
    variant.config = variant.config.model_copy(update={"batch": batch})
    engines: list[Counted] = []
    boxes, events = Boxes(), list[Record]()

    def opened(variant: Variant) -> Counted:
        engine = open_model(variant.need(LAYER_ENGINE).read_bytes(), SessionSettings(threads=1))
        engines.append(Counted(engine))
        return engines[-1]

    config = {"regions": {"on": True, "most": 4}, "track": {"high": 0.1}}
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "gate",
            str(clip),
            {"detector": PartVariant(variant)},
            parse_config("surveillance", config),
            events.append,
            opened,
            sinks=(boxes,),
        ),
    )
    pipeline.start()
    warm = len(engines[0].calls)
    assert pipeline.wait(60)
    pipeline.stop()
    assert pipeline.error is None
    assert pipeline.stats().errors == 0
    return engines[0].calls[warm:], boxes.seen


def test_regions_of_a_frame_run_as_a_batch_and_find_the_same(tmp_path: Path) -> None:
    clip = three_walk(tmp_path / "walk.mp4")
    model = reference("yard-detector").model.read_bytes()
    alone, found_alone = looked_at(tmp_path / "one", clip, model, 1)
    together, found_together = looked_at(tmp_path / "many", clip, open_batch(model), 4)
    assert set(alone) == {1}
    assert sum(together) == sum(alone) > 45, "several regions of most frames"
    assert max(together) == 4
    assert len(together) == 30, "one call a frame"
    assert len(found_alone) == len(found_together) == 30
    for a, b in zip(found_alone, found_together, strict=True):
        np.testing.assert_allclose(a, b, atol=0.05)
