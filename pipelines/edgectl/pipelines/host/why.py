"""Why a rule told something, or did not: the track log is replayed up to that moment, and the rules say what they
asked.

Pure but for reading the files of a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from edgectl.core.errors import DataError, UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.pipelines.host.replay import (
    TrackLogFile,
    open_track_log,
    recorded_config,
    rules_of,
    step_frame,
    with_rules,
)
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.rules.predicate import Explained, Predicate
from edgectl.pipelines.stream.events import Event

__all__ = ["Explanation", "Moment", "Why", "find_moment", "why"]

_CLOCK = re.compile(r"(?:(\d\d\d\d-\d\d-\d\d)[ T])?(\d{1,2}):(\d\d)(?::(\d\d(?:\.\d+)?))?")


@dataclass(frozen=True)
class Moment:
    """What was asked about."""

    t: float
    """Capture time, seconds."""
    within_s: float
    """How far from it a frame may lie. 0: that very frame."""
    rule: str | None = None
    track: int | None = None
    event: Mapping[str, Any] | None = None
    """The record, where an event was asked about."""


@dataclass(frozen=True)
class Explanation:
    """One rule or zone, and one track or (None) the scene."""

    rule: str
    t: float
    """Of the frame in which it told something, or came nearest to it."""
    explained: Explained
    label: str | None
    anchor: tuple[float, float] | None
    """Middle of the lower edge of the track's box in that frame, relative to it."""
    told: tuple[Event, ...]
    """What it told of the track in that frame."""


@dataclass(frozen=True)
class Why:
    moment: Moment
    stream: str
    time_zone: str
    wall_offset_s: float | None
    """Unix time minus capture time; None where wall time means nothing (a file)."""
    explanations: tuple[Explanation, ...]
    """What was told comes first, then what came nearest."""


def find_moment(path: Path, text: str, *, within_s: float, config: PipelineConfig | None = None) -> Moment:
    """``text``: the id of an event, a clock time in the site's time zone (``14:03:22``, with the day before it where
    there are several) or seconds of capture time. Where wall time means nothing, a clock time is a place in the file.

    Raises :class:`UsageError` for what is none of these, or lies outside the log.
    """
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return Moment(float(text), within_s)
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return _of_event(path, text)
    with open_track_log(path) as log:
        zone = ZoneInfo(with_rules(config or recorded_config(log.header)).time_zone)
        for frame in log.frames:
            if frame.wall_offset_ns is None:
                return Moment(_media_seconds(clock), within_s)
            here = datetime.fromtimestamp(frame.t + frame.wall_offset_ns / 1e9, zone)
            asked = _on_day(clock, here)
            if asked is not None and abs((here - asked).total_seconds()) <= max(within_s, 1.0):
                return Moment(frame.t + (asked - here).total_seconds(), within_s)
    raise UsageError(
        f"the track log holds no frame at {text}",
        hint=f"times are those of the site's time zone, {zone.key}: `edgectl replay` shows what the log holds",
    )


def why(
    log: TrackLogFile,
    config: PipelineConfig | None,
    moment: Moment,
    *,
    rule: str | None = None,
    track: int | None = None,
) -> Why:
    """Of every rule (or ``rule``) and track (or ``track``): the frame nearest to the moment in which it told something,
    or else the one in which most of what it asks held.

    ``config`` None: those that the stream had then. Raises :class:`UsageError` for a rule that is not there or does not explain itself, and where no frame lies at the
    moment; :class:`DataError` for a damaged log.
    """
    rule, track = rule or moment.rule, moment.track if track is None else track
    rules, labels = rules_of(log.header, config), log.header.labels
    best: dict[tuple[str, int | None], Explanation] = {}
    offset, frames, last = None, 0, 0.0
    for frame in log.frames:
        last = frame.t
        if frame.t > moment.t + moment.within_s + 1e-6:
            break
        events = step_frame(rules, frame)
        if frame.t < moment.t - moment.within_s - 1e-6:
            continue
        frames += 1
        offset = frame.wall_offset_ns if offset is None else offset
        rows = {int(id_): row for row, id_ in enumerate(frame.tracks.ids)}
        for name, explained in rules.explain().items():
            for one in explained:
                if rule not in (None, name) or (track is not None and one.track not in (None, track)):
                    continue
                told = tuple(e for e in events if e.rule == name and e.data.get("track") == one.track)
                row = None if one.track is None else rows.get(one.track)
                label = None if row is None else labels[int(frame.tracks.cls[row])]
                now = Explanation(name, frame.t, one, label, _anchor(frame.tracks, row), told)
                known = best.get((name, one.track))
                if known is None or _rank(now, moment.t) > _rank(known, moment.t):
                    best[name, one.track] = now
    if rule is not None and rule not in rules.explain() and frames:
        raise UsageError(
            f"there is no rule or zone {rule[:64]!r} here", hint=did_you_mean(rule, rules.explain())
        )
    if not frames:
        raise UsageError(
            f"the track log holds no frame at {moment.t:.3f} s",
            hint=f"its last frame is at {last:.3f} s" if last else "it holds no frame",
        )
    explanations = sorted(
        best.values(), key=lambda one: (not one.told, [-x for x in _rank(one, moment.t)], one.rule)
    )
    return Why(
        moment,
        log.header.stream,
        rules.config.time_zone,
        None if offset is None else offset / 1e9,
        tuple(explanations),
    )


def _rank(one: Explanation, t: float) -> tuple[float, ...]:
    """More is nearer to an answer: it told something, it goes on, how much of what it asks held, how near it is."""
    asked = one.explained.asked
    failed = one.explained.failed
    held = len(asked) if failed is None else asked.index(failed)
    return (
        float(bool(one.told)),
        float(one.explained.on),
        float(held),
        _share(failed),
        -abs(one.t - t),
    )


def _share(failed: Predicate | None) -> float:
    """How much of what was needed there was, 0..1."""
    if failed is None:
        return 1.0
    if failed.value is None or not failed.limit:
        return 0.0
    return round(min(max(failed.value / failed.limit, 0.0), 1.0), 3)


def _of_event(path: Path, text: str) -> Moment:
    file = (path if path.is_dir() else path.parent) / "events.jsonl"
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            found = [record for record in _records(lines) if text in str(record.get("id", ""))]
    except OSError as e:
        raise UsageError(
            f"{text[:64]!r} is no time, and there are no events to look it up in: cannot read {file}",
            hint="write a clock time such as 14:03:22, or seconds of capture time",
        ) from e
    if len(found) != 1:
        some = "no event" if not found else f"{len(found)} events"
        raise UsageError(
            f"{some} of {file} with {text[:64]!r} in the id",
            hint="write more of the id, a clock time such as 14:03:22, or seconds of capture time",
        )
    (record,) = found
    if record.get("rule") is None:
        raise UsageError(
            f"event {record['id']} ({record.get('type')}) is not a rule's",
            hint="ask for its time instead: what every rule asked then",
        )
    try:
        t, track = float(record["t_s"]), record.get("track")
        return Moment(t, 0.0, str(record["rule"]), None if track is None else int(track), record)
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(f"event {text[:64]!r} of {file} is damaged: {e}") from e


def _records(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed
        if isinstance(record, dict):
            yield record


def _media_seconds(clock: re.Match[str]) -> float:
    """``1:30`` is a minute and a half, ``1:00:30`` an hour and half a minute."""
    _, first, second, third = clock.groups()
    if third is None:
        return 60 * int(first) + int(second)
    return 3600 * int(first) + 60 * int(second) + float(third)


def _on_day(clock: re.Match[str], here: datetime) -> datetime | None:
    """The time that was asked for, on the day of ``here`` or the day that was named. None: there is no such time."""
    day, hours, minutes, seconds = clock.groups()
    if day is not None and day != here.date().isoformat():
        return None
    whole = float(seconds or 0)
    try:
        return here.replace(
            hour=int(hours),
            minute=int(minutes),
            second=int(whole),
            microsecond=round(whole % 1 * 1e6),
        )
    except ValueError as e:
        raise UsageError(f"{clock.group()} is no time of day", hint="write one such as 14:03:22") from e


def _anchor(tracks: Any, row: int | None) -> tuple[float, float] | None:
    if row is None:
        return None
    x1, _, x2, y2 = (float(v) for v in tracks.xyxy[row])
    return (x1 + x2) / 2 / tracks.width, y2 / tracks.height
