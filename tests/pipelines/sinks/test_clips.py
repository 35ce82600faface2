"""Clips of events: exact, from the key frame before, one for what belongs together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest
from support.pipelines import BoxEngine, box_task, make_variant, write_h264

from edgectl.core.errors import EdgectlError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Record
from edgectl.pipelines.stream.part import PartVariant

ZONE = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}


def run(folder: Path, source: str, clips: dict[str, Any], **config: Any) -> list[Record]:
    """Somebody is there from the fifth frame on."""
    events: list[Record] = []
    looked = iter(range(10_000))

    def boxes(_: Any) -> list[Any]:
        return [(0.4, 0.3, 0.6, 0.8, 0.9, 0)] if next(looked) >= 22 else []

    slot = PartVariant(make_variant(folder / "blobs", box_task()), "yard@1", "sha256:" + "1" * 64)
    values = {"zones": {"all": ZONE}, "clips": {"on": ["all"], **clips}, "annotate": False, **config}
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "gate",
            source,
            {"detector": slot},
            parse_config("surveillance", values),
            events.append,
            lambda _: BoxEngine(boxes),
            folder / "out",
        ),
    )
    pipeline.start()
    assert pipeline.wait(60)
    pipeline.stop()
    assert pipeline.error is None, pipeline.error
    return events


def test_an_event_names_its_clip_which_begins_before_it_and_has_the_sources_own_frames(
    tmp_path: Path,
) -> None:
    source = write_h264(tmp_path / "clip.mp4", frames=80)
    events = run(tmp_path, str(source), {"before_s": 0.5, "after_s": 1})
    [entered] = [e for e in events if e["type"] == "zone"]
    clip = tmp_path / "out" / entered["clip"]
    with av.open(str(source)) as video:
        whole = [f.to_ndarray(format="yuv420p") for f in video.decode(video=0)]
    with av.open(str(clip)) as video:
        assert video.streams.video[0].start_time == 0
        got = [f.to_ndarray(format="yuv420p") for f in video.decode(video=0)]
    first = int((entered["t_s"] - 0.5) * 10) // 10 * 10  # a key frame every ten
    for a, b in zip(got, whole[first:], strict=False):
        assert (a == b).all()
    assert first + len(got) >= (entered["t_s"] + 1) * 10
    assert len(got) <= 40
    [told] = [e for e in events if e["type"] == "clip"]
    assert told["clip"] == entered["clip"]
    assert told["events"] == [entered["id"]]
    assert told["start_pts_s"] == pytest.approx(first / 10)
    assert told["before_s"] == pytest.approx(entered["t_s"] - first / 10, abs=0.002)
    assert (told["frames"], told["seconds"]) == (len(got), pytest.approx(len(got) / 10))
    assert [p.name for p in clip.parent.iterdir()] == [clip.name]


def test_what_belongs_together_is_one_clip(tmp_path: Path) -> None:
    source = write_h264(tmp_path / "clip.mp4", frames=80)
    line = {"id": "all2", "occupancy": {"zone": "all", "high": 1}}
    events = run(tmp_path, str(source), {"on": ["all", "all2"], "after_s": 1}, rules=[line])
    named = [e for e in events if "clip" in e and e["type"] != "clip"]
    assert {e["type"] for e in named} == {"zone", "occupancy"}
    assert len({e["clip"] for e in named}) == 1
    [told] = [e for e in events if e["type"] == "clip"]
    assert told["events"] == [e["id"] for e in named]


@pytest.mark.parametrize(
    "privacy", [{"masks": [{"polygon": ZONE["polygon"]}]}, {"blur": {"classes": ["person"]}}]
)
def test_with_privacy_clips_are_refused(privacy: Any) -> None:
    with pytest.raises(
        UsageError, match="clips: it gives out the source's own packets, in which nothing can be hidden"
    ):
        parse_config("surveillance", {"privacy": privacy, "zones": {"all": ZONE}, "clips": {"on": ["all"]}})


def test_a_source_without_packets_says_so(tmp_path: Path) -> None:
    with pytest.raises(EdgectlError, match="this source gives no packets"):
        run(tmp_path, "synth://yard?seconds=1&paced=0", {})
