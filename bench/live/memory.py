"""What one 1080p stream takes, and what each further one adds when it shares the engine. PSS, MB.

    python bench/live/memory.py ../shared/models/fastestdet-352.onnx --streams 4

A real worker process, as an agent has it: it is told to start a stream more, lets it run, and its proportional set size is
read. With ``--minutes`` all of them go on for so long afterwards, read every ten seconds: whether memory stays flat. These
readings leave out pages of files: other processes that map them too come and go.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import RULES, clip_1080p, detector, parser, pss_mb, report
from support.host_worker import Process

from edgectl.core.bundle import Variant
from edgectl.pipelines.host.protocol import EngineRef, Start, Stats

FRAMES = 30
"""That a stream has had before the seconds until a reading begin."""


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--streams", type=int, default=4)
    p.add_argument("--seconds", type=float, default=5.0, help="before each reading")
    p.add_argument("--minutes", type=float, default=0.0, help="go on for so long with all of them")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found, later = measure(
            detector(folder / "blobs", a.model),
            clip_1080p(folder, fps=15),
            folder,
            streams=a.streams,
            seconds=a.seconds,
            minutes=a.minutes,
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
    variant: Variant, clip: Path, folder: Path, *, streams: int, seconds: float, minutes: float
) -> tuple[list[float], list[float]]:
    """PSS after each stream more, and then, without pages of files, every ten seconds."""
    engine = EngineRef(blobs=variant.blobs, manifest=variant.digest)
    found, later = [], []
    worker = Process(folder)
    try:
        for i in range(streams):
            stream = f"s{i}"
            worker.say(
                Start(
                    stream=stream,
                    kind="surveillance",
                    source=f"{clip}?paced=1&loop=1",
                    config={**RULES, "annotate": False},
                    engines={"detector": engine},
                )
            )
            worker.hear(Stats, lambda m, s=stream: m.stream == s and m.stats.frames.processed > FRAMES)  # type: ignore[misc]
            time.sleep(seconds)
            found.append(round(pss_mb(worker.p.pid), 1))
        until = time.monotonic() + minutes * 60
        while time.monotonic() < until:
            time.sleep(10)
            while not worker.answers.empty():
                worker.answers.get()  # the bench's own notes
            later.append(round(pss_mb(worker.p.pid, own=True), 1))
    finally:
        worker.close()
    return found, later


if __name__ == "__main__":
    main()
