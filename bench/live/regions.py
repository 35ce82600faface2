"""How many small objects are found in a 1080p scene, with and without regions, at equal calls of the engine.

    python bench/live/regions.py yolox ../shared/models/yolox-nano-416.onnx \
        ../shared/media/one-by-one-person-detection.mp4 ../shared/media/person-bicycle-car.gif

People and cars cut out of the two clips, 20 to 40 pixels long, walk and drive over the second one's empty ground;
H.264 at 15 frames a second. Each way may call the engine 15 times for a second of video, counted: the whole picture of
every frame; regions with at most three calls for each third frame; overlapping tiles of the whole picture, as many
frames as that allows. Through the whole pipeline as a file: the same run gives the same figures.

``--batch N``: an engine that takes N pictures a call, as `edgectl build --batch` opens it: the regions of a frame share
its calls. ``pictures_per_second`` is the same then, and ``ms_per_picture`` says what that saves.

``recall``: of the objects in the picture at each frame of the video, how many have a track there at that time, seen or
carried on. ``objects``: how many were ever tracked. ``false_tracks``: tracks that are at no object half of the time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from common import opened, parser, quiet_process, report
from numpy.typing import NDArray
from small_objects import SIZE, SmallObjects, cut_outs, empty_scene, pictures
from support.pipelines import make_variant

from edgectl.builder.variants.batched import open_batch
from edgectl.core.bundle import Variant
from edgectl.core.task import ImageInput
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.regions.choice import RegionChoice
from edgectl.pipelines.video.regions.cover import Region

FPS = 15
EMPTY_AT = 36
"""Of every sixth frame of the people's clip, one in which nobody is."""
LEAD_S = 2.0
"""While the background is learned; not judged."""
LABELS = ("person", "car", "bicycle", "truck", "bus", "motorcycle", "bird")
"""What so small an image of a person or a car may be called: where it is counts."""


def main() -> None:
    p = parser(__doc__)
    p.add_argument("task")
    p.add_argument("model", type=Path)
    p.add_argument("people", type=Path)
    p.add_argument("ground", type=Path)
    p.add_argument("--seconds", type=float, default=20.0)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--objects", type=int, default=8)
    p.add_argument("--px", type=int, nargs=2, default=(20, 40))
    p.add_argument("--batch", type=int, default=1)
    a = p.parse_args()
    quiet_process()
    frames = pictures(a.people, 6)
    looks = cut_outs("person", frames, frames[EMPTY_AT], 200)
    frames = pictures(a.ground)
    ground = empty_scene(frames)
    looks += cut_outs("car", frames, ground, 60)
    rows: dict[str, list[dict[str, float]]] = {"whole": [], "regions": [], "tiles": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variant = detector(folder / "blobs", a.task, a.model, a.batch)
        for seed in range(a.seeds):
            scene = SmallObjects(
                ground, looks, seed=seed, objects=a.objects, px=tuple(a.px), seconds=a.seconds
            )
            clip = scene.write(folder / f"{seed}.mp4", fps=FPS, seconds=a.seconds)
            for way in rows:
                rows[way].append(Run(way, clip, variant).judged(scene, a.seconds))
    report(
        {
            way: {key: round(float(np.mean([one[key] for one in made])), 3) for key in made[0]}
            for way, made in rows.items()
        }
        | {"goal": "more small objects with regions, at no more calls"},
        a.json,
    )


def detector(folder: Path, task: str, model: Path, batch: int) -> Variant:
    """At the size that the model's input has, for so many pictures a call."""
    spec = load_task(task)
    blob = model.read_bytes()
    engine = opened(make_variant(folder, spec, blob))
    height, width = engine.inputs[0].shape[2:]
    engine.close()
    assert isinstance(spec.input, ImageInput)
    sized = spec.input.model_copy(update={"width": width, "height": height})
    blob = open_batch(blob) if batch > 1 else blob
    variant = make_variant(folder, spec.model_copy(update={"input": sized}), blob)
    variant.config = variant.config.model_copy(update={"batch": batch})
    return variant


class Run(Sink):
    """One way through one clip. ``tracks``: time → boxes by id."""

    name = "run"
    tracks = True

    def __init__(self, way: str, clip: Path, variant: Variant) -> None:
        self.calls = self.pictures = 0
        self.took_s = 0.0
        self.seen: list[tuple[float, dict[int, NDArray[np.float32]]]] = []
        size = (variant.config.task.input.width, variant.config.task.input.height)  # type: ignore[union-attr]
        tiles = tiled(size)
        fps = {"whole": None, "regions": FPS / 3, "tiles": FPS / len(tiles)}[way]
        known = set(variant.config.task.labels)
        labels = [label for label in LABELS if label in known]
        config = {
            "merge": {"thing": labels},
            "classes": ["thing"],
            "flow": {"target_fps": fps},
            "regions": {"on": way != "whole", "most": 3},
            # what is looked at every second or less often cannot be lost after one
            "track": {"high": 0.35, "lost_s": 1.0 if way != "tiles" else 3 * len(tiles) / FPS},
        }
        pipeline: Any = make_pipeline(
            "surveillance",
            PipelineArgs(
                "s",
                str(clip),
                {"detector": PartVariant(variant)},
                parse_config("surveillance", config),
                lambda record: None,
                lambda v: _Counted(opened(v), self),
                sinks=(self,),
            ),
        )
        if way == "tiles":
            make = pipeline._make_regions
            pipeline._make_regions = lambda *a, **k: _Tiles(make(*a, **k), tiles)
        pipeline.start()
        self.calls = self.pictures = 0
        self.took_s = 0.0
        while not pipeline.wait(1.0):
            pass
        pipeline.stop()
        assert pipeline.error is None, pipeline.error
        frames = pipeline.ledger.frames()
        assert frames.captured == frames.processed + sum(frames.dropped.values())

    def write(self, output: StreamOutput) -> None:
        if output.tracks is not None and output.stamp is not None:
            tracks = output.tracks
            self.seen.append((output.stamp.t_s, dict(zip(tracks.ids.tolist(), tracks.xyxy, strict=True))))

    def judged(self, scene: SmallObjects, seconds: float) -> dict[str, float]:
        there = matched = 0
        ever: set[int] = set()
        at_object: dict[int, list[bool]] = {}
        for seq in range(round(LEAD_S * FPS), round(seconds * FPS)):
            t_s = seq / FPS
            truth = scene.truth(t_s)
            visible = np.nonzero(truth[:, 2] > 0)[0]
            boxes = at(self.seen, t_s)
            array = np.array([*boxes.values()], np.float32).reshape(-1, 4)
            hits = near(truth[visible], array)
            there += len(visible)
            matched += int(hits.any(axis=1).sum())
            ever |= {int(i) for i in visible[hits.any(axis=1)]}
            for track, hit in zip(boxes, hits.any(axis=0), strict=True):
                at_object.setdefault(track, []).append(bool(hit))
        return {
            "recall": matched / there,
            "objects": len(ever) / len(scene.actors),
            "tracks": len(at_object),
            "false_tracks": sum(np.mean(hits) < 0.5 for hits in at_object.values()),
            "calls_per_second": self.calls / seconds,
            "pictures_per_second": self.pictures / seconds,
            "ms_per_picture": self.took_s / self.pictures * 1e3,
        }


class _Counted:
    def __init__(self, engine: Any, run: Run) -> None:
        self.inputs, self.outputs, self.runtime = engine.inputs, engine.outputs, engine.runtime
        self.close = engine.close
        self._engine, self._run = engine, run

    def run(self, feeds: Any) -> Any:
        began = time.perf_counter()
        outputs = self._engine.run(feeds)
        self._run.took_s += time.perf_counter() - began
        self._run.calls += 1
        self._run.pictures += len(next(iter(feeds.values())))
        return outputs


class _Tiles:
    """In place of the regions: all of the picture."""

    def __init__(self, regions: RegionChoice, tiles: Sequence[Region]) -> None:
        self.on = True
        self._tiles = tiles

    def regions(self, *_: Any, **__: Any) -> tuple[Region | None, ...]:
        return (None, *self._tiles)


def tiled(size: tuple[int, int], overlap: float = 0.2) -> list[Region]:
    starts = []
    for whole, side in zip(SIZE, size, strict=True):
        n = int(np.ceil((whole - overlap * side) / (side * (1 - overlap))))
        starts.append([4 * round(v / 4) for v in np.linspace(0, whole - side, n)])
    return [Region(x, y, *size) for y in starts[1] for x in starts[0]]


def at(seen: Sequence[tuple[float, dict[int, Any]]], t_s: float) -> dict[int, NDArray[np.float32]]:
    """The tracks of the last frame that was looked at, carried on to ``t_s`` as they went before."""
    before = [one for one in seen if one[0] <= t_s + 1e-3]
    if not before:
        return {}
    t1, now = before[-1]
    t0, earlier = before[-2] if len(before) > 1 else (t1 - 1, {})
    step = (t_s - t1) / max(t1 - t0, 1e-6)
    return {i: box + step * (box - earlier.get(i, box)) for i, box in now.items()}


def near(truth: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether a box covers a quarter of the union with the true one: a pixel counts at this size."""
    corner = np.minimum(truth[:, None, 2:], boxes[None, :, 2:]) - np.maximum(
        truth[:, None, :2], boxes[None, :, :2]
    )
    shared = np.maximum(corner, 0).prod(axis=2)
    area, other = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (truth, boxes))
    return np.asarray(shared >= 0.25 * (area[:, None] + other[None, :] - shared))


if __name__ == "__main__":
    main()
