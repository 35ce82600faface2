"""What a frame costs in the rules: processor time of ten objects that walk about, two zones and one line, and of each
rule beside them.

    python bench/rules_cost.py [--frames 2000]

Exits with 1 if two zones and a line cost more than 0.1 ms a frame in the middle.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules import RuleSet
from edgectl.pipelines.video.tracker import Tracks

GOAL_MS = 0.1
ZONES: dict[str, Any] = {
    "yard": {"polygon": [0.1, 0.45, 0.8, 0.4, 0.9, 0.95, 0.05, 0.98]},
    "door": {"polygon": [0.4, 0.1, 0.6, 0.1, 0.6, 0.5, 0.4, 0.5]},
}
BASE: list[dict[str, Any]] = [{"id": "gate", "line": [0.5, 1.0, 0.5, 0.0]}]


def walk(frames: int, objects: int = 10) -> list[Tracks]:
    """Objects that walk about in 1280 × 720 at 15 frames a second."""
    rng = np.random.default_rng(1)
    at, speed = rng.uniform([100, 200], [1180, 700], (objects, 2)), rng.uniform(-90, 90, (objects, 2))
    seen = []
    for _ in range(frames):
        at = at + speed / 15
        speed[(at < 60) | (at > [1220, 700])] *= -1
        at = np.clip(at, 60, [1220, 700])
        foot = at + rng.normal(0, 1.5, at.shape)
        boxes = np.tile(foot, 2).astype(np.float32) + np.array([-25, -120, 25, 0], np.float32)
        ids, ones = np.arange(1, objects + 1), np.ones(objects)
        score, cls, there = ones.astype(np.float32) * 0.9, (ones * 0).astype(np.int32), ones.astype(bool)
        seen.append(Tracks(ids, boxes, score, cls, there, 1280, 720))
    return seen


def cost_ms(rules: list[dict[str, Any]], frames: list[Tracks]) -> tuple[float, float]:
    """Processor time of a frame, ms: the middle one and the 99th of a hundred."""
    engine = RuleSet(parse_config("surveillance", {"zones": ZONES, "rules": rules}), ("person", "car"))
    spent = []
    for i, tracks in enumerate(frames):
        start = time.thread_time_ns()
        engine.step(tracks, i / 15)
        spent.append((time.thread_time_ns() - start) / 1e6)
    return float(np.median(spent)), float(np.percentile(spent, 99))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=2000)
    frames = walk(parser.parse_args().frames)
    middle, most = cost_ms(BASE, frames)
    print(f"two zones, one line: {middle:.3f} ms, 99 % {most:.3f} ms; goal {GOAL_MS} ms")
    for rule in MORE:
        name = next(key for key in rule if key != "id")
        more, _ = cost_ms([*BASE, rule], frames)
        print(f"  {name:16s} {more - middle:+.3f} ms")
    return int(middle > GOAL_MS)


MORE: tuple[dict[str, Any], ...] = (
    {"id": "a", "loiter": {"zone": "yard", "seconds": 20}},
    {"id": "b", "occupancy": {"zone": "yard", "high": 5}},
)

if __name__ == "__main__":
    sys.exit(main())
