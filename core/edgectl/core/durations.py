"""Times as people write them: ``90s``, ``30m``, ``1h30m``, ``7d``."""

from __future__ import annotations

import re

__all__ = ["in_words", "seconds_of"]

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_TEXT = re.compile(r"([0-9]{1,6}[smhd])+")


def seconds_of(text: str) -> float:
    """``1h30m`` → 5400.0. Raises ValueError for what is no such text."""
    if not _TEXT.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a time like 30m, 2h or 1h30m")
    return float(sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9]+)([smhd])", text)))


def in_words(seconds: float) -> str:
    """The two largest units: 5400 → ``1h30m``, 90061 → ``1d1h``; below a minute, whole seconds."""
    left, found = max(0, round(seconds)), []
    for unit, size in _UNITS.items():
        n, left = divmod(left, size)
        if n:
            found.append(f"{n}{unit}")
    return "".join(found[:2]) or "0s"
