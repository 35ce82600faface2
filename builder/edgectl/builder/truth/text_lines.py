"""What pictures of a line of text, or recordings, say: ``x.png`` (``x.wav``) with ``x.txt``, or a table of file and text.

A table is ``.tsv`` (FILE, tab, TEXT), ``.csv`` (two columns, or a header that names them) or ``.jsonl`` (an object a line, as
speech corpora have it: ``{"audio_filepath": "a.wav", "text": "turn left"}``).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgectl.builder.truth.labelled import LabelledItem, LabelledSet
from edgectl.builder.truth.names import match_names, refuse_unknown
from edgectl.builder.truth.places import AUDIO_SUFFIXES, MOST_ITEMS, inside, refuse_missing, too_many
from edgectl.core.config_file import read_bounded_text
from edgectl.core.errors import DataError, UsageError
from edgectl.pipelines.sources.base import IMAGE_SUFFIXES

__all__ = ["TABLE_SUFFIXES", "has_text_lines", "read_text_classes", "read_text_lines"]

TABLE_SUFFIXES = (".tsv", ".csv", ".jsonl")

_MOST_BYTES = 32 << 20
_MOST_CHARACTERS = 4096
_LABELLED = IMAGE_SUFFIXES | AUDIO_SUFFIXES
_FILE_COLUMNS = ("file", "file_name", "filename", "path", "audio", "audio_filepath", "image")
_TEXT_COLUMNS = ("text", "words", "sentence", "transcript", "transcription", "class", "label")

Row = tuple[str, str, str]
"""File, text, and where it stands."""


def has_text_lines(folder: Path) -> bool:
    """Whether a picture or recording of the folder has a text file of its name beside it."""
    return any(f.suffix.lower() in _LABELLED and f.with_suffix(".txt").is_file() for f in folder.iterdir())


def read_text_lines(path: Path, *, pictures: Path | None = None) -> LabelledSet:
    """``path``: the table, or the folder. Raises :class:`DataError`, which names file and line."""
    items = tuple(LabelledItem(file, text) for file, text, _ in _texts(path, pictures))
    return LabelledSet("lines of text", "text", items, ())


def read_text_classes(
    path: Path, labels: Sequence[str], *, pictures: Path | None = None, known_only: bool = False
) -> LabelledSet:
    """The same where the text is the class: the word that is said, of ``labels``. ``known_only``: what is of another class is
    left out. Raises :class:`DataError`."""
    found = _texts(path, pictures)
    if not labels:
        raise DataError(
            f"the task has no labels to match the texts of {path.name} with",
            hint="give the task the labels of the model",
        )
    matched = match_names({text: text for _, text, _ in found}, labels)
    unknown = list(matched.unknown)
    if unknown and (not known_only or not matched.to):
        left = sum(text in matched.to for _, text, _ in found)
        raise refuse_unknown(unknown, labels, left=left, of=len(found), what="files")
    notes = (f"texts that the model has no class for were left out: {', '.join(unknown)}",) if unknown else ()
    items = tuple(LabelledItem(file, matched.to[text]) for file, text, _ in found if text in matched.to)
    return LabelledSet("table of classes", "class", items, tuple(sorted(set(matched.to.values()))), notes)


def _texts(path: Path, pictures: Path | None) -> list[tuple[Path, str, str]]:
    found = _of_folder(path) if path.is_dir() else _of_table(path, pictures or path.parent)
    for file, text, where in found:
        if not text:
            raise DataError(f"{where}: {file.name} has no text", hint="take it out, or say what it reads")
        if len(text) > _MOST_CHARACTERS:
            raise DataError(f"{where}: the text has more than {_MOST_CHARACTERS} characters")
    return found


def _of_folder(folder: Path) -> list[tuple[Path, str, str]]:
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in _LABELLED)
    too_many(len(files), f"files in {folder}")
    if bare := [f for f in files if not f.with_suffix(".txt").is_file()]:
        raise DataError(
            f"{len(bare)} of {len(files)} files have no text file; the first is {bare[0].name}",
            hint=f"put x.txt beside x{bare[0].suffix}",
        )
    return [(f, _text(f.with_suffix(".txt")).strip(), f.stem + ".txt") for f in files]


def _of_table(path: Path, folder: Path) -> list[tuple[Path, str, str]]:
    rows = {".csv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix.lower(), _tab_rows)
    found: list[tuple[Path, str, str]] = []
    seen = set()
    for name, text, where in rows(path):
        if name in seen:
            raise DataError(f"{where}: {name[:80]} is there twice", hint="take one of them out")
        seen.add(name)
        found.append((inside(folder, name, where), text.strip(), where))
        too_many(len(found), f"lines in {path.name}", MOST_ITEMS)
    if not found:
        raise DataError(f"{path.name} names no files", hint="a line is FILE, tab, TEXT")
    refuse_missing(
        (f for f, _, _ in found if not f.is_file()),
        len(found),
        folder,
        "--validation-images FOLDER says where they are",
    )
    return found


def _tab_rows(path: Path) -> Iterator[Row]:
    for n, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise DataError(
                f"{path.name}:{n}: there is no tab between file and text", hint="a line is FILE, tab, TEXT"
            )
        yield name, text, f"{path.name}:{n}"


def _csv_rows(path: Path) -> Iterator[Row]:
    # a quoted cell may go over several lines
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    columns: tuple[int, int] | None = None
    width = 2
    try:
        for row in reader:
            where = f"{path.name}:{reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns = _columns([cell.strip().lower() for cell in row])
                if columns is not None:
                    width = len(row)
                    continue
                columns = (0, 1)
            # one too many is a text with a comma, of which a part would be lost
            if len(row) != width:
                raise DataError(
                    f"{where}: there are {len(row)} columns, not {width}",
                    hint="give two columns, FILE and TEXT, or a first line that names them: file,text; put a text with a "
                    'comma in quotes: a.wav,"left, now"',
                )
            yield row[columns[0]], " ".join(row[columns[1]].splitlines()), where
    except csv.Error as e:
        raise DataError(f"{path.name}:{reader.line_num}: {e}", hint="mend the labels") from e


def _columns(names: list[str]) -> tuple[int, int] | None:
    """Where file and text stand by a header; None if the line is none."""
    file = next((names.index(n) for n in _FILE_COLUMNS if n in names), None)
    text = next((names.index(n) for n in _TEXT_COLUMNS if n in names), None)
    return None if file is None or text is None else (file, text)


def _json_rows(path: Path) -> Iterator[Row]:
    for n, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{n}"
        try:
            said = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(f"{where}: the line is not JSON", hint="mend the labels") from e
        found = [
            next((said[c] for c in of if isinstance(said, dict) and isinstance(said.get(c), str)), None)
            for of in (_FILE_COLUMNS, _TEXT_COLUMNS)
        ]
        if found[0] is None or found[1] is None:
            raise DataError(
                f"{where}: there is no file or no text",
                hint='a line is an object: {"audio_filepath": "a.wav", "text": "turn left"}',
            )
        yield found[0], found[1], where


def _lines(path: Path) -> Iterator[str]:
    """By line feeds and carriage returns alone: JSON has other separators inside of strings."""
    return iter(io.StringIO(_text(path), newline=None))


def _text(path: Path) -> str:
    try:
        return read_bounded_text(path, max_bytes=_MOST_BYTES)
    except UsageError as e:
        raise DataError(e.message, hint="mend the labels") from e
