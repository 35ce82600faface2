"""One output sink: results on stdout, messages on stderr, JSON of everything that a command may return."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest

from edgectl.cli._printer import Printer, plain, table
from edgectl.cli.views.run import describe
from edgectl.core.errors import UsageError
from edgectl.core.states import State
from edgectl.core.wire import Frames


@dataclasses.dataclass(frozen=True)
class Sample:
    path: Path
    state: State
    frames: Frames
    numbers: tuple[float, ...]


SAMPLE = Sample(
    Path("a/b"), State.COMMITTED, Frames(captured=2, dropped={"stale": 1}), (1.0, np.float32(0.5))
)


def test_everything_becomes_json() -> None:
    assert json.loads(json.dumps(plain(SAMPLE))) == {
        "path": "a/b",
        "state": "committed",
        "frames": {"captured": 2, "processed": 0, "in_flight": 0, "dropped": {"stale": 1}},
        "numbers": [1.0, 0.5],
    }


def test_json_goes_to_stdout_alone_and_talk_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    out = Printer(True)
    out.say("hello")
    with out.progress() as update:
        update("working", 0.5)
    out.result(SAMPLE, "text")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["state"] == "committed"
    assert captured.err == ""


def test_text_goes_to_stdout_and_talk_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    out = Printer(False)
    out.say("hello")
    out.result(SAMPLE, "the result [with brackets] and :end: words")
    captured = capsys.readouterr()
    assert captured.out == "the result [with brackets] and :end: words\n"
    assert captured.err == "hello\n"


def test_what_is_to_be_copied_stands_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    out = Printer(False)
    link = "http://127.0.0.1:8765/enter/" + "x" * 200
    out.say(f"a link: {link}", whole=True)
    out.say(f"a link: {link}")
    whole, *broken = capsys.readouterr().err.splitlines()
    assert whole == f"a link: {link}"
    assert len(broken) > 1


def test_an_error_is_one_sentence_and_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(False).fail(UsageError("there is no [thing]", hint="pip install 'edgectl[thing]'"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["error: there is no [thing]", "next: pip install 'edgectl[thing]'"]


def test_failure_after_a_result_leaves_one_json_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out = Printer(True)
    out.result({"sound": False})
    out.fail(UsageError("it is damaged"))
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"sound": False}
    assert captured.err == "error: it is damaged\n"
    Printer(True).fail(UsageError("no result"))
    assert json.loads(capsys.readouterr().out)["error"]["message"] == "no result"


def test_tables_are_not_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    t = table("name", ">value")
    t.add_row("x" * 60, "1")
    t.add_row("y" * 60, "edgectl[builder]")
    Printer(False).result(None, t)
    captured = capsys.readouterr()
    assert "x" * 60 in captured.out
    assert "edgectl[builder]" in captured.out


@pytest.mark.parametrize("columns", ["", "0", "wide", "-80"])
def test_a_width_that_is_no_number_is_no_failure(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    Printer(False).result({}, lambda: "x" * 130)
    assert capsys.readouterr().out == "x" * 130 + "\n"


def test_an_event_of_a_recording_is_shown_with_its_place_and_a_live_one_with_the_time_of_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    event = {"type": "zone", "phase": "enter", "t_s": 7384.5674, "time": None, "clock": "pts"}
    assert describe(event).plain.startswith("2:03:04.567  zone enter")
    assert describe(event | {"t_s": 0.0}).plain.startswith("0:00:00.000  ")
    assert describe(event | {"t_s": 59.9999}).plain.startswith("0:01:00.000  ")
    live = describe(event | {"t_s": 1758.65, "time": 1_795_878_000.25, "clock": "arrival"}).plain
    assert live.startswith("2026-11-28 16:00:00.250  zone enter")
    assert "1758" not in live
    monkeypatch.undo()
    time.tzset()
