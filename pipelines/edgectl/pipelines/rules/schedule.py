"""When a rule is in force: hours of the day in the site's time zone. Pure: the time of day comes from the frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

__all__ = ["Schedule", "check_hours", "check_time_zone"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"(?:(?P<days>[a-z,-]+) +)?(?P<h1>\d\d):(?P<m1>\d\d)-(?P<h2>\d\d):(?P<m2>\d\d)")


class Schedule:
    """Spans such as ``22:00-06:00`` or ``mon-fri 18:00-07:00``. One that goes over midnight belongs to the day on
    which it begins. The end is no part of it, and a span that ends where it begins is a whole day."""

    def __init__(self, spans: Sequence[str], time_zone: str) -> None:
        """Raises ValueError for what is no span, and for a time zone that this machine does not know."""
        self._spans = [_parse(span) for span in spans]
        self._zone = ZoneInfo(check_time_zone(time_zone))

    def covers(self, unix_s: float) -> bool:
        """Always, where there are no spans."""
        if not self._spans:
            return True
        here = datetime.fromtimestamp(unix_s, self._zone)
        minute = here.hour * 60 + here.minute
        today, yesterday = here.weekday(), (here - timedelta(days=1)).weekday()
        for days, begin, end in self._spans:
            if begin < end:
                inside = today in days and begin <= minute < end
            else:
                inside = (today in days and minute >= begin) or (yesterday in days and minute < end)
            if inside:
                return True
        return False


def check_hours(spans: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError for what is no span."""
    for span in spans:
        _parse(span)
    return tuple(spans)


def check_time_zone(name: str) -> str:
    """Raises ValueError for a time zone that this machine does not know."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"there is no time zone {name[:64]!r} here; write one such as Europe/Berlin or UTC"
        ) from None
    return name


def _parse(span: str) -> tuple[frozenset[int], int, int]:
    """Days (0: Monday), begin and end in minutes of the day."""
    found = _SPAN.fullmatch(span.strip().lower())
    wrong = ValueError(f"{span[:64]!r} is no span of time; write 22:00-06:00 or mon-fri 18:00-07:00")
    if found is None:
        raise wrong
    begin, end = (int(found[h]) * 60 + int(found[m]) for h, m in (("h1", "m1"), ("h2", "m2")))
    if not (begin < 1440 and end <= 1440 and int(found["m1"]) < 60 and int(found["m2"]) < 60):
        raise wrong
    days: set[int] = set()
    for part in (found["days"] or "mon-sun").split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise wrong
        i, j = _DAYS.index(first), _DAYS.index(last or first)
        days |= {d % 7 for d in range(i, j + 1 if j >= i else j + 8)}
    return frozenset(days), begin, end
