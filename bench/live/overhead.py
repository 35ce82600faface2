"""What a pipeline adds to its engine: decoded frame → events, less the bare engine.

    python bench/live/overhead.py ../shared/models/fastestdet-352.onnx

1080p, 30 frames a second, ten objects, two zones, a line; FastestDet on one thread. In turn, some seconds each: the
stream, and the same engine called alone at the same pace on a tensor that is ready.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from common import (
    TenObjects,
    clip_1080p,
    detector,
    interval,
    opened,
    parser,
    percentiles,
    quiet_process,
    report,
    stream,
)

STAGES = ("wait", "pre", "decode", "track", "rules")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--rounds", type=int, default=6)
    p.add_argument("--seconds", type=float, default=5.0)
    a = p.parse_args()
    quiet_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = clip_1080p(folder)
        variant = detector(folder / "blobs", a.model)
        bare_engine = TenObjects(opened(variant))
        feeds = {bare_engine.inputs[0].name: np.zeros(bare_engine.inputs[0].shape, np.float32)}
        bare, whole, over, stages = [], [], [], {s: [] for s in STAGES}
        differences, cpu_stream, cpu_bare, frames_stream, frames_bare = [], 0.0, 0.0, 0, 0
        for _ in range(a.rounds):
            began = time.process_time()
            here = paced(bare_engine, feeds, a.seconds)
            cpu_bare += time.process_time() - began
            frames_bare += len(here)
            one = stream("s", f"{clip}?paced=1&loop=1", variant, wrap=TenObjects)
            began = time.process_time()
            one.start()
            one.wait(a.seconds)
            one.stop()
            cpu_stream += time.process_time() - began
            times = [t for t in one.times[5:] if "engine" in t]
            frames_stream += one.ledger.frames().captured
            bare += here
            whole += [t["avail_to_event"] / 1e6 for t in times]
            over += [(t["avail_to_event"] - t["engine"]) / 1e6 for t in times]
            for s in STAGES:
                stages[s] += [t[s] / 1e6 for t in times]
            differences.append(
                float(np.median([t["avail_to_event"] for t in times])) / 1e6 - float(np.median(here))
            )
    report(
        {
            "over_its_engine_ms": percentiles(over),
            "over_the_bare_engine_p50_ms": interval(differences),
            "stages_ms": {s: percentiles(v) for s, v in stages.items()},
            "bare_engine_ms": percentiles(bare),
            "avail_to_event_ms": percentiles(whole),
            "cpu_ms_a_frame": {
                "stream": round(1000 * cpu_stream / frames_stream, 3),
                "bare": round(1000 * cpu_bare / frames_bare, 3),
            },
            "frames": len(over),
            "goal": "over: p50 <= 1.0, p99 <= 2.0",
        },
        a.json,
    )


def paced(engine: TenObjects, feeds: dict[str, np.ndarray], seconds: float) -> list[float]:
    """The engine alone, 30 calls a second: ms each."""
    times = []
    start = time.monotonic()
    for i in range(round(seconds * 30)):
        time.sleep(max(0.0, start + i / 30 - time.monotonic()))
        began = time.monotonic_ns()
        engine.run(feeds)
        times.append((time.monotonic_ns() - began) / 1e6)
    return times[5:]


if __name__ == "__main__":
    main()
