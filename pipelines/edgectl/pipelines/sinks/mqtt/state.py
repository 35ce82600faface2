"""What a stream is like now: who is where, what the lines counted, how fast and how fresh it is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgectl.pipelines.sinks.base import Record, StreamOutput

__all__ = ["StreamState"]

_MIN_SAMPLES = 20
"""Ages from which a 95th percentile is one."""
_MAX_SAMPLES = 4096


class StreamState:
    def __init__(
        self,
        labels: Sequence[str],
        zones: Sequence[str],
        lines: Sequence[str],
        now_s: float,
        attributes: Mapping[str, Sequence[str]] | None = None,
        scenes: Sequence[str] = (),
        *,
        inside: Mapping[str, Mapping[int, str]] | None = None,
        counted: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """``attributes``: part of a second stage → the values that it can decide for. ``scenes``: parts that look at
        the whole picture. ``inside`` and ``counted``: who is in a zone, and what a line has counted, to begin with."""
        self._labels = tuple(labels)
        self._inside: dict[str, dict[int, str]] = {zone: dict((inside or {}).get(zone, {})) for zone in zones}
        """Zone → track → label."""
        self._lines: dict[str, dict[str, int]] = {
            line: {"in": 0, "out": 0, **(counted or {}).get(line, {})} for line in lines
        }
        self._objects: dict[str, int] = {}
        self._troubles: dict[tuple[str, str], None] = {}
        """What is wrong with the camera, the last that began at the end."""
        self._blind: str | None = None
        self._possible = {part: tuple(values) for part, values in (attributes or {}).items()}
        self._attributes: dict[str, dict[str, int]] = {part: {} for part in self._possible}
        """Part → value → how many objects it is decided for."""
        self._scene: dict[str, str | None] = dict.fromkeys(scenes)
        self._since_s = now_s
        self._frames = 0
        self._ages_ms: list[float] = []
        self._rates: dict[str, float | None] = {"fps": None, "age_p95_ms": None}

    def hear(self, output: StreamOutput) -> bool:
        """Whether it is another state now, figures of speed aside."""
        before = self._all()
        for record in output.records:
            self._take(record)
        if output.tracks is not None:
            self._frames += 1
            if output.age_ms is not None and len(self._ages_ms) < _MAX_SAMPLES:
                self._ages_ms.append(output.age_ms)
            self._objects = dict(Counter(self._labels[int(c)] for c in output.tracks.cls))
            decided = output.tracks.attributes.values()
            self._attributes = {
                part: dict(Counter(found[part].value for found in decided if part in found))
                for part in self._possible
            }
            self._scene |= {part: found.value for part, found in output.tracks.scene.items()}
        return before != self._all()

    def _all(self) -> tuple[object, ...]:
        zones, lines, scene = self.zones(), str(self._lines), dict(self._scene)
        return self._objects, self._attributes, scene, tuple(self._troubles), self._blind, zones, lines

    def zones(self) -> dict[str, dict[str, int]]:
        """Zone → label → how many are in it."""
        return {zone: dict(Counter(tracks.values())) for zone, tracks in self._inside.items()}

    def measure(self, now_s: float) -> None:
        """Take the figures of speed of the time since the last call."""
        seconds = now_s - self._since_s
        ages = sorted(self._ages_ms)
        self._rates = {
            "fps": round(self._frames / seconds, 2) if seconds > 0 else None,
            "age_p95_ms": round(ages[int(0.95 * (len(ages) - 1))], 1) if len(ages) >= _MIN_SAMPLES else None,
        }
        self._since_s, self._frames, self._ages_ms = now_s, 0, []

    def value(self) -> dict[str, Any]:
        """JSON values. ``source`` is ``ok`` or the reason why it is not; ``blind``: why zones and rules cannot be
        believed, or null."""
        return {
            "source": next(reversed(self._troubles), ("", "ok"))[1],
            "blind": self._blind,
            **self._rates,
            "objects": {
                "all": sum(self._objects.values()),
                **dict.fromkeys(self._labels, 0),
                **self._objects,
            },
            **self._decided(),
            **({"scene": dict(self._scene)} if self._scene else {}),
            "zones": {zone: {"all": sum(n.values()), **n} for zone, n in self.zones().items()},
            "lines": {line: dict(n) for line, n in self._lines.items()},
        }

    def _decided(self) -> dict[str, Any]:
        if not self._possible:
            return {}
        shown = {
            part: {**dict.fromkeys(values, 0), **self._attributes[part]}
            for part, values in self._possible.items()
        }
        return {"attributes": shown}

    def _take(self, record: Record) -> None:
        kind, rule, track = record.get("type"), str(record.get("rule")), record.get("track")
        if kind == "zone" and rule in self._inside and isinstance(track, int):
            if record.get("phase") == "enter":
                self._inside[rule][track] = str(record.get("label"))
            else:
                self._inside[rule].pop(track, None)
        elif kind == "tracked_object" and record.get("phase") == "end":
            for tracks in self._inside.values():
                tracks.pop(track, None)  # type: ignore[arg-type]
        elif kind == "line_crossing" and rule in self._lines:
            counts = record.get("counts", {})
            self._lines[rule] = {way: sum(counts.get(way, {}).values()) for way in ("in", "out")}
        elif kind == "capability" and record.get("name") in ("source", "picture"):
            self._trouble(str(record["name"]), str(record.get("reason")), over=bool(record.get("available")))
        elif kind == "capability" and record.get("name") == "rules":
            self._blind = None if record.get("available") else str(record.get("reason"))

    def _trouble(self, name: str, reason: str, *, over: bool) -> None:
        if name == "source":
            # of a source there is one at a time, whatever ends it
            self._troubles = {key: None for key in self._troubles if key[0] != name}
        self._troubles.pop((name, reason), None)
        if not over:
            self._troubles[name, reason] = None
            if name == "source":
                self._rates = {"fps": 0.0, "age_p95_ms": None}
