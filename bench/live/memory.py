"""What one 1080p stream takes, and what each further one adds when it shares the engine. PSS, MB.

    python bench/live/memory.py ../shared/models/fastestdet-352.onnx --streams 4

A process of its own: it starts a stream more, lets it run, and reads its proportional set size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import clip_1080p, detector, parser, pss_mb, quiet_process, report, stream

from edgectl.pipelines.video.engine_pool import EnginePool


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--streams", type=int, default=4)
    p.add_argument("--seconds", type=float, default=5.0, help="before each reading")
    p.add_argument("--clip", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.clip is not None:
        print(json.dumps(measure(a.model, a.clip, a.streams, a.seconds)))
        return
    with tempfile.TemporaryDirectory() as name:
        clip = clip_1080p(Path(name), fps=15)
        command = [sys.executable, __file__, str(a.model), "--streams", str(a.streams)]
        command += ["--seconds", str(a.seconds), "--clip", str(clip)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    further = [round(after - before, 1) for before, after in itertools.pairwise(found)]
    report(
        {
            "pss_mb": found,
            "further_mb": further,
            "mean_further_mb": round(sum(further) / len(further), 1),
            "goal": "first <= 160, further <= 30",
        },
        a.json,
    )


def measure(model: Path, clip: Path, streams: int, seconds: float) -> list[float]:
    quiet_process()
    pool = EnginePool()
    running, found = [], []
    with tempfile.TemporaryDirectory() as name:
        variant = detector(Path(name), model)
        for i in range(streams):
            one = stream(f"s{i}", f"{clip}?paced=1&loop=1", variant, pool=pool)
            one.start()
            running.append(one)
            time.sleep(seconds)
            found.append(round(pss_mb(), 1))
        for one in running:
            one.stop()
    return found


if __name__ == "__main__":
    main()
