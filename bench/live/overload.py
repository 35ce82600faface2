"""An engine that is too slow: how old is what is published, and does the ledger add up?

    python bench/live/overload.py ../shared/models/fastestdet-352.onnx

30 frames a second into an engine that takes 50 ms. What is published may be as old as the engine takes, one period
and 10 ms, at p99.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import Slowed, clip_1080p, detector, parser, percentiles, quiet_process, report, stream


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--seconds", type=float, default=30.0)
    p.add_argument("--engine-ms", type=float, default=50.0)
    a = p.parse_args()
    quiet_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = clip_1080p(folder)
        variant = detector(folder / "blobs", a.model)
        one = stream(
            "s", f"{clip}?paced=1&loop=1", variant, wrap=lambda engine: Slowed(engine, a.engine_ms / 1000)
        )
        one.start()
        time.sleep(a.seconds)
        one.stop()
    frames = one.ledger.frames()
    ages = [t["glass_to_event"] / 1e6 for t in one.times[10:]]
    limit = a.engine_ms + 1000 / 30 + 10
    report(
        {
            "age_ms": percentiles(ages) | {"max": round(max(ages), 1)},
            "limit_ms": round(limit, 1),
            "over_the_limit": round(sum(age > limit for age in ages) / len(ages), 4),
            "frames": {
                "captured": frames.captured,
                "processed": frames.processed,
                "dropped": dict(frames.dropped),
            },
            "ledger_exact": frames.captured == frames.processed + sum(frames.dropped.values()),
            "goal": "age p99 <= limit, ledger exact",
        },
        a.json,
    )


if __name__ == "__main__":
    main()
