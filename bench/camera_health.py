"""How often is a fault of a camera told, and how often one that is none? On synthetic views whose place, light, weather and
traffic the seed draws (`bench/synthetic_views.py`), with the settings as they are by default.

    python bench/camera_health.py [--seeds 12] [--first 9000] [--minutes 20]

Each camera runs for so long with dusk, clouds, rain, headlights and lorries that fill the picture; then, from where it was
in the middle of that, for a minute with each fault. Exits with 1 if more than one false alarm comes in ten camera-hours, or
fewer than nine of ten faults are told as what they are.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from synthetic_views import FAULTS, View

from edgectl.pipelines.video.health.judge import HealthConfig, ViewJudge
from edgectl.pipelines.video.health.measure import ViewMeter


@dataclass
class Result:
    hours: float = 0.0
    false: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    """Told as something else, or not at all."""
    delays_s: list[float] = field(default_factory=list)
    cost_ms: list[float] = field(default_factory=list)


def camera(seed: int, minutes: float, result: Result) -> None:
    view = View(seed, minutes * 60)
    meter, judge = ViewMeter(), ViewJudge(HealthConfig())
    middle_s = minutes * 30
    kept: tuple[ViewMeter, ViewJudge] | None = None
    for t, before, frame in view.pairs(minutes * 60):
        began = time.process_time()
        meter.pair(before)
        found, usual = judge.step(meter.measure(frame, t, full_range=True), t)
        result.cost_ms.append(1000 * (time.process_time() - began))
        if usual:
            meter.learn()
        result.false.update(one.what for one in found if one.on)
        if t >= middle_s and kept is None and not judge.troubles:
            kept, middle_s = copy.deepcopy((meter, judge)), t
    result.hours += minutes / 60
    if kept is None:
        return
    for fault in FAULTS:
        meter, judge = copy.deepcopy(kept)
        result.tried[fault] += 1
        told: list[str] = []
        for t, before, frame in view.pairs(middle_s + 60, fault, after_s=middle_s + 0.5):
            meter.pair(before)
            found, usual = judge.step(meter.measure(frame, t, full_range=True), t)
            if usual:
                meter.learn()
            for one in found:
                if one.on and one.what == fault and fault not in told:
                    result.delays_s.append(t - middle_s)
                told += [one.what] if one.on else []
        result.told[fault] += fault in told
        if fault not in told:
            result.other[f"{fault} told as {', '.join(told) or 'nothing'}"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--first", type=int, default=9000, help="the first seed")
    parser.add_argument("--minutes", type=float, default=20)
    asked = parser.parse_args()
    result = Result()
    for seed in range(asked.first, asked.first + asked.seeds):
        camera(seed, asked.minutes, result)
    false = sum(result.false.values())
    told, tried = sum(result.told.values()), sum(result.tried.values())
    print(f"{result.hours:.1f} camera-hours, false alarms: {false} {dict(result.false)}")
    for fault in FAULTS:
        print(f"{fault:<10} told {result.told[fault]} of {result.tried[fault]}")
    print(f"not as what it is: {dict(result.other)}")
    delay = statistics.median(result.delays_s) if result.delays_s else float("nan")
    print(f"told {told} of {tried}, median {delay:.1f} s after it began")
    print(f"a measurement costs {statistics.median(result.cost_ms):.2f} ms of a core, twice a second")
    return int(false > result.hours / 10 or told < 0.9 * tried)


if __name__ == "__main__":
    sys.exit(main())
