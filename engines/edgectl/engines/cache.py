"""The folder of finalised engines, seen from outside: whoever knows which models are still wanted lets the others go.

Loads no runtime. What lies there is written by :mod:`edgectl.engines.finalise`: ``<16 hex of the model>-<key>…`` and its lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from edgectl.core.files import hex_of, storage

__all__ = ["forget_others"]

_NAME = re.compile(r"(?:\.lock-)?([0-9a-f]{16})(?:-.*)?")


def forget_others(cache: Path, models: Iterable[str]) -> int:
    """Remove finalised engines of every model whose digest is not among ``models``. Returns the bytes freed.

    Timing caches stay: they are good for any model of the machine. Raises :class:`StorageError`.
    """
    kept = {hex_of(digest)[:16] for digest in models}
    freed = 0
    with storage(str(cache)):
        for path in cache.iterdir() if cache.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match is not None and match[1] not in kept and path.is_file():
                freed += path.stat().st_size
                path.unlink(missing_ok=True)
    return freed
