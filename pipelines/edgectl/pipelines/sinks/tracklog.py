"""Every frame's tracks as JSON lines, exact to the bit, and the way back: rules are replayed on them.

The first line says whose tracks they are (:class:`TrackLogHeader`), each other line holds those of one frame.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from edgectl.core.errors import DataError
from edgectl.core.schema import Message, first_problem
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.lines import LineFile
from edgectl.pipelines.stream.frame import ClockQuality
from edgectl.pipelines.video.tracker import Tracks

__all__ = [
    "SINK",
    "LoggedTracks",
    "TrackLog",
    "TrackLogHeader",
    "encode_tracks",
    "read_header",
    "read_tracks",
]

_MAX_LINE = 1 << 20


class TrackLogHeader(Message):
    """Whose tracks they are, and the rules that were told of them."""

    schema_: Literal["edgectl.tracks/1"] = Field(default="edgectl.tracks/1", alias="schema")
    kind: str = Field(max_length=64)
    stream: str = Field(max_length=64)
    labels: tuple[str, ...] = Field(max_length=10_000)
    """``labels[i]`` names class ``i``."""
    rules: dict[str, Any] = {}
    """The configuration of zones and rules, as JSON values."""


class LoggedTracks(NamedTuple):
    """One frame."""

    tracks: Tracks
    t: float
    """Capture time, seconds."""
    wall_offset_ns: int | None = None
    """Unix time minus capture time; None where wall time means nothing (a file)."""
    clock: ClockQuality = "pts"
    asked: tuple[tuple[str, bool | None], ...] = ()
    """Rules that were switched on or off, or (None) reset, before this frame, in that order."""


def encode_tracks(
    tracks: Tracks,
    t_s: float,
    wall_offset_ns: int | None = None,
    clock: ClockQuality = "pts",
    asked: Sequence[tuple[str, bool | None]] = (),
) -> str:
    """One line: floats are written so that they read back to the same bits."""
    record: dict[str, Any] = {
        "t": t_s,
        "clock": clock,
        "size": [tracks.width, tracks.height],
        "ids": tracks.ids.tolist(),
        "box": tracks.xyxy.tolist(),
        "score": tracks.score.tolist(),
        "cls": tracks.cls.tolist(),
        "seen": tracks.seen.tolist(),
    }
    if wall_offset_ns is not None:
        record["wall_offset_ns"] = wall_offset_ns
    if tracks.past:
        record["past"] = {str(track): sightings.tolist() for track, sightings in tracks.past.items()}
    if asked:
        record["asked"] = [list(one) for one in asked]
    return json.dumps(record, separators=(",", ":"))


def read_header(lines: Iterator[str]) -> TrackLogHeader:
    """Takes the first line. Raises :class:`DataError`."""
    line = next(lines, "")
    try:
        if len(line) > _MAX_LINE:
            raise ValueError("its first line is too long")
        return TrackLogHeader.model_validate_json(line)
    except ValidationError as e:
        raise DataError(
            f"this is no track log: {first_problem(e)}", hint="edgectl run --out writes one: tracks.jsonl"
        ) from e
    except ValueError as e:
        raise DataError(f"this is no track log: {e}") from e


def read_tracks(lines: Iterable[str], *, first_line: int = 2) -> Iterator[LoggedTracks]:
    """The lines behind the header. Raises :class:`DataError` naming the line that is no track record, or goes
    back in time."""
    before = float("-inf")
    for number, line in enumerate(lines, first_line):
        try:
            if len(line) > _MAX_LINE:
                raise ValueError("it is too long")
            frame = _decode(json.loads(line))
            if not frame.t > before:
                raise ValueError(f"its time {frame.t} is not after {before}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
            raise DataError(f"line {number} of the track log is not a track record: {e}") from e
        before = frame.t
        yield frame


def _decode(v: dict[str, Any]) -> LoggedTracks:
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
    tracks = Tracks(ids, boxes, score, cls, seen, int(width), int(height), past)
    offset = v.get("wall_offset_ns")
    asked = tuple((str(name), None if on is None else bool(on)) for name, on in v.get("asked", ()))
    return LoggedTracks(
        tracks, float(v["t"]), None if offset is None else int(offset), v.get("clock", "pts"), asked
    )


def _asked(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, bool | None]]:
    """What a person asked of rules, from the events that tell it."""
    found: list[tuple[str, bool | None]] = []
    for record in records:
        if record.get("type") == "switch":
            found.append((record["rule"], record["on"]))
        elif record.get("type") == "reset" and record.get("reason") == "asked":
            found.append((record["rule"], None))
    return found


class TrackLog(Sink):
    """One line per processed frame, also for frames without tracks: time goes on for the rules."""

    name = "tracklog"
    tracks = True

    def __init__(self, path: Path, header: TrackLogHeader) -> None:
        self.path = path
        self._file = LineFile(path)
        self._file.write(header.encode().decode())

    def write(self, output: StreamOutput) -> None:
        stamp = output.stamp
        if output.tracks is not None and stamp is not None:
            asked = _asked(output.records)
            self._file.write(
                encode_tracks(output.tracks, stamp.t_s, stamp.wall_offset_ns, stamp.quality, asked)
            )

    def close(self) -> None:
        self._file.close()


def _open(options: SinkOptions, context: SinkContext) -> TrackLog | None:
    if context.out is None:
        return None
    header = TrackLogHeader(
        kind=context.kind, stream=context.stream, labels=context.labels, rules=dict(context.rules)
    )
    return TrackLog(context.out / "tracks.jsonl", header)


SINK = SinkType(
    _open,
    "every frame's tracks, for `edgectl replay` and `edgectl why`: `tracks.jsonl`",
    files=True,
    pictures=True,
)
