"""A folder for each class: ``cat/1.png``, ``dog/7.png``; or recordings: ``yes/1.wav``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from edgectl.builder.truth.labelled import LabelledItem, LabelledSet
from edgectl.builder.truth.names import match_names, refuse_unknown
from edgectl.builder.truth.places import too_many
from edgectl.core.errors import DataError

__all__ = ["class_folders", "read_class_folders"]

_LAYOUT = "class folders"


def class_folders(folder: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    """Class → its files, if a folder has nothing but folders with such files (and notes about them); else empty."""
    found: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "__")):  # ``_unknown_`` may be a class
            continue
        if not entry.is_dir():
            if entry.suffix.lower() in suffixes:
                return {}
            continue
        files = sorted(f for f in entry.iterdir() if f.suffix.lower() in suffixes and f.is_file())
        if files:
            found[entry.name] = files
            too_many(sum(map(len, found.values())), f"files in {folder}")
    return found


def read_class_folders(
    found: dict[str, list[Path]], labels: Sequence[str], *, known_only: bool = False
) -> LabelledSet:
    """``labels``: of the model. By name; folders that are called by numbers, where the model has no such labels, are
    places in the list of its labels. Raises :class:`DataError`."""
    matched = match_names({name: name for name in found}, labels)
    to, notes = dict(matched.to), []
    unknown = list(matched.unknown)
    if not to and all(name.isdecimal() and len(name) < 8 for name in found):
        numbers = {name: int(name) for name in found}
        if labels and max(numbers.values()) >= len(labels):
            raise DataError(
                f"folder {max(numbers, key=lambda n: numbers[n])} is no place in the model's {len(labels)} labels, from 0 on",
                hint="call the folders as the model calls its classes",
            )
        to, unknown = numbers, []
        notes.append(
            "the class folders have no names: their numbers were taken for places in the model's labels"
        )
    elif not labels:
        raise DataError(
            f"the task has no labels to match the class folders with: {', '.join(sorted(found)[:8])}",
            hint="give the task labels, or call the folders 0, 1, 2 … in the order of the model's outputs",
        )
    if unknown and (not known_only or not to):
        left = sum(len(files) for name, files in found.items() if name in to)
        raise refuse_unknown(unknown, labels, left=left, of=sum(map(len, found.values())), what="files")
    if unknown:
        notes.append(f"class folders that the model does not have were left out: {', '.join(unknown)}")
    items = tuple(LabelledItem(f, to[name]) for name, files in found.items() if name in to for f in files)
    return LabelledSet(_LAYOUT, "class", items, tuple(sorted(set(to.values()))), tuple(notes))
