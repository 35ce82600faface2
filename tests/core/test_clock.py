from __future__ import annotations

from edgectl.core.clock import SteadyWall, clock_says


def test_clock_is_said_as_a_date_however_wrong_it_is() -> None:
    assert clock_says(1_893_499_200.0) == "this machine's clock says 2030-01-01 12:00 UTC"
    assert clock_says(0.0) == "this machine's clock says 1970-01-01 00:00 UTC"
    assert clock_says(1e20) == "this machine's clock says 100000000000000000000 s after 1970"
    assert clock_says().startswith("this machine's clock says 2")


class Machine:
    def __init__(self, wall_s: float) -> None:
        self.wall_s, self.steady_s = wall_s, 7.0
        self.time = SteadyWall(lambda: self.wall_s, lambda: self.steady_s)

    def sleep(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds


def test_clock_that_jumps_moves_no_deadline() -> None:
    m = Machine(1.8e9)
    m.sleep(10)
    for jump in (4 * 365 * 86400.0, -40 * 365 * 86400.0, 3600.0):
        m.wall_s += jump
        assert m.time() == 1.8e9 + 10
        m.wall_s -= jump


def test_clock_that_was_never_set_is_followed_once_it_is() -> None:
    m = Machine(100.0)
    m.sleep(5)
    assert m.time() == 105.0
    m.wall_s = 1.8e9
    assert m.time() == 1.8e9
    m.sleep(5)
    m.wall_s += 1e6
    assert m.time() == 1.8e9 + 5
