"""The matrix of what ``run.py`` wrote down, as a page of the documentation.

python bench/architectures/page.py RESULTS.jsonl > docs/architectures.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from table import ARCHITECTURES, Architecture

Row = dict[str, Any]
_ENOUGH = 1.2
_BUSY = 1.0
_WIDE = 118


def main() -> int:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines() if line]
    print(page({r["name"]: r for r in rows}))
    return 0


def page(rows: dict[str, Row]) -> str:
    named = [(one, rows[one.name]) for one in ARCHITECTURES if one.name in rows]
    if not named:
        return "no results"
    built = [r for _, r in named if r["code"] == 0]
    sentences = [r for _, r in named if r["code"] and r["said"] and not r["traceback"]]
    took_part = [r for r in built if r["accepted"] or r["refused"]]
    graphs = sum(len(r["accepted"]) for r in built)
    refused = sum(len(r["refused"]) for r in built)
    whole = sum(1 for r in took_part if not r["refused"])
    late = [(one.name, r) for one, r in named if r["seconds"] > _ENOUGH * 60 * r["minutes"]]
    loads = [x for _, r in named for x in r["load"] if x is not None]
    missing = [one.name for one in ARCHITECTURES if one.name not in rows]
    text = [
        "# Architectures",
        "",
        "Made by `bench/architectures/`: `export.py` writes the models, `run.py` builds each in a process of its own, "
        "`page.py` writes this page.",
        "",
        *_wrapped(
            "Weights are random (the published models aside), and the builder sees 48 samples of noise. A *drop* is therefore "
            "what int8 changes of float's own answer (1 − cosine of the worst output), not a loss of accuracy; random weights "
            "are harder to quantize than trained ones where their outputs nearly cancel, and easier where nothing stands out. "
            "What this page shows is that graphs of these shapes are read, quantized, compiled and packed.",
        ),
        "",
        *_wrapped(
            f"Measured on two cores under a load of {min(loads):.0f} to {max(loads):.0f}"
            + (
                " (busy: the times decide nothing, and the builder says so by *undecided*)"
                if max(loads) > _BUSY
                else ""
            )
            + f", with `--minutes {named[0][1]['minutes']:g}`."
        ),
        "",
        "| what | figure |",
        "| --- | --- |",
        f"| architectures | {len(named)} |",
        f"| end in a bundle | {len(built)} |",
        f"| end in one sentence | {len(sentences)} |",
        f"| tracebacks | {sum(r['traceback'] for _, r in named)} |",
        f"| TensorRT-bound graphs accepted by NVIDIA's compiler for SM 8.6 | {graphs} of {graphs + refused} |",
        f"| architectures all of whose TensorRT-bound graphs are accepted | {whole} of {len(took_part)} |",
        f"| builds that took more than `--minutes` + 20 % | {len(late)} of {len(named)} |",
        f"| largest resident memory of a build | {max(r['rss_mb'] for _, r in named)} MiB |",
        "",
        *_wrapped(
            "**int8**: the CPU family of this machine; *first*: it ships first; *ships*: behind float, undecided; otherwise why "
            "not. **÷ float**: its time beside the float engine's. **NVIDIA**: TensorRT-bound graphs (`jetson-orin`) accepted, of "
            "those that the build made; int8 names the precision that they hold.",
        ),
        "",
        "| architecture | from | exporter | builds | int8 on CPU | drop | ÷ float | NVIDIA | s | MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(one, r) for one, r in named),
    ]
    notes = [n for one, r in named for n in _notes(one, r)]
    if notes:
        text += ["", "## What is not simply yes", "", *(x for n in notes for x in _wrapped(f"* {n}", "  "))]
    if missing:
        text += ["", *_wrapped(f"Not tried: {', '.join(missing)}.")]
    return "\n".join(text)


def _line(one: Architecture, r: Row) -> str:
    exporter = "–" if one.source == "published" else one.exporter
    cells = [one.name, one.source, exporter]
    if r["code"]:
        cells += ["sentence" if r["said"] and not r["traceback"] else "**no**", *("–",) * 4]
    else:
        int8, drop, ratio = _int8(r)
        cells += ["yes", int8, drop, ratio, _nvidia(r)]
    return "| " + " | ".join([*cells, f"{r['seconds']:.0f}", f"{r['rss_mb']}"]) + " |"


def _int8(r: Row) -> tuple[str, str, str]:
    """Whether int8 ships on the CPU; else the nearest to it, and why it does not."""
    cpu = [v for v in r["variants"] if v["profile"] == "cpu"]
    shipped = next((v for v in cpu if v["precision"] == "int8"), None)
    if shipped is not None:
        word = "first" if cpu[0]["precision"] == "int8" else "ships"
        return word, _drop(shipped["drop"]), _ratio(shipped["ratio_to_float"])
    causes = [w for why in r["causes"].values() for w in why]
    tried = [t for t in r["tried"] if t["precision"] == "int8"]
    judged = [t for t in tried if t["drop"] is not None]
    best = min(judged, key=lambda t: t["drop"], default=None)
    why = causes[0][0] if causes else "not tried"
    return (why, "–", "–") if best is None else (why, _drop(best["drop"]), _ratio(best["ratio"]))


def _nvidia(r: Row) -> str:
    accepted, refused = len(r["accepted"]), len(r["refused"])
    if not accepted + refused:
        return "–"
    kinds = sorted({n.split("tensorrt-")[-1] for n in r["accepted"]})
    return f"{accepted} of {accepted + refused}" + (f" ({', '.join(kinds)})" if kinds else "")


def _drop(x: float | None) -> str:
    return "–" if x is None else f"{x:.4f}"


def _ratio(x: float | None) -> str:
    return "–" if x is None else f"{x:.2f}"


def _notes(one: Architecture, r: Row) -> list[str]:
    name = f"`{one.name}`"
    if r["code"]:
        return [f"{name}: exit {r['code']}: {r['said']}"]
    found = [f"{name}: {n}" for n in r["refused"]]
    found += [f"{name}: {n}" for n in r["notes"] if "TensorRT does not take" in n]
    if r["seconds"] > _ENOUGH * 60 * r["minutes"]:
        found.append(f"{name}: took {r['seconds']:.0f} s of {60 * r['minutes']:.0f} s")
    return found


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
