"""Maintenance windows: the times of a week, on the device's own clock, at which an engine may be changed.

A window is written as people say it: ``mon-fri 01:00-05:00``, ``sat,sun 22:00-02:00`` (past midnight),
``daily 03:00-04:00``. It belongs to the day on which it starts. Times are wall time: on the days on which the
clocks change, a window is an hour longer or shorter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["MAX_WINDOWS", "Window", "is_open", "opens_at"]

MAX_WINDOWS = 32

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TEXT = re.compile(r"([a-z,-]+) +([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)\Z")


def _parse(text: str) -> tuple[frozenset[int], timedelta, timedelta]:
    """Weekdays (0: Monday), start after midnight, length (a day if both times are the same). Raises
    ValueError."""
    match = _TEXT.match(text.strip().lower()) if len(text) <= 80 else None
    days = _days(match[1]) if match else None
    if match is None or not days:
        raise ValueError(
            f"{text[:80]!r} is not a maintenance window: write days and times, e.g. 'mon-fri 01:00-05:00'"
        )
    start = timedelta(hours=int(match[2]), minutes=int(match[3]))
    length = timedelta(hours=int(match[4]), minutes=int(match[5])) - start
    return days, start, length if length > timedelta(0) else length + timedelta(days=1)


def _days(text: str) -> frozenset[int] | None:
    if text == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS or part.endswith("-"):
            return None
        a, b = _DAYS.index(first), _DAYS.index(last or first)
        found.update((a + i) % 7 for i in range((b - a) % 7 + 1))
    return frozenset(found)


def _check(text: str) -> str:
    _parse(text)
    return text


Window = Annotated[str, AfterValidator(_check)]
"""``DAYS HH:MM-HH:MM``; DAYS is ``daily`` or a list of days and ranges of days."""


def is_open(windows: Iterable[str], now: datetime) -> bool:
    """Whether one of the windows is open at the device's local time ``now``. Without windows it always is."""
    texts = tuple(windows)
    return not texts or any(_start_of(text, now) is not None for text in texts)


def opens_at(windows: Iterable[str], now: datetime) -> datetime:
    """When the next window opens; ``now`` if one is open. Raises ValueError without windows."""
    texts = tuple(windows)
    if is_open(texts, now):
        return now
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = []
    for text in texts:
        days, start, _ = _parse(text)
        coming = (midnight + timedelta(days=i) for i in range(8))
        starts += [day + start for day in coming if day.weekday() in days and day + start > now]
    return min(starts)


def _start_of(text: str, now: datetime) -> datetime | None:
    """When the window that is open now opened; None if it is closed."""
    days, start, length = _parse(text)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (midnight, midnight - timedelta(days=1)):
        if day.weekday() in days and day + start <= now < day + start + length:
            return day + start
    return None
