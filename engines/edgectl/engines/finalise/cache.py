"""Lists and removes the finalised engines of models that nobody needs any more.

Loads no runtime. What lies there is written by :mod:`edgectl.engines.finalise.finalise`: ``<16 hex of the
model>-<key>…`` and its lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from edgectl.core.files import hex_of, storage

__all__ = ["forget_others", "others"]

_NAME = re.compile(r"(?:\.lock-)?([0-9a-f]{16})(?:-.*)?")


def others(cache: Path, models: Iterable[str]) -> list[Path]:
    """Finalised engines, and their locks, of every model whose digest is not among ``models``. Raises
    :class:`StorageError`."""
    kept = {hex_of(digest)[:16] for digest in models}
    with storage(str(cache)):
        found = (
            [(p, _NAME.fullmatch(p.name)) for p in sorted(cache.iterdir()) if p.is_file()]
            if cache.is_dir()
            else []
        )
    return [path for path, match in found if match is not None and match[1] not in kept]


def forget_others(cache: Path, models: Iterable[str]) -> int:
    """Remove finalised engines of every model whose digest is not among ``models``. Returns the bytes freed.

    Timing caches stay: they are good for any model of the machine. Raises :class:`StorageError`.
    """
    freed = 0
    with storage(str(cache)):
        for path in others(cache, models):
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
    return freed
