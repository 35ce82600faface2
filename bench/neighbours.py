"""What does the candidate that ran before do to the latency of the next one, and does a rest between the two
help?

    python bench/neighbours.py MODEL.onnx --seconds 60

Float in both runtimes with one and two threads, and with threads that wait busily inside a run. Every pair
(the one before, the one that is timed) with every rest is a cell; the cells are measured in turn, in random
order. Medians in ms.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from pathlib import Path

import numpy as np

from edgectl.core.bundle import SessionSettings
from edgectl.device_profiles.machine import probe
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import load_1m

RESTS_MS = (0, 1, 3)
RIVALS = {
    "ORT 1": ("onnxruntime", SessionSettings()),
    "ORT 2": ("onnxruntime", SessionSettings(threads=2)),
    "ORT 2 busy": ("onnxruntime", SessionSettings(threads=2, spinning=True)),
    "OpenVINO 1": ("openvino", SessionSettings(precision_hint="f32")),
    "OpenVINO 2": ("openvino", SessionSettings(threads=2, precision_hint="f32")),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    a = parser.parse_args()
    engines = {n: open_model(a.model.read_bytes(), s, runtime=r) for n, (r, s) in RIVALS.items()}
    rng = np.random.default_rng(0)
    feeds = {i.name: rng.random(i.shape).astype(i.dtype) for i in next(iter(engines.values())).inputs}
    cells = list(itertools.product(engines, engines, RESTS_MS))
    times: dict[tuple[str, str, int], list[float]] = {c: [] for c in cells}
    for engine in engines.values():
        for _ in range(5):
            call(engine, feeds)
    order, end = random.Random(0), time.monotonic() + a.seconds
    while time.monotonic() < end:
        for before, timed, rest in order.sample(cells, len(cells)):
            call(engines[before], feeds)
            time.sleep(rest / 1e3)
            times[before, timed, rest].append(call(engines[timed], feeds))
    print(
        f"{probe().summary}, load {load_1m()}; {len(times[cells[0]])} calls a cell; rests of {RESTS_MS} ms\n"
    )
    print(f"| timed | {' | '.join(f'after {n}' for n in engines)} |\n|{' - |' * (len(engines) + 1)}")
    for timed in engines:
        row = [
            " / ".join(f"{np.median(times[before, timed, rest]):.1f}" for rest in RESTS_MS)
            for before in engines
        ]
        print(f"| {timed} | {' | '.join(row)} |")


def call(engine: Engine, feeds: Feeds) -> float:
    start = time.perf_counter_ns()
    engine.run(feeds)
    return (time.perf_counter_ns() - start) / 1e6


if __name__ == "__main__":
    main()
