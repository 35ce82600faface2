"""What is wrong with what a rule made, and where it failed: it may be another package's."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from pathlib import Path

from edgectl.pipelines.stream.events import Event

__all__ = ["check_made", "line_of"]


def check_made(made: Sequence[Event]) -> None:
    """Raises :class:`TypeError` for what no sink could write."""
    if not isinstance(made, list | tuple) or not all(isinstance(event, Event) for event in made):
        raise TypeError("step must return a list of Event")
    for event in made:
        json.dumps(dict(event.data))


def line_of(e: Exception, module: str) -> str | None:
    """The line of the rule's own module that failed."""
    own = [
        f"look at {Path(frame.f_code.co_filename).name}, line {line}"
        for frame, line in traceback.walk_tb(e.__traceback__)
        if frame.f_globals.get("__name__") == module
    ]
    return own[-1] if own else None
