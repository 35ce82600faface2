"""What a stream costs in which nothing moves, with and without the motion gate.

    python bench/live/idle.py ../shared/models/fastestdet-352.onnx

1080p at 15 frames a second, a still scene with the noise of a sensor; FastestDet on one thread. In turn, some
seconds each: the source read alone, the stream without the gate, the stream with it. Processor time of the process as
a share of one core; the start is not counted.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import RULES, clip_idle, detector, interval, parser, quiet_process, report, stream

from edgectl.pipelines.sources import open_source

SETTLE_S = 3.0


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=10.0)
    a = p.parse_args()
    quiet_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = f"{clip_idle(folder)}?paced=1&loop=1"
        variant = detector(folder / "blobs", a.model)
        rows: dict[str, list[float]] = {"source": [], "without": [], "gated": [], "ratio": []}
        left_out, captured, exact = 0, 0, True
        for _ in range(a.rounds):
            rows["source"].append(alone(source, a.seconds))
            for key in ("without", "gated"):
                one = stream("s", source, variant, {**RULES, "gate": {"motion": key == "gated"}})
                rows[key].append(running(one, a.seconds))
                frames = one.ledger.frames()
                exact &= frames.captured == frames.processed + sum(frames.dropped.values())
            left_out, captured = left_out + frames.dropped.get("gated", 0), captured + frames.captured
            rows["ratio"].append(rows["gated"][-1] / rows["without"][-1])
    report(
        {f"{k}_of_a_core" if k != "ratio" else k: interval(v) for k, v in rows.items()}
        | {"gated_frames": round(left_out / captured, 4), "ledger_exact": exact}
        | {"goal": "gated_of_a_core <= 0.10"},
        a.json,
    )


def alone(uri: str, seconds: float) -> float:
    """Decoding and pacing only."""
    source = open_source(uri)
    source.open()
    source.read(5)
    began, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        source.read(5)
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    source.close()
    return share


def running(one: Any, seconds: float) -> float:
    one.start()
    one.wait(SETTLE_S)
    began, cpu = time.monotonic(), time.process_time()
    one.wait(seconds)
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    one.stop()
    return float(share)


if __name__ == "__main__":
    main()
