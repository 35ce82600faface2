"""What measuring and telling costs: recording a latency beside DDSketch, how far a quantile is off, how long a message is, what
the controller needs to add ten thousand devices up and to answer a scrape.

    pip install ddsketch
    python bench/telemetry.py [--devices 10000] [--json]

Everything is in one process, without a broker. Times are medians of rounds in which both sides take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.controller import T
from support.dashboard import DashWorld, many_devices

from edgectl.core.histogram import Histogram
from edgectl.core.wire import Frames, StreamStats, Telemetry
from edgectl.fleet.control.scraper import Scraper
from edgectl.fleet.telemetry.exposition import OPENMETRICS, PROTOBUF, TEXT, answer

STAGES = (
    "capture",
    "decode",
    "gate",
    "pre",
    "queue",
    "engine:gate",
    "track",
    "rules",
    "publish",
    "avail_to_event",
)
CALLS = 1800
"""Of a stage in a minute: 30 frames a second."""


def record(n: int = 200_000, rounds: int = 9) -> dict[str, float]:
    """Nanoseconds a value, until a quantile can be asked for."""
    from ddsketch import DDSketch

    values = np.random.default_rng(0).lognormal(8.5, 0.6, n).tolist()

    def ours() -> None:
        h = Histogram()
        for v in values:
            h.record(v)
        h.quantile_us(0.99)

    def dd() -> None:
        sketch = DDSketch(0.01)
        for v in values:
            sketch.add(v)
        sketch.get_quantile_value(0.99)

    times: dict[str, list[float]] = {"ours": [], "ddsketch": []}
    for i in range(rounds):
        for name, run in (("ours", ours), ("ddsketch", dd)) if i % 2 else (("ddsketch", dd), ("ours", ours)):
            times[name].append(_seconds(run) / n * 1e9)
    found = {f"{name} ns": round(statistics.median(t), 1) for name, t in times.items()}
    ratios = [a / b for a, b in zip(times["ours"], times["ddsketch"], strict=True)]
    return {**found, "ratio": round(statistics.median(ratios), 3), "largest ratio": round(max(ratios), 3)}


def quantiles() -> dict[str, float]:
    """The largest error of any of 1001 quantiles, in %, over distributions of four shapes, and merged from parts."""
    rng, worst = np.random.default_rng(1), 0.0
    shapes: list[Callable[[int], Any]] = [
        lambda n: rng.lognormal(8, 1, n),
        lambda n: rng.exponential(5000, n) + 2,
        lambda n: rng.uniform(1000, 2000, n),
        lambda n: np.concatenate([rng.normal(3000, 50, n - n // 50), rng.normal(90_000, 500, n // 50)]),
    ]
    for shape in shapes:
        for n in (10, 1800, 50_000):
            values = shape(n)
            parts = []
            for part in np.array_split(values, 7):
                h = Histogram()
                for v in part:
                    h.record(float(v))
                parts.append(h)
            h, exact = Histogram.merged(parts), np.sort(values)
            for q in np.linspace(0, 1, 1001):
                told, true = h.quantile_us(float(q)), float(exact[int(q * (n - 1))])
                assert told is not None
                worst = max(worst, abs(told / true - 1))
    return {"largest error %": round(100 * worst, 3)}


def window(seq: int, rng: np.random.Generator, scale: float = 1.0) -> Telemetry:
    """A minute of one camera at 30 frames a second."""
    stages = {}
    for i, stage in enumerate(STAGES):
        h = Histogram()
        for us in rng.lognormal(np.log(300.0 * (i + 1) * scale), 0.35, CALLS):
            h.record(float(us))
        stages[stage] = h.data()
    frames = Frames(captured=CALLS * seq, processed=CALLS * seq - 3, dropped={"superseded": 3})
    stats = StreamStats(
        kind="surveillance",
        slots={"gate": "sha256:" + "0" * 64},
        releases={"gate": "gate-detector@1.0.0"},
        stages=stages,
        frames=frames,
        fps=30.0,
        budget_ms=100.0,
    )
    return Telemetry(epoch=3, seq=seq, wall_s=time.time(), window_s=60.0, streams={"yard": stats})


def payload() -> dict[str, float]:
    """Bytes of such a minute, and of a day."""
    rng = np.random.default_rng(2)
    plain = [len(window(i, rng).encode()) for i in range(20)]
    packed = [len(zlib.compress(window(i, rng).encode(), 6)) for i in range(20)]
    return {
        "JSON a minute": statistics.mean(plain),
        "deflated a minute": statistics.mean(packed),
        "deflated MB a day": round(statistics.mean(packed) * 1440 / 1e6, 2),
    }


def controller(devices: int) -> dict[str, float]:
    """Seconds of one core for a minute's messages, and for a scrape with what they left behind."""
    rng = np.random.default_rng(3)
    windows = [window(1, rng, scale) for scale in (0.7, 1.0, 1.4, 2.0)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        world = DashWorld(Path(folder), patch)
        for d in many_devices(devices):
            assert d.conn is not None
            world.hears(T.conn(d.name), d.conn)
        inventory = world.controller.inventory
        inventory.flush()
        payloads = [w.encode() for w in windows]
        taken = counted = 0.0
        for at in range(0, devices, 200):  # as ticks would
            some = [f"cam-{i:05d}" for i in range(at, min(at + 200, devices))]
            taken += _seconds(
                lambda some=some: [world.hears(T.telemetry(n), payloads[hash(n) % 4]) for n in some]
            )
            taken += _seconds(inventory.flush)

        def count() -> None:
            while (piece := inventory.count_telemetry()) is not None:
                with world.controller.reading_metrics() as book:
                    book.count(piece)

        counted = _seconds(count)
        scraper = Scraper(world.controller)
        found = {
            "taken and written, s": round(taken, 2),
            "counted, s": round(counted, 2),
            "counted, ms a message": round(counted / devices * 1e3, 3),
        }
        for name, form in (("text", TEXT), ("OpenMetrics", OPENMETRICS), ("protobuf", PROTOBUF)):
            times = [_seconds(lambda form=form: answer(scraper.families(), form)) for _ in range(7)]
            found[f"scrape {name}, ms"] = round(statistics.median(times) * 1e3, 1)
            found[f"scrape {name}, KB"] = round(len(answer(scraper.families(), form)) / 1e3, 1)
        world.close()
        return found


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {
        "record": record(),
        "quantiles": quantiles(),
        "payload": payload(),
        f"controller, {args.devices} devices": controller(args.devices),
    }
    if args.json:
        print(json.dumps(found, indent=2))
        return
    for part, figures in found.items():
        print(part)
        for name, value in figures.items():
            print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
