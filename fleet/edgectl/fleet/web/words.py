"""Numbers and times as the pages write them, and text of others made safe to look at. Pure."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timezone

__all__ = ["minute", "ms", "plain", "second", "share", "size"]

_LAST_S = 253402300799.0
"""The end of the year 9999."""
_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They turn the direction of text around, and so hide what it says."""


def plain(text: str) -> str:
    """Without what a person does not see: control characters and marks of direction become ``�``."""
    if text.isprintable() and not _MARKS.intersection(text):
        return text
    return "".join(
        "\ufffd" if c in _MARKS or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") else c
        for c in text
    )


def minute(wall_s: float | None) -> str:
    """Unix seconds as ``2026-11-30 14:50``, UTC; a dash for what is no time."""
    return _at(wall_s, "%Y-%m-%d %H:%M")


def second(wall_s: float | None) -> str:
    return _at(wall_s, "%Y-%m-%d %H:%M:%S")


def _at(wall_s: float | None, how: str) -> str:
    if wall_s is None or not 0 < wall_s <= _LAST_S:
        return "–"
    return datetime.fromtimestamp(wall_s, timezone.utc).strftime(how)


def ms(value: float | None) -> str:
    """Milliseconds with three digits; a dash where nobody knows."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def size(n: float) -> str:
    """Bytes; a kB is 1000 of them."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            break
        n /= 1000
    return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
