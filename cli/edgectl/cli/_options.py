"""Option groups: options that several commands share are declared once.

A group is a class whose fields are options. A command takes it as one parameter, and Typer sees the options::

    @dataclass(frozen=True)
    class AtController(OptionGroup):
        url: Annotated[str, typer.Option("--controller", envvar="EDGECTL_CONTROLLER")] = "http://127.0.0.1:8765"

    @app.command("freeze")
    def freeze(off: ..., controller: AtController) -> None:
        controller.url
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any, get_type_hints

import typer

from edgectl.core.durations import seconds_of
from edgectl.core.errors import UsageError
from edgectl.core.uri import redact_text

__all__ = ["OptionGroup", "Prefer", "duration", "key_value", "past_time", "ungrouped"]


class Prefer(str, enum.Enum):
    """Which variant a command takes where they differ."""

    fast = "fast"
    accurate = "accurate"
    low_power = "low-power"
    small_input = "small-input"


class OptionGroup:
    """What a dataclass inherits to be one: its fields are options."""


def ungrouped(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` as Typer has to see it: with the options of each group in the group's place."""
    taken = inspect.signature(command, eval_str=True).parameters
    groups = {
        name: p.annotation
        for name, p in taken.items()
        if isinstance(p.annotation, type) and issubclass(p.annotation, OptionGroup)
    }
    members = {name: _fields(group) for name, group in groups.items()}

    @functools.wraps(command)
    def called(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{member: given.pop(member) for member in members[name]})
        command(**given)

    options = [option for name, p in taken.items() for option in members.get(name, {name: p}).values()]
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    )
    called.__annotations__ = {option.name: option.annotation for option in options}
    return called


def _fields(group: type[OptionGroup]) -> dict[str, inspect.Parameter]:
    """Each annotation is read where its class was written: a group may inherit from one of another module."""
    hints = get_type_hints(group, include_extras=True)
    fields = inspect.signature(group).parameters
    return {name: field.replace(annotation=hints[name]) for name, field in fields.items()}


def duration(text: str) -> float:
    """``90s``, ``30m``, ``1h30m``, ``2h`` → seconds. Raises :class:`typer.BadParameter`."""
    try:
        return seconds_of(text)
    except ValueError as e:
        raise typer.BadParameter(str(e)) from None


def key_value(text: str, option: str) -> tuple[str, str]:
    """``KEY=VALUE``, as ``option`` takes it. Raises :class:`UsageError`."""
    key, sep, value = text.partition("=")
    if not (sep and key and value):
        raise UsageError(f"{option} {redact_text(text)!r} is not KEY=VALUE")
    return key, value


def past_time(text: str) -> float:
    """``2h``, ``1d12h`` ago or a local time → Unix seconds."""
    from datetime import datetime

    with contextlib.suppress(ValueError):
        return time.time() - seconds_of(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            f"{text!r} is no time like 30m, 2h, 7d, 2026-11-28 or '2026-11-28 14:00'"
        ) from None
