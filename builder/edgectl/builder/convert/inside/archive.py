"""Names inside a zip, to tell formats apart without loading anything."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

__all__ = ["holds", "members"]

_DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError)
"""RuntimeError: encrypted, or packed in a way that is not known here."""


def members(source: str) -> tuple[str, ...]:
    """Empty for what is no readable zip."""
    path = Path(source)
    if not path.is_file() or not zipfile.is_zipfile(path):
        return ()
    try:
        with zipfile.ZipFile(path) as z:
            return tuple(z.namelist())
    except _DAMAGED:
        return ()


def holds(source: str, *, end: str, text: bytes, most: int = 64 << 20) -> bool:
    """Whether the member whose name ends so contains ``text``, in its first ``most`` bytes."""
    name = next((m for m in members(source) if m.endswith(end)), None)
    if name is None:
        return False
    try:
        with zipfile.ZipFile(source) as z, z.open(name) as f:
            return text in f.read(most)
    except _DAMAGED:
        return False
