"""What a dash camera's rules are shown: a straight lane, and a road with nobody on it."""

from __future__ import annotations

import numpy as np

from edgectl.pipelines.video.lanes import Lanes
from edgectl.pipelines.video.tracker import Tracks


def lanes_at(offset_m: float, *, width: int = 960, height: int = 540, support: float = 1.0) -> Lanes:
    """A straight 3.6 m lane, the camera ``offset_m`` right of its middle; 600 px wide at the bottom."""
    v0 = height * 0.55
    drop = height - v0
    centre = -offset_m / 3.6 * 600
    return Lanes(width / 2, v0, (centre - 300) / drop, (centre + 300) / drop, 0.0, (support, support))


NOBODY = Tracks(
    np.empty(0, np.int64),
    np.empty((0, 4), np.float32),
    np.empty(0, np.float32),
    np.empty(0, np.int32),
    np.empty(0, bool),
    960,
    540,
)
