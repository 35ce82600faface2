"""Named tasks: TOML files of :class:`~edgectl.core.task.TaskSpec` beside this module, and the same from a
file of the user's.

A file may say ``inherits = "<named task>"`` and override fields; ``labels`` may name a text file beside it,
one label a line. ``abstract = true`` marks a base that is only inherited from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgectl.core.config_file import ConfigFile, read_bounded_text, read_toml
from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean
from edgectl.core.task import TaskSpec
from edgectl.pipelines.decoders import check_decode

__all__ = ["load_task", "task_names", "usable_tasks"]

_HERE = Path(__file__).parent
_SIZES = {"width", "height", "shape", "features"}
"""What a user's file says about the input must fit the model; what comes from a named task gives way to
it."""


def task_names() -> tuple[str, ...]:
    """The tasks that can be named, in alphabetical order (bases included)."""
    return tuple(sorted(p.stem for p in _HERE.glob("*.toml")))


def usable_tasks() -> tuple[str, ...]:
    """:func:`task_names` without the bases."""
    return tuple(n for n in task_names() if not read_toml(_named(n)).values.get("abstract", False))


def load_task(name_or_path: str | Path, labels: Sequence[str] = ()) -> TaskSpec:
    """A task by name (``fastestdet``) or from a ``.toml`` file. ``labels``: in the place of its own; with them a base is
    a task, too. Raises :class:`UsageError` with the nearest names or the bad field."""
    text = str(name_or_path)
    is_file = text.endswith(".toml") or "/" in text
    file = read_toml(Path(text) if is_file else _named(text))
    values = _whole(file, depth=0)
    spec = values.get("input")
    if (
        isinstance(spec, dict)
        and spec.get("kind") in ("image", "audio")
        and not (is_file and _own_input(file) & _SIZES)
    ):
        spec.setdefault("adapts", True)
    if labels:
        values["labels"] = tuple(labels)
    if values.pop("abstract", False) and not labels:
        raise UsageError(
            f"task {text} is a base without labels",
            hint=f'write a TOML file with inherits = "{text}", a name, labels and input size',
        )
    try:
        task = TaskSpec.model_validate(values)
    except ValidationError as e:
        raise file.error(e) from e
    check_decode(task)
    return task


def _own_input(file: ConfigFile) -> set[str]:
    """The settings of the input that a file makes itself, without those that it inherits."""
    values = file.values.get("input")
    return set(values) if isinstance(values, dict) else set()


def _named(name: str) -> Path:
    if name not in task_names():
        raise UsageError(
            f"there is no task {name[:64]!r}",
            hint=f"{did_you_mean(name, task_names())} A path to a .toml file works too",
        )
    return _HERE / f"{name}.toml"


def _whole(file: ConfigFile, *, depth: int) -> dict[str, Any]:
    """What a file says with what it inherits merged in and its labels read."""
    values: dict[str, Any] = dict(file.values)
    labels = values.get("labels")
    if isinstance(labels, str):
        lines = read_bounded_text(Path(file.name).parent / labels).splitlines()
        values["labels"] = [line.strip() for line in lines if line.strip()]
    base = values.pop("inherits", None)
    if base is None:
        return values
    if not isinstance(base, str) or depth >= 4:
        raise UsageError(
            f"{file.place(('inherits',))}: inherits: it is something that is no task name, or too deep"
        )
    inherited = _whole(read_toml(_named(base)), depth=depth + 1)
    inherited.pop("abstract", None)
    return _merge(inherited, values)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, tables merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
