"""The one output sink: results on stdout, messages and progress on stderr, one JSON object where ``--json``
asks for it."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from edgectl.cli._options import OptionGroup
from edgectl.core.errors import EdgectlError
from edgectl.core.uri import redact_text, redact_values

# Rich and pydantic are imported where something is shown: the agent lives for months and shows nothing
if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.table import Table

__all__ = ["Printer", "outcomes", "plain", "printable", "table"]


@dataclasses.dataclass(eq=False)
class Printer(OptionGroup):
    """Every command takes one, ``out: Printer``, which brings the option ``--json``."""

    current: ClassVar[Printer | None] = None

    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False

    def __post_init__(self) -> None:
        self._bar: Progress | None = None
        self._told = False  # whether stdout has its JSON
        Printer.current = self

    # No markup: what is shown has square brackets of its own (``pip install 'edgectl[builder]'``).

    @cached_property
    def stdout(self) -> Console:
        from rich.console import Console

        # A pipe has no width: tables must not be cut to 80 columns there.
        columns = os.environ.get("COLUMNS", "")
        width = None if sys.stdout.isatty() else int(columns) if columns.isdecimal() and int(columns) else 140
        return Console(width=width, highlight=False, soft_wrap=True, markup=False, emoji=False)

    @cached_property
    def stderr(self) -> Console:
        from rich.console import Console

        return Console(stderr=True, highlight=False, markup=False, emoji=False)

    def result(self, value: Any, text: RenderableType | Callable[[], RenderableType] | None = None) -> None:
        """The result of the command: ``value`` as JSON, or ``text`` (built only when it is shown)."""
        if self.as_json:
            self._told = True
            sys.stdout.write(json.dumps(redact_values(plain(value)), indent=2, allow_nan=False) + "\n")
            sys.stdout.flush()
        elif text is not None:
            self.stdout.print(_shown(text() if callable(text) else text))

    def line(self, value: Any, text: RenderableType) -> None:
        """One of many results of a command that goes on: a JSON line, or a line of text."""
        if self.as_json:
            self._told = True
            sys.stdout.write(json.dumps(redact_values(plain(value)), allow_nan=False) + "\n")
            sys.stdout.flush()
        else:
            self.stdout.print(_shown(text))

    def say(self, message: str, *, whole: bool = False) -> None:
        """A message: what is going on. Silent with ``--json``. ``whole``: it has something to be copied, and is not broken
        into lines."""
        if not self.as_json:
            self.stderr.print(redact_text(message), soft_wrap=whole)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, float | None], None]]:
        """A bar on stderr: call ``update(what, fraction)`` with a fraction 0..1, or None while it cannot
        be known."""
        if self.as_json or not self.stderr.is_terminal:
            say = self._now_and_then()
            yield lambda what, fraction: say(what)
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self.stderr, transient=True) as bar:
            task = bar.add_task("", total=1.0)
            self._bar = bar

            def update(what: str, fraction: float | None) -> None:
                if fraction is None:
                    bar.update(task, description=what, total=None)
                else:
                    bar.update(task, description=what, completed=min(1.0, fraction), total=1.0)

            try:
                yield update
            finally:
                self._bar = None

    @contextmanager
    def live(self, shown: RenderableType) -> Iterator[Callable[[str], None]]:
        """``shown`` at the bottom of the terminal, drawn anew four times a second, below whatever is printed meanwhile; it
        goes at the end. Where there is no terminal, what is said instead comes as a line now and then."""
        # Only what is printed by the same console finds its place above it.
        console = self.stdout if self.stdout.is_terminal else self.stderr
        if self.as_json or not console.is_terminal:
            yield self._now_and_then()
            return
        from rich.live import Live

        with Live(shown, console=console, refresh_per_second=4, vertical_overflow="crop", transient=True):
            yield lambda what: None

    def _now_and_then(self) -> Callable[[str], None]:
        """A log wants to know that it goes on, not every step."""
        said = ""
        next_s = 0.0

        def say(what: str) -> None:
            nonlocal said, next_s
            if what != said and time.monotonic() >= next_s:
                said, next_s = what, time.monotonic() + 3.0
                self.say(f"  {what}")

        return say

    @classmethod
    @contextmanager
    def paused(cls) -> Iterator[None]:
        """Leave the terminal to whoever asks something there: no progress bar is drawn meanwhile."""
        bar = cls.current._bar if cls.current is not None else None
        if bar is not None:
            bar.stop()
        try:
            yield
        finally:
            if bar is not None:
                bar.start()

    def fail(self, error: EdgectlError) -> None:
        """One sentence on what is wrong and the next step; with ``--json`` on stdout as ``{"error": …}``,
        too, unless a result stands there already: two objects are not JSON, and the exit code says that it is
        not good.
        """
        from rich.text import Text

        if self.as_json and not self._told:
            body = {"code": error.code, "message": error.message, "hint": error.hint}
            sys.stdout.write(json.dumps({"error": redact_values(body)}, indent=2) + "\n")
        self.stderr.print(
            Text.assemble(("error: ", "bold red"), printable(redact_text(error.message))), soft_wrap=True
        )
        if error.hint:
            self.stderr.print(Text.assemble(("next: ", "bold"), redact_text(error.hint)), soft_wrap=True)


def _shown(text: RenderableType) -> RenderableType:
    """Plain text without credentials; tables and panels are made of names and numbers, and of texts that
    passed an outlet before."""
    return redact_text(text) if isinstance(text, str) else text


def table(*headers: str, title: str | None = None) -> Table:
    """A table in the house's looks; headers that start with ``>`` are numbers and aligned right."""
    from edgectl.cli._table import FoldingTable

    return FoldingTable(*headers, title=title)


def outcomes(rollout: Mapping[str, Any]) -> str:
    """How far the devices of a rollout are, in a few words."""
    found = Counter(m["outcome"] for m in rollout["members"].values())
    return ", ".join(f"{n} {outcome}" for outcome, n in sorted(found.items())) or "-"


def printable(text: str) -> str:
    """What a device said, without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain(value: Any) -> Any:
    """JSON types of dataclasses (without their fields of bytes), pydantic models, enums, paths, mappings
    and sequences."""
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {name: plain(v) for name, v in fields.items() if not isinstance(v, bytes)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [plain(v) for v in items]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else value
