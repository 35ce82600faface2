"""The matrix of what ``run.py`` wrote down, as a page of the documentation.

    python bench/architectures/page.py RESULTS.jsonl ... [--kept PAGE] > docs/architectures.md

Of an architecture that is in several files, the last one counts for each profile. PAGE is the page as it was: of
architectures that are in none of the files its rows and notes stay (results are large and lie where they were measured).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from table import ARCHITECTURES, Architecture

Row = dict[str, Any]
_LATE = 1.2
_BUSY = 1.0
_WIDE = 118
_COLUMNS = (
    "architecture",
    "from",
    "exporter",
    "builds",
    "TensorRT",
    "drop",
    "NVIDIA",
    "CPU int8",
    "÷ float",
    "s",
    "MiB",
)


@dataclass(frozen=True)
class Kept:
    """What a page says of architectures that were measured before. ``cells``: name → its row of the matrix."""

    cells: Mapping[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tracebacks: int = 0
    loads: tuple[float, ...] = ()
    minutes: tuple[str, ...] = ()

    @classmethod
    def of(cls, page: str, without: Iterable[str]) -> Kept:
        gone = set(without)
        names = {one.name for one in ARCHITECTURES} - gone
        rows = [
            [c.strip() for c in line.strip("| ").split(" | ")]
            for line in page.splitlines()
            if line.startswith("| ")
        ]
        flat = " ".join(page.split())
        notes = re.findall(
            r"\* (`[^`]+`: .*?)(?= \* `| Not tried yet|$)", flat.partition("## What is not simply yes")[2]
        )
        loads = re.search(r"load (\d+) to (\d+)", flat)
        return cls(
            {r[0]: r for r in rows if r[0] in names and len(r) == len(_COLUMNS)},
            tuple(n for n in notes if n.split("`")[1] in names),
            int(found[1]) if (found := re.search(r"tracebacks \| (\d+)", flat)) else 0,
            (float(loads[1]), float(loads[2])) if loads else (),
            tuple(found[1].split(" or ")) if (found := re.search(r"`--minutes ([^`]+)`", flat)) else (),
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--kept", type=Path)
    a = parser.parse_args()
    rows = [json.loads(line) for file in a.results for line in file.read_text().splitlines() if line]
    kept = Kept() if a.kept is None else Kept.of(a.kept.read_text(), {r["name"] for r in rows})
    print(page(rows, kept))
    return 0


def page(rows: Iterable[Row], kept: Kept = Kept()) -> str:
    """The whole page, in Markdown; every line at most 120 columns but those of the matrix, which are as long as they
    need."""
    gpu: dict[str, Row] = {}
    cpu: dict[str, Row] = {}
    for r in rows:
        profiles = r["profile"].split(",")
        if "jetson-orin" in profiles:
            gpu[r["name"]] = r
        if "cpu" in profiles:
            cpu[r["name"]] = r
    measured = [(one, gpu.get(one.name), cpu.get(one.name)) for one in ARCHITECTURES]
    measured = [x for x in measured if x[1] or x[2]]
    cells = {one.name: _cells(one, g, c) for one, g, c in measured}
    cells = {
        one.name: row for one in ARCHITECTURES if (row := cells.get(one.name) or kept.cells.get(one.name))
    }
    # one build of both profiles is one row
    every = list({id(r): r for _, g, c in measured for r in (g, c) if r is not None}.values())
    of = {column: i for i, column in enumerate(_COLUMNS)}
    builds = [row[of["builds"]] for row in cells.values()]
    asked = [row for row in cells.values() if row[of["NVIDIA"]] != "–"]
    graphs = [tuple(map(int, row[of["NVIDIA"]].split(" of "))) for row in asked]
    quantized = sum(row[of["TensorRT"]].startswith("int8") for row in asked)
    late = sum(r["seconds"] > _LATE * 60 * r["minutes"] for r in every)
    loads = [*(x for r in every for x in r["load"] if x is not None), *kept.loads]
    minutes = sorted({format(r["minutes"], "g") for r in every} | set(kept.minutes))
    busy = "; the machine was busy: times decide nothing here, and the builder says *undecided*"
    text = [
        "# Architectures",
        "",
        *_wrapped(
            "Made by `bench/architectures/`: `export.py` writes the models, `run.py` builds each in a process of its own as "
            "`edgectl build` would, `page.py` writes this page."
        ),
        "",
        *_wrapped(
            "Weights are random (those of the published models aside), and the builder sees 48 samples of noise. A *drop* is "
            "therefore what int8 changes of float's own answer (1 − cosine of the worst output), not a loss of accuracy. Random "
            "weights say nothing about what trained ones lose. What this page shows is that graphs of these shapes are read, "
            "quantized, compiled and packed."
        ),
        "",
        *_wrapped(
            f"Two cores, load {min(loads):.0f} to {max(loads):.0f}{busy if max(loads) > _BUSY else ''}. "
            f"`--minutes {' or '.join(minutes)}`."
        ),
        "",
        "| what | figure |",
        "| --- | --- |",
        f"| architectures | {len(cells)} |",
        f"| end in a bundle | {builds.count('yes')} |",
        f"| end in one sentence | {builds.count('sentence')} |",
        f"| tracebacks | {sum(r['traceback'] for r in every) + kept.tracebacks} |",
        f"| TensorRT-bound graphs accepted by NVIDIA's compiler for SM 8.6 | {sum(a for a, _ in graphs)} of {sum(b for _, b in graphs)} |",
        f"| architectures all of whose TensorRT-bound graphs are accepted | {sum(a == b for a, b in graphs)} of {len(asked)} |",
        f"| architectures that TensorRT gets in int8 | {quantized} of {len(asked)} |",
        f"| builds measured last that took more than `--minutes` + 20 % | {late} of {len(every)} |",
        f"| largest resident memory of a build | {max(int(row[of['MiB']]) for row in cells.values())} MiB |",
        "",
        *_wrapped(
            "**TensorRT**: the precision of the first graph that `jetson-orin` gets, and its drop; where that is float, what int8 "
            "would lose. **NVIDIA**: graphs that NVIDIA's compiler accepts, of those that it was asked about. **CPU int8**: "
            "*first* where it ships first on this machine, *ships* where it lies behind float; else why not. **÷ float**: its time "
            "beside float's. **s**, **MiB**: time and largest process of the build. – is not tried."
        ),
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{' --- |' * len(_COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in cells.values()),
    ]
    notes = [n for one, g, c in measured for r in (g, c) if r is not None for n in _notes(one, r)]
    notes = [*kept.notes, *notes]
    if notes:
        text += [
            "",
            "## What is not simply yes",
            "",
            *(x for n in dict.fromkeys(notes) for x in _wrapped(f"* {n}", "  ")),
        ]
    if missing := [one.name for one in ARCHITECTURES if one.name not in cells]:
        text += ["", *_wrapped(f"Not tried yet: {', '.join(missing)}.")]
    return "\n".join(text)


def _sentence(r: Row) -> bool:
    return bool(r["said"]) and not r["traceback"]


def _cells(one: Architecture, g: Row | None, c: Row | None) -> list[str]:
    rows = [r for r in (g, c) if r is not None]
    builds = (
        "yes" if all(r["code"] == 0 for r in rows) else "sentence" if all(map(_sentence, rows)) else "**no**"
    )
    exporter = "–" if one.source == "published" else one.exporter
    cells = [one.name, one.source, exporter, builds, *_on_gpu(g), _nvidia(g), *_on_cpu(c)]
    return [*cells, f"{max(r['seconds'] for r in rows):.0f}", f"{max(r['rss_mb'] for r in rows)}"]


def _on_gpu(r: Row | None) -> tuple[str, str]:
    """What the first TensorRT graph computes in, and its drop; of a float one, what int8 would lose."""
    if r is None or r["code"]:
        return "–", "–"
    first = next((v for v in r["variants"] if v["variant"].startswith("tensorrt")), None)
    lost = next((n.split(" loses ")[1].split(",")[0] for n in r["notes"] if "trt-gpu int8 loses" in n), None)
    if first is None:
        return "none", "–"
    kind = first["variant"].removeprefix("tensorrt-").replace("int8-float16", "int8 + float16")
    if first["precision"] == "int8":
        return kind, _drop(first["drop"])
    return kind, f"int8 {lost}" if lost else "–"


def _nvidia(r: Row | None) -> str:
    if r is None or r["code"] or not (r["accepted"] or r["refused"]):
        return "–"
    return f"{len(r['accepted'])} of {len(r['accepted']) + len(r['refused'])}"


def _on_cpu(r: Row | None) -> tuple[str, str]:
    """Whether int8 ships on the CPU, and its time ÷ float's; else why it does not, and the best ratio."""
    if r is None or r["code"]:
        return "–", "–"
    cpu = [v for v in r["variants"] if v["profile"] == "cpu"]
    shipped = next((v for v in cpu if v["precision"] == "int8"), None)
    if shipped is not None:
        return ("first" if cpu[0]["precision"] == "int8" else "ships"), _ratio(shipped["ratio_to_float"])
    causes = [w for why in r["causes"].values() for w in why]
    ratios = [t["ratio"] for t in r["tried"] if t["precision"] == "int8" and t["ratio"] is not None]
    return causes[0][0] if causes else "not tried", _ratio(min(ratios, default=None))


def _drop(x: float | None) -> str:
    return "–" if x is None else f"{x:.4f}"


def _ratio(x: float | None) -> str:
    return "–" if x is None else f"{x:.2f}"


def _notes(one: Architecture, r: Row) -> list[str]:
    """Everything that a reader who wants all of it would ask about, one line each."""
    name = f"`{one.name}`"
    if r["code"]:
        return [f"{name}: exit {r['code']}: {r['said']}"]
    told = (
        " is left out: ",
        " left out: refused",
        "TensorRT does not take",
        "depends on the data",
        "not known whether",
    )
    return [f"{name}: {n}" for n in r["notes"] if any(t in n for t in told)]


def _wrapped(text: str, indent: str = "") -> Sequence[str]:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > _WIDE:
            lines.append(line)
            line = indent + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


if __name__ == "__main__":
    sys.exit(main())
