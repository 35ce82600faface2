"""Caps, rates, ramps and sites."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulated_fleet import SPEC, SimulatedFleet

from edgectl.core.states import State
from edgectl.fleet.rollouts.admission import most_unavailable
from edgectl.fleet.rollouts.planner import BUSY, RolloutState
from edgectl.fleet.rollouts.values import MaxUnavailable, Ramp, Wave

QUICK = SPEC.model_copy(update={"canary": 1, "soak_s": 0.0})


def past_the_canary(sim: SimulatedFleet) -> None:
    for a in sim.step():
        sim.report(a.device, State.COMMITTED)
    sim.step()


def busy(sim: SimulatedFleet) -> set[str]:
    return {n for n, m in sim.progress.members.items() if m.outcome in BUSY}


def test_no_more_are_busy_at_once_than_the_cap_says() -> None:
    sim = SimulatedFleet(10, QUICK.model_copy(update={"in_flight": 3}))
    past_the_canary(sim)
    sim.step()
    assert len(busy(sim)) == 3
    sim.report(min(busy(sim)), State.COMMITTED)
    assert len(sim.step()) == 1, "one is done, one is asked"
    assert len(busy(sim)) == 3


def test_no_more_are_asked_within_a_minute_than_the_rate_says() -> None:
    sim = SimulatedFleet(10, QUICK.model_copy(update={"per_minute": 4}))
    past_the_canary(sim)
    sim.step()
    assert len(sim.admitted) == 4, "the canary counts"
    sim.step(dt=50)
    assert len(sim.admitted) == 4
    sim.step(dt=10)
    assert len(sim.admitted) == 8


def test_ramp_goes_by_what_committed_and_not_by_what_was_asked() -> None:
    ramp = Ramp(start=2, factor=3, every=2, most=100)
    assert [ramp.per_minute(n) for n in (0, 1, 2, 4, 6, 1000)] == [2, 2, 6, 18, 54, 100]
    sim = SimulatedFleet(40, QUICK.model_copy(update={"waves": (Wave(share=1.0, ramp=ramp),)}))
    past_the_canary(sim)
    sim.step(dt=61)
    assert len(busy(sim)) == 2
    sim.step(dt=61)
    assert len(busy(sim)) == 4, "nobody of the wave committed: no faster"
    for name in busy(sim):
        sim.report(name, State.COMMITTED)
    sim.step(dt=61)
    assert len(busy(sim)) == 18


def by_site(sim: SimulatedFleet, site_of: dict[str, str]) -> None:
    for name, site in site_of.items():
        sim.views[name] = replace(sim.views[name], labels={"site": site})


def test_only_a_part_of_a_site_is_out_of_service_at_once() -> None:
    sim = SimulatedFleet(12, QUICK.model_copy(update={"max_unavailable": MaxUnavailable(share=0.5)}))
    by_site(sim, {f"d{i}": "north" if i < 8 else "south" for i in range(12)})
    past_the_canary(sim)
    sim.step()
    north = {f"d{i}" for i in range(8)}
    assert (len(busy(sim) & north), len(busy(sim) - north)) == (4, 2)


def test_share_of_a_site_is_not_cut_by_what_floats_cannot_hold() -> None:
    assert [most_unavailable(MaxUnavailable(share=0.29), n) for n in (100, 99, 1)] == [29, 28, 1]


def test_who_is_away_counts_against_its_site_and_the_rollout_says_why_it_waits() -> None:
    sim = SimulatedFleet(
        5, QUICK.model_copy(update={"max_unavailable": MaxUnavailable(share=0.4), "away_s": 50.0})
    )
    by_site(sim, dict.fromkeys(sim.views, "north"))
    past_the_canary(sim)
    waiting = sorted(set(sim.views) - sim.admitted)
    for name in waiting[:2]:
        sim.off(name)
    sim.step()
    assert len(busy(sim) & set(waiting[2:])) == 1, "two of five are away: one may be busy, as ever"
    sim.step(dt=100)
    assert "1 of label.site north wait: 40% of it may be away or busy at once" in (sim.progress.note or "")
    sim.report(min(busy(sim) & set(waiting[2:])), State.COMMITTED)
    sim.step()
    assert sim.admitted == set(sim.views)


def test_one_dead_device_keeps_no_site_from_being_updated_nor_takes_anything_back() -> None:
    sim = SimulatedFleet(
        11, QUICK.model_copy(update={"max_unavailable": MaxUnavailable(share=0.1), "idle_s": 600.0})
    )
    by_site(sim, dict.fromkeys(sim.views, "north"))
    past_the_canary(sim)
    dead = max(set(sim.views) - sim.admitted)
    sim.off(dead)
    for _ in range(30):
        sim.step(dt=100)
        for name in busy(sim) - {dead}:
            sim.report(name, State.COMMITTED)
        assert len(busy(sim) - {dead}) <= 1
    assert sim.progress.state is RolloutState.DONE
    assert sim.admitted == set(sim.views)


def test_who_only_waits_for_a_rate_is_not_idle() -> None:
    sim = SimulatedFleet(4, QUICK.model_copy(update={"per_minute": 1, "idle_s": 40.0}))
    for _ in range(30):
        for name in busy(sim):
            sim.report(name, State.COMMITTED)
        sim.step(dt=10)
    assert sim.progress.state is RolloutState.DONE


def test_another_try_takes_its_place_in_the_rate() -> None:
    sim = SimulatedFleet(9, QUICK.model_copy(update={"per_minute": 2, "retry_after_s": 600.0}))
    past_the_canary(sim)
    for _ in range(8):
        for name in busy(sim):
            sim.report(name, State.FAILED, error="no space", retryable=True)
        assert len(sim.step(dt=61)) <= 2
    for _ in range(20):
        assert len(sim.step(dt=61)) <= 2


def test_site_of_one_device_is_updated() -> None:
    sim = SimulatedFleet(3, QUICK.model_copy(update={"max_unavailable": MaxUnavailable(share=0.1)}))
    by_site(sim, {name: name for name in sim.views})
    past_the_canary(sim)
    sim.step()
    assert sim.admitted == set(sim.views)


@settings(max_examples=40, deadline=None)
@given(
    devices=st.integers(1, 40),
    in_flight=st.integers(1, 10) | st.none(),
    per_minute=st.integers(1, 10) | st.none(),
    share=st.sampled_from([0.1, 0.34, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_limits_hold_at_every_step_and_everybody_gets_it_in_the_end(
    devices: int, in_flight: int | None, per_minute: int | None, share: float, seed: int
) -> None:
    import random

    draw = random.Random(seed)
    spec = QUICK.model_copy(
        update={
            "in_flight": in_flight,
            "per_minute": per_minute,
            "max_unavailable": MaxUnavailable(share=share),
        }
    )
    sim = SimulatedFleet(devices, spec)
    by_site(sim, {name: f"s{draw.randrange(3)}" for name in sim.views})
    sizes = {s: sum(v.labels["site"] == s for v in sim.views.values()) for s in ("s0", "s1", "s2")}
    asked: list[float] = []
    for _ in range(400):
        asked += [sim.now + 7.0] * len(sim.step(dt=7.0))
        assert per_minute is None or sum(t > sim.now - 60 for t in asked) <= per_minute
        assert in_flight is None or len(busy(sim)) <= in_flight
        for site, n in sizes.items():
            assert sum(sim.views[d].labels["site"] == site for d in busy(sim)) <= max(1, int(share * n))
        for name in sorted(busy(sim)):
            if draw.random() < 0.6:
                sim.report(name, State.COMMITTED)
        if sim.progress.state is RolloutState.DONE:
            break
    assert sim.admitted == set(sim.views)
