"""Which rows of a page of faults hold today? Each row is tried over the real product, as a user would.

    python bench/cases.py FOLDER [--only WORD ...] [--json]

FOLDER holds ``README.md`` with tables ``| input | seen | right |`` and the files they name. Each row, and
each point under a table, has a check in ``cases_builder.py``, ``cases_video.py``, ``cases_audio.py``,
``cases_fleet.py`` or ``cases_rollout.py``; a row that has none is told as *not checked*, and one whose right
value names a later issue as *later*. Exits 1 unless every other row holds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases_common import Check, Outcome, Place

AREAS = ("builder", "speed", "video", "audio", "fleet", "rollout", "credentials")
LATER = re.compile(r"\((?:scenarios|fleet|video|builder) issue\)")


@dataclass(frozen=True)
class Row:
    section: str
    name: str
    right: str


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name has one of these words")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    folder = a.folder.resolve()
    rows = rows_of((folder / "README.md").read_text())
    checks = checks_of_all()
    listed = {row.name for row in rows}
    points = [Row("Points under the tables", name, "") for name in checks if name not in listed]
    results = []
    for row in rows + points:
        if a.only and not any(word in row.name for word in a.only):
            continue
        state, figure = verdict(row, checks.get(row.name), folder)
        results.append(
            {"section": row.section, "input": row.name, "right": row.right, "now": state, "figure": figure}
        )
        if not a.json:
            print(f"{state:12} {row.name}: {figure}", file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2) if a.json else table(results))
    return 0 if all(r["now"] in ("held", "later") for r in results) else 1


def rows_of(page: str) -> list[Row]:
    """The rows of every table of the page, in its order; the name is the first cell as it stands there."""
    rows: list[Row] = []
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:].split(" (")[0]
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if len(cells) == 3 and cells[1] != "seen" and not set(cells[0]) <= set("-: "):
                rows.append(Row(section, cells[0], cells[2].removesuffix(" |")))
    return rows


def checks_of_all() -> dict[str, Check]:
    checks: dict[str, Check] = {}
    for area in AREAS:
        if (Path(__file__).parent / f"cases_{area}.py").exists():
            checks.update(importlib.import_module(f"cases_{area}").CHECKS)
    return checks


def verdict(row: Row, check: Check | None, folder: Path) -> tuple[str, str]:
    if check is None:
        return ("later", "") if LATER.search(row.right) else ("not checked", "")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgectl-case-") as out:
        try:
            outcome = check(Place(folder, Path(__file__).resolve().parents[1], Path(out)))
        except subprocess.TimeoutExpired as e:
            outcome = Outcome(False, f"no end after {e.timeout:.0f} s")
        except Exception as e:  # a check that breaks is a row that does not hold
            traceback.print_exc()
            outcome = Outcome(False, f"{type(e).__name__}: {e}")
    return "held" if outcome.held else "not held", f"{outcome.figure} ({time.monotonic() - started:.0f} s)"


def table(results: list[dict[str, str]]) -> str:
    lines = []
    section = None
    for r in results:
        if r["section"] != section:
            section = r["section"]
            lines += ["", f"## {section}", "", "| input | right | now |", "| --- | --- | --- |"]
        lines.append(
            f"| {r['input']} | {r['right']} | {r['now']}{': ' + r['figure'] if r['figure'] else ''} |"
        )
    counts = {
        state: sum(r["now"] == state for r in results)
        for state in ("held", "not held", "not checked", "later")
    }
    return "\n".join([*lines, "", ", ".join(f"{n} {state}" for state, n in counts.items())])


if __name__ == "__main__":
    sys.exit(main())
