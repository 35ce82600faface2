"""The five devices of the demo: three gates, one of them with three cameras, a dash camera, a voice kiosk. All
synthetic, all with other seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["DEVICES", "ROAD", "SPEECH", "YARD", "DemoDevice"]

YARD: dict[str, Any] = {
    "zones": {"yard": {"polygon": [0.05, 0.5, 0.95, 0.5, 0.98, 1.0, 0.02, 1.0], "classes": ["person"]}},
    "rules": [
        {"id": "gate", "line": [0.5, 1.0, 0.5, 0.3], "classes": ["person", "vehicle"]},
        {"id": "lurk", "loiter": {"zone": "yard", "seconds": 4}},
    ],
}
ROAD: dict[str, Any] = {
    # The camera of synth://road: 1.35 m above the road, focal length 0.9 of the width.
    "camera": {"height_m": 1.35, "fx_px": 576, "lane_width_m": 3.6},
    "ego": {"speed_mps": 25.0},
    "rules": [{"id": "fcw", "collision": {}}, {"id": "ldw", "lane_departure": {}}],
}
SPEECH: dict[str, Any] = {"speech": {"hop_frames": 4}}


@dataclass(frozen=True)
class DemoDevice:
    name: str
    kind: str
    part: str
    slot: str
    config: dict[str, Any]
    cameras: dict[str, str]
    """Stream → source. All of a device share its slot, and so one worker and one engine."""


def _gate(name: str, cameras: dict[str, str]) -> DemoDevice:
    return DemoDevice(name, "surveillance", "detector", "gate-detector", YARD, cameras)


DEVICES = (
    _gate(
        "gate-1",
        {
            "yard": "synth://yard?seed=11&fps=12",
            "drive": "synth://yard?seed=14&fps=6",
            "door": "synth://yard?seed=15&fps=6",
        },
    ),
    _gate("gate-2", {"yard": "synth://yard?seed=12&fps=12"}),
    _gate("gate-3", {"yard": "synth://yard?seed=13&fps=12"}),
    DemoDevice(
        "dash-1", "driving", "detector", "dash-detector", ROAD, {"road": "synth://road?seed=21&fps=12"}
    ),
    DemoDevice("kiosk-1", "speech", "keyword", "kiosk-words", SPEECH, {"kiosk": "synth://kiosk?seed=31"}),
)
