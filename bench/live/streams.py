"""Eight streams at ten frames a second with one engine, and the age of what they say.

    python bench/live/streams.py            # edgectl's yard detector, 720p
    python bench/live/streams.py --bundle out/yard      # built with `edgectl build … --batch 1,4`
    python bench/live/streams.py --batch 4              # as that opens the model, where no batch is faster here

Missed is a frame whose events came more than 250 ms after it was there, or that was dropped for its deadline.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import clip_1080p, detector, parser, percentiles, quiet_process, report, stream

from edgectl.core.bundle import Bundle, Variant
from edgectl.device_profiles.machine import probe
from edgectl.pipelines.video.engine_pool import EnginePool


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--streams", type=int, default=8)
    p.add_argument("--fps", type=int, default=10)
    p.add_argument("--seconds", type=float, default=30.0)
    p.add_argument("--size", default="1280x720")
    p.add_argument("--model", type=Path, help="FastestDet instead")
    p.add_argument("--bundle", type=Path, help="the variant of it that this machine would take")
    p.add_argument("--batch", type=int, default=1, help="pictures a call, whether that is faster here or not")
    a = p.parse_args()
    quiet_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = clip_1080p(folder, fps=a.fps, size=a.size)
        variant = detector(folder / "blobs", a.model, a.batch) if a.bundle is None else chosen(a.bundle)
        pool = EnginePool()
        config = {"budget_ms": 250}
        all_ = [
            stream(f"s{i}", f"{clip}?paced=1&loop=1", variant, config, pool=pool) for i in range(a.streams)
        ]
        for one in all_:
            one.start()
            # cameras do not tick together
            time.sleep(1 / a.fps / a.streams)
        cpu = time.process_time()
        began = time.monotonic()
        time.sleep(a.seconds)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
        for one in all_:
            one.stop()
        ages = [t["glass_to_event"] / 1e6 for one in all_ for t in one.times[a.fps :]]
        frames = [one.ledger.frames() for one in all_]
    dropped = {c: sum(f.dropped.get(c, 0) for f in frames) for c in ("superseded", "deadline", "stale")}
    report(
        {
            "age_ms": percentiles(ages) | {"max": round(max(ages), 1)},
            "missed": sum(age > 250 for age in ages) + dropped["deadline"],
            "dropped": dropped,
            "fps": [round(f.processed / (took + 1), 2) for f in frames],
            "ledger_exact": all(
                f.captured == f.processed + sum(f.dropped.values()) and not f.in_flight for f in frames
            ),
            "cores_used": round(cpu / took, 3),
            "variant": variant.config.variant,
            "pictures_a_call": variant.config.batch,
            "goal": "missed 0, age p99 <= 150",
        },
        a.json,
    )


def chosen(bundle: Path) -> Variant:
    machine = probe()
    return Bundle(bundle).select(machine.facts, runtimes=machine.runtimes)


if __name__ == "__main__":
    main()
