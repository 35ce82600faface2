"""One word for one thing: what ``docs/glossary.md`` says holds in code, commands and documents."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
PRODUCT = sorted(
    path
    for path in ROOT.glob("*/edgectl/**/*")
    if path.suffix in {".py", ".toml", ".html"} and path.relative_to(ROOT).parts[0] not in {".venv", "build"}
)
# Decisions and the list of changes tell what was: they may use the words of their time.
DOCS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "systemd" / "README.md"]
DOCS.remove(ROOT / "CHANGELOG.md")
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__).resolve())
BENCHES = sorted((ROOT / "bench").glob("*.py"))


def found(pattern: str, paths: list[Path], *, unless: str | None = None) -> list[str]:
    """``file:line: match`` of a pattern, without regard to case, in files that do not contain ``unless``."""
    hits = []
    for path in paths:
        text = path.read_text("utf-8")
        if unless is not None and re.search(unless, text):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := re.search(pattern, line, re.IGNORECASE):
                hits.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    return hits


def rows() -> list[tuple[str, str, str]]:
    """Word, meaning and link of each line of the glossary."""
    lines = [line for line in GLOSSARY.read_text("utf-8").splitlines() if line.startswith("| ")]
    made = []
    for line in lines[2:]:
        word, meaning, link = (cell.strip() for cell in line.strip("|").split("|"))
        made.append((word, meaning, link))
    return made


def test_words_and_files_are_there() -> None:
    """An empty list would let every test below pass."""
    assert len(PRODUCT) > 200
    assert len(DOCS) > 10
    assert len(TESTS) > 100
    assert len(rows()) > 30


def test_the_glossary_is_in_order_and_names_each_word_once() -> None:
    words = [word for word, _, _ in rows()]
    assert words == sorted(set(words))


def test_each_word_of_the_glossary_has_one_line_and_a_link() -> None:
    without = [
        word for word, meaning, link in rows() if not meaning or not re.fullmatch(r"\[.+\]\(.+\)", link)
    ]
    assert without == []


@pytest.mark.parametrize("word", ["bundle", "engine", "golden", "part", "plan", "preference", "role", "slot"])
def test_the_words_that_were_mistaken_for_others_are_explained(word: str) -> None:
    assert word in {row[0] for row in rows()}


def test_preferences_of_the_glossary_are_those_of_a_bundle() -> None:
    from typing import get_args

    from edgectl.core.bundle import Preference

    meaning = next(meaning for word, meaning, _ in rows() if word == "preference")
    assert tuple(re.findall(r"`([\w-]+)`", meaning)) == get_args(Preference)


def test_a_role_is_one_of_signed_metadata() -> None:
    """What a pipeline needs an engine for is a part; which variant a device wants is a preference."""
    assert found(r"\broles?\b(?!=)", [*PRODUCT, *DOCS], unless=r"TUF|metadata|trust\.") == []


def test_golden_are_samples() -> None:
    """The engine that a slot came with is its factory one."""
    wrong = r"golden[ _](?:engine|slot|release|variant|bundle)"
    assert found(wrong, [*PRODUCT, *DOCS, *TESTS, *BENCHES]) == []


def test_a_plan_is_what_tensorrt_compiles() -> None:
    """A rollout decides and is previewed; the builder has variants."""
    assert found(r"\bplans?\b", DOCS, unless="TensorRT") == []
    assert found(r"\b(?:rollout|build|search|canary)[ _]plans?\b", [*PRODUCT, *DOCS]) == []


def test_classes_called_plan_are_about_tensorrt() -> None:
    found = {name: files for name, files in classes().items() if re.search(r"Plan(?!n)", name)}
    assert found, "shared plans have classes"
    assert [
        f"{name} in {path}"
        for name, files in found.items()
        for path in files
        if "TensorRT" not in (ROOT / path).read_text("utf-8")
    ] == []


def test_a_class_name_stands_once() -> None:
    """``Histogram`` is one thing, wherever it is read."""
    assert {name: files for name, files in classes().items() if len(files) > 1} == {}


def classes() -> dict[str, list[str]]:
    """Class name → files that define one, inner classes too."""
    made: dict[str, list[str]] = defaultdict(list)
    for path in PRODUCT:
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    made[node.name].append(str(path.relative_to(ROOT)))
    return made


def test_nothing_cites_a_paper_that_is_not_here() -> None:
    cited = r"\b(?:DESIGN|STYLE)\.md\b|\breference/[\w-]+\.md"
    assert found(cited, [*PRODUCT, *DOCS, *TESTS, *BENCHES]) == []


def test_documents_say_messages_not_talk() -> None:
    assert found(r"\btalk (?:is|goes|and)\b|\btalk on stderr\b", DOCS) == []
