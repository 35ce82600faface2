"""Why float ships first for a profile: from the search, or because nothing could be quantized."""

from __future__ import annotations

from collections.abc import Mapping

from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.int8.quantizable import NotQuantizable, Obstacle
from edgectl.builder.search.candidates import Choice
from edgectl.builder.search.reasons import (
    Reason,
    out_of_time,
    over_budget,
    reasons_of_search,
    refused_by_runtime,
    why_not_quantizable,
)
from edgectl.builder.variants.trial import Trial
from edgectl.device_profiles.machine import host_family

__all__ = ["reasons_for_float"]

_QUANTIZED = ("int8", "int4")


def reasons_for_float(model: QuantizedModel, trial: Trial, choice: Choice) -> tuple[Reason, ...]:
    """Why no quantized engine ships first, what came nearest first; empty if one does. Before a float16
    model that ships as it came, too."""
    won = choice.winner.candidate
    if won.precision in _QUANTIZED and not won.is_float:
        return ()
    found = reasons_of_search(choice.outcomes, model.limit, choice.busy)
    if any(o.candidate.graph.precision in _QUANTIZED for o in choice.outcomes):
        return found
    # what the search says is of lower floats alone
    return (*_why_not_tried(model, trial, won.is_float and not found), *found)


def _why_not_tried(model: QuantizedModel, trial: Trial, alone: bool) -> tuple[Reason, ...]:
    """Why no quantized engine came as far as the search. ``alone``: there is no other reason, so that there is one here."""
    restriction = trial.restriction
    if not restriction.quantizes and model.source.precision == "float32":
        return (why_not_quantizable(NotQuantizable(Obstacle.NOT_ASKED, restriction.asked)),)
    if model.not_quantizable is not None:
        return (why_not_quantizable(model.not_quantizable),)
    family = host_family(trial.machine)
    if family is None:
        return (why_not_quantizable(NotQuantizable(Obstacle.NO_KERNELS, trial.machine.summary)),)
    found = []
    graphs = model.families.get(family)
    judged = {} if graphs is None else graphs.judged
    asked = {n: a for n, a in judged.items() if restriction.allows("int4" if n == "weights-4" else "int8")}
    lossy = {} if graphs is None else {n: a for n, a in asked.items() if n not in graphs.recipes}
    if lossy:
        name, least = min(lossy.items(), key=lambda item: item[1].drop)
        found.append(over_budget(name, least, model.limit))
    if graphs is not None and graphs.refused:
        found.append(refused_by_runtime(*next(iter(graphs.refused.items()))))
    budget = trial.monitor.budget
    if budget.left_out:
        found.append(out_of_time(budget.left_out, budget.allowed / 60))
    unfit = {} if graphs is None else graphs.unfit
    if not found and (alone or unfit):
        found.append(why_not_quantizable(NotQuantizable(Obstacle.NO_PLACE, _by_reason(unfit))))
    return tuple(found)


def _by_reason(unfit: Mapping[str, str]) -> str:
    """Each reason with the first of its layers and how many there are."""
    of: dict[str, list[str]] = {}
    for node, reason in unfit.items():
        of.setdefault(reason, []).append(node)
    return (
        ", ".join(f"{r} ({n[0]}{f' and {len(n) - 1} more' if n[1:] else ''})" for r, n in of.items())
        or "nothing is left to quantize"
    )
