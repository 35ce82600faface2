from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Literal

import pytest
from support.gate_blocks import ASKED_S, NEW, OLD, FakeBlocks, block, release, still

from edgectl.fleet.rollouts.gates import Block, GateJudge, GateVerdict, Watched, recompute
from edgectl.fleet.rollouts.gates.drops import DropTerms
from edgectl.fleet.rollouts.gates.errors import ErrorTerms
from edgectl.fleet.rollouts.gates.events import EventTerms
from edgectl.fleet.rollouts.gates.frames import FrameTerms
from edgectl.fleet.rollouts.gates.judge import CONTROLS, MAX_AFTER, MIN_BEFORE
from edgectl.fleet.rollouts.gates.latency import LatencyTerms
from edgectl.fleet.rollouts.gates.memory import MemoryTerms
from edgectl.fleet.rollouts.gates.throttling import ThrottlingTerms
from edgectl.fleet.rollouts.gates.wealth import mixed, pooled, share

P99 = LatencyTerms(percentile=99)


def fleet(*names: str, seed: int = 1, ms: float = 20.0) -> tuple[FakeBlocks, random.Random]:
    """Devices with more than an hour of history."""
    blocks, chance = FakeBlocks(), random.Random(seed)
    for name in names:
        blocks.before(name, lambda _: still(chance, ms))
    return blocks, chance


def test_engine_as_fast_as_before_stays_open() -> None:
    blocks, chance = fleet("d")
    blocks.after("d", lambda _: still(chance), 200)
    (d,) = release(blocks, [P99])
    assert d.verdict is GateVerdict.OPEN
    assert (d.gate, d.stratum, d.alpha) == ("latency p99", "orin", 0.005)


def test_slower_engine_is_worse_and_the_record_says_by_how_much() -> None:
    blocks, chance = fleet("d")
    blocks.after("d", lambda _: still(chance, 26.0), 4)
    (d,) = release(blocks, [P99])
    assert d.verdict is GateVerdict.WORSE
    assert d.log_wealth >= -math.log(d.alpha)
    assert d.reason.startswith("latency p99 on d: 2")
    assert "after 2" in d.reason
    assert "over 2 blocks" in d.reason, "that was enough"
    assert recompute(d) is GateVerdict.WORSE


def test_ratio_that_the_terms_allow_is_allowed() -> None:
    blocks, chance = fleet("d")
    blocks.after("d", lambda _: still(chance, 26.0), 100)
    (d,) = release(blocks, [LatencyTerms(max_ratio=1.5)])
    assert d.verdict is GateVerdict.OPEN
    blocks.after("d", lambda _: still(chance, 35.0), 6)
    (d,) = release(blocks, [LatencyTerms(max_ratio=1.5)])
    assert d.verdict is GateVerdict.OPEN, "106 blocks, most of them good"
    (d,) = release(blocks, [LatencyTerms(max_ratio=1.2)])
    assert d.verdict is GateVerdict.WORSE


def test_device_without_enough_of_the_engine_before_cannot_be_judged_and_is_not_called_fine() -> None:
    blocks, chance = FakeBlocks(), random.Random(1)
    blocks.before("d", lambda _: still(chance), MIN_BEFORE - 1)
    blocks.after("d", lambda _: still(chance, 90.0), 50)
    (d,) = release(blocks, [P99])
    assert d.verdict is GateVerdict.CANNOT_JUDGE
    assert d.lacking == ("d: 29 of 30 blocks of the engine before",)
    assert recompute(d) is GateVerdict.CANNOT_JUDGE


def test_nothing_is_said_before_the_new_engine_has_run() -> None:
    blocks, _ = fleet("d")
    assert release(blocks, [P99]) == ()


def test_short_history_allows_a_quarter_more() -> None:
    blocks, chance = FakeBlocks(), random.Random(1)
    blocks.before("d", lambda _: still(chance), 128)
    blocks.after("d", lambda _: still(chance, 23.0), 40)
    (d,) = release(blocks, [P99])
    assert d.verdict is GateVerdict.OPEN
    assert d.devices[0].slack == round(math.log2(1.25), 5)
    longer, chance = fleet("d")
    longer.after("d", lambda _: still(chance, 23.0), 40)
    assert release(longer, [P99])[0].verdict is GateVerdict.WORSE


def test_scene_that_changes_for_all_changes_nothing_where_there_are_controls() -> None:
    names = ("d", *(f"c{i}" for i in range(CONTROLS)))
    blocks, chance = fleet(*names)
    blocks.after("d", lambda _: still(chance, 25.0), 60)
    alone = release(blocks, [P99])
    assert alone[0].verdict is GateVerdict.WORSE, "nobody can tell a busier street from a slower engine"
    for c in names[1:]:
        blocks.after(c, lambda _: still(chance, 25.0), 60, digest=OLD)
    (d,) = release(blocks, [P99], free=names[1:])
    assert d.verdict is GateVerdict.OPEN
    assert {c.device for c in d.devices[0].controls} == set(names[1:])


def test_slower_engine_is_found_beside_controls_whose_scene_changes_too() -> None:
    names = ("d", *(f"c{i}" for i in range(CONTROLS)))
    blocks, chance = fleet(*names)
    blocks.after("d", lambda _: still(chance, 25.0 * 1.2), 8)
    for c in names[1:]:
        blocks.after(c, lambda _: still(chance, 25.0), 8, digest=OLD)
    (d,) = release(blocks, [P99], free=names[1:])
    assert d.verdict is GateVerdict.WORSE
    assert "1.13 times, less what 3 others did meanwhile" in d.reason, "so far"


def test_devices_that_share_controls_do_not_multiply() -> None:
    controls = [f"c{i}" for i in range(CONTROLS)]
    blocks, chance = fleet("d", "e", *controls)
    for name in ("d", "e"):
        blocks.after(name, lambda _: still(chance), 5)
    for c in controls:
        blocks.after(c, lambda _: still(chance), 5, digest=OLD)
    (d,) = release(blocks, [P99], ["d", "e"], free=controls)
    assert [len(b.controls) for b in d.devices] == [CONTROLS, CONTROLS]
    assert {b.device: b.multiplies for b in d.devices} == {"d": True, "e": False}


def test_device_that_has_had_the_release_for_a_while_is_a_control_where_nobody_else_is() -> None:
    """The last wave: everybody has been asked, and the scene of all gets busier."""
    blocks, chance = fleet("d")
    early = Watched("early", "orin", None, OLD, ASKED_S - 3000.0)
    for at_s, digest in ((ASKED_S - 6000.0, OLD), (ASKED_S - 2950.0, NEW)):
        blocks.put("early", digest, [block(at_s + 10 * i, still(chance)) for i in range(295)])
    blocks.put("early", NEW, [block(ASKED_S + 10 * i, still(chance, 25.0)) for i in range(1, 40)])
    blocks.before("e", lambda _: still(chance))
    for name in ("d", "e"):
        blocks.after(name, lambda _: still(chance, 25.0), 30)
    judge = GateJudge([P99], NEW, 0.01)
    last = [Watched(name, "orin", None, OLD, ASKED_S) for name in ("e", "d")]
    (d,) = judge.look([early, *last], {}, blocks, 0.0)
    late = next(b for b in d.devices if b.device == "d")
    assert [(c.device, c.engine) for c in late.controls] == [("early", NEW)], "not the other of its own wave"
    assert not late.multiplies, "what the other says of itself is in its difference"
    assert d.verdict is GateVerdict.OPEN


def test_among_many_devices_the_scene_of_one_may_go_further() -> None:
    names = [f"d{i:02}" for i in range(20)]
    blocks, chance = FakeBlocks(), random.Random(9)
    for name in names:
        level = [chance.gauss(0, 2.0) for _ in range(20)]
        blocks.before(name, lambda i, level=level: 20.0 + level[i // 20] + 0.3 * chance.gauss(0, 1))  # type: ignore[misc]
        blocks.after(name, lambda _: 20.0, 1)
    judge = GateJudge([P99], NEW, 0.01)
    judge.look([Watched(n, "orin", None, OLD, ASKED_S) for n in names], {}, blocks, 0.0)
    slack = [judge._devices[0][name].slack for name in names]
    assert sum(slack[10:]) > 1.3 * sum(slack[:2]) * 5


def test_block_waits_for_its_controls_and_not_for_ever() -> None:
    blocks, chance = fleet("d", "c0", "c1")
    for c in ("c0", "c1"):
        blocks.after(c, lambda _: still(chance), 1, digest=OLD)
    judge, watched = GateJudge([P99], NEW, 0.01), [Watched("d", "orin", None, OLD, ASKED_S)]
    blocks.after("d", lambda _: still(chance), 2)
    (d,) = judge.look(watched, {"orin": ["c0", "c1"]}, blocks, 0.0)
    assert len(d.devices[0].after) == 1, "the controls have not told of the second yet"
    blocks.put("c0", OLD, [block(ASKED_S + (i + 3) * 10.0) for i in range(1, 8)])
    blocks.after("d", lambda _: still(chance), 5)
    (d,) = judge.look(watched, {"orin": ["c0", "c1"]}, blocks, 0.0)
    assert len(d.devices[0].after) == 4, "one of the two is enough, three blocks later"


def test_block_of_which_no_control_tells_is_no_evidence() -> None:
    blocks, chance = fleet("d", "c")
    blocks.after("c", lambda _: still(chance), 1, digest=OLD)
    blocks.after("d", lambda _: still(chance, 90.0), 8)
    (d,) = release(blocks, [P99], free=["c"])
    assert len(d.devices[0].after) == 1
    assert d.devices[0].until_s == ASKED_S + 30.0


def test_device_that_waited_for_its_window_is_compared_with_what_it_did_until_then() -> None:
    """It was asked two hours ago: the blocks of that time are gone."""
    blocks, chance = FakeBlocks(), random.Random(1)
    blocks.put("d", OLD, [block(ASKED_S + 5000.0 + 10 * i, still(chance)) for i in range(128)])
    blocks.put("d", NEW, [block(ASKED_S + 6310.0 + 10 * i, still(chance, 40.0)) for i in range(4)])
    (d,) = release(blocks, [P99])
    assert d.verdict is GateVerdict.WORSE
    assert len(d.devices[0].before) == 128


def test_devices_that_are_a_little_slower_are_found_together() -> None:
    names = [f"d{i}" for i in range(12)]
    blocks, chance = fleet(*names)
    for name in names:
        blocks.after(name, lambda _: still(chance, 21.0), 6)
    assert release(blocks, [P99], names[:1])[0].verdict is GateVerdict.OPEN
    d = release(blocks, [P99], names)[0]
    assert d.verdict is GateVerdict.WORSE
    assert d.rest.devices == 8, "a record lists four"
    assert recompute(d) is GateVerdict.WORSE


def test_devices_of_one_site_do_not_multiply_what_they_all_see() -> None:
    names = [f"d{i}" for i in range(12)]
    blocks, chance = fleet(*names)
    for name in names:
        blocks.after(name, lambda _: still(chance, 21.0), 6)
    (d,) = release(blocks, [P99], names, site="north")
    assert d.verdict is GateVerdict.OPEN
    assert sum(b.multiplies for b in d.devices) <= 1


def test_mixed_kinds_of_devices_never_reverse_a_verdict() -> None:
    """Simpson: the slow kind gets the release first. Every device is as fast as it was; pooled, the p99 triples."""
    slow, fast = [f"nano{i}" for i in range(5)], [f"orin{i}" for i in range(5)]
    blocks, chance = fleet(*slow, ms=60.0)
    for name in fast:
        blocks.before(name, lambda _: still(chance, 15.0))
    for name in slow:
        blocks.after(name, lambda _: still(chance, 60.0), 100)
    for name in fast:
        blocks.after(name, lambda _: still(chance, 15.0), 5)
    watched = [Watched(n, n[:4], None, OLD, ASKED_S) for n in (*slow, *fast)]
    decisions = GateJudge([P99], NEW, 0.01).look(watched, {}, blocks, 0.0)
    assert {d.stratum: d.verdict for d in decisions} == {"nano": GateVerdict.OPEN, "orin": GateVerdict.OPEN}
    assert sorted(d.alpha for d in decisions) == pytest.approx([0.01 / 6, 0.01 / 2])


def test_kind_that_gets_slower_is_found_though_the_fleet_as_a_whole_gets_faster() -> None:
    slow, fast = [f"nano{i}" for i in range(3)], [f"orin{i}" for i in range(9)]
    blocks, chance = fleet(*slow, ms=60.0)
    for name in fast:
        blocks.before(name, lambda _: still(chance, 15.0))
        blocks.after(name, lambda _: still(chance, 10.0), 30)
    for name in slow:
        blocks.after(name, lambda _: still(chance, 72.0), 30)
    watched = [Watched(n, n[:4], None, OLD, ASKED_S) for n in (*fast, *slow)]
    decisions = GateJudge([P99], NEW, 0.01).look(watched, {}, blocks, 0.0)
    assert {d.stratum: d.verdict for d in decisions} == {"nano": GateVerdict.WORSE, "orin": GateVerdict.OPEN}


def test_looking_often_and_once_comes_to_the_same() -> None:
    blocks, chance = fleet("d", "e")
    judge = GateJudge([P99, ErrorTerms()], NEW, 0.01)
    watched = [Watched(n, "orin", None, OLD, ASKED_S) for n in ("d", "e")]
    for _ in range(12):
        for name in ("d", "e"):
            blocks.after(name, lambda _: still(chance, 20.6), 1)
        often = judge.look(watched, {}, blocks, 5.0)
    once = GateJudge([P99, ErrorTerms()], NEW, 0.01).look(watched, {}, blocks, 5.0)
    assert often == once


def test_judge_goes_on_from_its_records_after_a_restart() -> None:
    blocks, chance = fleet("d")
    watched = [Watched("d", "orin", None, OLD, ASKED_S)]
    first = GateJudge([P99, ErrorTerms()], NEW, 0.01)
    blocks.after("d", lambda _: still(chance, 21.0), 3)
    records = first.look(watched, {}, blocks, 0.0)
    fresh = FakeBlocks()  # the old engine does not run any more: its blocks do not come again
    fresh.put("d", NEW, [block(ASKED_S + 500.0 + i, 21.5) for i in range(3)])
    blocks.put("d", NEW, [block(ASKED_S + 500.0 + i, 21.5) for i in range(3)])
    again = GateJudge([P99, ErrorTerms()], NEW, 0.01)
    again.resume(records, {w.name: w for w in watched})
    assert again.look(watched, {}, fresh, 1.0) == first.look(watched, {}, blocks, 1.0)


def test_control_stays_with_its_device_after_a_restart() -> None:
    blocks, chance = fleet("d", "e", "c")
    for name in ("d", "e"):
        blocks.after(name, lambda _: still(chance), 3)
    blocks.after("c", lambda _: still(chance), 3, digest=OLD)
    d, e = (Watched(n, "orin", None, OLD, ASKED_S) for n in ("d", "e"))
    records = GateJudge([P99], NEW, 0.01).look([d], {"orin": ["c"]}, blocks, 0.0)
    assert [c.device for c in records[0].devices[0].controls] == ["c"]
    again = GateJudge([P99], NEW, 0.01)
    again.resume(records, {"d": d})
    (after,) = again.look([d, e], {"orin": ["c"]}, blocks, 0.0)
    assert {b.device: b.multiplies for b in after.devices} == {"d": True, "e": False}


def test_wealth_of_a_stratum_counts_devices_that_the_record_does_not_list() -> None:
    names = [f"d{i}" for i in range(7)]
    blocks, chance = fleet(*names)
    for name in names:
        blocks.after(name, lambda _: still(chance), 1)
    judge = GateJudge([P99], NEW, 0.01)
    (d,) = judge.look([Watched(n, "orin", None, OLD, ASKED_S) for n in names], {}, blocks, 0.0)
    logs = [judge._devices[0][name].logs for name in names]
    staked = [mixed(log) + math.log(share(place)) for place, log in enumerate(logs)]
    assert d.rest.devices == 3
    assert d.log_wealth == pytest.approx(pooled(staked, [sum(c) for c in zip(*logs, strict=True)], 7))


def test_bets_end_with_the_blocks_that_a_record_can_hold() -> None:
    blocks, chance = fleet("d")
    blocks.after("d", lambda _: still(chance), MAX_AFTER + 50)
    (d,) = release(blocks, [P99])
    assert len(d.devices[0].after) == MAX_AFTER


def test_engine_whose_results_are_no_numbers_is_found_without_any_history() -> None:
    blocks = FakeBlocks()
    blocks.after("d", lambda _: replace(block(0.0), errors=300.0), 2)
    (d,) = release(blocks, [ErrorTerms(max_rate=0.01)])
    assert d.verdict is GateVerdict.WORSE
    assert d.reason == "errors on d: 100.00%, 1.00% may"


def test_few_errors_within_the_terms_stop_nothing() -> None:
    blocks, chance = FakeBlocks(), random.Random(4)
    blocks.after("d", lambda _: replace(block(0.0), errors=float(chance.random() < 0.9) * 2), 250)
    (d,) = release(blocks, [ErrorTerms(max_rate=0.01)])
    assert d.verdict is GateVerdict.OPEN


@pytest.mark.parametrize(("rate", "verdict"), [(0.02, GateVerdict.OPEN), (0.08, GateVerdict.WORSE)])
def test_frames_that_are_dropped_beyond_what_the_terms_allow_stop_it(
    rate: float, verdict: GateVerdict
) -> None:
    blocks, chance = FakeBlocks(), random.Random(5)
    blocks.before("d", lambda _: replace(block(0.0), dropped=float(chance.randint(0, 6))))
    blocks.after("d", lambda _: replace(block(0.0), dropped=300 * rate + chance.randint(0, 2)), 30)
    (d,) = release(blocks, [DropTerms(max_increase=0.02)])
    assert d.verdict is verdict


@pytest.mark.parametrize(("leak_mb_h", "verdict"), [(0.0, GateVerdict.OPEN), (120.0, GateVerdict.WORSE)])
def test_leak_is_found_and_memory_that_only_trembles_is_not(leak_mb_h: float, verdict: GateVerdict) -> None:
    blocks, chance = FakeBlocks(), random.Random(6)
    blocks.before("d", lambda _: replace(block(0.0), growth_mb=chance.gauss(0, 0.1)))
    blocks.after("d", lambda _: replace(block(0.0), growth_mb=leak_mb_h / 360 + chance.gauss(0, 0.1)), 90)
    (d,) = release(blocks, [MemoryTerms(max_growth_mb_h=20.0)])
    assert d.verdict is verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.05, GateVerdict.OPEN), (0.5, GateVerdict.WORSE)])
def test_engine_that_heats_the_device_until_it_is_slowed_down(share: float, verdict: GateVerdict) -> None:
    blocks, chance = FakeBlocks(), random.Random(8)
    blocks.before("d", lambda _: replace(block(0.0), throttled=0.05 * (chance.random() < 0.1)))
    blocks.after("d", lambda _: replace(block(0.0), throttled=share * chance.random() * 2), 120)
    (d,) = release(blocks, [ThrottlingTerms()])
    assert d.verdict is verdict
    assert recompute(d) is verdict


def test_one_spell_of_heat_is_no_engine_that_heats() -> None:
    """Five minutes that the history has not seen: a gate that bet on each block would have stopped it."""
    blocks = FakeBlocks()
    blocks.before("d", lambda _: replace(block(0.0), throttled=0.0))
    blocks.after("d", lambda i: replace(block(0.0), throttled=0.8 if 40 <= i < 60 else 0.0), 120)
    (d,) = release(blocks, [ThrottlingTerms()])
    assert d.verdict is GateVerdict.OPEN
    assert len(d.devices[0].after) == 15, "eight blocks each"
    assert recompute(d) is GateVerdict.OPEN


def test_throttling_is_judged_from_forty_minutes_of_the_engine_before() -> None:
    blocks = FakeBlocks()
    blocks.before("d", lambda _: replace(block(0.0), throttled=0.0), 200)
    blocks.after("d", lambda _: replace(block(0.0), throttled=1.0), 60)
    (d,) = release(blocks, [ThrottlingTerms()])
    assert d.lacking == ("d: 25 of 30 blocks of 80 s of the engine before",)


def test_device_that_does_not_tell_of_throttling_cannot_be_judged() -> None:
    blocks, _ = fleet("d")
    blocks.after("d", lambda _: block(0.0))
    (d,) = release(blocks, [ThrottlingTerms()])
    assert d.verdict is GateVerdict.CANNOT_JUDGE


def test_workers_that_crash_every_minute_lose_frames() -> None:
    blocks, chance = FakeBlocks(), random.Random(7)
    blocks.before("d", lambda _: replace(block(0.0), attempts=300.0 + chance.randint(-2, 2)))
    blocks.after("d", lambda i: replace(block(0.0), attempts=300.0 if i % 6 else 60.0), 60)
    (d,) = release(blocks, [FrameTerms(max_loss=0.1)])
    assert d.verdict is GateVerdict.WORSE
    assert "frames/s" in d.reason


@pytest.mark.parametrize(
    ("factor", "change", "verdict"),
    [
        (0.4, "fewer", GateVerdict.WORSE),
        (0.9, "fewer", GateVerdict.OPEN),
        (3.0, "more", GateVerdict.WORSE),
        (3.0, "fewer", GateVerdict.OPEN),
    ],
)
def test_engine_that_misses_or_invents_things_tells_fewer_or_more_events_than_its_controls(
    factor: float, change: Literal["fewer", "more"], verdict: GateVerdict
) -> None:
    blocks, chance, names = FakeBlocks(), random.Random(8), ("d", "c0", "c1", "c2")

    def told(rate: float) -> Block:
        return replace(block(0.0), events=float(round(rate * math.exp(0.3 * chance.gauss(0, 1)))))

    for name in names:
        blocks.before(name, lambda _: told(40.0))
    blocks.after("d", lambda _: told(80.0 * factor), 30)  # the street is twice as busy by now
    for name in names[1:]:
        blocks.after(name, lambda _: told(80.0), 30, digest=OLD)
    (d,) = release(blocks, [EventTerms(change=change)], free=names[1:])
    assert d.verdict is verdict


def test_events_are_not_judged_without_anybody_to_compare_them_with() -> None:
    blocks = FakeBlocks()
    blocks.before("d", lambda _: replace(block(0.0), events=40.0))
    blocks.after("d", lambda _: replace(block(0.0), events=1.0), 30)
    (d,) = release(blocks, [EventTerms()])
    assert d.verdict is GateVerdict.CANNOT_JUDGE
    assert d.lacking == ("d: no device of its kind to compare it with",)


def test_samples_that_netflix_lets_pass_are_found() -> None:
    """spinnaker#6278: seven of ten a hundred times slower, all equal before."""
    blocks = FakeBlocks()
    blocks.before("d", lambda _: 1.0)
    blocks.after("d", lambda i: 100.0 if i < 7 else 1.0, 10)
    (d,) = release(blocks, [P99])
    assert d.verdict is GateVerdict.WORSE
    assert len(d.devices[0].after) == 2, "of the seven"
