"""How well tracks keep their identity, beside Roboflow's `trackers` on the same detections.

    python bench/tracking.py --peer-python /path/to/venv/bin/python [--campus ../shared/tracking/TUD-Campus]

The other interpreter has `pip install trackers==2.6.1`. Six sequences: TUD-Campus (a folder with det.txt and gt.txt in
MOT format) and the five crowds of bench/synthetic_crowds.py, each with all its frames and with 30 and 50 % of them gone
at random, each drawn `--seeds` times. Every tracker gets the same detections and is told the frame rate and, where its
settings ask for it, the time of each frame. Each has one configuration for all: edgectl its defaults, the peers the
best of a search on crowds of other seeds (`--tuning` repeats the search) or their defaults, whichever is better there.
What counts is what a tracker says in the frame itself, of what it sees there.

Exits with 1 if edgectl's IDF1 is below the best peer's on a sequence at a share of drops, or it is slower than 500
frames a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synthetic_crowds import SCENES, Sequence, crowd, dropped

from edgectl.pipelines.video.decode import Detections
from edgectl.pipelines.video.tracker import TrackConfig, Tracker

DROPS = (0.0, 0.3, 0.5)
MEASURES = ("IDF1", "HOTA", "MOTA", "switches", "fps")
TUNING_SEEDS = range(1000, 1003)
"""Crowds that settings may be chosen on. The reported ones are drawn with other seeds."""
LEAST_FPS = 500


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--campus", type=Path, help="the folder of TUD-Campus")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tuning", action="store_true", help="look for the peers' best settings")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    a = parser.parse_args()
    seeds = TUNING_SEEDS if a.tuning else range(a.seeds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speed = {}
        for key, sequence in sequences(seeds, None if a.tuning else a.campus):
            found, seconds = track(sequence)
            speed[key] = len(sequence.frames) / seconds
            write(folder / f"{key}.npz", sequence, found)
        asked = [str(a.peer_python), str(Path(__file__).with_name("tracking_peers.py")), str(folder)]
        done = subprocess.run(
            [*asked, *(["--tune"] if a.tuning else [])], stdout=subprocess.PIPE, text=True, check=True
        )
    figures: dict[str, Any] = json.loads(done.stdout)
    if a.tuning:
        print(json.dumps(figures, indent=2))
        return 0
    for key, rows in figures.items():
        rows["edgectl"]["fps"] = speed[key]
    if a.json:
        a.json.write_text(json.dumps(figures, indent=1))
    return report(figures)


def sequences(seeds: range, campus: Path | None) -> Iterator[tuple[str, Sequence]]:
    """Named ``SCENE+DROPS+SEED``."""
    real = None if campus is None else read_mot("TUD-Campus", campus, 25, 640, 480)
    for seed in seeds:
        for whole in (*([] if real is None else [real]), *(crowd(scene, seed) for scene in SCENES)):
            for drop in DROPS:
                yield f"{whole.name}+{drop:.0%}+{seed}", dropped(whole, drop, seed)


def read_mot(name: str, folder: Path, fps: float, width: int, height: int) -> Sequence:
    found, truth = (np.loadtxt(folder / f"{part}.txt", delimiter=",") for part in ("det", "gt"))
    for rows in (found, truth):
        rows[:, 0] -= 1
        rows[:, 4:6] += rows[:, 2:4]
    found = found[np.argsort(found[:, 0], kind="stable")]
    truth = truth[np.argsort(truth[:, 0], kind="stable")]
    frames = np.arange(int(truth[:, 0].max()) + 1)
    return Sequence(name, fps, width, height, frames, found[:, [0, 2, 3, 4, 5, 6]], truth[:, :6])


def track(sequence: Sequence, config: TrackConfig | None = None) -> tuple[NDArray[np.float64], float]:
    """(N, 6) rows of frame, id, box, of what is seen; and how many seconds the updates took."""
    tracker = Tracker(config, period_s=1 / sequence.fps)
    frame_of, boxes = sequence.detections[:, 0], sequence.detections[:, 1:5].astype(np.float32)
    scores = sequence.detections[:, 5].astype(np.float32)
    rows = []
    took = 0.0
    for frame in sequence.frames.tolist():
        a, b = np.searchsorted(frame_of, [frame, frame + 1])
        found = Detections(boxes[a:b], scores[a:b], np.zeros(b - a, np.int32))
        start = time.perf_counter()
        out = tracker.update(found, frame / sequence.fps, sequence.width, sequence.height)
        took += time.perf_counter() - start
        seen = out.seen
        rows.append(np.column_stack([np.full(int(seen.sum()), frame), out.ids[seen], out.xyxy[seen]]))
    return np.concatenate(rows), took


def write(path: Path, sequence: Sequence, found: NDArray[np.float64]) -> None:
    np.savez(
        path,
        fps=sequence.fps,
        frames=sequence.frames,
        detections=sequence.detections,
        truth=sequence.truth,
        edgectl=found,
    )


def report(figures: dict[str, Any]) -> int:
    """Prints a table for each sequence and share of drops. Returns how many goals are missed, at most 1."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, rows in figures.items():
        scene, drop, _ = key.split("+")
        cells.setdefault((scene, drop), []).append(rows)
    behind: list[str] = []
    speeds = [rows["edgectl"]["fps"] for rows in figures.values()]
    for (scene, drop), runs in cells.items():
        print(f"\n{scene}, {drop} of the frames gone, {len(runs)} runs")
        ways = sorted(runs[0], key=lambda way: -mean(runs, way, "IDF1"))
        print(f"  {'':24s}" + "".join(f"{m:>14s}" for m in MEASURES))
        for way in ways:
            print(f"  {way:24s}" + "".join(f"{told(runs, way, m):>14s}" for m in MEASURES))
        peers = [way for way in ways if way != "edgectl"]
        best = max(peers, key=lambda way: mean(runs, way, "IDF1"))
        apart = [run["edgectl"]["IDF1"] - run[best]["IDF1"] for run in runs]
        verdict = "held" if np.mean(apart) >= 0 else "MISSED"
        print(f"  edgectl - {best}: {np.mean(apart):+.1f} ± {spread(apart):.1f} IDF1: {verdict}")
        if np.mean(apart) < 0:
            behind.append(f"{scene} at {drop} ({np.mean(apart):+.1f})")
    print()
    for way in runs[0]:
        means = [float(np.mean([mean(runs, way, m) for runs in cells.values()])) for m in MEASURES]
        print(f"  mean  {way:24s}" + "".join(f"{value:14.1f}" for value in means))
    print(f"\nIDF1 at least the best peer's in {len(cells) - len(behind)} of {len(cells)}")
    print(f"behind: {', '.join(behind) or 'nowhere'}")
    slowest = min(speeds)
    print(f"slowest run of edgectl: {slowest:.0f} frames a second, goal {LEAST_FPS}")
    return 1 if behind or slowest < LEAST_FPS else 0


def mean(runs: list[dict[str, Any]], way: str, measure: str) -> float:
    return float(np.mean([run[way][measure] for run in runs]))


def spread(values: list[float]) -> float:
    """Half of a 95 % interval of the mean."""
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def told(runs: list[dict[str, Any]], way: str, measure: str) -> str:
    values = [run[way][measure] for run in runs]
    return f"{np.mean(values):.1f} ± {spread(values):.1f}" if measure != "fps" else f"{np.mean(values):.0f}"


if __name__ == "__main__":
    sys.exit(main())
