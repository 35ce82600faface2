"""What ``edgectl run`` shows in a terminal: fits its width, and ends with a summary."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from edgectl.cli.views.run import LiveTable, event_line
from edgectl.core.histogram import Histogram
from edgectl.core.wire import Frames, StreamStats
from edgectl.pipelines.view.rolling import RollingStats

EVENT = {
    "schema": "edgectl.event/1",
    "id": "1",
    "type": "line_crossing",
    "stream": "gate",
    "seq": 3,
    "t_s": 5.0,
    "time": 1.7e9,
    "clock": "rtcp",
    "rule": "gate-in",
    "latency_ms": 4.0,
    "releases": {},
    "track": 7,
    "label": "person",
    "score": 0.9,
    "box": [1, 2, 3, 4],
    "frame_size": [640, 360],
    "zones": [],
    "because": {"what": "beyond the line"},
    "direction": "in",
}


def stats(**more: Any) -> StreamStats:
    h = Histogram()
    for i in range(700):
        h.record(5000 + i)
    dropped = {"superseded": 1234, "stale": 56, "deadline": 7}
    frames = Frames(captured=10**6, processed=998_703, dropped=dropped)
    stages = {"avail_to_event": h.data(), "engine": h.data()}
    return StreamStats(kind="surveillance", stages=stages, frames=frames, fps=14.96, **more)


def lines(table: LiveTable, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 140, 200])
def test_the_table_fits_and_leaves_room_for_what_a_terminal_writes_behind_it(width: int) -> None:
    table = LiveTable()
    table.update("a-camera-with-a-very-long-name-behind-the-gate", stats(), 0.4, 1.0)
    table.update("gate", stats(state="outage", reason="connection_refused"), None, 1.0)
    shown = lines(table, width)
    assert len(shown) == 3
    assert max(map(len, shown)) <= width - 3
    if width >= 80:
        assert "15.0" in shown[1]
        assert "998,703" in shown[1]
        assert "40%" in shown[1]
        assert "outage" in shown[2]
        assert "1,234 su" in shown[1]
    if width >= 140:
        assert "1,234 superseded, 56 stale, 7 deadline" in shown[1]
        assert "outage: connection_refused" in shown[2]
        assert "5.7" in shown[1], "the 99th percentile"


def test_a_stream_that_failed_before_its_first_frame_has_a_row_that_says_so() -> None:
    table = LiveTable()
    table.update("gate", stats(), None, 1.0)
    table.mark("dead", "surveillance", "failed")
    assert lines(table, 80)[2].split()[:2] == ["dead", "failed"]


def test_the_table_follows_the_width_of_the_terminal() -> None:
    table = LiveTable()
    table.update("gate", stats(), None, 1.0)
    assert "engine" in lines(table, 140)[0]
    assert "engine" not in lines(table, 80)[0]


def test_names_and_states_are_whole_where_there_is_room_and_a_state_before_a_name() -> None:
    table = LiveTable()
    table.update("loading-dock-north", StreamStats(kind="surveillance"), None, 1.0)
    table.update("gate", StreamStats(kind="surveillance", state="outage", reason="refused"), None, 1.0)
    assert "loading-dock-north  running" in lines(table, 100)[1]
    assert "outage: refused" in lines(table, 70)[2]
    assert lines(table, 70)[1].split()[0].endswith("…")


@pytest.mark.parametrize(
    ("phase", "available", "said"),
    [
        ("start", False, "gate  source is away  reason=refused"),
        ("end", True, "gate  source is back  reason=refused"),
        (None, True, "gate  source  reason=refused"),
    ],
)
def test_what_is_away_and_what_is_back_is_said_in_words(
    phase: str | None, available: bool, said: str
) -> None:
    event = {"type": "capability", "stream": "gate", "seq": 0, "t_s": 0.0, "time": 1.7e9, "id": "1"}
    event |= {"phase": phase} if phase else {}
    event |= {"name": "source", "available": available, "reason": "refused"}
    assert event_line(event, several=True).plain.partition("  ")[2] == said


def test_an_event_says_its_clock_time_first_and_why_last() -> None:
    text = event_line(EVENT, several=False).plain
    assert re.match(r"\d\d:\d\d:\d\d\.000  line_crossing gate-in  track=7", text)
    assert text.endswith("  because beyond the line")
    assert "direction=in" in text
    assert "box" not in text
    assert "zones" not in text
    assert event_line(EVENT, several=True).plain.split("  ")[1] == "gate"
    assert event_line({**EVENT, "time": None}, several=False).plain.startswith("0:00:05.000  ")


def test_what_a_second_stage_decided_is_a_word_and_no_table() -> None:
    decided = {"gear": {"value": "no-helmet", "score": 0.91}, "label": {"value": "hidden", "score": 0.5}}
    text = event_line({**EVENT, "attributes": decided}, several=False).plain
    assert "  gear=no-helmet" in text
    assert "hidden" not in text
    assert "attributes" not in text


@pytest.mark.parametrize(
    ("because", "said"),
    [
        ({"what": "stayed", "value": 7.09, "limit": 4.0, "unit": "s"}, "because stayed 7.09 s (limit 4 s)"),
        (
            {"what": "in the zone", "value": 3, "limit": 2, "unit": "objects"},
            "because in the zone 3 objects (limit 2 objects)",
        ),
        (
            {"what": "height over width", "value": 0.5, "limit": 1.0, "unit": ""},
            "because height over width 0.5 (limit 1)",
        ),
        ({"what": "not seen", "value": 1.25, "limit": None, "unit": "s"}, "because not seen 1.25 s"),
    ],
)
def test_why_an_event_came_reads_as_a_sentence(because: dict[str, Any], said: str) -> None:
    assert event_line({**EVENT, "because": because}, several=False).plain.endswith(said)


def test_rows_come_with_the_first_window() -> None:
    assert RollingStats().now() is None
    assert lines(LiveTable(), 80)[0].split() == [
        "stream",
        "state",
        "fps",
        "p50",
        "p95",
        "p99",
        "frames",
        "dropped",
    ]


class Terminal:
    """``edgectl run`` of an endless source in a terminal of its own."""

    def __init__(self, bundle: Path, columns: int, *more: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        source = "synth://yard?seed=3&fps=10&width=320&height=192"
        command = [
            sys.executable,
            "-m",
            "edgectl.cli",
            "run",
            "surveillance",
            "-b",
            str(bundle),
            "-s",
            source,
        ]
        environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")} | {
            "TERM": "xterm"
        }
        self._process = subprocess.Popen(
            [*command, *more], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
        )
        os.close(theirs)
        self.written = b""

    def until(self, pattern: bytes) -> None:
        while not re.search(pattern, self.written):
            self._read()

    def end(self) -> int:
        """Its exit code, with all that it wrote."""
        try:
            while True:
                self._read()
        except OSError:  # Linux: nobody has the other end any more
            pass
        os.close(self._ours)
        return self._process.wait(30)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def _read(self) -> None:
        self.written += os.read(self._ours, 65536)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_ends_in_good_order_with_its_summary(bundle: Path, number: int) -> None:
    terminal = Terminal(bundle, 80)
    terminal.until(rb"running")
    terminal.signal(number)
    assert terminal.end() == 128 + number
    assert re.search(rb"frames: \d+ captured, \d+ processed", terminal.written)
    assert b"Traceback" not in terminal.written


@pytest.mark.slow
def test_with_json_an_interrupted_run_gives_its_one_object(bundle: Path) -> None:
    terminal = Terminal(bundle, 80, "--json", "--view")
    terminal.until(rb"watch live: http://127.0.0.1:\d+/")
    port = int(re.findall(rb"127.0.0.1:(\d+)", terminal.written)[0])

    for _ in range(200):
        if httpx.get(f"http://127.0.0.1:{port}/streams/run/picture.jpg", timeout=30).status_code == 200:
            break
    with httpx.stream("GET", f"http://127.0.0.1:{port}/events", timeout=30) as answer:
        next(line for line in answer.iter_lines() if '"fps"' in line)  # numbers: it runs
    terminal.signal(signal.SIGINT)
    assert terminal.end() == 130
    assert b'"kind": "surveillance"' in terminal.written
    assert b"\x1b[" not in terminal.written.split(b"watch live", 1)[1].split(b"{", 1)[1]
