"""How long ``--help`` takes at every level, as a multiple of ``python -c pass``.

The levels are those of the real command tree. A round runs every ``--help`` in a new order, each right behind a bare
interpreter, and the two are compared. Said are the median of the ratios and its 95 % interval (bootstrap), of the
wall time and of the processor time: on a busy machine the second one holds. Exit 1 if a median wall time is over
the limit. Byte code is kept as Python keeps it by default.

    python bench/help_time.py --rounds 15
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from typer.main import get_command

from edgectl.cli.main import app

LIMIT = 10.0


def levels() -> list[tuple[str, ...]]:
    """The root, every group and every command."""
    found: list[tuple[str, ...]] = []

    def walk(command: Any, path: tuple[str, ...]) -> None:
        found.append(path)
        for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
            walk(command.get_command(None, name), (*path, name))

    walk(get_command(app), ())
    return found


def timed(environment: dict[str, str], *arguments: str) -> tuple[float, float]:
    """Wall and processor time of an interpreter, seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def interval(ratios: list[float], draw: random.Random) -> tuple[float, float, float]:
    """The median with its 95 % interval."""
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(1000))
    return statistics.median(ratios), medians[25], medians[974]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    script = str(Path(sys.executable).with_name("edgectl"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    draw = random.Random(1)
    ratios: dict[tuple[str, ...], list[tuple[float, float]]] = {level: [] for level in levels()}
    bare_s: list[tuple[float, float]] = []
    load_before = os.getloadavg()[0]
    for level in ratios:  # the first ones compile and read from disk
        timed(environment, script, *level, "--help")
    for _ in range(a.rounds):
        for level in draw.sample(list(ratios), k=len(ratios)):
            bare, helped = timed(environment, "-c", "pass"), timed(environment, script, *level, "--help")
            bare_s.append(bare)
            ratios[level].append((helped[0] / bare[0], helped[1] / bare[1]))
    rows = {
        " ".join(("edgectl", *level)): [interval(list(kind), draw) for kind in zip(*found, strict=True)]
        for level, found in ratios.items()
    }
    print(f"{'':32} {'wall time':>22}  {'processor time':>22}")
    for name, kinds in rows.items():
        print(f"{name:32} " + "  ".join(f"{m:6.1f} × [{low:4.1f}, {high:4.1f}]" for m, low, high in kinds))
    wall_ms, cpu_ms = (1e3 * statistics.median(kind) for kind in zip(*bare_s, strict=True))
    load = f"{load_before:.2f} before, {os.getloadavg()[0]:.2f} after"
    print(
        f"python -c pass: {wall_ms:.1f} ms, {cpu_ms:.1f} ms of processor time; {a.rounds} rounds; "
        f"{os.cpu_count()} cores, load {load}; Python {sys.version.split()[0]}, Typer {version('typer')}"
    )
    worst = [max(kinds[i][0] for kinds in rows.values()) for i in (0, 1)]
    over = [name for name, kinds in rows.items() if kinds[0][0] > LIMIT]
    print(
        f"{len(rows)} levels, the slowest {worst[0]:.1f} × and {worst[1]:.1f} ×; over {LIMIT:g} ×: {over or 'none'}"
    )
    if a.json:
        a.json.write_text(json.dumps({"levels": rows, "bare_ms": [wall_ms, cpu_ms], "load": load}))
    sys.exit(bool(over))


if __name__ == "__main__":
    main()
