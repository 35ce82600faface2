"""Does the rule `unusual_path` tell what is odd, and how often what is not? On synthetic days whose site the seed draws
(`bench/synthetic_days.py`), with the rule as it is by default.

    python bench/unusual_path.py [--seeds 4] [--first 7000] [--learn 8] [--test 4]

The first days are learned from, with an odd one on every other day; then each day has five. Exits with 1 if more than
one false alarm comes a camera-day, or fewer than nine of ten odd ones are told.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from synthetic_days import LABELS, SITES, Site, day

from edgectl.pipelines.rules.base import RuleContext
from edgectl.pipelines.rules.observation import Observation
from edgectl.pipelines.rules.unusual_path import UnusualPathConfig, UnusualPathRule


@dataclass
class Result:
    days: int = 0
    false: int = 0
    odd: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)


def measure(kind: str, seed: int, *, learn: int, test: int, odd: int = 5) -> Result:
    """``learn`` days and then ``test`` days of one site."""
    site = Site(kind, seed)
    config = UnusualPathConfig.model_validate({"id": "odd", "unusual_path": {}})
    rule = UnusualPathRule(config, RuleContext(LABELS))
    result = Result()
    for number in range(learn + test):
        testing = number >= learn
        frames, sorts = day(site, number, odd if testing else number % 2)
        told: set[int] = set()
        for tracks, t in frames:
            told |= {e.data["track"] for e in rule.step(Observation(tracks, t)) if e.type == "unusual_path"}
        if testing:
            result.days += 1
            result.false += len(told - sorts.keys())
            result.odd.update(sorts.values())
            result.told.update(sorts[track] for track in told & sorts.keys())
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=7000, help="the first seed")
    parser.add_argument("--learn", type=int, default=8, help="days")
    parser.add_argument("--test", type=int, default=4, help="days")
    args = parser.parse_args()
    days = false = odd = told = 0
    for kind in SITES:
        start, all_ = time.thread_time(), Result()
        for seed in range(args.first, args.first + args.seeds):
            one = measure(kind, seed, learn=args.learn, test=args.test)
            all_.days, all_.false = all_.days + one.days, all_.false + one.false
            all_.odd, all_.told = all_.odd + one.odd, all_.told + one.told
        sorts = ", ".join(f"{name} {all_.told[name]} of {n}" for name, n in sorted(all_.odd.items()))
        spent = time.thread_time() - start
        print(f"{kind:10s} {all_.false / all_.days:.2f} false a day; {sorts}; {spent:.0f} s", flush=True)
        days, false = days + all_.days, false + all_.false
        odd, told = odd + all_.odd.total(), told + all_.told.total()
    print(
        f"together   {false / days:.2f} false a camera-day (goal 1), {told / odd:.1%} of the odd told (goal 90 %)"
    )
    return int(false / days > 1 or told / odd < 0.9)


if __name__ == "__main__":
    sys.exit(main())
