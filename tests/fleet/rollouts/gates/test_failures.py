from __future__ import annotations

import pytest

from edgectl.fleet.rollouts.gates import failure_gate, lower_bound, upper_bound


@pytest.mark.parametrize(("n", "rate"), [(10, 0.259), (59, 0.0495), (299, 0.00997)])
def test_no_failure_in_n_devices_shows_only_so_much(n: int, rate: float) -> None:
    assert upper_bound(0, n) == pytest.approx(rate, abs=5e-4)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(1, 20, 0.00256, 0.2161), (5, 100, 0.0199, 0.1023), (50, 100, 0.4136, 0.5864)]
)
def test_bounds_are_clopper_pearson(k: int, n: int, low: float, high: float) -> None:
    assert lower_bound(k, n) == pytest.approx(low, rel=0.01)
    assert upper_bound(k, n) == pytest.approx(high, rel=0.01)


def test_edges() -> None:
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(3, 3) == 1.0
    assert lower_bound(0, 100) == 0.0
    assert 0 < upper_bound(10, 100_000) < 0.001


def test_canaries_are_counted_and_later_only_certainty_stops() -> None:
    def gate(failed: int, finished: int, canary: bool) -> str | None:
        return failure_gate(failed, finished, max_rate=0.05, max_canary=0, canary=canary)

    assert gate(1, 5, True)
    assert gate(0, 5, True) is None
    assert gate(1, 10, False) is None, "one of ten may be bad luck"
    assert gate(4, 10, False)
    assert gate(6, 200, False) is None
    assert gate(30, 200, False)
