"""What bench/tracking.py runs in the peers' interpreter: Roboflow's trackers on the same detections, and the score of
all (TrackEval's formulas, as `trackers.eval` has them).

    python tracking_peers.py FOLDER [--tune]

FOLDER holds one .npz a sequence, as bench/tracking.py writes them. Prints one JSON object. Nothing of edgectl is
imported.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from trackers import BoTSORTTracker, ByteTrackTracker, CBIoUTracker, OCSORTTracker, SORTTracker
from trackers.eval import box_iou, compute_clear_metrics, compute_hota_metrics, compute_identity_metrics

PEERS: dict[str, Any] = {
    "ByteTrack": ByteTrackTracker,
    "OC-SORT": OCSORTTracker,
    "BoT-SORT": BoTSORTTracker,
    "C-BIoU": CBIoUTracker,
    "SORT": SORTTracker,
}

TUNED: dict[str, dict[str, Any]] = {
    "ByteTrack": {
        "minimum_consecutive_frames": 1,
        "track_activation_threshold": 0.7,
        "high_conf_det_threshold": 0.4,
        "minimum_iou_threshold": 0.05,
        "lost_track_buffer": 60,
    },
    "OC-SORT": {
        "minimum_consecutive_frames": 1,
        "high_conf_det_threshold": 0.4,
        "minimum_iou_threshold": 0.1,
    },
    "BoT-SORT": {
        "minimum_consecutive_frames": 1,
        "track_activation_threshold": 0.7,
        "high_conf_det_threshold": 0.4,
        "minimum_iou_threshold_first_assoc": 0.05,
        "minimum_iou_threshold_second_assoc": 0.35,
    },
    "C-BIoU": {
        "minimum_consecutive_frames": 1,
        "track_activation_threshold": 0.7,
        "high_conf_det_threshold": 0.4,
        "minimum_iou_threshold_first_assoc": 0.1,
        "buffer_ratio_first": 0.15,
    },
    "SORT": {
        "minimum_consecutive_frames": 1,
        "track_activation_threshold": 0.5,
        "minimum_iou_threshold": 0.05,
    },
}
"""What was best for each peer over crowds that are for tuning: of one pass over ByteTrack's grid, of a part of
OC-SORT's, of a few combinations for the others (`bench/tracking.py --tuning` searches all of it, for hours). What is
not named is its default. `timestamps`: whether it is told the time of each frame, or counts the frames at the rate at
which they come."""

GRID: dict[str, dict[str, tuple[Any, ...]]] = {
    "ByteTrack": {
        "timestamps": (True, False),
        "minimum_consecutive_frames": (1, 2, 3),
        "track_activation_threshold": (0.4, 0.5, 0.6, 0.7),
        "high_conf_det_threshold": (0.4, 0.5, 0.6),
        "minimum_iou_threshold": (0.05, 0.1, 0.2, 0.3),
        "lost_track_buffer": (15, 30, 60),
    },
    "OC-SORT": {
        "timestamps": (True, False),
        "minimum_consecutive_frames": (1, 2, 3),
        "high_conf_det_threshold": (0.3, 0.4, 0.5, 0.6),
        "minimum_iou_threshold": (0.05, 0.1, 0.2, 0.3),
        "direction_consistency_weight": (0.0, 0.1, 0.2, 0.4),
        "delta_t": (1, 3),
        "lost_track_buffer": (15, 30, 60),
    },
    "BoT-SORT": {
        "timestamps": (True, False),
        "minimum_consecutive_frames": (1, 2, 3),
        "track_activation_threshold": (0.4, 0.5, 0.6, 0.7),
        "high_conf_det_threshold": (0.4, 0.5, 0.6),
        "minimum_iou_threshold_first_assoc": (0.05, 0.1, 0.2, 0.3),
        "minimum_iou_threshold_second_assoc": (0.2, 0.35, 0.5),
        "lost_track_buffer": (15, 30, 60),
    },
    "C-BIoU": {
        "timestamps": (True, False),
        "minimum_consecutive_frames": (1, 2),
        "track_activation_threshold": (0.4, 0.5, 0.6, 0.7),
        "high_conf_det_threshold": (0.4, 0.5, 0.6),
        "minimum_iou_threshold_first_assoc": (0.05, 0.1, 0.2, 0.3),
        "minimum_iou_threshold_second_assoc": (0.2, 0.35, 0.5),
        "buffer_ratio_first": (0.1, 0.2, 0.3, 0.5),
        "lost_track_buffer": (15, 30, 60),
    },
    "SORT": {
        "timestamps": (True, False),
        "minimum_consecutive_frames": (1, 2, 3),
        "track_activation_threshold": (0.25, 0.4, 0.5),
        "minimum_iou_threshold": (0.05, 0.1, 0.2, 0.3),
        "lost_track_buffer": (15, 30, 60),
    },
}

Rows = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tune", action="store_true", help="look for the best settings of each peer")
    a = parser.parse_args()
    sequences = {path.stem: dict(np.load(path)) for path in sorted(a.folder.glob("*.npz"))}
    if a.tune:
        print(json.dumps({peer: tune(peer, list(sequences.values())) for peer in PEERS}))
        return
    out: dict[str, Any] = {}
    for name, sequence in sequences.items():
        rows = {"edgectl": score(sequence, sequence["edgectl"])}
        for peer in PEERS:
            for way, settings in ((peer, TUNED[peer]), (f"{peer} (defaults)", {})):
                found, seconds = track(peer, settings, sequence)
                rows[way] = score(sequence, found) | {"fps": len(sequence["frames"]) / seconds}
        out[name] = rows
    print(json.dumps(out))


def track(peer: str, settings: Mapping[str, Any], sequence: Mapping[str, Rows]) -> tuple[Rows, float]:
    """(N, 6) rows of frame, id, box; and how many seconds its updates took."""
    options = dict(settings)
    timed = options.pop("timestamps", True)
    fps, frames = float(sequence["fps"]), sequence["frames"]
    # one that counts frames is told how many come in a second
    rate = fps if timed else fps * len(frames) / max(1, frames[-1] - frames[0] + 1)
    if peer == "BoT-SORT":
        # there are no pictures, and no camera that moves
        options["enable_cmc"] = False
    tracker = PEERS[peer](frame_rate=rate, **options)
    rows: list[Rows] = []
    took = 0.0
    for frame, part in by_frame(frames, sequence["detections"]):
        found = sv.Detections(part[:, 1:5].astype(np.float32), confidence=part[:, 5].astype(np.float32))
        start = time.perf_counter()
        out = tracker.update(found, timestamp=frame / fps if timed else None)
        took += time.perf_counter() - start
        ids = np.asarray(out.tracker_id)
        if len(ids) and (ids >= 0).any():
            known = ids >= 0
            rows.append(np.column_stack([np.full(known.sum(), frame), ids[known], out.xyxy[known]]))
    return np.concatenate(rows) if rows else np.empty((0, 6)), took


def score(sequence: Mapping[str, Rows], found: Rows) -> dict[str, float]:
    """IDF1, HOTA and MOTA in per cent, and identity switches."""
    pairs = compared(sequence, found)
    clear = compute_clear_metrics(*pairs)
    return {
        "IDF1": 100 * float(compute_identity_metrics(*pairs)["IDF1"]),
        "HOTA": 100 * float(compute_hota_metrics(*pairs)["HOTA"]),
        "MOTA": 100 * float(clear["MOTA"]),
        "switches": float(clear["IDSW"]),
    }


def compared(sequence: Mapping[str, Rows], found: Rows) -> tuple[list[Rows], list[Rows], list[Rows]]:
    """A frame each: true ids, found ids, and how much their boxes overlap."""
    frames = sequence["frames"]
    both = list(zip(by_frame(frames, sequence["truth"]), by_frame(frames, found), strict=True))
    return (
        [real[:, 1].astype(int) for (_, real), _ in both],
        [mine[:, 1].astype(int) for _, (_, mine) in both],
        [box_iou(real[:, 2:6], mine[:, 2:6]) for (_, real), (_, mine) in both],
    )


def by_frame(frames: Rows, rows: Rows) -> list[tuple[int, Rows]]:
    first = np.searchsorted(rows[:, 0], frames, "left")
    last = np.searchsorted(rows[:, 0], frames, "right")
    return [(int(f), rows[a:b]) for f, a, b in zip(frames, first, last, strict=True)]


def tune(peer: str, sequences: list[Mapping[str, Rows]]) -> dict[str, Any]:
    """From its defaults, one setting after the other, twice over."""
    best: dict[str, Any] = {}
    top = -math.inf
    known: dict[str, float] = {}
    for _ in range(2):
        for name, values in GRID[peer].items():
            for value in values:
                settings = best | {name: value}
                key = json.dumps(settings, sort_keys=True)
                if key not in known:
                    known[key] = float(np.mean([identity(s, track(peer, settings, s)[0]) for s in sequences]))
                    print(peer, settings, round(known[key], 2), file=sys.stderr, flush=True)
                if known[key] > top + 1e-9:
                    best, top = settings, known[key]
    return {"settings": best, "IDF1": top}


def identity(sequence: Mapping[str, Rows], found: Rows) -> float:
    return 100 * float(compute_identity_metrics(*compared(sequence, found))["IDF1"])


if __name__ == "__main__":
    main()
