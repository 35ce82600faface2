"""Who is in which wave."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulated_fleet import SPEC, SimulatedFleet

from edgectl.core.states import State
from edgectl.fleet.rollouts.planner import DeviceOutcome, RolloutSpec, RolloutState
from edgectl.fleet.rollouts.values import RolloutProgress, Wave
from edgectl.fleet.rollouts.waves import order, selected, stratum_of

THIRDS = SPEC.model_copy(
    update={"canary": 1, "soak_s": 0.0, "waves": (Wave(share=0.25), Wave(count=3), Wave(share=1.0))}
)


def sizes(spec: RolloutSpec, sim: SimulatedFleet) -> list[int]:
    members = selected(spec, RolloutProgress(), sim.views)
    found = Counter(m.wave for m in members.values())
    return [found[n] for n in range(spec.last_wave + 1)]


def test_share_is_of_all_devices_and_count_of_further_ones() -> None:
    assert sizes(THIRDS, SimulatedFleet(20)) == [1, 4, 3, 12]


def test_shares_that_are_too_small_for_so_few_devices_leave_a_wave_empty() -> None:
    spec = SPEC.model_copy(update={"waves": (Wave(share=0.1), Wave(share=0.2), Wave(share=1.0))})
    assert sizes(spec, SimulatedFleet(4)) == [2, 0, 0, 2]


def test_waves_follow_one_another_and_an_empty_one_is_passed_over() -> None:
    sim = SimulatedFleet(
        4, SPEC.model_copy(update={"soak_s": 0.0, "waves": (Wave(share=0.1, soak_s=1e6), Wave(share=1.0))})
    )
    for _ in range(8):
        for name in sim.admitted:
            sim.report(name, State.COMMITTED)
        sim.step()
    assert sim.progress.state is RolloutState.DONE
    assert sim.admitted == set(sim.views)


def test_device_that_comes_later_enters_the_wave_under_way_and_never_the_canary() -> None:
    sim = SimulatedFleet(20, THIRDS)
    sim.step()
    sim.views["late"] = sim.view("late")
    sim.step()
    assert sim.progress.members["late"].wave > 0
    for name in sim.admitted:
        sim.report(name, State.COMMITTED)
    sim.step()
    sim.step()
    assert sim.progress.wave == 1
    sim.views["later"] = sim.view("later")
    assert "later" in {a.device for a in sim.step()}
    assert sim.progress.members["later"].wave == 1


def test_strata_have_their_share_of_every_wave() -> None:
    sim = SimulatedFleet(40)
    for i, name in enumerate(sorted(sim.views)):
        site = "north" if i % 4 else "south"
        sim.views[name] = replace(sim.views[name], labels={"site": site}, profile="jetson-orin")
    spec = THIRDS.model_copy(update={"strata": ("label.site", "profile"), "canary_per_stratum": 2})
    members = selected(spec, RolloutProgress(), sim.views)
    spread = Counter((m.wave, m.stratum) for m in members.values())
    assert stratum_of(spec, sim.views["d0"]) == "south/jetson-orin"
    assert [spread[0, s + "/jetson-orin"] for s in ("north", "south")] == [2, 2]
    assert [spread[1, s + "/jetson-orin"] for s in ("north", "south")] == [5, 1]
    assert spread[3, "north/jetson-orin"] + spread[3, "south/jetson-orin"] == 27


def test_named_canary_waits_for_its_devices_and_takes_no_others() -> None:
    sim = SimulatedFleet(6, SPEC.model_copy(update={"canary": 1, "canary_devices": ("d3",)}))
    assert {a.device for a in sim.step()} == {"d3"}
    sim = SimulatedFleet(6, SPEC.model_copy(update={"canary": 1, "canary_devices": ("d3",), "lost_s": 10.0}))
    sim.off("d3")
    for _ in range(30):
        sim.step(dt=5)
    assert sim.admitted == {"d3"}
    assert "nobody is there to be the canary" in (sim.progress.note or "")


@settings(max_examples=60, deadline=None)
@given(
    devices=st.integers(1, 60),
    canary=st.integers(1, 5),
    shares=st.lists(st.integers(1, 99), max_size=4, unique=True).map(sorted),
    sites=st.integers(1, 4),
)
def test_everybody_is_in_one_wave_and_the_waves_reach_what_they_say(
    devices: int, canary: int, shares: list[int], sites: int
) -> None:
    waves = (*(Wave(share=s / 100) for s in shares), Wave(share=1.0))
    spec = SPEC.model_copy(update={"canary": canary, "waves": waves, "strata": ("label.site",)})
    sim = SimulatedFleet(devices)
    for i, name in enumerate(sorted(sim.views)):
        sim.views[name] = replace(sim.views[name], labels={"site": f"s{i % sites}"})
    members = selected(spec, RolloutProgress(), sim.views)
    assert members.keys() == sim.views.keys()
    done = 0
    for number, wave in enumerate([None, *waves]):
        done += sum(m.wave == number for m in members.values())
        wanted = min(canary, devices) if wave is None else (wave.share or 0) * devices
        assert done >= wanted - 1e-9
        assert done < max(wanted, min(canary, devices)) + 1
    for site in {m.stratum for m in members.values()}:
        of_site = sorted(m.wave for m in members.values() if m.stratum == site)
        for number, wave in enumerate(waves, start=1):
            reached = sum(w <= number for w in of_site)
            assert abs(reached - (wave.share or 0) * len(of_site)) <= 2 + canary


def test_small_strata_have_no_more_canaries_than_devices() -> None:
    sim = SimulatedFleet(23)
    for i, name in enumerate(sorted(sim.views)):
        sim.views[name] = replace(sim.views[name], labels={"site": "big" if i < 20 else f"s{i}"})
    spec = SPEC.model_copy(update={"canary": 1, "strata": ("label.site",), "canary_per_stratum": 3})
    found = Counter(m.stratum for m in selected(spec, RolloutProgress(), sim.views).values() if m.wave == 0)
    assert found == {"big": 3, "s20": 1, "s21": 1, "s22": 1}


def test_order_is_another_one_for_each_release() -> None:
    names = [f"d{i}" for i in range(30)]
    assert order(names, "m@2") == order(reversed(names), "m@2") != order(names, "m@3")


@pytest.mark.parametrize("outcome", [DeviceOutcome.COMMITTED, DeviceOutcome.ADMITTED, DeviceOutcome.FAILED])
def test_canary_that_has_begun_keeps_its_place_when_it_goes_away(outcome: DeviceOutcome) -> None:
    sim = SimulatedFleet(4)
    sim.step()
    first = next(iter(sim.admitted))
    members = {
        n: m.model_copy(update={"outcome": outcome}) if n == first else m
        for n, m in sim.progress.members.items()
    }
    sim.off(first)
    found = selected(SPEC, sim.progress.model_copy(update={"members": members}), sim.views)
    assert found[first].wave == 0
