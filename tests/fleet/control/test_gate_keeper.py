"""From telemetry to the end of a rollout: devices of a simulated fleet report windows, a judge looks, the planner acts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from support.simulated_fleet import NEW, OLD, SPEC, SimulatedFleet

from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import EngineProof, Frames, StreamStats, Telemetry
from edgectl.fleet.control.gate_keeper import GateKeeper, verdicts
from edgectl.fleet.control.telemetry_view import LatencyBook
from edgectl.fleet.rollouts.gates import GateVerdict, recompute
from edgectl.fleet.rollouts.gates.agreement import AgreementTerms
from edgectl.fleet.rollouts.gates.drops import DropTerms
from edgectl.fleet.rollouts.gates.errors import ErrorTerms
from edgectl.fleet.rollouts.gates.frames import FrameTerms
from edgectl.fleet.rollouts.gates.golden import GoldenTerms
from edgectl.fleet.rollouts.gates.latency import LatencyTerms
from edgectl.fleet.rollouts.gates.memory import MemoryTerms
from edgectl.fleet.rollouts.planner import RolloutState

WINDOW_S = 10.0
ALL = (
    LatencyTerms(max_ratio=1.1),
    LatencyTerms(percentile=50, max_ratio=1.1),
    ErrorTerms(),
    DropTerms(),
    FrameTerms(),
    MemoryTerms(),
)
Window = dict[str, float]


class Site(SimulatedFleet):
    """``n`` devices with telemetry, in one stratum."""

    def __init__(self, n: int, **terms: object) -> None:
        usual = {"canary": 1, "soak_s": 3600.0, "gates": ALL}
        super().__init__(n, SPEC.model_copy(update={**usual, **terms}))
        self.views = {name: replace(v, profile="jetson-orin") for name, v in self.views.items()}
        for name in self.views:
            self.report(name, State.COMMITTED, OLD)
            r = (
                self.views[name]
                .reported["gate"]
                .model_copy(update={"release": "m@1", "active_release": "m@1"})
            )
            self.views[name] = replace(self.views[name], reported={"gate": r})
        self.book = LatencyBook()
        self.keeper = GateKeeper(self.book)
        self._chance = random.Random(1)
        self._counted = {name: (Frames(), 0) for name in self.views}

    def report(
        self, name: str, state: State, digest: str = NEW, error: str | None = None, *, retryable: bool = False
    ) -> None:
        super().report(name, state, digest, error, retryable=retryable)
        r = self.views[name].reported["gate"]
        active = {OLD: "m@1", NEW: "m@2"}.get(r.active or "")
        self.views[name] = replace(
            self.views[name], reported={"gate": r.model_copy(update={"active_release": active})}
        )

    def window(
        self,
        name: str,
        ms: float = 20.0,
        n: float = 100,
        errors: float = 0,
        dropped: float = 0,
        rss_mb: float = 150.0,
    ) -> None:
        """What a device did since the last one."""
        h = Histogram()
        for _ in range(int(n)):
            h.record(1000 * ms * (1 + 0.1 * self._chance.random()))
        f, failed = self._counted[name]
        f = Frames(
            captured=f.captured + int(n + errors + dropped),
            processed=f.processed + int(n),
            dropped={"queue": sum(f.dropped.values()) + int(dropped)},
        )
        self._counted[name] = f, failed + int(errors)
        s = StreamStats(
            kind="surveillance",
            slots={"gate": self.views[name].reported["gate"].active or ""},
            stages={"engine": h.data()},
            frames=f,
            errors=failed + int(errors),
        )
        health = {"rss_mb.yard": rss_mb + 0.05 * self._chance.random()}
        t = Telemetry(epoch=1, seq=int(self.now), window_s=WINDOW_S, streams={"yard": s}, health=health)
        self.book.blocks.add(name, t, self.now)

    def go_on(self, windows: int, of: Callable[[str, int], Window] = lambda _name, _i: {}) -> int:
        """Windows until the rollout stops, or as many as asked for. ``of(device, window)``: what differs."""
        for i in range(windows):
            self.now += WINDOW_S
            for name in self.views:
                self.window(name, **of(name, i))
            evidence = self.keeper.evidence(self.spec, self.progress, self.views, self.now)
            self.step(evidence, dt=0.0)
            if self.progress.state is not RolloutState.RUNNING:
                return i + 1
        return windows


def canary(site: Site, n: int = 1, committed: int | None = None) -> list[str]:
    """Old engines have run for two hours; ``n`` canaries are asked, and all (or so many) commit the release."""
    for _ in range(720):
        site.now += WINDOW_S
        for name in site.views:
            site.window(name)
    asked = [a.device for a in site.step()]
    assert len(asked) == n
    for name in asked[:committed]:
        site.report(name, State.COMMITTED)
    return asked


BAD: dict[str, Callable[[int], Window]] = {
    "results that are no numbers": lambda _: {"n": 0, "errors": 100},
    "30 % slower": lambda _: {"ms": 26.0},
    "a leak of 1 MB a minute": lambda i: {"rss_mb": 150.0 + i / 6},
    "a worker that crashes every minute": lambda i: {"n": 100 if i % 6 else 20},
    "too slow for its frames": lambda _: {"ms": 20.0, "n": 90, "dropped": 10},
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_engine_that_its_device_let_through_is_stopped_in_the_canary(bad: str) -> None:
    site = Site(5)
    (first,) = canary(site)
    windows = site.go_on(180, lambda name, i: BAD[bad](i) if name == first else {})
    assert site.progress.state is RolloutState.ROLLING_BACK, f"within {windows} windows"
    assert site.admitted == {first}
    worse = [d for d in site.progress.decisions if d.verdict is GateVerdict.WORSE]
    assert worse[0].reason == site.progress.reason
    assert worse[0].stratum == "jetson-orin, from m@1"
    assert [recompute(d) for d in site.progress.decisions] == [d.verdict for d in site.progress.decisions]


def test_device_tells_of_the_engine_that_it_made_and_of_its_shadow_and_the_gates_stop_it_at_once() -> None:
    site = Site(3, gates=(GoldenTerms(), AgreementTerms()))
    (first,) = canary(site)
    tell(site, first, EngineProof(golden=0.9), EngineProof(golden=0.99))
    assert site.go_on(5) == 1
    assert site.progress.reason == f"golden on {first}: 90.00% after 99.00%"
    assert "no shadow" in site.progress.decisions[1].lacking[0]
    assert [recompute(d) for d in site.progress.decisions] == [d.verdict for d in site.progress.decisions]


def test_what_a_device_told_of_another_engine_than_the_one_before_is_no_comparison() -> None:
    site = Site(3, gates=(GoldenTerms(),))
    (first,) = canary(site)
    tell(site, first, EngineProof(golden=0.9), EngineProof(golden=0.99), previous=NEW)
    assert site.go_on(5) == 5
    assert site.progress.decisions[0].verdict is GateVerdict.CANNOT_JUDGE


def tell(site: Site, name: str, proof: EngineProof, before: EngineProof, *, previous: str = OLD) -> None:
    r = site.views[name].reported["gate"]
    told = r.model_copy(update={"proof": proof, "previous_proof": before, "previous": previous})
    site.views[name] = replace(site.views[name], reported={"gate": told})


def test_good_engine_is_let_through_though_the_scene_of_all_gets_busier() -> None:
    site = Site(5)
    canary(site)
    assert site.go_on(180, lambda _name, i: {"ms": 20.0 if i < 20 else 25.0}) == 180
    (p99, *_) = site.progress.decisions
    assert len(p99.devices[0].controls) == 3


def test_what_a_device_says_before_it_has_the_release_is_no_evidence() -> None:
    site = Site(3)
    (canary_,) = canary(site)
    others = [n for n in site.views if n != canary_]
    site.go_on(30, lambda name, _: {"ms": 90.0} if name in others else {})
    assert site.progress.state is RolloutState.RUNNING


def test_records_with_more_figures_and_the_same_verdicts_are_written_every_ten_seconds_only() -> None:
    site = Site(2)
    (first,) = canary(site)
    site.go_on(3)
    kept = site.progress.decisions
    for _ in range(2):
        site.now += 1.0
        site.window(first)
        evidence = site.keeper.evidence(site.spec, site.progress, site.views, site.now)
        assert evidence.decisions == kept
    site.now += WINDOW_S
    site.window(first)
    assert site.keeper.evidence(site.spec, site.progress, site.views, site.now).decisions != kept


def test_controller_that_was_started_again_goes_on_with_the_evidence_of_before() -> None:
    site = Site(2, gates=(LatencyTerms(percentile=50),))
    (first,) = canary(site)
    site.go_on(3)
    (before,) = site.progress.decisions
    site.book = LatencyBook()
    site.keeper = GateKeeper(site.book)
    site.go_on(3)
    (after,) = site.progress.decisions
    assert after.devices[0].before == before.devices[0].before
    assert after.devices[0].after[: len(before.devices[0].after)] == before.devices[0].after
    assert len(after.devices[0].after) > len(before.devices[0].after)
    assert after.devices[0].device == first


def test_device_that_an_operator_left_out_says_nothing_more() -> None:
    site = Site(4, canary=2)
    (_, left_out) = canary(site, 2, committed=1)
    site.report(left_out, State.PROBATION)
    site.go_on(3)
    site.skip(left_out)
    site.go_on(30, lambda name, _: {"n": 0, "errors": 100} if name == left_out else {})
    assert site.progress.state is RolloutState.RUNNING


def test_canary_that_has_not_begun_is_no_control_of_another() -> None:
    site = Site(4, canary=2)
    asked = canary(site, 2, committed=1)
    site.go_on(10)
    p99 = next(d for d in site.progress.decisions if d.gate == "latency p99")
    assert [b.device for b in p99.devices] == asked[:1]
    assert {c.device for c in p99.devices[0].controls} == site.views.keys() - set(asked)


def test_rollout_that_takes_its_release_back_is_judged_no_more() -> None:
    site = Site(4)
    (first,) = canary(site)
    site.go_on(60, lambda name, _: {"n": 0, "errors": 100} if name == first else {})
    assert site.progress.state is RolloutState.ROLLING_BACK
    last = site.progress.decisions
    site.now += 600
    site.window(first)
    site.window(first)
    assert site.keeper.evidence(site.spec, site.progress, site.views, site.now).decisions == last


def test_rollout_that_is_over_is_forgotten() -> None:
    site = Site(2)
    canary(site)
    site.go_on(3)
    assert site.keeper._judges
    site.keeper.keep([])
    assert not site.keeper._judges


def test_inferences_of_the_release_are_counted_where_a_wave_soaks_by_them() -> None:
    site = Site(1, soak_inferences=100)
    h = Histogram()
    h.record(1000.0)
    s = StreamStats(kind="surveillance", slots={"gate": NEW}, stages={"engine": h.data()})
    site.book.add("d0", Telemetry(epoch=1, seq=1, window_s=10, streams={"yard": s}))
    site.step()
    assert site.keeper.evidence(site.spec, site.progress, site.views, 0.0).inferences == 1
    spec = site.spec.model_copy(update={"soak_inferences": 0})
    assert site.keeper.evidence(spec, site.progress, site.views, 0.0).inferences == 0


def test_log_has_each_verdict_once() -> None:
    site = Site(2)
    (first,) = canary(site)
    site.go_on(5)
    quiet = site.progress.decisions
    assert verdicts(quiet, quiet) == []
    site.go_on(60, lambda name, _: {"n": 0, "errors": 100} if name == first else {})
    (told,) = verdicts(quiet, site.progress.decisions)
    assert told.startswith("gate errors, jetson-orin, from m@1: worse: errors on d")
