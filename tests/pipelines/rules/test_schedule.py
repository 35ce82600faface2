"""Hours of the day: over midnight, by weekday, through the change of summer time."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.rules.schedule import Schedule, check_hours


def covers(spans: list[str], text: str, zone: str = "Europe/Berlin") -> bool:
    at = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return Schedule(spans, zone).covers(at.timestamp())


@pytest.mark.parametrize(
    ("spans", "text", "inside"),
    [
        (["22:00-06:00"], "2026-11-29 22:00", True),
        (["22:00-06:00"], "2026-11-29 05:59", True),
        (["22:00-06:00"], "2026-11-29 06:00", False),
        # Friday's night reaches into Saturday, Sunday's is none
        (["mon-fri 22:00-06:00"], "2026-11-28 03:00", True),
        (["mon-fri 22:00-06:00"], "2026-11-29 23:00", False),
        (["mon-fri 22:00-06:00"], "2026-11-30 03:00", False),
        (["sat,sun 00:00-24:00"], "2026-11-29 12:00", True),
        (["fri-mon 08:00-09:00"], "2026-11-29 08:30", True),
        (["fri-mon 08:00-09:00"], "2026-12-01 08:30", False),
        (["12:00-12:00"], "2026-11-29 04:00", True),
        (["07:00-08:00", "17:00-18:00"], "2026-11-29 17:30", True),
        # both sides of the change of summer time: the clock on the wall decides
        (["02:00-04:00"], "2026-03-29 03:30", True),
        (["22:00-06:00"], "2026-10-25 05:30", True),
        ([], "2026-11-29 12:00", True),
    ],
)
def test_a_span_covers(spans: list[str], text: str, inside: bool) -> None:
    assert covers(spans, text) is inside


@pytest.mark.parametrize("bad", ["22-06", "25:00-06:00", "22:00-24:01", "abc 22:00-06:00", "22:61-23:00", ""])
def test_what_is_no_span_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match="no span of time"):
        check_hours([bad])
    with pytest.raises(UsageError, match="no span of time"):
        parse_config("surveillance", {"rules": [{"id": "x", "intrusion": {"zone": "yard", "when": bad}}]})


def test_an_unknown_time_zone_is_named() -> None:
    with pytest.raises(UsageError, match="no time zone 'Mars/Olympus'"):
        parse_config("surveillance", {"time_zone": "Mars/Olympus"})


@given(st.floats(0, 4e9), st.integers(0, 1439), st.integers(0, 1439))
def test_a_span_and_the_rest_of_the_day_are_never_both_in_force(unix_s: float, a: int, b: int) -> None:
    if a == b:
        return
    one, other = (f"{x // 60:02}:{x % 60:02}-{y // 60:02}:{y % 60:02}" for x, y in ((a, b), (b, a)))
    assert Schedule([one], "UTC").covers(unix_s) is not Schedule([other], "UTC").covers(unix_s)
