"""How long a rollback takes while the previous engine is warm, and whether a swap loses frames.

A real worker process with a synthetic camera and an ONNX engine. Each round swaps to another engine (the old
one stays warm) and goes back; the time runs from the word "revert" until the worker's statistics name the old
engine again, so it includes up to one statistics period (50 ms) and the frame that is under way. Frames are
counted by the worker's own ledger: around a swap nothing may be lost but frames that a newer one replaced
while they waited (``superseded``). For comparison: the same by starting a new worker.

    python bench/swap.py --rounds 30
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.host_worker import Process, ref, start
from support.pipelines import box_task, make_variant, model_bytes

from edgectl.pipelines.host.protocol import Commit, Ready, Revert, Stats, Swap, Swapped


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = Process(folder)
        first = start(folder, stats_every_s=0.05, config={"budget_ms": 600_000})
        worker.say(first)
        worker.hear(Ready)
        new = make_variant(folder / "new", box_task(), model_bytes(0.1), name="v2")
        back_s, gaps_ms = [], []
        for _ in range(a.rounds):
            worker.say(Swap(stream="gate", part="detector", engine=ref(new, "yard@2")))
            gaps_ms.append(worker.hear(Swapped).gap_ms)
            worker.hear(Stats, lambda m: m.stats.releases["detector"] == "yard@2")
            began = time.monotonic()
            worker.say(Revert(stream="gate", part="detector"))
            worker.hear(Stats, lambda m: m.stats.releases["detector"] == "yard@1")
            back_s.append(time.monotonic() - began)
            worker.say(Commit(stream="gate", part="detector"))
        worker.stop()
        worker.end()
        frames = [m for m in worker.seen if isinstance(m, Stats)][-1].stats.frames
        worker.close()
        cold_s = []
        for i in range(3):
            (folder / f"cold{i}").mkdir()
            began = time.monotonic()
            cold = Process(folder / f"cold{i}")
            cold.say(first)
            cold.hear(Ready)
            cold_s.append(time.monotonic() - began)
            cold.close()
    lost = {cause: n for cause, n in frames.dropped.items() if cause not in ("superseded", "shutdown")}
    result = {
        "rounds": a.rounds,
        "rollback_s": {"median": round(median(back_s), 3), "max": round(max(back_s), 3)},
        "gap_ms": {"median": round(median(gaps_ms), 1), "max": round(max(gaps_ms), 1)},
        "cold_start_s": round(median(cold_s), 2),
        "frames": {
            "captured": frames.captured,
            "processed": frames.processed,
            "dropped": frames.dropped,
            "lost": lost,
        },
    }
    text = json.dumps(result, indent=2)
    print(text)
    if a.json:
        a.json.write_text(text + "\n")
    sys.exit(1 if lost or max(back_s) > 1.0 else 0)


if __name__ == "__main__":
    main()
