"""The matrix of what ``run.py`` wrote down, as a page of the documentation.

    python bench/architectures/page.py RESULTS.jsonl ... > docs/architectures.md

Of an architecture that is in several files, the last one counts for each profile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
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


def main() -> int:
    rows = [json.loads(line) for name in sys.argv[1:] for line in Path(name).read_text().splitlines() if line]
    print(page(rows))
    return 0


def page(rows: Iterable[Row]) -> str:
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
    named = [(one, gpu.get(one.name), cpu.get(one.name)) for one in ARCHITECTURES]
    tried = [x for x in named if x[1] or x[2]]
    every = [r for _, g, c in tried for r in (g, c) if r is not None]
    ends = [[r for r in (g, c) if r is not None] for _, g, c in tried]
    built = sum(all(r["code"] == 0 for r in rs) for rs in ends)
    told = sum(all(r["code"] == 0 or _sentence(r) for r in rs) for rs in ends) - built
    asked = [g for _, g, _ in tried if g is not None and (g.get("accepted") or g.get("refused"))]
    graphs, refused = (sum(len(g[k]) for g in asked) for k in ("accepted", "refused"))
    whole = sum(not g["refused"] for g in asked)
    quantized = sum(_on_gpu(g)[0].startswith("int8") for g in asked)
    late = [r for r in every if r["seconds"] > _LATE * 60 * r["minutes"]]
    loads = [x for r in every for x in r["load"] if x is not None]
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
            f"`--minutes {' or '.join(sorted({format(r['minutes'], 'g') for r in every}))}`."
        ),
        "",
        "| what | figure |",
        "| --- | --- |",
        f"| architectures | {len(tried)} |",
        f"| end in a bundle | {built} |",
        f"| end in one sentence | {told} |",
        f"| tracebacks | {sum(r['traceback'] for r in every)} |",
        f"| TensorRT-bound graphs accepted by NVIDIA's compiler for SM 8.6 | {graphs} of {graphs + refused} |",
        f"| architectures all of whose TensorRT-bound graphs are accepted | {whole} of {len(asked)} |",
        f"| architectures that TensorRT gets in int8 | {quantized} of {len(asked)} |",
        f"| builds that took more than `--minutes` + 20 % | {len(late)} of {len(every)} |",
        f"| largest resident memory of a build | {max(r['rss_mb'] for r in every)} MiB |",
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
        *(_line(one, g, c) for one, g, c in tried),
    ]
    notes = [n for one, g, c in tried for r in (g, c) if r is not None for n in _notes(one, r)]
    if notes:
        text += [
            "",
            "## What is not simply yes",
            "",
            *(x for n in dict.fromkeys(notes) for x in _wrapped(f"* {n}", "  ")),
        ]
    if missing := [one.name for one, g, c in named if not (g or c)]:
        text += ["", *_wrapped(f"Not tried yet: {', '.join(missing)}.")]
    return "\n".join(text)


def _sentence(r: Row) -> bool:
    return bool(r["said"]) and not r["traceback"]


def _line(one: Architecture, g: Row | None, c: Row | None) -> str:
    rows = [r for r in (g, c) if r is not None]
    builds = (
        "yes" if all(r["code"] == 0 for r in rows) else "sentence" if all(map(_sentence, rows)) else "**no**"
    )
    exporter = "–" if one.source == "published" else one.exporter
    cells = [one.name, one.source, exporter, builds, *_on_gpu(g), _nvidia(g), *_on_cpu(c)]
    cells += [f"{max(r['seconds'] for r in rows):.0f}", f"{max(r['rss_mb'] for r in rows)}"]
    return f"| {' | '.join(cells)} |"


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
