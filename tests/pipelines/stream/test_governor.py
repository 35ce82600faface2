"""When a stream does less, and when it does everything again: against a simulated engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.pipelines.stream.governor import (
    Change,
    Governor,
    GovernorConfig,
    Lighter,
    LoadLimits,
    Rung,
    StreamLoad,
    ladder,
)

CONFIG = GovernorConfig()
LOOK_S = 0.5


def simulate(
    governor: Governor,
    rungs: tuple[Rung, ...],
    engine_ms: Callable[[float], float],
    seconds: float,
    *,
    fps: float = 30,
    more: Callable[[float, StreamLoad], StreamLoad] = lambda t, load: load,
) -> tuple[list[tuple[float, Change]], list[tuple[float, int]]]:
    """Changes and losses by time, of a stream of ``fps`` whose engine takes ``engine_ms(t)`` a frame."""
    changes, losses, left = [], [], 0.0
    for look in range(1, round(seconds / LOOK_S) + 1):
        t = look * LOOK_S
        cost = rungs[governor.level].cost
        due = round(fps * LOOK_S / rungs[governor.level].detect_every)
        left += engine_ms(t) / 1000 * (cost * rungs[governor.level].detect_every) * due
        served = min(left, LOOK_S)
        lost = round(due * max(0.0, 1 - LOOK_S / left)) if left > LOOK_S else 0
        demand, left = left / LOOK_S, 0.0
        assert served <= LOOK_S
        losses.append((t, lost))
        change = governor.step(more(t, StreamLoad(t, due, lost, demand)))
        if change is not None:
            changes.append((t, change))
    return changes, losses


def governed() -> tuple[Governor, tuple[Rung, ...]]:
    rungs = ladder(CONFIG)
    return Governor(CONFIG, rungs), rungs


def test_the_ladder_begins_with_everything_and_each_rung_costs_less() -> None:
    rungs = ladder(GovernorConfig(detect_every=(3, 2, 2)))
    assert rungs == (Rung(), Rung(2), Rung(3))
    assert [rung.cost for rung in rungs] == [1, 1 / 2, 1 / 3]


SMALL = Lighter("small-input", 0.36)
LOW = Lighter("low-power", 0.8)


def test_each_rung_of_a_long_ladder_is_cheaper_than_the_one_before_and_key_frames_are_the_last() -> None:
    config = GovernorConfig(key_frames=True)
    rungs = ladder(config, [SMALL, LOW], regions=True, key_frames=True)
    costs = [rung.cost for rung in rungs]
    assert costs == sorted(costs, reverse=True)
    assert all(b <= 0.9 * a + 1e-9 for a, b in itertools.pairwise(costs))
    assert rungs[:3] == (Rung(), Rung(regions=False), Rung(2, regions=False))
    assert [r.key_frames for r in rungs] == [False] * (len(rungs) - 1) + [True]
    assert {r.variant for r in rungs} >= {None, SMALL}
    # a variant comes when there are no frames left to leave out
    assert [r.variant for r in rungs[:5]] == [None] * 5
    assert not any(r.key_frames for r in ladder(config, [SMALL], key_frames=False))


def test_without_frames_to_leave_out_a_variant_is_the_only_rung() -> None:
    assert ladder(LoadLimits()) == (Rung(),)
    assert ladder(LoadLimits(), [SMALL], key_frames=True) == (Rung(), Rung(1, SMALL))


def test_a_variant_that_is_hardly_cheaper_is_no_rung() -> None:
    assert ladder(LoadLimits(), [Lighter("low-power", 0.95)]) == (Rung(),)


@pytest.mark.parametrize(("overload", "variant"), [(2.0, None), (6.0, SMALL), (11.0, SMALL)])
def test_with_another_variant_a_larger_overload_is_over_by_one_change_too(
    overload: float, variant: Lighter | None
) -> None:
    rungs = ladder(CONFIG, [SMALL])
    governor = Governor(CONFIG, rungs)
    changes, losses = simulate(governor, rungs, lambda t: overload * 1000 / 30, 60)
    assert len(changes) == 1
    assert changes[0][1].rung.variant == variant
    assert all(lost == 0 for t, lost in losses if t > 5)


@pytest.mark.parametrize("period_s", [10, 60, 400])
@pytest.mark.parametrize("heavy_ms", [66, 250, 500])
def test_an_hour_of_load_that_comes_and_goes_does_not_make_a_long_ladder_flap(
    period_s: float, heavy_ms: float
) -> None:
    config = GovernorConfig(key_frames=True)
    rungs = ladder(config, [SMALL, LOW], regions=True, key_frames=True)
    governor = Governor(config, rungs)
    changes, _ = simulate(governor, rungs, lambda t: heavy_ms if t % period_s < period_s / 2 else 8, 3600)
    assert changes
    assert len(changes) <= 45
    assert sum(t > 1800 for t, _ in changes) <= sum(t <= 1800 for t, _ in changes)
    late = [c.rung.variant for t, c in changes if t > 1200]
    assert sum(a != b for a, b in itertools.pairwise(late)) <= 8, "an engine is opened for each"


def test_want_of_memory_opens_no_other_engine() -> None:
    rungs = ladder(CONFIG, [SMALL])
    governor = Governor(CONFIG, rungs)
    changes, _ = simulate(
        governor, rungs, lambda t: 10, 300, more=lambda t, load: replace(load, memory_mb=10.0)
    )
    assert [c.rung for _, c in changes] == [Rung(2), Rung(3), Rung(5)]


def test_heat_goes_down_to_key_frames() -> None:
    config = GovernorConfig(key_frames=True)
    rungs = ladder(config, [SMALL], key_frames=True)
    governor = Governor(config, rungs)
    simulate(governor, rungs, lambda t: 10, 300, more=lambda t, load: replace(load, temperature_c=95.0))
    assert rungs[governor.level].key_frames


def test_a_variant_that_is_gone_leaves_the_governor_on_the_last_rung_that_costs_as_much() -> None:
    rungs = ladder(CONFIG, [SMALL])
    governor = Governor(CONFIG, rungs)
    simulate(governor, rungs, lambda t: 200, 10)
    assert rungs[governor.level].variant == SMALL
    rung = governor.take(ladder(CONFIG))
    assert rung == Rung(5)
    assert governor.rungs == 4
    # and it goes on from there
    changes, _ = simulate(governor, ladder(CONFIG), lambda t: 5, 100)
    assert [c.rung for _, c in changes] == [Rung(3), Rung(2), Rung()]


def test_power_that_is_low_leaves_alone_who_has_nothing_to_leave_out() -> None:
    governor = Governor(LoadLimits(), ladder(LoadLimits()))
    low = StreamLoad(1.0, 15, 0, 0.1, low_power=True)
    assert governor.step(low) is None


@pytest.mark.parametrize("overload", [1.3, 2.0, 2.9, 4.0])
def test_an_overload_is_over_within_five_seconds_and_by_one_change(overload: float) -> None:
    governor, rungs = governed()
    changes, losses = simulate(governor, rungs, lambda t: overload * 1000 / 30, 60)
    assert [change.reason for _, change in changes] == ["overload"]
    assert all(lost == 0 for t, lost in losses if t > 5)
    assert changes[0][1].rung.cost * overload <= 0.85


def test_everything_is_done_again_after_the_calm() -> None:
    governor, rungs = governed()
    changes, losses = simulate(governor, rungs, lambda t: 100 if t < 20 else 10, 200)
    assert changes[-1][1].level == 0
    assert [c.reason for _, c in changes][1:] == ["calm"] * (len(changes) - 1)
    assert all(lost == 0 for t, lost in losses if t > 25)


@pytest.mark.parametrize("period_s", [4, 10, 24, 60, 150, 400])
def test_an_hour_of_load_that_comes_and_goes_does_not_make_it_flap(period_s: float) -> None:
    governor, rungs = governed()
    changes, _ = simulate(governor, rungs, lambda t: 66 if t % period_s < period_s / 2 else 8, 3600)
    assert changes
    assert len(changes) <= 30
    # what it learned holds: later there is less of it than in the beginning
    assert sum(t > 1800 for t, _ in changes) <= sum(t <= 1800 for t, _ in changes)


def test_a_little_loss_is_jitter() -> None:
    governor, rungs = governed()

    def jitter(t: float, load: StreamLoad) -> StreamLoad:
        return replace(load, lost=1 if t % 5 == 0 else 0)

    assert simulate(governor, rungs, lambda t: 10, 120, more=jitter)[0] == []


def test_losses_that_are_not_the_engines_take_one_rung_after_the_other() -> None:
    """The processor is short, not the engine: its demand predicts nothing."""
    governor, rungs = governed()

    def choked(t: float, load: StreamLoad) -> StreamLoad:
        return replace(load, lost=load.due // 2)

    changes, _ = simulate(governor, rungs, lambda t: 1, 30, more=choked)
    assert [c.level for _, c in changes] == [1, 2, 3]


def test_heat_takes_a_rung_at_a_time_and_gives_it_back_when_it_is_well_cooler() -> None:
    governor, rungs = governed()

    def heat(t: float, load: StreamLoad) -> StreamLoad:
        return replace(load, temperature_c=92 if t < 30 else 86 if t < 100 else 70)

    changes, _ = simulate(governor, rungs, lambda t: 10, 300, more=heat)
    hot = [c for t, c in changes if t < 30]
    assert [c.level for c in hot] == list(range(1, len(hot) + 1))
    assert {c.reason for c in hot} == {"temperature"}
    assert not [t for t, _ in changes if 30 <= t < 100]
    assert governor.level == 0


def test_little_memory_and_a_battery_are_reasons_too() -> None:
    governor, rungs = governed()
    changes, _ = simulate(
        governor, rungs, lambda t: 10, 10, more=lambda t, load: replace(load, memory_mb=10.0)
    )
    assert changes[0][1].reason == "memory"
    governor, rungs = governed()
    changes, _ = simulate(
        governor, rungs, lambda t: 10, 300, more=lambda t, load: replace(load, low_power=True)
    )
    assert [(c.level, c.reason) for _, c in changes] == [(1, "power")]


def test_memory_that_hovers_about_its_limit_gives_nothing_back() -> None:
    governor, rungs = governed()

    def scarce(t: float, load: StreamLoad) -> StreamLoad:
        return replace(load, memory_mb=60.0 if t < 2 else 70.0 if t < 100 else 400.0)

    changes, _ = simulate(governor, rungs, lambda t: 10, 200, more=scarce)
    assert [t for t, _ in changes if 2 <= t < 100] == []
    assert governor.level == 0


def test_it_can_be_turned_off() -> None:
    off = GovernorConfig(on=False)
    governor = Governor(off, ladder(off))
    assert simulate(governor, ladder(off), lambda t: 200, 20)[0] == []


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(1, 200), st.floats(20, 100), st.floats(10, 500), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_it_stays_on_the_ladder_and_every_change_is_one(
    steps: list[tuple[float, float, float, bool]],
) -> None:
    governor, rungs = governed()
    before = 0
    for at, (engine_ms, temperature, memory, low) in enumerate(steps):

        def more(
            t: float,
            load: StreamLoad,
            at: int = at,
            rest: tuple[float, float, bool] = (temperature, memory, low),
        ) -> StreamLoad:
            return replace(load, t_s=t + 10 * at, temperature_c=rest[0], memory_mb=rest[1], low_power=rest[2])

        changes, _ = simulate(governor, rungs, lambda t, ms=engine_ms: ms, 10, more=more)  # type: ignore[misc]
        for _, change in changes:
            assert change.level != before
            assert rungs[change.level] == change.rung
            before = change.level
    assert governor.level == before
