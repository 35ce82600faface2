"""A Debian in a folder, with the wheel of this repository in it: what ``arm64.py`` and ``units.py`` share.

Nothing here mounts anything for longer than one command lives: what runs in the folder has a mount, process
and network namespace of its own, which the kernel takes down with it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = [
    "REPOSITORY",
    "Row",
    "Trouble",
    "enter",
    "inside",
    "make_tree",
    "need",
    "report",
    "run",
    "script",
    "wheel",
    "wheels_for",
]

REPOSITORY = Path(__file__).resolve().parents[1]
_GLIBC = ("2_35", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17")
"""Of wheels that Ubuntu 22.04 (JetPack 6) and Debian 12 can load."""

_APART = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
"""Mounts and processes end with the command, however it ends."""


class Trouble(Exception):
    """The script cannot go on; the sentence says why, and what to do."""


@dataclass(frozen=True)
class Row:
    """One claim, whether it held, and what was seen."""

    claim: str
    held: bool
    seen: str


def run(command: Sequence[str], what: str, timeout_s: float, **environment: str) -> str:
    """Standard output of a command on this machine. Raises :class:`Trouble` with the end of what it said."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired as e:
        raise Trouble(f"{what}: not done after {timeout_s:.0f} s") from e
    if done.returncode:
        raise Trouble(f"{what}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout


def need(programs: dict[str, str], *, install: bool) -> None:
    """Root, and programs by the Debian package that brings them. Raises :class:`Trouble` naming what lacks."""
    if os.geteuid() != 0:
        raise Trouble("this needs root: it makes a Debian in a folder and runs commands in it")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    lacking = sorted(
        {package for program, package in programs.items() if not shutil.which(program, path=path)}
    )
    if lacking and not install:
        raise Trouble(f"this lacks {' '.join(lacking)}: apt-get install them, or say --install")
    if lacking:
        run(["apt-get", "update"], "apt-get update", 300)
        command = ["apt-get", "install", "-y", "--no-install-recommends", *lacking]
        run(command, "apt-get install", 600, DEBIAN_FRONTEND="noninteractive")


def make_tree(tree: Path, packages: Sequence[str], *, arch: str, fresh: bool) -> None:
    """Debian 12 of an architecture. A whole tree that is there already is used again, unless ``fresh``."""
    marker = tree / ".complete"
    asked = " ".join([arch, *packages])
    if fresh or not marker.is_file() or marker.read_text() != asked:
        shutil.rmtree(tree, ignore_errors=True)
        tree.parent.mkdir(parents=True, exist_ok=True)
        chosen = ["--variant=minbase", f"--arch={arch}", f"--include={','.join(packages)}"]
        print(f"making a Debian 12 ({arch}) in {tree}", file=sys.stderr)
        run([*_APART, "debootstrap", *chosen, "bookworm", str(tree)], "debootstrap", 1800)
        marker.write_text(asked)


def wheel(work: Path) -> Path:
    """The wheel of this repository as it is now."""
    folder = work / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    run([*command, str(REPOSITORY)], "pip wheel", 300)
    return next(folder.glob("edgectl-*.whl"))


def wheels_for(ours: Path, extras: str, folder: Path, *, arch: str, python: str) -> Path:
    """All wheels of a device install for another machine, downloaded here. Returns ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    platforms = [f"--platform=manylinux_{glibc}_{arch}" for glibc in _GLIBC]
    abis = [f"--abi=cp{python.replace('.', '')}", "--abi=abi3", "--abi=none"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "-d", str(folder)]
    chosen = [*platforms, f"--platform=manylinux2014_{arch}", f"--python-version={python}", *abis]
    constraints = f"--constraint={REPOSITORY / 'constraints.txt'}"
    run([*command, *chosen, "--implementation=cp", constraints, f"{ours}[{extras}]"], "pip download", 900)
    return folder


def inside(tree: Path, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command in the tree: no network, no process of this machine, nothing mounted when it has ended."""
    whole = enter(tree, command)
    try:
        return subprocess.run(whole, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        said = f"not done after {timeout_s:.0f} s"
        return subprocess.CompletedProcess(list(command), 124, stdout="", stderr=said)


def enter(tree: Path, command: Sequence[str], *, network: bool = False) -> list[str]:
    """The command of :func:`inside`, for whoever waits for it himself. Killed, it takes all its processes along.
    ``network``: it reaches this machine's loopback, and whatever this machine reaches."""
    script = (
        'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount -t tmpfs tmpfs "$0/tmp" && '
        'exec env -i PATH=/opt/edgectl/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 chroot "$0" "$@"'
    )
    return [*_APART, *([] if network else ["--net"]), "sh", "-c", script, str(tree), *command]


def script(doc: str, programs: dict[str, str], walk: Callable[[Path, bool], Sequence[Row]]) -> int:
    """The command line of both. ``walk`` gets the folder to work in, and whether the Debian is to be made anew.

    Returns the exit code: 1 something did not hold, 2 it could not go on, 130 Ctrl-C.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the Debian and the wheels, 2 GB")
    parser.add_argument("--install", action="store_true", help="install what this machine lacks by apt-get")
    parser.add_argument("--fresh", action="store_true", help="make the Debian anew")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    work = a.work.resolve()
    if REPOSITORY in (work, *work.parents):
        parser.error("--work must not lie in the repository")
    try:
        need(programs, install=a.install)
        return report(walk(work, a.fresh), a.json)
    except Trouble as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def report(rows: Sequence[Row], out: Path | None) -> int:
    """Print the table. Returns the exit code: 1 if something did not hold."""
    width = max(len(r.claim) for r in rows)
    for row in rows:
        seen = re.sub(r"\s+", " ", row.seen).strip()
        print(f"{row.claim:{width}}  {'held' if row.held else 'NOT HELD':8}  {seen}")
    if out is not None:
        out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0 if all(row.held for row in rows) else 1
