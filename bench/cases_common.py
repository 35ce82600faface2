"""What the files of ``bench/cases.py`` share: one row's check, the place where it runs, and the product as
a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Check", "Outcome", "Place", "Run"]


@dataclass(frozen=True)
class Outcome:
    """Whether a row holds, and the figure or the sentence that says so."""

    held: bool
    figure: str


@dataclass(frozen=True)
class Run:
    """One command of the product that has ended."""

    code: int
    out: str
    err: str

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.out + self.err

    @property
    def last_words(self) -> str:
        """The last line on stderr, for a figure that quotes it."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Place:
    """``cases``: the folder of the page; ``root``: the checkout; ``out``: an empty folder of this row's
    own."""

    cases: Path
    root: Path
    out: Path

    def edgectl(self, *args: object, timeout_s: float = 600, env: Mapping[str, str] | None = None) -> Run:
        """Run ``edgectl ARGS`` in ``out`` with a home of its own and without colours."""
        home = self.out / "home"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "edgectl.cli", *map(str, args)],
            cwd=self.out,
            env={
                **os.environ,
                "HOME": str(home),
                "NO_COLOR": "1",
                "TERM": "dumb",
                "COLUMNS": "200",
                **(env or {}),
            },
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Run(done.returncode, done.stdout, done.stderr)


Check = Callable[[Place], Outcome]
