"""Pictures of lines of text, and what they say: ``x.png`` with ``x.txt``, or a table of file and text (``.tsv``)."""

from __future__ import annotations

from pathlib import Path

from edgectl.builder.truth.labelled import LabelledItem, LabelledSet
from edgectl.builder.truth.places import MOST_ITEMS, inside, refuse_missing, too_many
from edgectl.core.config_file import read_bounded_text
from edgectl.core.errors import DataError, UsageError
from edgectl.pipelines.sources.base import IMAGE_SUFFIXES

__all__ = ["has_text_lines", "read_text_lines"]

_MOST_BYTES = 32 << 20
_MOST_CHARACTERS = 4096


def has_text_lines(folder: Path) -> bool:
    """Whether a picture of the folder has a text file of its name beside it."""
    return any(
        f.suffix.lower() in IMAGE_SUFFIXES and f.with_suffix(".txt").is_file() for f in folder.iterdir()
    )


def read_text_lines(path: Path, *, pictures: Path | None = None) -> LabelledSet:
    """``path``: the table, or the folder. Raises :class:`DataError`, which names file and line."""
    found = _of_folder(path) if path.is_dir() else _of_table(path, pictures or path.parent)
    for file, text, where in found:
        if not text:
            raise DataError(f"{where}: {file.name} has no text", hint="take it out, or say what it reads")
        if len(text) > _MOST_CHARACTERS:
            raise DataError(f"{where}: the text has more than {_MOST_CHARACTERS} characters")
    items = tuple(LabelledItem(file, text) for file, text, _ in found)
    return LabelledSet("lines of text", "text", items, ())


def _of_folder(folder: Path) -> list[tuple[Path, str, str]]:
    pictures = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    too_many(len(pictures), f"pictures in {folder}")
    if bare := [f for f in pictures if not f.with_suffix(".txt").is_file()]:
        raise DataError(
            f"{len(bare)} of {len(pictures)} pictures have no text file; the first is {bare[0].name}",
            hint="put x.txt beside x.png",
        )
    return [(f, _text(f.with_suffix(".txt")).strip(), f.stem + ".txt") for f in pictures]


def _of_table(path: Path, folder: Path) -> list[tuple[Path, str, str]]:
    found, seen = [], set()
    for n, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        where = f"{path.name}:{n}"
        if not tab:
            raise DataError(
                f"{where}: there is no tab between file and text", hint="a line is FILE, tab, TEXT"
            )
        if name in seen:
            raise DataError(f"{where}: {name[:80]} is there twice", hint="take one of them out")
        seen.add(name)
        found.append((inside(folder, name, where), text.strip(), where))
        too_many(len(found), f"lines in {path.name}", MOST_ITEMS)
    if not found:
        raise DataError(f"{path.name} names no pictures", hint="a line is FILE, tab, TEXT")
    refuse_missing(
        (f for f, _, _ in found if not f.is_file()),
        len(found),
        folder,
        "--validation-images FOLDER says where they are",
    )
    return found


def _text(path: Path) -> str:
    try:
        return read_bounded_text(path, max_bytes=_MOST_BYTES)
    except UsageError as e:
        raise DataError(e.message, hint="mend the labels") from e
