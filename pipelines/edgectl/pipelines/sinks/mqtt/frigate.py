"""The messages that Frigate publishes, of a stream of ours: for automations that were written for it.

Frigate's documentation, "MQTT" (docs/integrations/mqtt); its fields are all there, and what we do not have says so:
``thumbnail`` is null, ``region`` is the whole frame, a box that lies in a mask is ``[0, 0, 0, 0]``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

from edgectl.pipelines.places import FRIGATE, OwnPlace, frigate_places
from edgectl.pipelines.sinks.base import Record, SinkContext, SinkType, StreamOutput
from edgectl.pipelines.sinks.mqtt.connection import BrokerSink, MqttConfig, Said
from edgectl.pipelines.sinks.mqtt.topics import Topic
from edgectl.pipelines.video.shown import encode_jpeg

__all__ = ["SINK", "FrigateConfig", "FrigateVoice"]

_MOTION_OFF_S = 30.0
_STATS_S = 60.0
_STATIONARY_S = 10.0
_STATIONARY_IOU = 0.6
"""A box that overlaps what it was by less has moved."""
_SNAPSHOT_HEIGHT = 270
"""Pixels: Frigate's default."""
_NO_BOX = [0, 0, 0, 0]
_DIGITS = "abcdefghijklmnopqrstuvwxyz"


class FrigateConfig(MqttConfig):
    topic: Topic = FRIGATE
    """Frigate's ``topic_prefix``."""
    camera: str | None = None
    """Frigate's name of the camera; none: the stream's."""
    sub_label: str | None = None
    """Part of the second stage that says an object's `sub_label`; the others say attributes."""

    def own_places(self, stream: str) -> tuple[OwnPlace, ...]:
        return frigate_places(stream, self.url, self.topic, self.camera)


@dataclass
class _Object:
    """One track as Frigate follows it."""

    id: str
    start_time: float
    told: dict[str, Any] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    """Part of a second stage → the value that was told."""
    anchor: Sequence[float] = field(default_factory=lambda: list(_NO_BOX))
    still_since: float = 0.0
    motionless: int = 0
    moves: int = 0
    stationary: bool = False


class FrigateVoice:
    def __init__(self, options: FrigateConfig, context: SinkContext, now_s: float) -> None:
        self._options = options
        self._context = context
        self._prefix = options.topic
        self._camera = options.camera or context.stream
        self.availability = f"{options.topic}/available"
        self._objects: dict[int, _Object] = {}
        self._inside: dict[str, dict[int, str]] = {
            zone: dict(context.inside.get(zone, {})) for zone in context.zones
        }
        self._counts: dict[str, int] = {}
        self._best: dict[str, tuple[float, float]] = {}
        """Label → score of the best picture of those now in sight, and when it was sent."""
        self._moving_s: float | None = None
        self._began_s = self._stats_s = now_s
        self._frames = 0

    def birth(self) -> Sequence[Said]:
        return [*(Said(t, str(n).encode(), retain=True) for t, n in self._counts.items()), *self._detect()]

    def hear(self, output: StreamOutput, now_s: float) -> Sequence[Said]:
        said: list[Said] = []
        if output.tracks is not None:
            self._frames += 1
            self._follow(output, now_s)
        for record in output.records:
            if record["type"] == "zone":
                self._enter(record)
            elif record["type"] == "tracked_object":
                said.append(self._event(record, now_s))
                said += self._classified(record)
        said += self._count(output)
        said += self._snapshots(output, now_s)
        said += self._motion(output, now_s)
        if now_s - self._stats_s >= _STATS_S:
            said.append(Said(f"{self._prefix}/stats", _json(self._stats(now_s))))
            self._stats_s, self._frames = now_s, 0
        return said

    def commands(self) -> Mapping[str, Callable[[bytes], Sequence[Said]]]:
        return {f"{self._prefix}/{self._camera}/detect/set": self._set} if self._context.control else {}

    def _set(self, payload: bytes) -> Sequence[Said]:
        assert self._context.control is not None
        if payload in (b"ON", b"OFF"):
            self._context.control.detect = payload == b"ON"
        return self._detect()

    def _detect(self) -> Sequence[Said]:
        control = self._context.control
        if control is None:
            return []
        return [
            Said(
                f"{self._prefix}/{self._camera}/detect/state",
                b"ON" if control.detect else b"OFF",
                retain=True,
            )
        ]

    def _follow(self, output: StreamOutput, now_s: float) -> None:
        """Who has moved since he stood still."""
        tracks = output.tracks
        assert tracks is not None
        for row, track in enumerate(tracks.ids.tolist()):
            known = self._objects.get(track)
            if known is None or not tracks.seen[row]:
                continue
            box = tracks.xyxy[row].tolist()
            if _iou(box, known.anchor) < _STATIONARY_IOU:
                known.moves += known.stationary
                known.anchor, known.still_since, known.motionless, known.stationary = box, now_s, 0, False
            else:
                known.motionless += 1
                known.stationary = now_s - known.still_since >= _STATIONARY_S

    def _event(self, record: Record, now_s: float) -> Said:
        """``frigate/events``: the object before and after."""
        track, phase = int(record["track"]), str(record["phase"])
        wall = record["t_s"] if record.get("time") is None else record["time"]
        known = self._objects.get(track)
        if known is None:
            start = round(wall - (record["t_s"] - record["start_s"]), 6)
            known = _Object(f"{start:.6f}-{_letters(track)}", start, still_since=now_s)
            self._objects[track] = known
        after = self._object(record, known, wall, ended=phase == "end")
        before = known.told or after
        known.told = after
        if phase == "end":
            del self._objects[track]
        value = {"type": phase, "before": before, "after": after}
        return Said(f"{self._prefix}/events", _json(value), "update" if phase == "update" else "event")

    def _classified(self, record: Record) -> Sequence[Said]:
        """``frigate/tracked_object_update``: what a second stage has decided, and was not told yet."""
        known = self._objects.get(int(record["track"]))
        said = []
        for part, found in record.get("attributes", {}).items():
            if known is None or known.attributes.get(part) == found["value"]:
                continue
            known.attributes[part] = found["value"]
            value = {
                "type": "classification",
                "id": known.id,
                "camera": self._camera,
                "timestamp": record["t_s"] if record.get("time") is None else record["time"],
                "model": part,
                "sub_label" if part == self._options.sub_label else "attribute": found["value"],
                "score": found["score"],
            }
            said.append(Said(f"{self._prefix}/tracked_object_update", _json(value), "event"))
        return said

    def _object(self, record: Record, known: _Object, wall: float, *, ended: bool) -> dict[str, Any]:
        box = _NO_BOX if record["box"] is None else [round(v) for v in record["box"]]
        width, height = box[2] - box[0], box[3] - box[1]
        found = dict(record.get("attributes", {}))
        sub = None if self._options.sub_label is None else found.pop(self._options.sub_label, None)
        return {
            # first: no part takes the place of a field of Frigate's
            **{part: one["value"] for part, one in found.items()},
            "id": known.id,
            "camera": self._camera,
            "frame_time": wall,
            "snapshot_time": wall,
            "label": record["label"],
            "sub_label": None if sub is None else [sub["value"], sub["score"]],
            "top_score": record["top_score"],
            "false_positive": False,
            "start_time": known.start_time,
            "end_time": wall if ended else None,
            "score": record["score"],
            "box": box,
            "area": width * height,
            "ratio": round(width / height, 2) if height else 0.0,
            "region": [0, 0, *record["frame_size"]],
            "active": not known.stationary,
            "stationary": known.stationary,
            "motionless_count": known.motionless,
            "position_changes": known.moves,
            "current_zones": record["zones"],
            "entered_zones": record["entered_zones"],
            "thumbnail": None,
            "has_snapshot": self._context.fps is not None,
            "has_clip": False,
        }

    def _enter(self, record: Record) -> None:
        inside = self._inside.get(str(record["rule"]))
        if inside is not None and record.get("phase") == "enter":
            inside[int(record["track"])] = str(record["label"])
        elif inside is not None:
            inside.pop(int(record["track"]), None)

    def _count(self, output: StreamOutput) -> Sequence[Said]:
        """``<camera>/<label>`` and ``<zone>/<label>``, those that changed; ``all`` is a label, too."""
        places = {zone: Counter(tracks.values()) for zone, tracks in self._inside.items()}
        if output.tracks is not None:
            places[self._camera] = Counter(self._context.labels[int(c)] for c in output.tracks.cls)
        now: dict[str, int] = {}
        for place, counts in places.items():
            for label, n in {**counts, "all": sum(counts.values())}.items():
                now[f"{self._prefix}/{place}/{label}"] = n
        here = tuple(f"{self._prefix}/{place}/" for place in places)
        gone = {t: 0 for t in self._counts if t.startswith(here) and t not in now}
        changed = {t: n for t, n in {**gone, **now}.items() if self._counts.get(t) != n}
        self._counts.update(changed)
        return [Said(topic, str(n).encode(), retain=True) for topic, n in changed.items()]

    def _snapshots(self, output: StreamOutput, now_s: float) -> Sequence[Said]:
        """``<camera>/<label>/snapshot``: of the best of a label, again when there is a better one."""
        tracks, frame = output.tracks, output.frame
        if tracks is None or frame is None:
            return []
        said = []
        labels = [self._context.labels[int(c)] for c in tracks.cls]
        self._best = {label: best for label, best in self._best.items() if label in labels}
        for label in dict.fromkeys(labels):
            rows = [i for i, other in enumerate(labels) if other == label and tracks.seen[i]]
            row = max(rows, key=lambda i: float(tracks.score[i]), default=None)
            best, sent_s = self._best.get(label, (0.0, -1e18))
            if row is None or float(tracks.score[row]) <= best + 0.02 or now_s - sent_s < 1.0:
                continue
            self._best[label] = (float(tracks.score[row]), now_s)
            image = frame.annotated()
            crop = _crop(image.shape[1], image.shape[0], tracks.xyxy[row].tolist())
            part = image[crop[1] : crop[3], crop[0] : crop[2]]
            width = max(1, round(part.shape[1] * _SNAPSHOT_HEIGHT / part.shape[0]))
            topic = f"{self._prefix}/{self._camera}/{label}/snapshot"
            said.append(Said(topic, encode_jpeg(part, 70, width), retain=True))
        return said

    def _motion(self, output: StreamOutput, now_s: float) -> Sequence[Said]:
        """``<camera>/motion``: ON while something is tracked, OFF 30 s later."""
        topic = f"{self._prefix}/{self._camera}/motion"
        if output.tracks is not None and len(output.tracks):
            was, self._moving_s = self._moving_s, now_s
            return [] if was is not None else [Said(topic, b"ON", retain=True)]
        if self._moving_s is not None and now_s - self._moving_s >= _MOTION_OFF_S:
            self._moving_s = None
            return [Said(topic, b"OFF", retain=True)]
        return []

    def _stats(self, now_s: float) -> dict[str, Any]:
        fps = round(self._frames / max(now_s - self._stats_s, 1e-6), 2)
        control = self._context.control
        camera = {
            "camera_fps": self._context.fps,
            "process_fps": fps,
            "detection_fps": fps,
            "detection_enabled": control is None or control.detect,
        }
        return {
            "cameras": {self._camera: camera},
            "detection_fps": fps,
            "service": {
                "uptime": round(now_s - self._began_s),
                "version": f"edgectl-{version('edgectl')}",
                "last_updated": round(now_s),
            },
        }


def _letters(number: int) -> str:
    """Six letters, as Frigate's ids end with."""
    letters = ""
    for _ in range(6):
        number, digit = divmod(number, len(_DIGITS))
        letters = _DIGITS[digit] + letters
    return letters


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / area if area > 0 else 0.0


def _crop(width: int, height: int, box: Sequence[float]) -> tuple[int, int, int, int]:
    """The box with a margin, within the picture, never empty."""
    pad = 0.1 * max(box[2] - box[0], box[3] - box[1])
    x1, y1 = min(max(0, int(box[0] - pad)), width - 1), min(max(0, int(box[1] - pad)), height - 1)
    return x1, y1, max(x1 + 1, min(width, round(box[2] + pad))), max(y1 + 1, min(height, round(box[3] + pad)))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _open(options: FrigateConfig, context: SinkContext) -> BrokerSink:
    voice = FrigateVoice(options, context, time.time())
    return BrokerSink("frigate", options, context, voice, pictures=context.fps is not None)


SINK = SinkType(
    _open,
    "the same to an MQTT broker as Frigate says it: `frigate/events`, `/tracked_object_update`, `/available`, `/stats`, `/<camera>/<label>` with "
    "`/snapshot`, `/<camera>/motion`, `/<zone>/<label>`, `/<camera>/detect/set`",
    FrigateConfig,
    pictures=True,
    names_zones=True,
)
