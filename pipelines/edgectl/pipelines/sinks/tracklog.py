"""Every frame's tracks as JSON lines, exact to the bit, and the way back: replay rules on recorded tracks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.errors import DataError
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.lines import LineFile
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["SINK", "TrackLog", "encode_tracks", "read_tracks"]

_MAX_LINE = 1 << 20


def encode_tracks(tracks: Tracks, t_s: float) -> str:
    """One line: floats are written so that they read back to the same bits."""
    record: dict[str, Any] = {
        "t": t_s,
        "size": [tracks.width, tracks.height],
        "ids": tracks.ids.tolist(),
        "box": tracks.xyxy.tolist(),
        "score": tracks.score.tolist(),
        "cls": tracks.cls.tolist(),
        "seen": tracks.seen.tolist(),
    }
    if tracks.past:
        record["past"] = {str(track): sightings.tolist() for track, sightings in tracks.past.items()}
    return json.dumps(record, separators=(",", ":"))


def read_tracks(lines: Iterable[str]) -> Iterator[tuple[Tracks, float]]:
    """Tracks and time of each line. Raises :class:`DataError` naming the line that is no track record."""
    for number, line in enumerate(lines, 1):
        try:
            if len(line) > _MAX_LINE:
                raise ValueError("it is too long")
            yield _decode(json.loads(line))
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(f"line {number} of the track log is not a track record: {e}") from e


def _decode(v: dict[str, Any]) -> tuple[Tracks, float]:
    ids = np.array(v["ids"], np.int64).reshape(-1)
    n = len(ids)
    boxes = np.array(v["box"], np.float32).reshape(n, 4)
    score, cls, seen = (
        np.array(v["score"], np.float32),
        np.array(v["cls"], np.int32),
        np.array(v["seen"], np.bool_),
    )
    if not (score.shape == cls.shape == seen.shape == (n,)):
        raise ValueError("its arrays have different lengths")
    width, height = v["size"]
    past = {
        int(track): np.array(sightings, np.float64).reshape(-1, 5)
        for track, sightings in v.get("past", {}).items()
    }
    return Tracks(ids, boxes, score, cls, seen, int(width), int(height), past), float(v["t"])


class TrackLog(Sink):
    """One line per processed frame, also for frames without tracks: time goes on for the rules."""

    name = "tracklog"
    tracks = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LineFile(path)

    def write(self, output: StreamOutput) -> None:
        if output.tracks is not None and output.t_s is not None:
            self._file.write(encode_tracks(output.tracks, output.t_s))

    def close(self) -> None:
        self._file.close()


def _open(options: SinkOptions, context: SinkContext) -> TrackLog | None:
    return None if context.out is None else TrackLog(context.out / "tracks.jsonl")


SINK = SinkType(
    _open, "every frame's tracks, for replaying the rules: `tracks.jsonl`", files=True, pictures=True
)
