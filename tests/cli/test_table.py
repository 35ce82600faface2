"""Tables lose no letter at any width, and break words only where a word may be broken."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import edgectl.cli
from edgectl.cli._printer import Printer, table
from edgectl.cli._table import column_widths, folded

DIGEST = "sha256:" + "0123456789abcdef" * 4
CELLS = (
    "gate-camera-north-entrance-0042",
    "gate-detector@1.12.0",
    "the engine does not reproduce its golden outputs: worst cosine 0.91; next: edgectl device rollback gate-1",
    "倉庫カメラ",
    "naïve Schlüsselwörter — 12,345",
    "committed",
    DIGEST,
    "2026-11-28 14:00:05",
    "",
)


def every_table() -> list[tuple[str, ...]]:
    """The headers of each table that the command line has, from its source."""
    files = [f for folder in edgectl.cli.__path__ for f in sorted(Path(folder).rglob("*.py"))]
    calls = (
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "table"
    )
    known = ([h.value if isinstance(h, ast.Constant) else "cpu/int8" for h in c.args] for c in calls)
    return sorted({tuple(map(str, headers)) for headers in known})


def printed(headers: tuple[str, ...], rows: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]) -> str:
    made = table(*headers)
    for row in rows:
        made.add_row(*row)
    Printer(False).result(None, made)
    return capsys.readouterr().out


def test_every_table_of_the_command_line_is_found() -> None:
    assert len(every_table()) > 25
    assert ("release", "type", "digest", "parts") in every_table()


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("headers", every_table(), ids=" ".join)
def test_a_table_loses_no_letter_and_breaks_words_only_where_one_may(
    headers: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [tuple(CELLS[(i + k) % len(CELLS)] for i in range(len(headers))) for k in range(len(CELLS))]
    said = printed(headers, rows, capsys)
    assert max(map(cell_len, said.splitlines())) <= width
    assert "…" not in said
    for word in {w for row in rows for cell in row for w in cell.split()}:
        pieces = re.split(r"(?<=\w[-@,])(?=\w)", word)
        assert word in said or all(piece in said for piece in pieces), word
    assert DIGEST in said or len(headers) == 1


def test_short_columns_stay_whole_where_a_long_text_can_give_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    hint = "set the clock if it is wrong; else renew the certificate of the device with the request it made"
    said = printed(("device", ">n", "note"), [("gate-camera-north-entrance-0042", "7", hint)], capsys)
    assert [line.rstrip() for line in said.splitlines()] == [
        "device                           n  note",
        "gate-camera-north-entrance-0042  7  set the clock if it is wrong; else renew the",
        "                                    certificate of the device with the request",
        "                                    it made",
    ]


def test_an_id_is_broken_behind_its_hyphens_where_that_takes_fewer_lines_than_a_heading_for_each_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "42")
    long, short = "gate-camera-north-entrance-0042", "gate-7"
    rows = [(name, "gate-detector", "committed") for name in (long, short, short, short)]
    assert [line.rstrip() for line in printed(("device", "slot", "state"), rows, capsys).splitlines()] == [
        "device            slot           state",
        "gate-camera-      gate-detector  committed",
        "north-entrance-",
        "0042",
        *["gate-7            gate-detector  committed"] * 3,
    ]
    assert printed(("device", "slot", "state"), rows[:1], capsys).splitlines() == [
        "gate-camera-north-entrance-0042",
        "  slot gate-detector  state committed",
    ]


def test_a_row_that_fits_in_no_columns_is_a_heading_with_whole_words_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [("gate-1", "gate-detector", "not before 02:00\nshadow 10 %", DIGEST, "")]
    assert printed(("device", "slot", "terms", "digest", "note"), rows, capsys).splitlines() == [
        "gate-1",
        "  slot gate-detector",
        "  terms not before 02:00",
        "    shadow 10 %",
        f"  digest {DIGEST}",
    ]


def test_numbers_stand_right_and_a_colour_stays() -> None:
    made = table("state", ">p50 ms")
    made.add_row(Text("failed", "red"), "1.25")
    console = Console(width=40, force_terminal=True, color_system="standard")
    with console.capture() as said:
        console.print(made)
    assert "\x1b[31mfailed\x1b[0m" in said.get()
    assert re.search(r"  1\.25 *$", said.get().splitlines()[-1])


def test_widths_are_shared_by_those_who_want_them() -> None:
    assert column_widths([["device", "gate-1"], ["note", "a b c d"]], 20) == [6, 7]
    assert column_widths([["a", "1"], ["note", "word " * 20], ["why", "word " * 20]], 31) == [1, 15, 15]
    assert column_widths([["gate-camera-17"], ["committed"]], 18) == [9, 9]
    assert column_widths([["gate-camera-17"], ["committed"]], 15) is None


def test_where_not_all_words_stay_whole_as_many_as_can_do_before_texts_get_room() -> None:
    columns = [["gate-camera-17"], ["y" * 10 + "-" + "y" * 20], ["word word word word"]]
    assert column_widths(columns, 39) == [14, 20, 5]


TEXTS = st.text(alphabet=st.sampled_from("ab -/@,_=\n倉é1"), max_size=60)


@given(TEXTS, st.integers(2, 30))
def test_folding_keeps_every_letter_within_the_width(text: str, width: int) -> None:
    lines = folded(text, width)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)
    assert all(cell_len(line) <= width for line in lines)
    for word in text.split():
        if cell_len(word) <= width:
            assert any(word in line for line in lines)
