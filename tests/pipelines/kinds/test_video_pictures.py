"""Still pictures, and films of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.pipelines import BoxEngine, write_h264
from support.video_rig import Rig, middle

from edgectl.core.errors import EngineError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline


def test_an_image_of_the_wrong_size_is_refused_before_the_stream_starts(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    original = rig.open
    rig.open = lambda v: BoxEngine(middle, size=(32, 32))  # type: ignore[method-assign]
    del original
    slot = rig.variant("v")
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "s", str(clip), {"detector": slot}, parse_config("surveillance", None), rig.emit, rig.open
        ),
    )
    with pytest.raises(EngineError, match=r"takes \(1, 3, 32, 32\)"):
        pipeline.start()


def test_frames_of_several_sizes_do_not_disturb(tmp_path: Path) -> None:
    import cv2

    for i, size in enumerate([(48, 64), (96, 128), (50, 70)] * 3):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), np.full((*size, 3), 99, np.uint8))
    rig = Rig(tmp_path, str(tmp_path), {"track": {"lost_s": 5}})
    rig.run_to_the_end()
    assert rig.frames().processed == 9


@pytest.mark.parametrize("single", [True, False])
def test_one_picture_is_one_answer(tmp_path: Path, single: bool) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(folder / name), np.full((40, 60, 3), 90, np.uint8))
    config = {
        "zones": {
            "all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]},
            "left": {"polygon": [0, 0, 0.3, 0, 0.3, 1, 0, 1]},
        },
        "rules": [
            {"id": "crowd", "occupancy": {"zone": "all", "high": 1}},
            {"id": "few", "occupancy": {"zone": "all", "high": 2}},
        ],
    }
    rig = Rig(tmp_path, str(folder / "a.jpg" if single else folder), config, out=True)
    rig.run_to_the_end()
    found = [e for e in rig.events if e["type"] == "detections"]
    assert [e["picture"] for e in found] == (["a.jpg"] if single else ["a.jpg", "b.png"])
    for event in found:
        assert event["found"] == {"person": 1}
        (one,) = event["objects"]
        assert (one["label"], one["box"], one["zones"]) == ("person", [24.0, 12.0, 36.0, 32.0], ["all"])
        assert event["zones"] == {"all": 1, "left": 0}
        assert event["over"] == ["crowd"]
    assert {e["type"] for e in rig.events} == {"detections", "capability"}


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_a_still_picture_in_a_videos_format_is_one_answer_too(tmp_path: Path, name: str) -> None:
    rig = Rig(tmp_path, str(write_h264(tmp_path / name, frames=1)))
    rig.run_to_the_end()
    assert [(e["type"], e.get("found"), e.get("reason")) for e in rig.events] == [
        ("detections", {"person": 1}, None),
        ("capability", None, "ended"),
    ]
    assert rig.frames().processed == 1


def test_a_picture_without_objects_says_so(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((40, 60, 3), np.uint8))
    rig = Rig(tmp_path, str(tmp_path / "x.png"))
    rig.boxes_at = lambda _: []
    rig.run_to_the_end()
    (event,) = [e for e in rig.events if e["type"] == "detections"]
    assert (event["found"], event["objects"]) == ({}, [])


def test_a_folder_with_a_rate_is_a_film(tmp_path: Path) -> None:
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), np.full((40, 60, 3), i, np.uint8))
    rig = Rig(tmp_path, f"{tmp_path}?fps=10")
    rig.run_to_the_end()
    assert [(e["type"], e["t_s"]) for e in rig.events if e["type"] != "capability"] == [
        ("tracked_object", 0.1)
    ]


def test_a_film_of_pictures_far_apart_names_its_objects_at_once(tmp_path: Path) -> None:
    """A picture every ten seconds: nobody is seen twice in the same place."""
    path = write_h264(tmp_path / "x.mkv", frames=6, fps=1)
    rig = Rig(tmp_path, str(path), {"flow": {"target_fps": 0.4}})
    at = iter([0.0, 0.1, 0.2, 0.4, 0.6, 0.8])

    def elsewhere(_: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
        x = next(at)
        return [(x, 0.1, x + 0.05, 0.3, 0.9, 0)]

    rig.boxes_at = elsewhere
    rig.run_to_the_end()
    assert (
        sum((e["type"], e.get("phase")) == ("tracked_object", "new") for e in rig.events)
        == rig.frames().processed
        > 1
    )
