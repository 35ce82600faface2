"""How somebody holds the body, from the keypoints of a person: how far the torso leans, whether the legs stand under
it, how tall somebody is. Pure.

Shares of the stature are those of Drillis and Contini (Body Segment Parameters, 1966): shoulders at 0.818, hips at
0.530, knees at 0.285, ankles at 0.039.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgectl.pipelines.video.tracker import Tracks

__all__ = ["Body", "body"]

_TORSO, _THIGH, _LEG = 0.818 - 0.530, 0.530 - 0.285, 0.530 - 0.039
_LEAST_TORSO = 0.1
"""Of the longer side of the box: less is seen from its end, and leans nobody knows where."""


@dataclass(frozen=True, slots=True)
class Body:
    lean_deg: float
    """Of the torso, from upright (0) to lying (90) to head down (180)."""
    legs_under: float | None
    """How far the legs stand under the hips: 1, of somebody who stands straight; 0, of somebody whose legs lie or sit
    level. None: no knee or ankle is seen."""
    stature_px: float
    """How tall somebody of such a torso is, standing straight; pixels."""


def body(tracks: Tracks, row: int) -> Body | None:
    """None where neither a shoulder nor a hip is seen, or the torso is seen from its end."""
    points = tracks.keypoints
    if points is None:
        return None
    shoulders = points.middle(row, "left_shoulder", "right_shoulder")
    hips = points.middle(row, "left_hip", "right_hip")
    if shoulders is None or hips is None:
        return None
    dx, dy = shoulders.x - hips.x, hips.y - shoulders.y
    torso = math.hypot(dx, dy)
    x1, y1, x2, y2 = tracks.xyxy[row].tolist()
    if torso < max(1.0, _LEAST_TORSO * max(x2 - x1, y2 - y1)):
        return None
    stature = torso / _TORSO
    legs = None
    for names, share in ((("left_ankle", "right_ankle"), _LEG), (("left_knee", "right_knee"), _THIGH)):
        if (end := points.middle(row, *names)) is not None:
            legs = (end.y - hips.y) / (share * stature)
            break
    return Body(math.degrees(math.atan2(abs(dx), dy)), legs, stature)
