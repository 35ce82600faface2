"""The script that makes the pictures of the README: what a program writes to a terminal is what the picture shows."""

from __future__ import annotations

import importlib.util
import re
import sys
from html import unescape
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "make.py"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_pictures"] = module
    spec.loader.exec_module(module)
    return module


def lines(picture: str) -> list[str]:
    """The text of each line of a picture, without trailing blanks."""
    found: dict[str, str] = {}
    for y, text in re.findall(r"<text [^>]*y=\"([\d.]+)\"[^>]*>([^<]*)</text>", picture):
        found[y] = found.get(y, "") + unescape(text).replace("\N{NO-BREAK SPACE}", " ")
    return [found[y].rstrip() for y in sorted(found, key=float)]


def test_a_program_sees_a_terminal_of_the_width_that_was_asked_for(make: ModuleType, tmp_path: Path) -> None:
    said = "import os, sys; print(os.get_terminal_size().columns, sys.stdout.isatty()); print('e', file=sys.stderr)"
    assert make.run_in_terminal([sys.executable, "-c", said], 97, tmp_path) == "97 True\n"


def test_a_program_that_fails_makes_no_picture(make: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        make.run_in_terminal([sys.executable, "-c", "raise SystemExit(3)"], 80, tmp_path)


def test_picture_has_every_letter_and_wraps_like_a_terminal(make: ModuleType) -> None:
    picture = make.svg("\n\x1b[1mhead\x1b[0m\n0123456789abc <&>\n\nend\n\n", 10, "title")
    assert [line for line in lines(picture) if line != "title"] == [
        "head",
        "0123456789",
        "abc <&>",
        "",
        "end",
    ]


def test_picture_has_colours_and_loads_nothing_from_the_network(make: ModuleType) -> None:
    plain, red = make.svg("word", 10, "t"), make.svg("\x1b[31mword\x1b[0m", 10, "t")
    assert plain != red
    assert "@font-face" not in red
    assert re.findall(r"https?://(?!www\.w3\.org|www\.textualize\.io)", red) == []
