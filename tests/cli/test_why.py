"""``edgectl why``: why the alarm rang, why it did not, and what is wrong with the question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.sinks.tracklog import TrackLog, TrackLogHeader
from edgectl.pipelines.stream.frame import Stamp
from edgectl.pipelines.video.tracker import Tracks

RULES = {
    "time_zone": "Europe/Berlin",
    "zones": {"yard": {"polygon": [0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8]}},
    "rules": [
        {"id": "lurk", "loiter": {"zone": "yard", "seconds": 5}},
        {"id": "night", "intrusion": {"zone": "yard", "armed": False}},
    ],
}
NOON = 1_700_046_000
"""12:00:00 on 2023-11-15 in Berlin, Unix seconds."""


def write(folder: Path, *, wall: bool = True) -> Path:
    """Object 1 stands in the yard from 0 s to 4 s, object 2 from 6 s to 15 s. The rule ``night`` is armed at 8 s."""
    writer = TrackLog(
        folder / "tracks.jsonl",
        TrackLogHeader(kind="surveillance", stream="gate", labels=("person",), rules=RULES),
    )
    for i in range(150):
        t = i / 10
        ids = [1] * (t < 4) + [2] * (t >= 6)
        box = np.array([[480, 420, 520, 500]] * len(ids), np.float32).reshape(-1, 4)
        n = len(ids)
        one = Tracks(
            np.array(ids, np.int64),
            box,
            np.full(n, 0.9, np.float32),
            np.zeros(n, np.int32),
            np.ones(n, np.bool_),
            1000,
            1000,
        )
        records = ({"type": "switch", "rule": "night", "on": True},) if i == 80 else ()
        stamp = Stamp(i, i * 100_000_000, 0, None, NOON * 10**9 if wall else None)
        writer.write(StreamOutput(records, None, one, stamp))
    writer.close()
    return folder


def call(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["why", *map(str, words)], env={"COLUMNS": "140"})


def answer(*words: str | Path) -> list[dict[str, Any]]:
    result = call(*words, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    found: list[dict[str, Any]] = json.loads(result.stdout)["explanations"]
    return found


def test_why_it_rang(tmp_path: Path) -> None:
    result = call(write(tmp_path), "12:00:12", "--rule", "lurk")
    assert result.exit_code == 0, (result.output, result.exception)
    lines = [line.strip() for line in result.output.splitlines() if line.strip()]
    assert lines == [
        "12:00:11.000  lurk told loitering start: person 2 at 0.50,0.50",
        "yes  in zone yard: 300 px deep since 12:00:06.000",
        "yes  stayed: 5 s, limit 5 since 12:00:06.000",
    ]


def test_why_it_did_not_ring(tmp_path: Path) -> None:
    result = call(write(tmp_path), "12:00:03", "--rule", "lurk", "--track", "1", "--within", "1")
    assert result.exit_code == 0, (result.output, result.exception)
    # of the frames that were looked at it is the last one of object 1: nearest to the alarm
    assert "12:00:03.900  lurk told nothing: person 1" in result.output
    assert "stayed: 3.9 s, limit 5 since 12:00:00.000: failed first" in result.output


def test_an_event_is_asked_about_by_its_id(tmp_path: Path) -> None:
    write(tmp_path)
    event = {"id": "1700046011.000000-000004", "type": "loitering", "rule": "lurk", "t_s": 11.0, "track": 2}
    (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n" + '{"id": "cut o')
    (one,) = answer(tmp_path, "1700046011.000000-000004")
    assert (one["rule"], one["track"], one["t_s"], one["told"]) == ("lurk", 2, 11.0, ["loitering start"])
    assert all(predicate["holds"] for predicate in one["asked"])


def test_a_rule_that_was_switched_on_from_outside_is_right_in_the_replay(tmp_path: Path) -> None:
    write(tmp_path)
    (before,) = answer(tmp_path, "7", "--rule", "night", "--within", "0.5")
    assert (before["failed_first"], before["track"]) == ("armed", None)
    found = answer(tmp_path, "8", "--rule", "night", "--within", "0.5")
    assert (found[0]["told"], found[0]["track"], found[0]["t_s"]) == (["intrusion start"], 2, 8.0)


def test_in_a_file_a_clock_time_is_a_place(tmp_path: Path) -> None:
    result = call(write(tmp_path, wall=False), "0:11", "--rule", "lurk")
    assert "0:00:11.000  lurk told loitering start: person 2" in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("13:00",), "no frame at 13:00"),
        (("25:00",), "no time of day"),
        (("99",), "no frame at 99.000 s"),
        (("noon",), "no time"),
        (("12:00:11", "--rule", "lurc"), "no rule or zone 'lurc'"),
    ],
)
def test_a_wrong_question_is_one_sentence(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    result = call(write(tmp_path), *words)
    assert result.exit_code != 0
    assert says in str(result.exception)
