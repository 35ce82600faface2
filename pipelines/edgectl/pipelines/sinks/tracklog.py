"""Every frame's tracks as JSON lines, exact to the bit, and the way back: rules are replayed on them.

The first line says whose tracks they are (:class:`TrackLogHeader`), each other line holds those of one frame.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from edgectl.core.errors import DataError
from edgectl.core.files import storage
from edgectl.core.schema import Message, first_problem
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.lines import LineFile
from edgectl.pipelines.stream.frame import ClockQuality, Stamp
from edgectl.pipelines.video.attribute import Attribute
from edgectl.pipelines.video.keypoints import KeypointLayout, Keypoints
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

_Asked = Sequence[tuple[str, bool | None]]


class TrackLogHeader(Message):
    """Whose tracks they are, and the rules that were told of them."""

    schema_: Literal["edgectl.tracks/1"] = Field(default="edgectl.tracks/1", alias="schema")
    kind: str = Field(max_length=64)
    stream: str = Field(max_length=64)
    labels: tuple[str, ...] = Field(max_length=10_000)
    """``labels[i]`` names class ``i``."""
    keypoints: KeypointLayout | None = None
    """What the points of the tracks are; None: they have none."""
    rules: dict[str, Any] = {}
    """The configuration of zones and rules, as JSON values."""
    attributes: dict[str, tuple[str, ...]] = {}
    """Part of a second stage → the values that it can decide for; none: any text."""


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
    switched: Mapping[str, Any] | None = None
    """Other zones and rules took over with this frame, before anything that was asked: ``rules`` (their configuration),
    ``after_s``, ``told`` and ``phase``."""
    blind: str | None = None
    """What was wrong with what the camera saw."""

    def stamp(self, seq: int = 0) -> Stamp:
        """When the tracks were taken."""
        return Stamp(seq, round(self.t * 1e9), 0, None, self.wall_offset_ns, self.clock)


def encode_tracks(
    tracks: Tracks,
    t_s: float,
    wall_offset_ns: int | None = None,
    clock: ClockQuality = "pts",
    asked: Sequence[tuple[str, bool | None]] = (),
    switched: Mapping[str, Any] | None = None,
    blind: str | None = None,
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
    if tracks.foot_at is not None:
        record["foot_at"] = tracks.foot_at.tolist()
    if tracks.scene:
        record["scene"] = {part: list(found) for part, found in tracks.scene.items()}
    if tracks.attributes:
        record["attributes"] = {
            str(track): {part: list(attribute) for part, attribute in found.items()}
            for track, found in tracks.attributes.items()
        }
    if tracks.keypoints is not None:
        record["keypoints"] = tracks.keypoints.points.tolist()
    if asked:
        record["asked"] = [list(one) for one in asked]
    if blind is not None:
        record["blind"] = blind
    if switched is not None:
        record["switched"] = dict(switched)
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


def read_tracks(
    lines: Iterable[str], keypoints: KeypointLayout | None = None, *, first_line: int = 2
) -> Iterator[LoggedTracks]:
    """The lines behind the header, which says what their ``keypoints`` are. Raises :class:`DataError` naming the line that is no track record, or goes
    back in time."""
    before = float("-inf")
    for number, line in enumerate(lines, first_line):
        try:
            if len(line) > _MAX_LINE:
                raise ValueError("it is too long")
            frame = _decode(json.loads(line), keypoints)
            if not frame.t > before:
                raise ValueError(f"its time {frame.t} is not after {before}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
            raise DataError(f"line {number} of the track log is not a track record: {e}") from e
        before = frame.t
        yield frame


def _decode(v: dict[str, Any], layout: KeypointLayout | None) -> LoggedTracks:
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
    attributes = {
        int(track): {str(part): Attribute(str(value), float(sure)) for part, (value, sure) in found.items()}
        for track, found in v.get("attributes", {}).items()
    }
    scene = {
        str(part): Attribute(str(value), float(sure)) for part, (value, sure) in v.get("scene", {}).items()
    }
    points = None
    if layout is not None and "keypoints" in v:
        shape = (n, len(layout.names), 3)
        points = Keypoints(np.array(v["keypoints"], np.float32).reshape(shape), layout)
    tracks = Tracks(
        ids,
        boxes,
        score,
        cls,
        seen,
        int(width),
        int(height),
        past,
        points,
        attributes=attributes,
        scene=scene,
        foot_at=None if "foot_at" not in v else np.array(v["foot_at"], np.float32).reshape(n, 2),
    )
    offset = v.get("wall_offset_ns")
    asked = tuple((str(name), None if on is None else bool(on)) for name, on in v.get("asked", ()))
    switched = v.get("switched")
    if switched is not None:
        # what it says of rules is looked at by those who replay it
        switched = {
            "rules": dict(switched["rules"]),
            "after_s": float(switched["after_s"]),
            "told": dict(switched["told"]),
            "phase": str(switched["phase"]),
        }
    return LoggedTracks(
        tracks,
        float(v["t"]),
        None if offset is None else int(offset),
        v.get("clock", "pts"),
        asked,
        switched,
        None if v.get("blind") is None else str(v["blind"]),
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


class TrackLogConfig(SinkOptions):
    last_kib: int | None = Field(default=None, ge=64, le=1 << 20)
    """Keep no more than so many KiB, the newest frames, in the file and in memory. Rules begin anew where the log does.
    none: it grows."""


class TrackLog(Sink):
    """One line per processed frame, also for frames without tracks: time goes on for the rules."""

    name = "tracklog"
    tracks = True

    def __init__(self, path: Path, header: TrackLogHeader, *, last_kib: int | None = None) -> None:
        self.path = self._path = path
        self._header = header.encode().decode()
        self._most = None if last_kib is None else last_kib * 1024
        self._kept: deque[tuple[str, _Asked]] = deque()
        """The lines of the file, where it is bounded."""
        self._bytes = len(self._header.encode()) + 1
        self._asked: dict[str, bool] = {}
        """Switches that were asked for in frames that are no longer kept."""
        self._file = LineFile(path)
        self._file.write(self._header)

    def write(self, output: StreamOutput) -> None:
        stamp = output.stamp
        if output.tracks is None or stamp is None:
            return
        asked = _asked(output.records)
        line = encode_tracks(
            output.tracks,
            stamp.t_s,
            stamp.wall_offset_ns,
            stamp.quality,
            asked,
            output.switched,
            output.blind,
        )
        if self._most is None:
            self._file.write(line)
            return
        self._kept.append((line, asked))
        self._bytes += len(line) + 1
        if self._bytes <= self._most:
            self._file.write(line)
        else:
            self._forget(self._most)

    def close(self) -> None:
        self._file.close()

    def _forget(self, most: int) -> None:
        """Write the newer half anew. The file under its name is whole at any time."""
        size = self._bytes
        while len(self._kept) > 1 and size > most // 2:
            line, asked = self._kept.popleft()
            size -= len(line) + 1
            if '"switched":' in line and (switched := json.loads(line).get("switched")) is not None:
                # the log begins with the rules that were in force
                header = TrackLogHeader.model_validate_json(self._header)
                self._header = header.model_copy(update={"rules": switched["rules"]}).encode().decode()
            self._asked |= {name: on for name, on in asked if on is not None}
        path = self._path.with_name(self._path.name + ".new")
        lines = [self._header, *(line for line, _ in self._kept)]
        if self._asked:
            lines[1] = _asked_before(lines[1], self._asked)
        new = LineFile(path)
        try:
            for line in lines:
                new.write(line)
            with storage(str(self._path)):
                path.replace(self._path)
        except BaseException:
            new.close()
            raise
        self._file.close()
        self._file, self._bytes = new, sum(len(line.encode()) + 1 for line in lines)


def _asked_before(line: str, switches: Mapping[str, bool]) -> str:
    """A frame's line with what was asked before it, too."""
    record = json.loads(line)
    record["asked"] = [*([name, on] for name, on in switches.items()), *record.get("asked", ())]
    return json.dumps(record, separators=(",", ":"))


def _open(options: TrackLogConfig, context: SinkContext) -> TrackLog | None:
    if context.out is None:
        return None
    header = TrackLogHeader(
        kind=context.kind,
        stream=context.stream,
        labels=context.labels,
        keypoints=context.keypoints,
        rules=dict(context.rules),
        attributes={part: tuple(values) for part, values in context.attributes.items()},
    )
    return TrackLog(context.out / "tracks.jsonl", header, last_kib=options.last_kib)


SINK = SinkType(
    _open,
    "every frame's tracks, for `edgectl replay` and `edgectl why`: `tracks.jsonl`",
    TrackLogConfig,
    begins_anew=True,
    files=True,
    pictures=True,
)
