"""``--minutes`` bounds a whole build. A clock that a test sets; nothing waits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.builder.nets import Save, images, residual_net

from edgectl.builder.budget import PACK, QUANTIZE, Budget
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.basis import prepare_basis
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import escalate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.finalise.open import open_model


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_came_before_the_steps_is_taken_from_all_of_them() -> None:
    clock = Clock()
    budget = Budget(60, clock=clock)
    clock.now += 20.0
    budget.share_the_rest()
    assert budget.used == 20.0
    assert budget.left(1.0) == 40.0
    assert budget.left(0.25) == 10.0
    clock.now += 45.0
    assert budget.used == 65.0
    assert budget.allowed == 60.0
    assert budget.left(1.0) == -5.0


def test_what_is_kept_for_later_shortens_every_step_but_not_the_whole() -> None:
    clock = Clock()
    budget = Budget(100, clock=clock)
    kept = [50.0]
    budget.keep(lambda: kept[0])
    assert (budget.left(PACK), budget.left(QUANTIZE)) == pytest.approx((42.0, 42.0))
    assert (budget.left(0.25), budget.left(1.0)) == pytest.approx((25.0, 100.0))
    clock.now += 43.0
    assert budget.over(QUANTIZE, "equalisation")
    kept[0] = 0.0
    assert not budget.over(QUANTIZE, "learned rounding")


def test_each_stage_may_use_the_time_up_to_its_share_and_what_comes_later_is_listed_once() -> None:
    clock = Clock()
    budget = Budget(60, clock=clock)
    assert not budget.over(QUANTIZE, "a")
    clock.now += 33.0
    assert budget.over(QUANTIZE, "equalisation")
    assert budget.over(QUANTIZE, "equalisation")
    assert not budget.over(PACK, "folding")
    assert budget.left_out == ("equalisation",)
    clock.now += 27.0
    assert budget.over(PACK, "folding")
    assert budget.left_out == ("equalisation", "folding")
    assert (budget.used, budget.left(1.0)) == (60.0, 0.0)


def test_when_a_build_ends_is_estimated_at_its_pace_and_not_beyond_its_time() -> None:
    clock = Clock()
    monitor = BuildMonitor(Budget(100, clock=clock))

    def ends_in(after_s: float, done: float) -> float | None:
        clock.now = 100 + after_s
        monitor.tell("search", done, "")
        return monitor.last.ends_in_s

    assert ends_in(4.9, 0.1) is None
    assert ends_in(10, 0.2) == pytest.approx(40)
    assert ends_in(40, 0.2) == pytest.approx(60), "160 s at this pace, and 60 s are left"
    assert ends_in(50, 0.1) == pytest.approx(50), "what was done stays done"
    assert ends_in(90, 0.95) == pytest.approx(90 * 0.05 / 0.95)
    assert ends_in(99, 1.0) == 0
    assert ends_in(120, 0.96) is None, "the least is done, whatever the time is"


def test_what_is_left_bounds_the_rounds_the_processes_and_the_wait() -> None:
    clock = Clock()
    budget = Budget(100, clock=clock)
    assert (budget.rounds_s(), budget.fresh_s(1.5), budget.wait_s()) == pytest.approx((36.8, 0.92, 18.4))
    clock.now += 99
    assert (budget.rounds_s(), budget.fresh_s(1.5), budget.wait_s()) == (0.0, 0.1, 0.0)
    budget.extend(600)
    assert budget.wait_s() == 60.0
    endless = Budget()
    assert (endless.rounds_s(), endless.fresh_s(1.5), endless.wait_s(), endless.left()) == (
        60.0,
        1.5,
        60.0,
        math.inf,
    )
    assert not endless.over(QUANTIZE, "anything")


def test_without_time_one_graph_is_written_and_the_others_are_named(save: Save) -> None:
    model, family = residual_net(channels=32), FAMILIES["x86-vnni"]
    feeds = images(16)
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TaskSpec(name="t", input=TensorInput()), [Sample(f) for f in feeds], engine)
    engine.close()
    table = calibrate(model, feeds, data_digest="sha256:" + "0" * 64)

    def graphs(seconds: float):
        clock = Clock()
        budget = Budget(seconds, clock=clock)
        clock.now += 1.0
        basis = prepare_basis(
            model, table, family, feeds, judge, max_drop=0.1, tell=lambda _: None, budget=budget
        )
        return escalate(
            basis, family, feeds, judge, max_drop=0.1, timed=False, tell=lambda _: None, budget=budget
        ), budget

    hurried, budget = graphs(1.0)
    assert set(hurried.recipes) == {"full"}
    plain = quantize(model, table, family, ranges="minmax").model
    assert hurried.recipes["full"].model.SerializeToString() == plain.SerializeToString()
    assert {"the choice of ranges", "reconstruction", "conv-only", "no-head"} <= set(budget.left_out)
    whole, budget = graphs(1e9)
    assert {"full", "conv-only", "no-head"} <= set(whole.recipes)
    assert budget.left_out == ()
    assert np.isfinite(whole.judged["full"].drop)
