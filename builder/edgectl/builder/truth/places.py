"""Files that labels name: found inside of one folder, never outside of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edgectl.core.errors import DataError

__all__ = ["AUDIO_SUFFIXES", "MOST_ITEMS", "inside", "read_at_most", "refuse_missing", "too_many"]

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})
MOST_ITEMS = 200_000
"""Pictures or recordings of a set, and lines of a list."""


def inside(folder: Path, name: str, where: str) -> Path:
    """The file ``name`` of ``folder``. Raises :class:`DataError` for a name that leads out of it. ``where``: of the
    labels, for the sentence."""
    if "\x00" in name or not name.strip() or len(name) > 4096:
        raise DataError(f"{where}: {name[:80]!r} is no name of a file", hint="mend the labels")
    path = folder / name
    if Path(name).is_absolute() or os.path.normpath(name).split(os.sep)[0] == "..":
        raise DataError(
            f"{where}: {name[:200]!r} leads out of {folder}",
            hint="name files relative to the folder of pictures, without ..",
        )
    return path


def read_at_most(path: Path, most: int, *, unreadable: str, too_large: str) -> bytes:
    """The bytes of a file of labels. Raises :class:`DataError` for one that cannot be read and for one of more than ``most``
    bytes, with what to do then."""
    try:
        with path.open("rb") as f:
            data = f.read(most + 1)
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}", hint=unreadable) from e
    if len(data) > most:
        raise DataError(f"{path.name} has more than {most >> 20} MiB", hint=too_large)
    return data


def refuse_missing(missing: Iterable[Path], of: int, folder: Path, hint: str) -> None:
    """Raises :class:`DataError` if there are any. ``of``: how many the labels name."""
    gone = list(missing)
    if gone:
        raise DataError(
            f"{len(gone)} of {of} pictures that the labels name are not in {folder}; the first is {gone[0].name}",
            hint=hint,
        )


def too_many(n: int, what: str, most: int = MOST_ITEMS) -> None:
    """Raises :class:`DataError` for more than ``most``."""
    if n > most:
        raise DataError(f"there are more than {most:,} {what}", hint="give a part of them")
