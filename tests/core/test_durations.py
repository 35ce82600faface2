"""Times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.durations import in_words, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1d12h", 129600)]
)
def test_units_add_up(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "1.5h", "-3m", "30 m", "1w", "9999999s", "३m"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time like 30m, 2h or 1h30m"):
        seconds_of(text)


@given(st.integers(0, 10**7))
def test_words_are_read_back_to_within_the_smaller_unit(seconds: int) -> None:
    read = seconds_of(in_words(seconds))
    assert read <= seconds
    assert seconds - read < (60 if seconds < 86400 else 3600)
