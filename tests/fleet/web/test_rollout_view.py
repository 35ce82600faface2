"""A rollout as its page shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from support.dashboard import Bet, Judged

from edgectl.core.wire import DesiredSlot
from edgectl.fleet.rollouts.values import (
    DeviceOutcome,
    Member,
    Ramp,
    RolloutProgress,
    RolloutSpec,
    RolloutState,
    Wave,
)
from edgectl.fleet.web.rollout_view import (
    acts_of,
    failures_of,
    gate_table,
    members_of,
    seen,
    terms_of,
    waves_of,
    whole_bar,
)

SPEC = RolloutSpec(
    id="r",
    release="m@2",
    digest="sha256:" + "b" * 64,
    slot="gate",
    canary=2,
    soak_s=90,
    waves=(
        Wave(share=0.5, soak_s=3600, soak_inferences=500, approval=True),
        Wave(share=1.0, ramp=Ramp(start=50, every=200)),
    ),
)
BEFORE = DesiredSlot(release="m@1", digest="sha256:" + "a" * 64)


def progress(outcomes: Mapping[str, tuple[int, DeviceOutcome]], **more: object) -> RolloutProgress:
    members = {
        n: Member(wave=w, outcome=o, before=BEFORE, admitted_s=None if o is DeviceOutcome.WAITING else 1.0)
        for n, (w, o) in outcomes.items()
    }
    return RolloutProgress(members=members).model_copy(update=more)


OUT = DeviceOutcome
MIXED = {
    "a": (0, OUT.COMMITTED),
    "b": (0, OUT.COMMITTED),
    "c": (1, OUT.COMMITTED),
    "d": (1, OUT.ADMITTED),
    "e": (1, OUT.FAILED),
    "f": (1, OUT.AWAY),
    "g": (2, OUT.WAITING),
}


def test_waves_fill() -> None:
    canary, first, second = waves_of(SPEC, progress(MIXED, wave=1))
    assert (canary.name, canary.devices, canary.committed, canary.current) == ("canary", 2, 2, False)
    assert (first.name, first.devices, first.committed, first.current) == ("wave 1", 4, 1, True)
    assert [(kind, w, n) for kind, _, w, n in first.bar.parts] == [
        ("committed", 25.0, 1),
        ("busy", 25.0, 1),
        ("failed", 25.0, 1),
        ("away", 25.0, 1),
    ]
    assert first.others == "1 admitted, 1 away, 1 failed"
    assert [p[0] for p in second.bar.parts] == ["waiting"]


def test_a_sentence_says_where_it_stands() -> None:
    assert seen(SPEC, progress(MIXED, wave=1)).sentence == "r is running, wave 1: 1 of 4 committed"
    assert seen(SPEC, RolloutProgress(state=RolloutState.ROLLED_BACK)).sentence == "r is rolled back"


def test_a_wave_without_devices_is_there_and_empty() -> None:
    assert [(w.devices, w.bar.parts) for w in waves_of(SPEC, RolloutProgress())] == [(0, ())] * 3


def test_every_outcome_is_a_part_of_the_bar() -> None:
    every = {o.value: (0, o) for o in DeviceOutcome}
    assert sum(n for *_, n in whole_bar(progress(every)).parts) == len(DeviceOutcome)


def test_terms_are_in_words() -> None:
    p = RolloutProgress()
    assert terms_of(SPEC, p, 0) == "soaks 1m30s"
    assert terms_of(SPEC, p, 1) == "to 50% of all, needs approval, soaks 1h, 500 inferences"
    assert terms_of(SPEC, p.model_copy(update={"approved": 1}), 1).startswith("to 50% of all, approved, ")
    assert terms_of(SPEC, p, 2) == "to 100% of all, ramp from 50 a minute, times 2 every 200, 1000 at most"
    assert terms_of(RolloutSpec(id="r", release="m@2", digest=SPEC.digest, slot="gate"), p, 1) == ""


def test_devices_in_trouble_come_before_those_at_work_and_quiet_ones_are_left_out() -> None:
    p = progress(MIXED)
    assert [n for n, _ in members_of(p)] == ["e", "f", "d"]
    assert [n for n, _ in members_of(p, "committed")] == ["a", "b", "c"]
    assert len(members_of(p, "all")) == len(MIXED)
    assert members_of(p, "made-up") == []


def ops(state: RolloutState, spec: RolloutSpec = SPEC, **more: object) -> list[str]:
    return [a.op for a in acts_of(spec, progress(MIXED, state=state, **more))]


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (RolloutState.RUNNING, ["pause", "approve", "halt", "abort"]),
        (RolloutState.PAUSED, ["resume", "approve", "halt", "abort"]),
        (RolloutState.ROLLING_BACK, []),
        (RolloutState.STOPPED, ["rollback"]),
        (RolloutState.ABORTED, ["rollback"]),
        (RolloutState.ROLLED_BACK, ["rollback"]),
        (RolloutState.DONE, ["rollback"]),
    ],
)
def test_only_what_makes_sense_is_offered(state: RolloutState, wanted: list[str]) -> None:
    assert ops(state) == wanted


def test_nothing_is_approved_twice_or_taken_back_from_nobody() -> None:
    assert "approve" not in ops(RolloutState.RUNNING, approved=1)
    assert "approve" not in ops(RolloutState.RUNNING, wave=2)
    assert acts_of(SPEC, RolloutProgress(state=RolloutState.DONE)) == []


def test_failures_come_with_their_exact_interval() -> None:
    """Clopper and Pearson, two-sided 95 %, as in any table: 1 of 4 is 0.6 % to 80.6 %."""
    f = failures_of(SPEC, progress(MIXED, wave=1))
    assert f is not None
    assert (f.failed, f.finished, f.allowed) == (1, 4, "5.0% of all")
    assert (f.low, f.high) == (pytest.approx(0.0063, abs=2e-4), pytest.approx(0.8059, abs=2e-4))
    first = failures_of(SPEC, RolloutProgress())
    assert first is not None
    assert first.allowed == "0 of the canary"


@pytest.mark.parametrize("state", [RolloutState.STOPPED, RolloutState.ABORTED, RolloutState.ROLLING_BACK])
def test_what_is_taken_back_is_not_counted_as_if_nothing_had_failed(state: RolloutState) -> None:
    restored = {"a": (0, OUT.RESTORED)}
    assert failures_of(SPEC, progress(restored, state=state)) is None
    assert acts_of(SPEC, progress(restored, state=state)) == []


def test_what_gates_have_decided_is_shown_whatever_fields_it_has() -> None:
    half = Bet(gate="latency p99", allowed=0.585, alpha=0.01, log_wealth=-math.log(0.01) / 2, devices=(1, 2))
    won = Bet(
        gate="errors", allowed=0.01, alpha=0.01, log_wealth=99.0, reason="12 of 100", lacking=("d1", "d2")
    )
    table = gate_table(Judged(decisions=(half, won)))
    assert table is not None
    assert table.columns == ("gate", "allowed", "alpha", "log wealth", "at", "devices", "lacking", "reason")
    assert table.rows[0] == ("latency p99", "0.585", "0.01", "2.303", "2023-11-14 22:13:20", "2", "-", "-")
    assert table.rows[1][-2:] == ("d1, d2", "12 of 100")
    assert table.evidence == (pytest.approx(0.5), 1.0)


def test_a_rollout_whose_gates_say_nothing_has_no_table() -> None:
    assert gate_table(RolloutProgress()) is None
    assert gate_table(Judged()) is None
