"""What one 1080p stream takes, and what each further one adds when it shares the engine. PSS, MB.

    python bench/live/memory.py ../shared/models/fastestdet-352.onnx --streams 4

A process of its own: it starts a stream more, lets it run, and reads its proportional set size. With ``--minutes``
all of them go on for so long afterwards, read every ten seconds: whether memory stays flat. These readings leave out
pages of files: other processes that map them too come and go.
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
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import clip_1080p, detector, parser, pss_mb, quiet_process, report, stream

from edgectl.pipelines.video.engine_pool import EnginePool


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--streams", type=int, default=4)
    p.add_argument("--seconds", type=float, default=5.0, help="before each reading")
    p.add_argument("--minutes", type=float, default=0.0, help="go on for so long with all of them")
    p.add_argument("--clip", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.clip is not None:
        print(json.dumps(measure(a.model, a.clip, a.streams, a.seconds, a.minutes)))
        return
    with tempfile.TemporaryDirectory() as name:
        clip = clip_1080p(Path(name), fps=15)
        command = [sys.executable, __file__, str(a.model), "--streams", str(a.streams)]
        command += ["--seconds", str(a.seconds), "--minutes", str(a.minutes), "--clip", str(clip)]
        found, later = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        )
    figures: dict[str, Any] = {"pss_mb": found, "goal": "first <= 160, further <= 30; flat within 2 %"}
    if further := [round(after - before, 1) for before, after in itertools.pairwise(found)]:
        figures |= {"further_mb": further, "mean_further_mb": round(sum(further) / len(further), 1)}
    if later:
        # what is allocated once, in the first tenth, is no leak
        tenth = max(1, len(later) // 10)
        first, last = median(later[tenth : 2 * tenth] or later), median(later[-tenth:])
        figures |= {
            "minutes": a.minutes,
            "second_tenth_mb": first,
            "last_tenth_mb": last,
            "grown_percent": round(100 * (last / first - 1), 2),
            "each_tenth_mb": [median(later[i : i + tenth]) for i in range(0, len(later), tenth)],
        }
    report(figures, a.json)


def measure(
    model: Path, clip: Path, streams: int, seconds: float, minutes: float
) -> tuple[list[float], list[float]]:
    """PSS after each stream more, and then, without pages of files, every ten seconds."""
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
        later = []
        until = time.monotonic() + minutes * 60
        while time.monotonic() < until:
            time.sleep(10)
            for one in running:
                one.times.clear()  # the bench's own notes
            later.append(round(pss_mb(own=True), 1))
        for one in running:
            one.stop()
    return found, later


if __name__ == "__main__":
    main()
