"""Rules on recorded tracks: what a stream said, and what another configuration would have said of the same
tracks.

Neither detector nor tracker runs: settings other than zones and rules have no effect here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgectl.core.errors import DataError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.rules import RulesConfig, RuleSet
from edgectl.pipelines.rules.observation import Resettable, Wall
from edgectl.pipelines.sinks.tracklog import LoggedTracks, TrackLogHeader, read_header, read_tracks
from edgectl.pipelines.stream.events import Event, EventWriter

__all__ = [
    "LogLength",
    "RecordedRules",
    "Replayed",
    "TrackLogFile",
    "open_track_log",
    "recorded_config",
    "replay",
    "rules_of",
    "step_frame",
    "with_rules",
]


@dataclass(frozen=True)
class TrackLogFile:
    header: TrackLogHeader
    frames: Iterator[LoggedTracks]
    """Read while they are asked for; raises :class:`DataError` at a line that is damaged."""


@contextmanager
def open_track_log(path: Path) -> Iterator[TrackLogFile]:
    """``path``: the log, or the folder that a run wrote. Raises :class:`UsageError` and :class:`DataError`."""
    file = path / "tracks.jsonl" if path.is_dir() else path
    try:
        lines = file.open(encoding="utf-8", errors="replace")
    except OSError as e:
        several = sorted(p.parent.name for p in path.glob("*/tracks.jsonl")) if path.is_dir() else []
        raise UsageError(
            f"cannot read {file}: {e.strerror}",
            hint=f"of the streams {', '.join(several[:8])} each has one: name its folder in {path}"
            if several
            else "edgectl run --out FOLDER writes one, with `tracklog: true` in its configuration",
        ) from e
    with lines:
        header = read_header(lines)
        yield TrackLogFile(header, read_tracks(lines, header.keypoints))


def recorded_config(header: TrackLogHeader) -> PipelineConfig:
    """The zones and rules that the stream had. Raises :class:`UsageError`, also for a kind whose rules need more
    than tracks."""
    if header.kind not in KINDS:
        raise UsageError(f"the track log is of a kind of pipeline that is not here: {header.kind!r}")
    type_ = KINDS.get(header.kind).config
    if not issubclass(type_, RulesConfig) or type_.has:
        raise UsageError(
            f"the rules of a {header.kind} stream cannot be replayed: they need more than its tracks",
            hint="run the recording again: edgectl run",
        )
    return parse_config(header.kind, header.rules, what="the configuration in the track log")


@dataclass(frozen=True)
class LogLength:
    frames: int
    seconds: float
    """Of capture time."""
    switched_s: tuple[float, ...] = ()
    """Capture times at which the rules of the stream became others."""


@dataclass(frozen=True)
class Replayed:
    """What one configuration says."""

    events: list[Event]
    records: list[dict[str, Any]]
    """The same, as ``events.jsonl`` holds them, without what only the live stream knew (latency, snapshots)."""


def replay(log: TrackLogFile, configs: Sequence[PipelineConfig | None]) -> tuple[LogLength, list[Replayed]]:
    """What each of ``configs`` says of the tracks, in one pass over the log. None: those that the stream had, which
    were others from some frame on where somebody changed them while it ran.

    The same log and configuration give the same records, to the byte. Raises :class:`UsageError` for a class that the
    model did not know, :class:`DataError` for a damaged log.
    """
    rules = [rules_of(log.header, config) for config in configs]
    writers = [EventWriter(log.header.stream) for _ in configs]
    said: list[Replayed] = [Replayed([], []) for _ in configs]
    frames, first_s, last_s = 0, 0.0, 0.0
    switched: list[float] = []
    for seq, frame in enumerate(log.frames):
        first_s, last_s, frames = (first_s if seq else frame.t), frame.t, seq + 1
        stamp = frame.stamp(seq)
        if frame.switched is not None:
            switched.append(frame.t)
        for one, writer, into in zip(rules, writers, said, strict=True):
            events = step_frame(one, frame)
            into.events.extend(events)
            into.records.extend(writer.record(event, stamp) for event in events)
    return LogLength(frames, last_s - first_s, tuple(switched)), said


def rules_of(header: TrackLogHeader, config: PipelineConfig | None) -> RuleSet:
    """None: those that the stream had. Raises :class:`UsageError` for a class or an attribute that the models did not know."""
    if config is None:
        return RecordedRules(header)
    return RuleSet(with_rules(config), header.labels, attributes=header.attributes)


def step_frame(rules: RuleSet, frame: LoggedTracks) -> list[Event]:
    """What ``rules`` make of one frame. What a person asked of a rule then is asked again, of a rule that can do it."""
    if isinstance(rules, RecordedRules):
        rules.follow(frame)
    for name, on in frame.asked:
        if on is None and isinstance(rules.rules.get(name), Resettable):
            rules.reset(name)
        elif on is not None and name in rules.switches:
            rules.switch(name, on)
    return rules.step(frame.tracks, frame.t, wall=Wall.of(frame.stamp()), blind=frame.blind)


class RecordedRules(RuleSet):
    """The rules that a stream had. Where others took over, they take over here."""

    def __init__(self, header: TrackLogHeader) -> None:
        super().__init__(with_rules(recorded_config(header)), header.labels, attributes=header.attributes)
        self._header = header

    def follow(self, frame: LoggedTracks) -> None:
        """Before a frame is stepped. Raises :class:`DataError` for rules that are none."""
        switched = frame.switched
        if switched is None:
            return
        try:
            config = recorded_config(self._header.model_copy(update={"rules": switched["rules"]}))
        except UsageError as e:
            raise DataError(f"the track log changes its rules at {frame.t:.3f} s: {e.message}") from e
        phase: Literal["applied", "reverted"] = "reverted" if switched["phase"] == "reverted" else "applied"
        self.succeed(
            self.prepare(with_rules(config), switched["told"], after_s=switched["after_s"], phase=phase)
        )


def with_rules(config: PipelineConfig) -> RulesConfig:
    """The configuration of a kind that has rules (:func:`recorded_config` makes sure)."""
    assert isinstance(config, RulesConfig)
    return config
