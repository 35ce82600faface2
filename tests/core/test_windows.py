from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgectl.core.windows import is_open, opens_at
from edgectl.core.wire import Policy

MONDAY = datetime(2026, 11, 23, 0, 0)  # noqa: DTZ001 - the device's wall time has no zone


def at(day: int, clock: str) -> datetime:
    hour, minute = clock.split(":")
    return MONDAY.replace(day=MONDAY.day + day, hour=int(hour), minute=int(minute))


@pytest.mark.parametrize(
    ("window", "when", "found"),
    [
        ("mon-fri 01:00-05:00", at(0, "01:00"), True),
        ("mon-fri 01:00-05:00", at(0, "04:59"), True),
        ("mon-fri 01:00-05:00", at(0, "05:00"), False),
        ("mon-fri 01:00-05:00", at(5, "02:00"), False),
        ("sun 22:00-02:00", at(0, "01:00"), True),
        ("mon 22:00-02:00", at(1, "01:59"), True),
        ("mon 22:00-02:00", at(0, "01:00"), False),
        ("sat-mon 03:00-04:00", at(0, "03:30"), True),
        ("sat-mon 03:00-04:00", at(1, "03:30"), False),
        ("tue 00:00-00:00", at(1, "23:59"), True),
        ("tue 00:00-00:00", at(2, "00:00"), False),
    ],
)
def test_window_is_open_from_its_first_minute_to_before_its_last(
    window: str, when: datetime, found: bool
) -> None:
    assert is_open([window], when) is found


def test_without_windows_it_is_always_open() -> None:
    assert is_open([], MONDAY)


@given(
    st.lists(
        st.sampled_from(["mon-fri 01:00-05:00", "sun 22:00-02:00", "wed 10:10-10:11", "daily 03:00-04:00"]),
        min_size=1,
    ),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),  # noqa: DTZ001
)
def test_next_opening_is_open_and_not_before_now(windows: list[str], now: datetime) -> None:
    then = opens_at(windows, now)
    assert then >= now
    assert is_open(windows, then)
    assert is_open(windows, now) == (then == now)


@pytest.mark.parametrize(
    "text",
    ["", "mon", "mon 1:00-2:00", "mon 25:00-26:00", "moon 01:00-02:00", "mon- 01:00-02:00", "x" * 100_000],
)
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValidationError, match="mon-fri 01:00-05:00"):
        Policy.model_validate({"windows": [text]})
