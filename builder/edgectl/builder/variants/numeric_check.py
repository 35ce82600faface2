"""Int8 graphs for another machine than this one: nothing can be timed, but their numbers can be checked."""

from __future__ import annotations

from dataclasses import dataclass

from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.int8.quantize import Quantized
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.significance import (
    BudgetVerdict,
    broken_budget,
    budget_verdict,
    explain_labels,
    explain_unknown,
    labels_tell,
    samples_in_all,
    samples_needed,
)
from edgectl.builder.variants.restriction import precision_of
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EdgectlError
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.finalise.open import open_model

__all__ = ["CheckedGraph", "best_checked", "note_interval", "simulation"]


@dataclass(frozen=True)
class CheckedGraph:
    """A graph that holds the budget on the confirmation slice."""

    name: str
    quantized: Quantized
    accuracy: Accuracy


def simulation(trial: Trial) -> SessionSettings:
    """The arithmetic of the Q/DQ nodes themselves, whatever this machine is."""
    return SessionSettings(optimization="disabled", threads=min(2, trial.machine.cores))


def best_checked(model: QuantizedModel, trial: Trial, family: str, p: DeviceProfile) -> CheckedGraph | None:
    """The graph of a family that keeps least in float and holds the budget on the confirmation slice, too.
    None, with a note, if none does."""
    graphs = model.families.get(family)
    if graphs is None or not graphs.judged or not trial.restriction.quantizes:
        return None
    lost, ran = min(a.drop for a in graphs.judged.values()), False
    order = sorted(
        ((n, q) for n, q in graphs.recipes.items() if trial.restriction.allows(precision_of(q))),
        key=lambda r: (
            r[1].ranges is None,
            len(r[1].placement.reasons),
            not r[1].carried_over,
            graphs.judged[r[0]].drop,
        ),
    )
    if graphs.recipes and not order:
        trial.monitor.note(f"{p.name}: nothing of {trial.restriction.asked} holds the budget: float instead")
        return None
    for name, quantized in order:
        trial.monitor.tell("confirm", 0.15, f"{family}: {name}")
        data = quantized.model.SerializeToString(deterministic=True)
        try:
            engine = open_model(data, simulation(trial))
            try:
                confirmed = trial.judges.confirmation.judge(engine, limit=model.limit)
            finally:
                engine.close()
        except EdgectlError as e:
            trial.monitor.note(
                f"{p.name}: {family} int8 ({name}) is left out: it does not run in ONNX Runtime: {e.message}"
            )
            continue
        if broken_budget(graphs.judged[name], confirmed, model.limit) is None:
            note_interval(model, trial, p, f"{family} int8 ({name})", confirmed)
            return CheckedGraph(name, quantized, confirmed)
        lost, ran = confirmed.drop, True
    if order and not ran:
        return None
    trial.monitor.note(
        f"{p.name}: {family} int8 loses {lost:.4f}, more than {model.max_drop:g}: float instead"
    )
    return None


def note_interval(
    model: QuantizedModel, trial: Trial, p: DeviceProfile, what: str, accuracy: Accuracy
) -> None:
    """A budget that lies inside the interval is met as far as these samples can tell: the user hears it."""
    if model.samples.random:
        return
    budget = model.max_drop
    if accuracy.labelled:
        if not labels_tell(accuracy, budget):
            trial.monitor.note(f"{p.name}: {explain_labels(what, accuracy, budget)}")
        return
    if budget_verdict(accuracy, budget) is BudgetVerdict.UNDECIDED:
        trial.monitor.note(f"{p.name}: {explain_unknown(what, accuracy, budget)}")
    elif accuracy.high > budget:
        more = (
            f"about {samples_in_all(budget)} samples in all would tell it"
            if 0 < accuracy.units < samples_needed(budget)
            else "more data would tell it"
        )
        trial.monitor.note(
            f"{p.name}: {what} loses {accuracy.drop:.4f} on {accuracy.samples} samples, 95 % interval "
            f"{accuracy.low:.4f} … {accuracy.high:.4f}: {more} from the budget of {budget:g}"
        )
