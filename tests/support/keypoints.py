"""Detections and tracks with keypoints."""

from __future__ import annotations

import dataclasses

import numpy as np
from support.pipelines import detections, tracks

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.keypoints import KeypointLayout, Keypoints
from edgectl.pipelines.video.tracker import Tracks

ENDS = KeypointLayout(("head", "foot"), (("head", "foot"),))


def ends(*rows: tuple[float, float, float, float]) -> Keypoints:
    """Of each object x of both points, y of head and foot, and the confidence of both."""
    points = [[[x, head, sure], [x, foot, sure]] for x, head, foot, sure in rows]
    return Keypoints(np.array(points, np.float32).reshape(-1, 2, 3), ENDS)


def people(*rows: tuple[float, float]) -> Detections:
    """x and score: boxes of 40 × 80 pixels whose points lie in the middle of the upper and lower edge."""
    found = detections(*((x - 20, 100, x + 20, 180, score, 0) for x, score in rows))
    return dataclasses.replace(found, keypoints=ends(*((x, 100, 180, 0.9) for x, _ in rows)))


def tracked(*rows: tuple[int, float, float]) -> Tracks:
    """As :func:`support.pipelines.tracks`, with both points."""
    return dataclasses.replace(tracks(*rows), keypoints=ends(*((x, y - 80, y, 0.9) for _, x, y in rows)))
