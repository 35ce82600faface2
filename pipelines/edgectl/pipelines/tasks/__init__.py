"""Named tasks: TOML files of :class:`~edgectl.core.task.TaskSpec` beside this module, and the same from a
file of the user's.

A file may say ``inherits = "<named task>"`` and override fields; ``labels`` may name a text file beside it,
one label a line. ``abstract = true`` marks a base that is only inherited from.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgectl.core.errors import UsageError
from edgectl.core.schema import first_problem
from edgectl.core.task import TaskSpec
from edgectl.pipelines.decoders import check_decode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load_task", "task_names", "usable_tasks"]

_HERE = Path(__file__).parent
_MAX_BYTES = 1 << 20
_SIZES = {"width", "height", "shape", "features"}
"""What a user's file says about the input must fit the model; what comes from a named task gives way to
it."""


def task_names() -> tuple[str, ...]:
    """The tasks that can be named, in alphabetical order (bases included)."""
    return tuple(sorted(p.stem for p in _HERE.glob("*.toml")))


def usable_tasks() -> tuple[str, ...]:
    """:func:`task_names` without the bases."""
    return tuple(n for n in task_names() if not tomllib.loads(_text(_named(n))).get("abstract", False))


def load_task(name_or_path: str | Path, labels: Sequence[str] = ()) -> TaskSpec:
    """A task by name (``fastestdet``) or from a ``.toml`` file. ``labels``: in the place of its own; with them a base is
    a task, too. Raises :class:`UsageError` with the nearest names or the bad field."""
    text = str(name_or_path)
    is_file = text.endswith(".toml") or "/" in text
    values = _read(Path(text) if is_file else _named(text), depth=0)
    spec = values.get("input")
    if (
        isinstance(spec, dict)
        and spec.get("kind") in ("image", "audio")
        and not (is_file and _own_input(Path(text)) & _SIZES)
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
        raise UsageError(f"task {text} is not valid: {first_problem(e)}") from e
    check_decode(task)
    return task


def _own_input(path: Path) -> set[str]:
    """The settings of the input that a file makes itself, without those that it inherits."""
    values = tomllib.loads(_text(path)).get("input")
    return set(values) if isinstance(values, dict) else set()


def _named(name: str) -> Path:
    if name not in task_names():
        near = difflib.get_close_matches(name, task_names(), n=3, cutoff=0.4) or task_names()
        raise UsageError(
            f"there is no task {name[:64]!r}",
            hint=f"did you mean {', '.join(near)}? A path to a .toml file works too",
        )
    return _HERE / f"{name}.toml"


def _read(path: Path, *, depth: int) -> dict[str, Any]:
    """One file with what it inherits merged in and its labels read."""
    try:
        values = tomllib.loads(_text(path))
    except (ValueError, RecursionError) as e:
        raise UsageError(f"task file {path} is not valid TOML: {e}") from e
    labels = values.get("labels")
    if isinstance(labels, str):
        lines = _text(path.parent / labels).splitlines()
        values["labels"] = [line.strip() for line in lines if line.strip()]
    base = values.pop("inherits", None)
    if base is None:
        return values
    if not isinstance(base, str) or depth >= 4:
        raise UsageError(f"task file {path} inherits from something that is no task name, or too deep")
    inherited = _read(_named(base), depth=depth + 1)
    inherited.pop("abstract", None)
    return _merge(inherited, values)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as f:
            data = f.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise UsageError(f"{path} has more than {_MAX_BYTES} bytes")
        return data.decode()
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not UTF-8 text") from e


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, tables merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
