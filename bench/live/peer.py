"""A paced camera, from the time that a frame is due to its event, beside Roboflow's InferencePipeline.

    python bench/live/peer.py ../shared/models/fastestdet-352.onnx --peer-python /path/to/venv/bin/python

The other interpreter has `pip install inference`, and the same onnxruntime as this one. Both read the same 1080p H.264
clip at 30 frames a second, decode a frame when it is due, and run the same model on one thread, which finds ten
objects. Three ways, in turn, a process each: edgectl (it tracks, and has two zones and a line), the peer alone
(detection only), the peer with what its users write behind it (ByteTrack, two zones, a line). Ratios are taken
within a round.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from common import (
    TenObjects,
    clip_1080p,
    detector,
    interval,
    parser,
    percentiles,
    pss_mb,
    quiet_process,
    report,
    stream,
)

HERE = Path(__file__).resolve().parent
WARM = 30
WAYS = ("edgectl", "peer", "peer_with_rules")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--peer-python", type=Path)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=15.0)
    # this very script as one of the three
    p.add_argument("--clip", type=Path)
    a = p.parse_args()
    if a.clip is not None:
        print(json.dumps(ours(a.model, a.clip, a.seconds)))
        return
    if a.peer_python is None:
        p.error("give the interpreter that has `inference`: --peer-python")
    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        clip = clip_1080p(Path(name))
        for _ in range(a.rounds):
            for way in WAYS:
                rows[way].append(run(command(way, a.model, clip, a.peer_python, a.seconds)))
    figures: dict[str, Any] = {}
    for way, runs in rows.items():
        late = [ms for run in runs for ms in run["late_ms"]]
        figures[way] = {
            "due_to_event_ms": percentiles(late),
            "frames": f"{len(late)} of {sum(run['frames'] - WARM for run in runs)}",
            "pss_mb": interval([run["pss_mb"] for run in runs]),
            "cpu_ms_a_frame": interval([run["cpu_ms"] for run in runs]),
        }
    for way in WAYS[1:]:
        figures[f"edgectl / {way}"] = {
            f"p{q}": interval(
                [
                    float(np.percentile(mine["late_ms"], q) / np.percentile(other["late_ms"], q))
                    for mine, other in zip(rows["edgectl"], rows[way], strict=True)
                ]
            )
            for q in (50, 95, 99)
        } | {
            name: interval(
                [mine[name] / other[name] for mine, other in zip(rows["edgectl"], rows[way], strict=True)]
            )
            for name in ("pss_mb", "cpu_ms")
        }
    mine, others = (installed_mb(python) for python in (Path(sys.executable), a.peer_python))
    figures["installed_mb"] = {"this_environment": mine, "peer": others}
    figures["goal"] = "p50, p95, p99 <= 1.05 of the peer's; memory <= 1/5; installed <= 1/10"
    report(figures, a.json)


def command(way: str, model: Path, clip: Path, peer: Path, seconds: float) -> list[str]:
    if way == "edgectl":
        return [sys.executable, __file__, str(model), "--clip", str(clip), "--seconds", str(seconds)]
    rules = "rules" if way == "peer_with_rules" else "alone"
    return [str(peer), str(HERE / "peer_inference.py"), str(model), str(clip), "30", str(seconds), rules]


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{command[:2]} failed: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def ours(model: Path, clip: Path, seconds: float) -> dict[str, Any]:
    """In a process of its own."""
    quiet_process()
    with tempfile.TemporaryDirectory() as name:
        one = stream("s", f"{clip}?paced=1&loop=1", detector(Path(name), model), wrap=TenObjects)
        one.start()
        cpu = time.process_time()
        one.wait(WARM / 30 + seconds)
        cpu = time.process_time() - cpu
        pss = pss_mb()
        one.stop()
    frames = one.ledger.frames().captured
    late = [t["glass_to_event"] / 1e6 for t in one.times[WARM:]]
    return {"late_ms": late, "pss_mb": pss, "frames": frames, "cpu_ms": 1000 * cpu / frames}


def installed_mb(python: Path) -> float:
    """Of the packages beside an interpreter."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    size = subprocess.run(["du", "-sm", folder], capture_output=True, text=True, check=True).stdout
    return float(size.split()[0])


if __name__ == "__main__":
    main()
