"""Four cameras with one engine; one of them hangs in a native call. What becomes of the others?

    python bench/live/hung.py

In turn, some seconds each: all four deliver; the fourth one's ``read`` does not come back. The p95 of the age of the
other three, hung over well, in each round.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from common import clip_1080p, detector, interval, parser, quiet_process, report, stream

from edgectl.pipelines.video.engine_pool import EnginePool


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=10.0, help="hung, and well")
    p.add_argument("--model", type=Path, help="FastestDet instead of the yard detector")
    a = p.parse_args()
    quiet_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = clip_1080p(folder, fps=15, size="1280x720")
        variant = detector(folder / "blobs", a.model)
        pool = EnginePool()
        all_ = [stream(f"s{i}", f"{clip}?paced=1&loop=1", variant, pool=pool) for i in range(4)]
        p95: dict[str, list[float]] = {"well": [], "hung": []}
        free = threading.Event()
        try:
            for one in all_:
                one.start()
                time.sleep(1 / 15 / 4)
            free = hang_on_demand(all_[3])
            for _ in range(a.rounds):
                for state in p95:
                    free.set() if state == "well" else free.clear()
                    p95[state].append(p95_ms(all_[:3], a.seconds))
        finally:
            # whatever went wrong: a thread that hangs keeps the streams from stopping
            free.set()
            for one in all_:
                one.stop()
    ratio = [h / w for h, w in zip(p95["hung"], p95["well"], strict=True)]
    report({"p95_ms": p95, "hung_over_well": interval(ratio), "goal": "<= 1.10"}, a.json)


def p95_ms(streams: Sequence[Any], seconds: float) -> float:
    """Of the age of what they say from now on, for so many seconds. Exits where the machine is too busy for a frame."""
    time.sleep(0.3)
    start = [len(one.times) for one in streams]
    time.sleep(seconds)
    ages = [t["glass_to_event"] / 1e6 for one, i in zip(streams, start, strict=True) for t in one.times[i:]]
    if not ages:
        raise SystemExit(f"no frame in {seconds:g} s: the machine is too busy to tell anything")
    return float(np.percentile(ages, 95))


def hang_on_demand(one: Any) -> threading.Event:
    """From now on its source delivers while the event is set."""
    free = threading.Event()
    free.set()
    source = one._capture._source
    read = source.read

    def wait_and_read(timeout_s: float) -> Any:
        free.wait()
        return read(timeout_s)

    source.read = wait_and_read
    return free


if __name__ == "__main__":
    main()
