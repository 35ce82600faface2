"""Numbers of what the director's keys sign: they rise whatever clocks, restarts and lying devices do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl.core.errors import StorageError
from edgectl.core.wire import MAX_GEN
from edgectl.fleet.commands import Numbers
from edgectl.fleet.inventory import Inventory

YEAR_S = 365 * 86400.0
NOW_S = 1_800_000_000.0
_CLOCK = st.floats(min_value=0.0, max_value=NOW_S + 50 * YEAR_S)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[[], Inventory]]:
    """Makes databases that know nothing yet."""
    with contextlib.ExitStack() as made:
        yield lambda: made.enter_context(contextlib.closing(Inventory(tmp_path, "sqlite://")))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(["next", "restart", "heard"]), _CLOCK, st.integers(0, MAX_GEN)), max_size=12))
def test_numbers_rise_over_restarts_clocks_and_claims(new: Callable[[], Inventory], steps: list[tuple[str, float, int]]) -> None:
    inventory = new()
    numbers, last = Numbers(inventory), 0
    for what, now_s, claimed in steps:
        if what == "restart":
            numbers = Numbers(inventory)
        elif what == "heard":
            numbers.heard(claimed, now_s)
        else:
            number = numbers.next(now_s)
            assert last < number <= MAX_GEN
            last = number


def test_controller_that_lost_everything_goes_on_above_what_devices_have_seen(new: Callable[[], Inventory]) -> None:
    before = Numbers(new())
    seen = [before.next(NOW_S) for _ in range(10)][-1]
    after = Numbers(new())
    assert after.next(NOW_S + 2) > seen, "by the clock alone"
    ahead = before.next(NOW_S + YEAR_S)
    assert after.next(NOW_S + 3) < ahead, "not after a clock that was ahead"
    assert after.heard(ahead, NOW_S + 4)
    assert after.next(NOW_S + 5) == ahead + 1
    assert not after.heard(ahead, NOW_S + 6), "no news"


def test_device_that_lies_drives_numbers_ten_years_and_no_further(new: Callable[[], Inventory]) -> None:
    numbers = Numbers(new())
    assert not numbers.heard(MAX_GEN, NOW_S)
    assert not numbers.heard(int((NOW_S + 10 * YEAR_S + 1) * 1000), NOW_S)
    assert numbers.next(NOW_S) == int(NOW_S * 1000)
    assert numbers.heard(int((NOW_S + 10 * YEAR_S) * 1000), NOW_S)
    lost = Numbers(new())
    assert lost.heard(int((NOW_S + 10 * YEAR_S) * 1000), NOW_S + 60), "what was believed once is believed again"


def test_number_that_cannot_be_kept_is_not_used(new: Callable[[], Inventory], monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = new()
    numbers = Numbers(inventory)
    first = numbers.next(NOW_S)
    with monkeypatch.context() as full:
        full.setattr(inventory, "keep_number", lambda *_: (_ for _ in ()).throw(StorageError("full")))
        with pytest.raises(StorageError):
            numbers.next(NOW_S)
    assert numbers.next(NOW_S) == first + 1
