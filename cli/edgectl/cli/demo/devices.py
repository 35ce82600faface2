"""The five devices of the demo: three gate cameras, one dash camera, one voice kiosk. All synthetic, all
with other seeds."""

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
    stream: str
    kind: str
    source: str
    part: str
    slot: str
    config: dict[str, Any]


DEVICES = (
    *(
        DemoDevice(
            f"gate-{i}",
            "yard",
            "surveillance",
            f"synth://yard?seed={10 + i}&fps=12",
            "detector",
            "gate-detector",
            YARD,
        )
        for i in (1, 2, 3)
    ),
    DemoDevice("dash-1", "road", "driving", "synth://road?seed=21&fps=12", "detector", "dash-detector", ROAD),
    DemoDevice("kiosk-1", "kiosk", "speech", "synth://kiosk?seed=31", "keyword", "kiosk-words", SPEECH),
)
