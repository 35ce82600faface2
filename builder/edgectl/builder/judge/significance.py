"""Whether so many samples can tell a loss from none. Pure.

With n independent samples one that is answered otherwise weighs 1/n: of 57 it is a loss of 1.75 %, whatever
the truth is. A model that loses exactly the budget shows no difference on n samples with probability (1 -
budget)ⁿ; 0.01 is told from 0 when that is below 5 %, from 299 samples on. With fewer, only what could hardly
come from a loss inside the budget (less than 5 %, binomial) is a loss. Only a count can say that: AP of few
objects must hold the budget as it is, and the cause that is told is the few objects. What ships holds on the
search slice, on the confirmation slice, and on both taken together, which tell more than either.
"""

from __future__ import annotations

import math
from enum import Enum

from edgectl.builder.judge.accuracy import Accuracy

__all__ = [
    "BudgetVerdict",
    "affordable",
    "broken_budget",
    "budget_verdict",
    "changed_answers",
    "explain_labels",
    "explain_unknown",
    "labels_needed",
    "labels_tell",
    "pooled",
    "samples_in_all",
    "samples_needed",
    "too_few",
]

_DOUBT = 0.05
# from so many on, three of four samples judge (:func:`edgectl.builder.ingest.samples.slice_samples`)
MANY = 256


class BudgetVerdict(str, Enum):
    """What a drop says about a budget."""

    HELD = "held"
    OVER = "over"
    UNDECIDED = "untold"
    """More than the budget, on too few samples to tell it from nothing."""


def samples_needed(budget: float) -> int:
    """How many independent samples tell a loss of ``budget`` from none: 299 for 0.01. 1 for a budget of 0
    or all."""
    return 1 if not 0 < budget < 1 else math.ceil(math.log(_DOUBT) / math.log1p(-budget))


def changed_answers(a: Accuracy) -> int:
    """How many of the things that were counted went otherwise."""
    return round(a.drop * a.units)


def budget_verdict(a: Accuracy, budget: float) -> BudgetVerdict:
    """What a drop says about a budget. A metric that is no count (cosine, AP) always tells; a loss by labels is one if
    its interval tells it from none."""
    if a.drop <= budget:
        return BudgetVerdict.HELD
    if a.labelled:
        return BudgetVerdict.OVER if a.low > 0 else BudgetVerdict.UNDECIDED
    if a.units == 0 or a.units >= samples_needed(budget) or budget <= 0:
        return BudgetVerdict.OVER
    return (
        BudgetVerdict.OVER
        if _at_least(changed_answers(a), a.units, budget) < _DOUBT
        else BudgetVerdict.UNDECIDED
    )


def affordable(a: Accuracy, budget: float) -> bool:
    """Whether nothing says that more than the budget is lost."""
    return budget_verdict(a, budget) is not BudgetVerdict.OVER


def too_few(a: Accuracy, budget: float) -> bool:
    """Of a drop that is over the budget: whether more samples may say otherwise. One answer decides, or
    float is sure of few objects and the interval reaches down to the budget."""
    if a.labelled:
        return not labels_tell(a, budget)
    return (a.units > 0 and changed_answers(a) <= 1) or (
        0 < a.objects < samples_needed(budget) and a.low <= budget
    )


def labels_tell(a: Accuracy, budget: float) -> bool:
    """Whether the interval of a drop by labels lies on one side of the budget."""
    return a.high <= budget or a.low > budget


def labels_needed(a: Accuracy, budget: float) -> int:
    """How many labelled pictures would tell a loss of ``budget`` from none, by how much these spread: to two digits."""
    if budget <= 0:
        return a.samples
    half = (a.high - a.low) / 2
    n = max(samples_needed(budget), math.ceil(a.samples * (half / budget) ** 2), a.samples + 1)
    step = math.pow(10, max(0, len(str(n)) - 2))
    return int(math.ceil(n / step) * step)


def explain_labels(what: str, a: Accuracy, budget: float) -> str:
    """The sentence for labels that cannot tell."""
    return (
        f"{what} loses {a.drop:.4f} by the labels, 95 % interval {a.low:.4f} … {a.high:.4f}: {a.samples} labelled pictures "
        f"cannot tell {budget:g} from 0; about {labels_needed(a, budget)} would"
    )


def broken_budget(
    searched: Accuracy | None, confirmed: Accuracy, budget: float
) -> tuple[str, Accuracy] | None:
    """Whose verdict is that a candidate does not hold the budget, in words, and that verdict; None if it holds.

    Without labels: the confirmation slice, or both slices taken together. With labels these decide where they can; where
    their interval holds the budget on both sides, what float answers decides, which tells smaller losses: on the
    search slice the candidate must hold the budget, too, and by the labels it may not be surely worse than float.
    """
    if confirmed.labelled:
        if confirmed.high <= budget:
            return None
        if not affordable(confirmed, budget):
            return "labels", confirmed
        if searched is not None and not affordable(searched, budget):
            return "labels cannot tell, and against float's answers", searched
        return None
    slices = [("confirmation slice", confirmed)]
    if searched is not None:
        slices.append(("search and confirmation slice together", pooled(searched, confirmed)))
    return next(((name, a) for name, a in slices if not affordable(a, budget)), None)


def pooled(a: Accuracy, b: Accuracy) -> Accuracy:
    """Two slices as one; of a metric that counts nothing, the worse one."""
    if not a.units or not b.units:
        return max(a, b, key=lambda x: x.drop)
    n = a.units + b.units
    drop = (changed_answers(a) + changed_answers(b)) / n
    return Accuracy(drop, {}, min(a.low, b.low), max(a.high, b.high), a.samples + b.samples, n)


def samples_in_all(budget: float) -> int:
    """How many calibration samples a build must be given so that both slices together have :func:`samples_needed`:
    they get half of few, three of four of many."""
    enough = samples_needed(budget)
    few = 2 * enough
    return few if few < MANY else max(MANY, math.ceil(enough / 0.75))


def explain_unknown(what: str, a: Accuracy, budget: float) -> str:
    """The sentence for a drop that the samples cannot tell from none."""
    return (
        f"{what} answers {changed_answers(a)} of {a.units} otherwise ({a.drop:.4f}); so few cannot tell a loss of {budget:g} from none, and it is not "
        f"counted as one; about {samples_in_all(budget)} samples in all would tell"
    )


def _at_least(k: int, n: int, p: float) -> float:
    """P[Binomial(n, p) ≥ k]."""
    below = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k))
    return max(0.0, 1.0 - below)
