"""Rules on recorded tracks: what the stream said comes out again, and what others would have said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgectl.core.errors import DataError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.replay import open_track_log, recorded_config, replay, with_rules
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.rules import RuleSet, Successor
from edgectl.pipelines.rules.observation import Wall
from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.sinks.tracklog import TrackLog, TrackLogHeader
from edgectl.pipelines.stream.events import EventWriter
from edgectl.pipelines.stream.frame import Stamp
from edgectl.pipelines.video.tracker import Tracks

RULES: dict[str, Any] = {
    "zones": {"yard": {"polygon": [0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8]}},
    "rules": [{"id": "gate", "line": [0.5, 1, 0.5, 0]}],
}


def walk(frames: int = 80) -> Iterator[tuple[Tracks, Stamp]]:
    """A person who crosses a picture of 1000 × 1000 from left to right in 8 s."""
    for i in range(frames):
        x = 1000 * i / frames
        box = np.array([[x - 20, 460, x + 20, 540]], np.float32)
        yield (
            Tracks(
                np.array([1]),
                box,
                np.array([0.9], np.float32),
                np.array([0], np.int32),
                np.array([True]),
                1000,
                1000,
            ),
            Stamp(i, i * 100_000_000, 0, None, 1_700_000_000 * 10**9, "arrival"),
        )


def write_log(folder: Path, kind: str = "surveillance", rules: dict[str, Any] | None = None) -> Path:
    header = TrackLogHeader(
        kind=kind, stream="gate", labels=("person",), rules=RULES if rules is None else rules
    )
    log = TrackLog(folder / "tracks.jsonl", header)
    for tracks, stamp in walk():
        log.write(StreamOutput((), None, tracks, stamp))
    log.close()
    return folder / "tracks.jsonl"


def said(path: Path, *configs: PipelineConfig | None) -> list[list[dict[str, Any]]]:
    with open_track_log(path) as log:
        chosen = [config or recorded_config(log.header) for config in configs]
        length, found = replay(log, chosen)
    assert (length.frames, length.seconds) == (80, pytest.approx(7.9))
    return [one.records for one in found]


def test_the_recorded_rules_say_the_same_again_to_the_byte(tmp_path: Path) -> None:
    path = write_log(tmp_path)
    (first,), (second,) = said(path, None), said(tmp_path, None)
    assert json.dumps(first) == json.dumps(second)
    assert [r["type"] for r in first] == [
        "tracked_object",
        "zone",
        "tracked_object",
        "line_crossing",
        "zone",
        "tracked_object",
    ]
    crossing = first[3]
    assert (crossing["rule"], crossing["direction"], crossing["stream"]) == ("gate", "in", "gate")
    assert crossing["time"] == pytest.approx(1_700_000_000 + crossing["t_s"])


def test_other_rules_are_asked_of_the_same_tracks(tmp_path: Path) -> None:
    other = parse_config("surveillance", {"rules": [{"id": "far", "line": [0.9, 1, 0.9, 0]}]})
    before, now = said(write_log(tmp_path), None, other)
    assert {r["rule"] for r in before if "rule" in r} == {"gate", "yard"}
    assert [r["rule"] for r in now if "rule" in r] == ["far"]


def test_rules_with_hours_know_the_time_of_day_of_the_recording(tmp_path: Path) -> None:
    night = {"id": "night", "intrusion": {"zone": "yard", "when": "00:00-24:00"}}
    other = parse_config("surveillance", {"zones": RULES["zones"], "rules": [night]})
    (now,) = said(write_log(tmp_path), other)
    assert [(r["type"], r["phase"]) for r in now if r.get("rule") == "night"] == [
        ("intrusion", "start"),
        ("intrusion", "end"),
    ]


def test_a_class_that_the_model_did_not_know_is_named(tmp_path: Path) -> None:
    other = parse_config(
        "surveillance", {"rules": [{"id": "far", "line": [0.9, 1, 0.9, 0], "classes": ["horse"]}]}
    )
    with pytest.raises(UsageError, match="horse"):
        said(write_log(tmp_path), other)


def test_what_cannot_be_replayed_is_said(tmp_path: Path) -> None:
    with (
        open_track_log(write_log(tmp_path, "driving", {})) as log,
        pytest.raises(UsageError, match="driving"),
    ):
        recorded_config(log.header)
    with (
        open_track_log(write_log(tmp_path, "knitting", {})) as log,
        pytest.raises(UsageError, match="knitting"),
    ):
        recorded_config(log.header)
    bad = write_log(tmp_path, rules={"rules": [{"id": "x", "line": [1]}]})
    with open_track_log(bad) as log, pytest.raises(UsageError, match="configuration in the track log"):
        recorded_config(log.header)


def test_a_log_that_is_cut_off_names_its_line(tmp_path: Path) -> None:
    path = write_log(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="line 81"):
        said(path, None)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tracks\.jsonl"), open_track_log(tmp_path):
        pass


def test_what_was_switched_while_it_ran_is_switched_in_the_replay(tmp_path: Path) -> None:
    night = {"id": "night", "intrusion": {"zone": "yard", "armed": False}}
    header = TrackLogHeader(
        kind="surveillance",
        stream="gate",
        labels=("person",),
        rules={"zones": RULES["zones"], "rules": [night]},
    )
    log = TrackLog(tmp_path / "tracks.jsonl", header)
    for i, (tracks, stamp) in enumerate(walk()):
        switch = {"type": "switch", "rule": "night", "on": i == 40}
        log.write(StreamOutput((switch,) if i in (40, 50) else (), None, tracks, stamp))
    log.close()
    other = parse_config("surveillance", {"rules": [{"id": "night", "line": [0.9, 1, 0.9, 0]}]})
    recorded, without_a_switch = said(tmp_path, None, other)
    told = [(r["type"], r.get("phase"), r["t_s"]) for r in recorded if r.get("rule") == "night"]
    assert told == [
        ("switch", None, 4.0),
        ("intrusion", "start", 4.0),
        ("switch", None, 5.0),
        ("intrusion", "end", 5.0),
    ]
    assert [r["type"] for r in without_a_switch if r.get("rule") == "night"] == ["line_crossing"]


def write_changed_log(folder: Path, *, last_kib: int | None = None) -> list[dict[str, Any]]:
    """The log of a stream whose rules are changed while it runs, and the events that it told."""
    labels = ("person",)
    live = RuleSet(with_rules(parse_config("surveillance", RULES)), labels)
    log = TrackLog(
        folder / "tracks.jsonl",
        TrackLogHeader(kind="surveillance", stream="gate", labels=labels, rules=RULES),
        last_kib=last_kib,
    )
    said: list[dict[str, Any]] = []
    writer = EventWriter("gate")
    prepared: Successor | None = None
    other = with_rules(parse_config("surveillance", OTHER))
    for i, (tracks, stamp) in enumerate(walk()):
        if i == 33:
            assert prepared is not None
            live.succeed(prepared)
        if i == 60:
            live.reset("gate")
        events = live.step(tracks, stamp.t_s, wall=Wall.of(stamp))
        records = tuple(writer.record(event, stamp) for event in events)
        said += records
        switched = None if live.switched is None else asdict(live.switched)
        log.write(StreamOutput(records, None, tracks, stamp, switched=switched))
        if i == 30:
            prepared = live.prepare(other, {"digest": "sha256:1"})
    log.close()
    return said


OTHER: dict[str, Any] = {
    "zones": {"yard": {"polygon": [0.2, 0.2, 0.9, 0.2, 0.9, 0.8, 0.2, 0.8]}},
    "rules": [
        {"id": "gate", "line": [0.7, 1, 0.7, 0]},
        {"id": "lurk", "loiter": {"zone": "yard", "seconds": 1}},
    ],
}


def test_a_log_whose_rules_changed_on_the_way_says_the_same_again_to_the_byte(tmp_path: Path) -> None:
    live = write_changed_log(tmp_path)
    with open_track_log(tmp_path) as log:
        length, (one,) = replay(log, [None])
    assert length.switched_s == (3.3,)
    assert json.dumps(one.records) == json.dumps(live)
    types = [(r["type"], r.get("phase")) for r in live]
    assert ("configuration", "applied") in types
    assert ("loitering", "start") in types
    assert [r["rule"] for r in live if r["type"] == "line_crossing"] == ["gate"]


def test_rules_that_somebody_asks_about_hold_for_the_whole_log(tmp_path: Path) -> None:
    write_changed_log(tmp_path)
    with open_track_log(tmp_path) as log:
        _, (now,) = replay(log, [parse_config("surveillance", RULES)])
    assert "configuration" not in {event.type for event in now.events}


def test_a_bounded_log_begins_with_the_rules_that_are_in_force(tmp_path: Path) -> None:
    short = tmp_path / "short"
    write_changed_log(short, last_kib=64)
    path = short / "tracks.jsonl"
    log = TrackLog(
        path, TrackLogHeader(kind="surveillance", stream="gate", labels=("person",), rules=RULES), last_kib=64
    )
    for number in range(12):
        for tracks, stamp in walk():
            stamp = replace(stamp, t_ns=stamp.t_ns + number * 10_000_000_000)
            switched = (
                {"rules": OTHER, "after_s": 0.0, "told": {}, "phase": "applied"}
                if number == 1 and stamp.seq == 1
                else None
            )
            log.write(StreamOutput((), None, tracks, stamp, switched=switched))
    log.close()
    with open_track_log(path) as found:
        assert found.header.rules == OTHER
        assert all(frame.switched is None for frame in found.frames)


@pytest.mark.parametrize(
    ("switched", "words"),
    [
        ({"rules": {"zones": 3}, "after_s": 0, "told": {}, "phase": "applied"}, "changes its rules at 9"),
        ({"rules": {}, "told": {}, "phase": "applied"}, "line 82 of the track log is not a track record"),
        (7, "line 82 of the track log is not a track record"),
    ],
)
def test_a_change_that_is_none_is_damage(tmp_path: Path, switched: Any, words: str) -> None:
    path = write_log(tmp_path)
    last = json.loads(path.read_text().splitlines()[-1])
    with path.open("a") as file:
        file.write(json.dumps(last | {"t": 9.0, "switched": switched}) + "\n")
    with open_track_log(path) as log, pytest.raises(DataError, match=words):
        replay(log, [None])


def test_the_folder_of_several_streams_names_those_that_have_a_log(tmp_path: Path) -> None:
    for name in ("yard", "gate"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tracks.jsonl").touch()
    (tmp_path / "hall").mkdir()
    with pytest.raises(UsageError, match="cannot read") as caught, open_track_log(tmp_path):
        pass
    assert "gate, yard" in str(caught.value.hint)
    assert "hall" not in str(caught.value.hint)
