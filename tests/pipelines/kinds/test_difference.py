"""What of a changed configuration a running stream takes."""

from __future__ import annotations

from typing import Any

import pytest

from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.config import VideoConfig
from edgectl.pipelines.kinds.difference import ConfigDifference, NewStartNeeded, difference

SQUARE = [0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8]
BASE: dict[str, Any] = {
    "zones": {"yard": {"polygon": SQUARE}},
    "rules": [{"id": "gate", "line": [0.5, 1, 0.5, 0]}],
    "snapshots": {"on": ["gate"]},
    "mqtt": {"url": "mqtt://nas"},
}


def of(kind: str = "surveillance", **more: Any) -> ConfigDifference:
    before, after = (parse_config(kind, values) for values in (BASE, {**BASE, **more}))
    assert isinstance(before, VideoConfig)
    assert isinstance(after, VideoConfig)
    return difference(before, after)


@pytest.mark.parametrize(
    ("more", "changed", "sinks"),
    [
        ({}, (), set()),
        ({"zones": {"yard": {"polygon": SQUARE[:6]}}}, ("zones.yard",), set()),
        ({"zones": {**BASE["zones"], "door": {"polygon": SQUARE}}}, ("zones.door", "mqtt"), {"mqtt"}),
        ({"rules": [], "snapshots": False}, ("rules.gate", "mqtt", "snapshots"), {"mqtt", "snapshots"}),
        ({"rules": [{"id": "gate", "line": [0.4, 1, 0.4, 0]}]}, ("rules.gate",), set()),
        ({"snapshots": {"on": ["yard"]}}, ("snapshots",), {"snapshots"}),
        ({"webhook": {"url": "https://hooks"}}, ("webhook",), {"webhook"}),
        ({"tracklog": True}, ("tracklog",), {"tracklog"}),
        ({"annotate": False}, ("annotate",), {"annotate"}),
        ({"privacy": {"masks": [{"polygon": SQUARE}]}}, ("privacy.masks",), set()),
        ({"track": {"lost_s": 3}}, ("track.lost_s",), set()),
        ({"flow": {"target_fps": 5, "max_age_ms": 50}}, ("flow.max_age_ms", "flow.target_fps"), set()),
        ({"budget_ms": 99}, ("budget_ms",), set()),
        ({"gate": {"motion": True}}, ("gate.motion",), set()),
    ],
)
def test_what_a_running_stream_takes(more: dict[str, Any], changed: tuple[str, ...], sinks: set[str]) -> None:
    found = of(**more)
    assert (found.changed, found.needs_start, found.sinks) == (changed, (), sinks)
    found.check()


@pytest.mark.parametrize(
    ("kind", "more", "needs"),
    [
        ("surveillance", {"flow": {"mode": "fifo"}}, ("flow.mode",)),
        ("surveillance", {"classes": ["person"], "track": {"high": 0.6}}, ("classes",)),
        ("surveillance", {"merge": {"vehicle": ["car"]}}, ("merge.vehicle",)),
        ("surveillance", {"annotate": {"max_width": 640}}, ("annotate",)),
        ("surveillance", {"clips": {"on": ["gate"]}}, ("clips",)),
        ("surveillance", {"govern": {"on": False}}, ("govern.on",)),
        ("surveillance", {"regions": {"on": True}}, ("regions.on",)),
        ("driving", {"camera": {"hood": 0.8}}, ("camera.hood",)),
    ],
)
def test_what_needs_a_new_start_is_named(kind: str, more: dict[str, Any], needs: tuple[str, ...]) -> None:
    found = of(kind, **more)
    assert found.needs_start == needs
    with pytest.raises(NewStartNeeded, match=f"{needs[0]} cannot change while the stream runs"):
        found.check()


def test_masks_beside_clips_are_there_from_the_start_or_not_at_all() -> None:
    clips = {"clips": {"on": ["gate"]}}
    mask = {"privacy": {"masks": [{"polygon": SQUARE}]}}
    two = {"privacy": {"masks": [{"polygon": SQUARE}, {"polygon": SQUARE}]}}
    for before, after, needs in (
        (clips, {**clips, **mask}, ("privacy",)),
        ({**clips, **mask}, {**clips, **two}, ()),
    ):
        old, new = (parse_config("surveillance", {**BASE, **v}) for v in (before, after))
        assert isinstance(old, VideoConfig)
        assert isinstance(new, VideoConfig)
        assert difference(old, new).needs_start == needs
