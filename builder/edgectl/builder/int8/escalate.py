"""Escalation: from plain int8 to what the accuracy budget allows, cheapest remedy first.

Per-channel weights → the better range kind → cross-layer equalisation → reconstruction (rounding and biases)
→ the parts that cost most per microsecond kept float, as few as the budget allows → float. Remedies are
compared by SQNR, the number of float parts by the task's metric on the search slice; whoever ships is
confirmed on another slice. Left out: which of the graphs that hold is fastest
(:mod:`edgectl.builder.search.search`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from edgectl.builder.budget import QUANTIZE, Budget
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8 import lint
from edgectl.builder.int8.activations import (
    Silu,
    calibrated_again,
    largest,
    silus,
    told_hard_swish,
    with_hard_swish,
)
from edgectl.builder.int8.basis import (
    PROXY_SAMPLES,
    RECONSTRUCT_SAMPLES,
    QuantizationBasis,
    Tell,
    judge_graph,
    spread,
)
from edgectl.builder.int8.calibrate import RangeKind
from edgectl.builder.int8.families import Family
from edgectl.builder.int8.matmul import FORMS, matmuls_dominate, rewrite_matmuls
from edgectl.builder.int8.placement import WEIGHTED, depthwise, heads, weighted_nodes
from edgectl.builder.int8.quantize import Quantized, quantize
from edgectl.builder.int8.reconstruct import adopt, reconstruct
from edgectl.builder.int8.sensitivity import LayerRun, rank_runs
from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.builder.judge.significance import affordable
from edgectl.core.bundle import LayerReport
from edgectl.core.errors import EngineError, ModelError
from edgectl.engines.base import Feeds

__all__ = [
    "FamilyGraphs",
    "FineTune",
    "escalate",
    "fewest_float_runs",
    "float_report",
]

# weighted nodes up to which every structural alternative is tried
_SMALL = 32
# of the MACs: below, a mixed graph is float with conversions
_LEAST_INT8 = 0.2
# of the elements that go through a SiLU: so many through HardSwish instead
_SMALLER_SHARE, _SHARE, _LARGER_SHARE = 0.5, 0.75, 1.0
_WIDEST: RangeKind = "minmax"
# parts: those with the most work; each try is a run over the whole slice
_TRIED_BACK = 4

FineTune = Callable[[Quantized], Quantized]


@dataclass(frozen=True)
class FamilyGraphs:
    """The graphs of one family that are worth measuring, and what was learnt about each run of layers."""

    recipes: dict[str, Quantized]
    judged: dict[str, Accuracy]
    """Drop on the search slice in ONNX Runtime."""
    runs: tuple[LayerRun, ...]
    notes: tuple[str, ...] = ()
    unfit: dict[str, str] = field(default_factory=dict)
    """Node → why the family's rules keep it float, whatever it would lose."""
    refused: dict[str, str] = field(default_factory=dict)
    """Graph → what ONNX Runtime has against it."""
    bases: Mapping[str, QuantizationBasis] = field(default_factory=dict, repr=False)
    """Graph → what it is written from, where that is not what the family's others are."""


def escalate(
    basis: QuantizationBasis,
    family: Family,
    samples: Sequence[Feeds],
    judge: Judge,
    *,
    max_drop: float,
    guide: float | None = None,
    timed: bool,
    tell: Tell,
    also: Sequence[Family] = (),
    tune: FineTune | None = None,
    budget: Budget | None = None,
) -> FamilyGraphs:
    """The graphs of ``family`` that hold the budget on the judge's slice; if none does, none is in
    ``recipes``.

    ``judged`` then has the best that was reached. ``guide``: what may be lost for a candidate, where something finer than
    the judge decides afterwards; remedies go on until ``max_drop`` holds all the same. ``timed``: the family's kernels are this machine's, so that
    what a part gains can be measured. ``also``: families of other runtimes of the same machine; their whole
    graph is a candidate, too, where that of ``family`` or a variation of it holds. ``tune`` trains the whole
    graph in int8, if that loses anything, and is kept if it loses less then. When the time of ``budget`` is
    over, the graphs that are left are not written.
    """
    time = budget or Budget()
    index = GraphIndex(basis.model)
    names = [n.name for n in weighted_nodes(index)]
    made: dict[str, Quantized] = {}
    judged: dict[str, Accuracy] = {}
    refused: dict[str, str] = {}
    notes: list[str] = []

    tell("reconstruct")
    full = _reconstructed(basis, family, samples, time=time)

    @functools.cache
    def independent() -> Quantized:
        if basis.easy:
            return full
        tell("reconstruct each layer alone")
        return _reconstructed(basis, family, samples, compensate=False, time=time)

    def alike(exclude: Collection[str], chains: bool = True) -> Quantized:
        """A variation of the graph with codes that do not depend on which layers before are int8."""
        q = _rounded(basis, family, exclude=exclude, chains=chains)
        return adopt(q, independent())

    within = max_drop if guide is None else guide
    held: set[str] = set()

    def attempt(name: str, written: Callable[[], Quantized], within: float = within) -> bool:
        if judged and time.over(QUANTIZE, name):
            return False
        tell(name)
        q = written()
        if not any(r.precision == "int8" and r.op in WEIGHTED for r in q.layers):
            return False
        lint.check(q.model, q.family)
        try:
            judged[name] = judge_graph(q.model, judge, within, f"the {family.name} graph ({name})")
        except EngineError as e:
            refused[name] = e.message
            notes.append(f"{name} is left out: {e.message}")
            return False
        if affordable(judged[name], within):
            made[name] = q
        if affordable(judged[name], max_drop):
            held.add(name)
        return name in held

    fits = attempt("full", lambda: full)
    # weights refitted to few samples may be the worse ones
    if not fits or len(names) <= _SMALL:
        fits = attempt("full-plain", lambda: _rounded(basis, family)) or fits
    if tune is not None and "full" in judged and judged["full"].drop > 0:
        tuned = tune(full)
        fits = attempt("full-tuned", lambda: tuned) or fits
        if "full-tuned" in judged:
            worse = max(("full-tuned", "full"), key=lambda name: judged[name].drop)
            made.pop(worse, None)
            held.discard(worse)
            full = tuned if worse == "full" else full
    runs: list[LayerRun] = []
    if fits or len(names) <= _SMALL:
        if family.placement == "tensors":
            attempt("conv-only", lambda: alike((), False))
            if len(names) <= _SMALL:
                attempt("no-head", lambda: alike(heads(index)))
        if 1 < len(names) <= _SMALL:
            attempt("no-first", lambda: alike(names[:1]))
    for other in also if made else ():
        attempt(other.name, functools.partial(_reconstructed, basis, other, samples, time=time))
    lone = depthwise(index)
    if lone and not fits:
        attempt("no-depthwise", lambda: alike(lone))
    for other in also if lone else ():
        attempt(
            f"{other.name}-no-depthwise",
            functools.partial(_reconstructed, basis, other, samples, exclude=lone, time=time),
        )
    bases: dict[str, QuantizationBasis] = {}

    def with_cheaper_activations(other: Family, found: Sequence[Silu], share: float) -> bool:
        """Whether int8 with HardSwish for that share of SiLU holds. Ranges that suited the graph before may saturate
        what the new function lets through: ``minmax`` is the other try."""
        tell(f"hard-swish for {share:.0%} of SiLU")
        cheaper = with_hard_swish(basis, found, largest(found, share), samples)
        name = f"{other.name}-hard-swish-{share:g}"
        lost = judge_graph(cheaper.model, judge, within, f"the float graph of {name}")
        if not affordable(lost, within):
            return False
        cheaper = calibrated_again(cheaper, samples)
        for kind in dict.fromkeys((basis.ranges, _WIDEST)):
            bases[name] = replace(cheaper, ranges=kind)
            written = functools.partial(_reconstructed, bases[name], other, samples, exclude=lone, time=time)
            if attempt(name, written):
                notes.append(f"{name}: {told_hard_swish(cheaper)}")
                return True
            name += f"-{_WIDEST}"
        return False

    for other in also:
        found, share = silus(index, basis.kept), _SHARE
        while found and share and not time.over(QUANTIZE, "cheaper activations"):
            fit = with_cheaper_activations(other, found, share)
            share = (_LARGER_SHARE if fit else _SMALLER_SHARE) if share == _SHARE else 0.0
    if family.placement == "tensors" and matmuls_dominate(basis.model):
        for form in FORMS:
            try:
                attempt(form, functools.partial(rewrite_matmuls, basis.model, form, family, kept=basis.kept))
            except ModelError as e:
                # a runtime without that operator has the other candidates
                notes.append(f"{form} was left out: {e.message}")
    # what another runtime holds does not help where that is missing
    if (
        all(made[name].family in also for name in held)
        and "full" in judged
        and not time.over(QUANTIZE, "parts kept float")
    ):
        runs = rank_runs(basis.model, alike, spread(samples, PROXY_SAMPLES), timed=timed)

        def holds(kept: Collection[int]) -> bool:
            nodes = [n for i in kept for n in runs[i].nodes]
            return attempt(f"keep-{len(nodes)}", lambda: alike(nodes))

        kept = fewest_float_runs(holds, _most(runs), [r.work for r in runs])
        for name in _between(made, held, judged):
            del made[name]
        if kept is not None:
            nodes = [n for i in kept for n in runs[i].nodes]
            attempt(
                f"keep-{len(nodes)}-rebuilt",
                lambda: _reconstructed(basis, family, samples, exclude=nodes, time=time),
                max_drop,
            )
    return FamilyGraphs(
        _explained(made, runs),
        judged,
        tuple(runs),
        tuple(notes),
        dict(full.placement.reasons),
        refused,
        {n: b for n, b in bases.items() if n in made},
    )


def _between(made: Iterable[str], held: Collection[str], judged: Mapping[str, Accuracy]) -> list[str]:
    """Mixed graphs that are judged and measured for nothing. Of those that hold, the first has most float and the last
    least; of those that something finer may still let pass, the first has least float, and one loses least."""
    mixed = [n for n in made if n.startswith("keep-")]
    inside, loose = [n for n in mixed if n in held], [n for n in mixed if n not in held]
    wanted = {*inside[:1], *inside[-1:], *loose[:1]}
    if loose:
        wanted.add(min(loose, key=lambda n: judged[n].drop))
    return [n for n in mixed if n not in wanted]


def fewest_float_runs(
    holds: Callable[[Collection[int]], bool], most: int, work: Sequence[float]
) -> tuple[int, ...] | None:
    """Few of the parts 0, 1 … that, kept float, hold; None if not even the first ``most`` do.

    Counts are tried upward, each about half as large again: int8 is given up in small steps, and the first
    count that holds ends it. Then the parts with most ``work`` are tried in int8 again, one at a time.
    What is returned holds.
    """
    if most < 1:
        return None
    counts = [1]
    while counts[-1] < most:
        counts.append(min(most, math.ceil(counts[-1] * 1.5)))
    first = next((c for c in counts if holds(range(c))), None)
    if first is None:
        return None
    kept = list(range(first))
    for i in sorted(kept, key=lambda i: -work[i])[:_TRIED_BACK]:
        fewer = [k for k in kept if k != i]
        was_tried = fewer == list(range(len(fewer))) and len(fewer) in counts
        if fewer and not was_tried and holds(fewer):
            kept = fewer
    return tuple(kept)


def float_report(
    model: ModelProto, graphs: FamilyGraphs | None, max_drop: float, reason: str
) -> tuple[LayerReport, ...]:
    """The per-layer report of a float variant: what int8 would have cost each layer, and why none of it
    shipped."""
    part = {n: p for p in (graphs.runs if graphs else ()) for n in p.nodes}
    unfit = graphs.unfit if graphs and not graphs.recipes else {}
    if not reason and graphs and graphs.judged:
        best = min(a.drop for a in graphs.judged.values())
        reason = f"float: int8 loses {best:.4f} of {max_drop:g} allowed" if not graphs.recipes else ""
    return tuple(
        LayerReport(
            node=n.name,
            op=n.op_type,
            precision="float32",
            reason=reason or unfit.get(n.name) or "float: the fallback runs on any machine",
            sqnr_db=round(part[n.name].sqnr_db, 2) if n.name in part else None,
        )
        for n in weighted_nodes(GraphIndex(model))
    )


def _most(runs: Sequence[LayerRun]) -> int:
    """How many parts may stay float."""
    left, k = 1.0, 0
    for p in runs:
        left -= p.work
        if left < _LEAST_INT8 or k == len(runs) - 1:
            break
        k += 1
    return k


def _rounded(
    basis: QuantizationBasis, family: Family, *, exclude: Collection[str] = (), chains: bool = True
) -> Quantized:
    return quantize(
        basis.model,
        basis.table,
        family,
        exclude=exclude,
        kept=basis.kept,
        chains=chains,
        ranges=basis.ranges,
    )


def _reconstructed(
    basis: QuantizationBasis,
    family: Family,
    samples: Sequence[Feeds],
    *,
    exclude: Collection[str] = (),
    compensate: bool = True,
    time: Budget,
) -> Quantized:
    q = _rounded(basis, family, exclude=exclude)
    if time.over(QUANTIZE, "reconstruction"):
        return q

    def stop() -> bool:
        return time.over(QUANTIZE, "reconstruction of the last layers")

    return reconstruct(
        q, basis.model, family, spread(samples, RECONSTRUCT_SAMPLES), compensate=compensate, stop=stop
    )


def _explained(made: dict[str, Quantized], runs: Sequence[LayerRun]) -> dict[str, Quantized]:
    """Recipes whose layer reports say what each part costs."""
    of = {n: p for p in runs for n in p.nodes}
    total = sum(p.noise for p in runs)

    def told(r: LayerReport) -> LayerReport:
        p = of.get(r.node)
        if p is None:
            return (
                r.model_copy(update={"reason": "kept float by this recipe"}) if r.reason == "excluded" else r
            )
        gain = 10 * math.log10(total / max(total - p.noise, total * 1e-3))
        reason = f"kept float: costs {gain:.1f} dB" if r.reason == "excluded" else r.reason
        return r.model_copy(update={"sqnr_db": round(p.sqnr_db, 2), "reason": reason})

    return {name: replace(q, layers=tuple(told(r) for r in q.layers)) for name, q in made.items()}
