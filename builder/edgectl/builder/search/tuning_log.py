"""``OUT.tuning.jsonl``: what was measured, one line a measurement, so that a build that was killed goes on
where it was.

A line holds for one key: the digest of all that the measurement depends on (candidates, samples, settings,
host, versions). The times of a round are only comparable with each other, so a round is taken from the log
whole or not at all. Lines are only ever appended; a torn one, one of another host or version, or one that is
malformed is not used.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.core.files import digest_of, storage
from edgectl.core.measured import Conditions
from edgectl.core.schema import Digest, Message
from edgectl.engines.measure.processes import ProcessTimes

__all__ = ["MAX_BYTES", "Line", "TuningLog", "What"]

MAX_BYTES = 64 << 20  # a build writes a few hundred kB
_MAX_LINE = 1 << 20

What = Literal["judged", "confirmed", "timed", "fresh"]


class Line(Message):
    """One measurement of one candidate. Exactly one of ``accuracy`` (judged, confirmed), ``ms`` (timed),
    ``fresh`` is there."""

    key: Digest
    what: What
    candidate: str = Field(max_length=300)
    round: int = Field(default=0, ge=0, le=100)
    accuracy: Accuracy | None = None
    ms: tuple[float, ...] | None = Field(default=None, max_length=10_000)
    """Milliseconds in the order of measurement: the n-th of every line of one key belong together."""
    runtime: str = ""
    fresh: ProcessTimes | None = None
    conditions: Conditions
    host: dict[str, str]
    """Machine and runtime versions."""
    time_s: float
    """UTC."""


class TuningLog:
    """Read once, then appended to. ``path`` None: remembers nothing."""

    def __init__(self, path: Path | None, host: Mapping[str, str]) -> None:
        self._path = path
        self._host = dict(host)
        self._known: dict[str, dict[str, Line]] = {}
        if path is not None and path.is_file():
            for line in _lines(path):
                self._known.setdefault(line.key, {})[line.candidate] = line

    def key(self, what: What, *parts: Any) -> str:
        """The name of a measurement that depends on ``parts`` and on this host."""
        return digest_of(json.dumps([1, what, self._host, *parts], sort_keys=True).encode())

    def find(self, key: str) -> dict[str, Line]:
        """Candidate → its line."""
        return self._known.get(key, {})

    def add(self, key: str, what: What, candidate: str, conditions: Conditions, **found: Any) -> Line:
        """Remember a measurement; on disk before this returns, as far as a kill is concerned. Raises
        :class:`StorageError`."""
        line = Line(
            key=key,
            what=what,
            candidate=candidate,
            conditions=conditions,
            host=self._host,
            time_s=round(time.time(), 3),
            **found,
        )
        self._known.setdefault(key, {})[candidate] = line
        if self._path is not None:
            _append(self._path, line.model_dump_json(exclude_none=True).encode())
        return line


def _append(path: Path, data: bytes) -> None:
    with storage(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_BYTES:
            path.unlink()  # left by many builds that were killed
        with path.open("ab+") as f:
            if f.tell() and os.pread(f.fileno(), 1, f.tell() - 1) != b"\n":
                data = b"\n" + data  # the last one was torn
            f.write(data + b"\n")


def _lines(path: Path) -> list[Line]:
    """What can be used of a file, at most ``MAX_BYTES`` of it."""
    found, left = [], MAX_BYTES
    with storage(str(path)), path.open("rb") as f:
        while left > 0 and (data := f.readline(min(left, _MAX_LINE))):
            left -= len(data)
            try:
                found.append(Line.model_validate_json(data))
            except (ValidationError, RecursionError):
                continue
    return found
