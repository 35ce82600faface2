"""The tables of docs/configuration.md are those of the things themselves, and say what every setting means."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import UsageError
from edgectl.pipelines.decoders import DECODERS
from edgectl.pipelines.host.reference import page, tables
from edgectl.pipelines.kinds import KINDS
from edgectl.pipelines.rules import RULES
from edgectl.pipelines.sinks import SINKS
from edgectl.pipelines.sources import SOURCES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"


def test_the_tables_in_the_docs_are_current() -> None:
    text = PAGE.read_text("utf-8")
    assert text == page(text), "run: python -m edgectl.pipelines.host.reference docs/configuration.md"


@pytest.mark.parametrize("name", tables())
def test_every_setting_says_what_it_means(name: str) -> None:
    rows = [line for line in tables()[name].splitlines() if line.startswith("| `")]
    assert rows
    assert [row for row in rows if row.endswith("|  |")] == []


def test_everything_that_the_tables_of_the_code_name_is_there() -> None:
    found = tables()
    for name, table in (("kinds", KINDS), ("rules", RULES), ("sinks", SINKS), ("decoders", DECODERS)):
        assert all(f"\n| `{thing}` |" in found[name] for thing in table.own)
    assert all(f"{scheme}:" in found["sources"] for scheme in SOURCES.own)


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(UsageError, match="no place for the table of kinds"):
        page("# Configuration\n")
