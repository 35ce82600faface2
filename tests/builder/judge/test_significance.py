"""Whether so many samples tell a loss from none: pure arithmetic, against an exact binomial drawn out by
hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.significance import (
    Told,
    affordable,
    flips,
    in_all,
    needed,
    pooled,
    say_untold,
    told,
    too_few,
)


def flipped(k: int, n: int) -> Accuracy:
    return Accuracy(k / n, {}, 0.0, 1.0, n, n)


def test_one_flip_of_57_is_a_loss_of_1_75_percent_and_no_loss() -> None:
    one = flipped(1, 57)
    assert one.drop == pytest.approx(0.0175, abs=1e-4)
    assert told(one, 0.01) is Told.UNTOLD
    assert affordable(one, 0.01)
    assert "answers 1 of 57 otherwise (0.0175)" in say_untold("int8", one, 0.01)
    assert "about 399 samples in all would tell" in say_untold("int8", one, 0.01)


@pytest.mark.parametrize(
    ("k", "n", "says"),
    [
        (0, 57, Told.HELD),
        (2, 57, Told.UNTOLD),
        # 2 % of such would come from a model that loses no more than 1 %
        (3, 57, Told.OVER),
        (1, 128, Told.HELD),
        (4, 128, Told.OVER),
        (3, 300, Told.HELD),
        (4, 300, Told.OVER),  # so many tell
    ],
)
def test_what_a_loss_inside_the_budget_hardly_does_is_over(k: int, n: int, says: Told) -> None:
    assert told(flipped(k, n), 0.01) is says


def test_a_metric_that_is_no_count_always_tells() -> None:
    assert told(Accuracy(0.02, {}, 0.0, 0.1, 57), 0.01) is Told.OVER
    few = Accuracy(0.2333, {}, 0.05, 0.4, 12, objects=12)
    assert told(few, 0.1) is Told.OVER
    assert too_few(few, 0.1)  # and the few objects are the cause that is told
    assert not too_few(Accuracy(0.2333, {}, 0.15, 0.4, 12, objects=12), 0.1)
    assert not too_few(Accuracy(0.2333, {}, 0.05, 0.4, 12, objects=400), 0.1)


def test_how_many_would_tell() -> None:
    assert needed(0.01) == 299
    assert needed(0.05) == 59
    assert [in_all(b) for b in (0.01, 0.05, 0.1)] == [399, 118, 58]
    assert (needed(0.0), needed(1.0)) == (1, 1)


def test_two_slices_together_tell_more_than_each() -> None:
    a, b = flipped(2, 57), flipped(2, 56)
    assert affordable(a, 0.01)
    assert affordable(b, 0.01)
    assert (flips(pooled(a, b)), pooled(a, b).units) == (4, 113)
    assert not affordable(pooled(a, b), 0.01)
    assert pooled(Accuracy(0.1, {}), Accuracy(0.2, {})).drop == 0.2


@settings(derandomize=True)
@given(st.integers(1, 400), st.data(), st.floats(0.001, 0.3))
def test_over_and_untold_agree_with_the_exact_binomial(n: int, data: st.DataObject, budget: float) -> None:
    k = data.draw(st.integers(0, min(n, 30)))
    says = told(flipped(k, n), budget)
    tail = math.fsum(math.comb(n, i) * budget**i * (1 - budget) ** (n - i) for i in range(k, n + 1))
    if k / n <= budget:
        assert says is Told.HELD
    elif n >= needed(budget):
        assert says is Told.OVER
    else:
        assert says is (Told.OVER if tail < 0.05 else Told.UNTOLD)
    if k < n and says is Told.OVER:  # one more is not better
        assert told(flipped(k + 1, n), budget) is Told.OVER
