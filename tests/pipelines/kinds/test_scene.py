"""A classifier that looks at the whole picture beside the detector: its votes are states of the stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.pipelines import BoxEngine, ClassEngine, box_task, class_task, make_variant, write_clip

from edgectl.core.bundle import Variant
from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.replay import open_track_log, recorded_config, replay
from edgectl.pipelines.kinds.base import Pipeline, PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Record
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.engine_pool import EnginePool

GATE: dict[str, Any] = {"part": "gate", "every_s": 0, "votes": 3}


def bright(crop: NDArray[Any]) -> list[float]:
    """Closed where it is dark: the clip becomes brighter by 8 grey levels a frame."""
    return [4.0, 0.0] if float(crop.mean()) < 0.5 else [0.0, 4.0]


class SceneRig:
    """A stream with a detector that finds nothing and a classifier, both doubles."""

    def __init__(
        self,
        folder: Path,
        source: str,
        scene: dict[str, Any] | None = None,
        *,
        logits_at: Callable[[NDArray[Any]], list[float]] = bright,
        **config: Any,
    ) -> None:
        self.events: list[Record] = []
        self._logits_at = logits_at
        gate = make_variant(folder / "gate", class_task(("closed", "open")), name="gate")
        slots = {
            "detector": PartVariant(make_variant(folder / "blobs", box_task()), "yard@1"),
            "gate": PartVariant(gate, "gate@1"),
        }
        parsed = parse_config("surveillance", {"scene": [{**GATE, **(scene or {})}], **config})
        self.out = folder / "out"
        self.pipeline: Pipeline = make_pipeline(
            "surveillance",
            PipelineArgs(
                "yard", source, slots, parsed, self.events.append, self.open, self.out, pool=EnginePool()
            ),
        )

    def open(self, variant: Variant) -> BoxEngine | ClassEngine:
        if variant.config.task.labels != ("closed", "open"):
            return BoxEngine(lambda picture: [])
        return ClassEngine(self._logits_at)

    def run(self) -> SceneRig:
        self.pipeline.start()
        assert self.pipeline.wait(60)
        self.pipeline.stop()
        assert self.pipeline.error is None
        return self

    def states(self) -> list[tuple[str, str]]:
        return [(e["phase"], e["value"]) for e in self.events if e["type"] == "scene"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", frames=40)


def test_a_state_is_told_when_the_votes_decide_it_and_when_it_changes(tmp_path: Path, clip: Path) -> None:
    rig = SceneRig(tmp_path, str(clip)).run()
    assert rig.states() == [("start", "closed"), ("update", "open")]
    first, second = (e for e in rig.events if e["type"] == "scene")
    assert first["part"] == second["part"] == "gate"
    # three pictures at 15 a second
    assert first["t_s"] == pytest.approx(2 / 15, abs=0.01)
    assert (second["was"], second["seconds"]) == (
        "closed",
        pytest.approx(second["t_s"] - first["t_s"], abs=2e-3),
    )
    assert second["releases"] == {"detector": "yard@1", "gate": "gate@1"}
    assert rig.pipeline.stats().crops["gate"].processed == 40


def test_a_few_wrong_answers_change_nothing(tmp_path: Path, clip: Path) -> None:
    calls = iter(range(1000))

    def flickers(crop: NDArray[Any]) -> list[float]:
        return [0.0, 4.0] if next(calls) % 5 == 4 else [4.0, 0.0]

    assert SceneRig(tmp_path, str(clip), {"votes": 5}, logits_at=flickers).run().states() == [
        ("start", "closed")
    ]


def test_a_region_alone_is_looked_at_and_not_more_often_than_asked(tmp_path: Path) -> None:
    seen: list[NDArray[Any]] = []

    def look(crop: NDArray[Any]) -> list[float]:
        seen.append(crop[0].copy())
        return [1.0, 0.0]

    image = np.zeros((100, 200, 3), np.uint8)
    image[:50, 100:] = 255
    (tmp_path / "stills").mkdir()
    cv2.imwrite(str(tmp_path / "stills" / "a.png"), image)
    SceneRig(tmp_path, str(tmp_path / "stills"), {"region": [0.5, 0, 1, 0.5]}, logits_at=look).run()
    assert seen[-1].min() > 0.95
    seen.clear()
    rig = SceneRig(tmp_path, str(write_clip(tmp_path / "c.mp4", frames=45)), {"every_s": 1}, logits_at=look)
    rig.run()
    assert rig.pipeline.stats().crops["gate"].captured == 3


@pytest.mark.parametrize("paced", [False, True])
def test_a_mask_is_black_to_who_looks_at_the_scene(tmp_path: Path, paced: bool) -> None:
    seen: list[NDArray[Any]] = []

    def look(crop: NDArray[Any]) -> list[float]:
        seen.append(crop[0].copy())
        return [1.0, 0.0]

    clip = write_clip(tmp_path / "c.mp4", frames=40)
    privacy = {"masks": [{"polygon": [0.5, 0, 1, 0, 1, 1, 0.5, 1]}]}
    source = f"{clip}?paced=1" if paced else str(clip)
    SceneRig(tmp_path, source, {"region": [0.25, 0, 0.75, 1]}, logits_at=look, privacy=privacy).run()
    assert max(one[:, :, :6].min() for one in seen) > 0.9
    assert max(one[:, :, 10:].max() for one in seen[-3:]) < 0.1


def test_each_still_picture_has_a_state_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "stills").mkdir()
    for i, level in enumerate((20, 220, 120)):
        cv2.imwrite(str(tmp_path / "stills" / f"{i}.png"), np.full((96, 128, 3), level, np.uint8))

    def unsure(crop: NDArray[Any]) -> list[float]:
        return [0.0, 0.0] if 0.4 < float(crop.mean()) < 0.6 else bright(crop)

    rig = SceneRig(tmp_path, str(tmp_path / "stills"), {"score": 0.6}, logits_at=unsure).run()
    told = [e.get("scene") for e in rig.events if e["type"] == "detections"]
    assert [None if t is None else t["gate"]["value"] for t in told] == ["closed", "open", None]


@pytest.mark.parametrize("paced", [False, True])
def test_the_track_log_replays_the_states(tmp_path: Path, clip: Path, paced: bool) -> None:
    source = f"{clip}?paced=1" if paced else str(clip)
    rig = SceneRig(tmp_path, source, tracklog=True).run()
    with open_track_log(rig.out) as log:
        _, (again,) = replay(log, [recorded_config(log.header)])
    left_out = ("id", "seq", "latency_ms", "releases")
    live, replayed = (
        [{k: v for k, v in e.items() if k not in left_out} for e in events if e["type"] == "scene"]
        for events in (rig.events, again.records)
    )
    assert live == replayed
    assert len(live) == 2


def test_the_state_is_drawn(tmp_path: Path, clip: Path) -> None:
    rig = SceneRig(tmp_path, str(clip), annotate=True).run()
    video = cv2.VideoCapture(str(rig.out / "annotated.mp4"))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    # the picture is of one grey level without it
    assert int(np.ptp(frames[0])) < 40 < int(np.ptp(frames[10]))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"scene": [{"part": "gate", "region": [0.5, 0, 0.5, 1]}]}, "have a size"),
        ({"scene": [{"part": "gate", "region": [0, 0, 1.5, 1]}]}, "within 0..1"),
        ({"scene": [GATE, GATE]}, "names the part 'gate' twice|name the part 'gate' twice"),
        ({"scene": [GATE], "second_stage": [{"part": "gate"}]}, "name the part 'gate' twice"),
        (
            {"scene": [GATE], "rules": [{"id": "r", "running": {}, "attributes": {"gate": "open"}}]},
            "attribute 'gate', which no second_stage gives",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_config("surveillance", config)


def test_a_detector_tells_no_state(tmp_path: Path, clip: Path) -> None:
    box = PartVariant(make_variant(tmp_path / "blobs", box_task()), "yard@1")
    parsed = parse_config("surveillance", {"scene": [GATE]})
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "s",
            str(clip),
            {"detector": box, "gate": box},
            parsed,
            lambda r: None,
            lambda v: BoxEngine(lambda p: []),
        ),
    )
    with pytest.raises(UsageError, match="'gate' of scene is a detector"):
        pipeline.start()


def test_a_part_without_an_engine_is_named(tmp_path: Path) -> None:
    slots = {"detector": PartVariant(make_variant(tmp_path / "blobs", box_task()), "yard@1")}
    parsed = parse_config("surveillance", {"scene": [GATE]})
    with pytest.raises(UsageError, match="names the part 'gate', and there is no engine"):
        make_pipeline(
            "surveillance",
            PipelineArgs("s", "x.mp4", slots, parsed, lambda r: None, lambda v: None),  # type: ignore[arg-type, return-value]
        )
