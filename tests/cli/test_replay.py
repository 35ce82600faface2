"""``edgectl replay``: the table, the lists, the file, and what is wrong with the input."""

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

OTHER = """
rules:
  - {id: far, line: [0.9, 1, 0.9, 0]}
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    header = TrackLogHeader(
        kind="surveillance",
        stream="gate",
        labels=("person",),
        rules={"rules": [{"id": "mid", "line": [0.5, 1, 0.5, 0]}]},
    )
    writer = TrackLog(tmp_path / "tracks.jsonl", header)
    for i in range(80):
        box = np.array([[12 * i - 20, 460, 12 * i + 20, 540]], np.float32)
        one = Tracks(
            np.array([1]),
            box,
            np.array([0.9], np.float32),
            np.array([0], np.int32),
            np.array([True]),
            1000,
            1000,
        )
        writer.write(StreamOutput((), None, one, Stamp(i, i * 100_000_000, 0)))
    writer.close()
    return tmp_path


def call(*words: str | Path, columns: int = 140) -> Any:
    return CliRunner().invoke(app, ["replay", *map(str, words)], env={"COLUMNS": str(columns)})


def test_the_recorded_rules_say_the_same(log: Path) -> None:
    result = call(log)
    assert result.exit_code == 0, result.output
    assert "the same events" in result.output
    assert "80 frames, 0:07.900 of tracks" in result.output


@pytest.mark.parametrize("columns", [80, 140])
def test_other_rules_are_compared(log: Path, columns: int) -> None:
    (log / "other.yaml").write_text(OTHER)
    result = call(
        log / "tracks.jsonl", "--config", log / "other.yaml", "--out", log / "now.jsonl", columns=columns
    )
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "mid line_crossing 1 - 1 -" in words
    assert "far line_crossing - 1 - 1" in words
    assert "gone 0:00:0" in words
    assert "new 0:00:0" in words
    records = [json.loads(line) for line in (log / "now.jsonl").read_text().splitlines()]
    assert [r["rule"] for r in records if "rule" in r] == ["far"]


def test_json_lists_what_only_one_of_them_says(log: Path) -> None:
    (log / "other.yaml").write_text(OTHER)
    value = json.loads(call(log, "--config", log / "other.yaml", "--json").stdout)
    assert [r["rule"] for r in value["gone"]] == ["mid"]
    assert [r["rule"] for r in value["new"]] == ["far"]
    assert (value["stream"], value["frames"], value["seconds"]) == ("gate", 80, 7.9)


def test_a_wrong_configuration_is_one_sentence_and_writes_nothing(log: Path) -> None:
    (log / "bad.yaml").write_text("rules:\n  - {id: x, lien: [0, 0, 1, 1]}\n")
    result = call(log, "--config", log / "bad.yaml", "--out", log / "now.jsonl")
    assert result.exit_code != 0
    assert "lien" in str(result.exception)
    assert not (log / "now.jsonl").exists()
