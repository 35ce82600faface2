"""Whether so many samples tell a loss from none: pure arithmetic, against an exact binomial drawn out by
hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.significance import (
    BudgetVerdict,
    affordable,
    budget_verdict,
    changed_answers,
    explain_unknown,
    pooled,
    samples_in_all,
    samples_needed,
    too_few,
)


def flipped(k: int, n: int) -> Accuracy:
    return Accuracy(k / n, {}, 0.0, 1.0, n, n)


def test_one_flip_of_57_is_a_loss_of_1_75_percent_and_no_loss() -> None:
    one = flipped(1, 57)
    assert one.drop == pytest.approx(0.0175, abs=1e-4)
    assert budget_verdict(one, 0.01) is BudgetVerdict.UNDECIDED
    assert affordable(one, 0.01)
    assert "answers 1 of 57 otherwise (0.0175)" in explain_unknown("int8", one, 0.01)
    assert "about 399 samples in all would tell" in explain_unknown("int8", one, 0.01)


@pytest.mark.parametrize(
    ("k", "n", "says"),
    [
        (0, 57, BudgetVerdict.HELD),
        (2, 57, BudgetVerdict.UNDECIDED),
        # 2 % of such would come from a model that loses no more than 1 %
        (3, 57, BudgetVerdict.OVER),
        (1, 128, BudgetVerdict.HELD),
        (4, 128, BudgetVerdict.OVER),
        (3, 300, BudgetVerdict.HELD),
        (4, 300, BudgetVerdict.OVER),  # so many tell
    ],
)
def test_what_a_loss_inside_the_budget_hardly_does_is_over(k: int, n: int, says: BudgetVerdict) -> None:
    assert budget_verdict(flipped(k, n), 0.01) is says


def test_a_metric_that_is_no_count_always_tells() -> None:
    assert budget_verdict(Accuracy(0.02, {}, 0.0, 0.1, 57), 0.01) is BudgetVerdict.OVER
    few = Accuracy(0.2333, {}, 0.05, 0.4, 12, objects=12)
    assert budget_verdict(few, 0.1) is BudgetVerdict.OVER
    assert too_few(few, 0.1)  # and the few objects are the cause that is told
    assert not too_few(Accuracy(0.2333, {}, 0.15, 0.4, 12, objects=12), 0.1)
    assert not too_few(Accuracy(0.2333, {}, 0.05, 0.4, 12, objects=400), 0.1)


def test_how_many_would_tell() -> None:
    assert samples_needed(0.01) == 299
    assert samples_needed(0.05) == 59
    assert [samples_in_all(b) for b in (0.01, 0.05, 0.1)] == [399, 118, 58]
    assert (samples_needed(0.0), samples_needed(1.0)) == (1, 1)


def test_two_slices_together_tell_more_than_each() -> None:
    a, b = flipped(2, 57), flipped(2, 56)
    assert affordable(a, 0.01)
    assert affordable(b, 0.01)
    assert (changed_answers(pooled(a, b)), pooled(a, b).units) == (4, 113)
    assert not affordable(pooled(a, b), 0.01)
    assert pooled(Accuracy(0.1, {}), Accuracy(0.2, {})).drop == 0.2


@settings(derandomize=True)
@given(st.integers(1, 400), st.data(), st.floats(0.001, 0.3))
def test_over_and_untold_agree_with_the_exact_binomial(n: int, data: st.DataObject, budget: float) -> None:
    k = data.draw(st.integers(0, min(n, 30)))
    says = budget_verdict(flipped(k, n), budget)
    tail = math.fsum(math.comb(n, i) * budget**i * (1 - budget) ** (n - i) for i in range(k, n + 1))
    if k / n <= budget:
        assert says is BudgetVerdict.HELD
    elif n >= samples_needed(budget):
        assert says is BudgetVerdict.OVER
    else:
        assert says is (BudgetVerdict.OVER if tail < 0.05 else BudgetVerdict.UNDECIDED)
    if k < n and says is BudgetVerdict.OVER:  # one more is not better
        assert budget_verdict(flipped(k + 1, n), budget) is BudgetVerdict.OVER
