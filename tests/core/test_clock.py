from __future__ import annotations

from edgectl.core.clock import clock_says


def test_clock_is_said_as_a_date_however_wrong_it_is() -> None:
    assert clock_says(1_893_499_200.0) == "this machine's clock says 2030-01-01 12:00 UTC"
    assert clock_says(0.0) == "this machine's clock says 1970-01-01 00:00 UTC"
    assert clock_says(1e20) == "this machine's clock says 100000000000000000000 s after 1970"
    assert clock_says().startswith("this machine's clock says 2")
