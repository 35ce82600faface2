"""Numbers and times, and text of others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.fleet.web.words import minute, ms, plain, second, share, size


def test_times_are_utc() -> None:
    assert minute(1_700_000_000.0) == "2023-11-14 22:13"
    assert second(1_700_000_000.0) == "2023-11-14 22:13:20"


@pytest.mark.parametrize("wall_s", [None, 0.0, -1.0, 1e30, float("nan")])
def test_what_is_no_time_is_a_dash(wall_s: float | None) -> None:
    assert minute(wall_s) == "–"


def test_numbers_have_three_digits() -> None:
    assert [ms(v) for v in (None, 0.123456, 5.678, 123.4, 4567.8)] == ["–", "0.123", "5.68", "123", "4568"]
    assert [share(v) for v in (None, 0.0, 0.123)] == ["–", "0.0%", "12.3%"]
    assert [size(v) for v in (0, 999, 1000, 2_500_000, 7e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.5 MB",
        "7000.0 GB",
    ]


@given(st.text())
def test_nothing_that_hides_or_turns_text_is_left(text: str) -> None:
    shown = plain(text)
    assert len(shown) == len(text)
    assert not set(shown) & set("\0\x1b\x7f\u202e\u2066\u200f")
    assert all(a == b or b == "\ufffd" for a, b in zip(text, shown, strict=True))


def test_plain_text_stays_as_it_is() -> None:
    assert plain("Köln, 2 × 8.7 <b>\n\tzwei") == "Köln, 2 × 8.7 <b>\n\tzwei"
    assert plain("gate\u202egpj.exe") == "gate\ufffdgpj.exe"
