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

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgectl.builder.budget import QUANTIZE, Budget
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8 import lint
from edgectl.builder.int8.calibrate import RANGE_KINDS, CalibrationTable, RangeKind, calibrate
from edgectl.builder.int8.equalise import Equalise, chains
from edgectl.builder.int8.families import Family
from edgectl.builder.int8.matmul import FORMS, matmuls_dominate, rewrite_matmuls
from edgectl.builder.int8.placement import WEIGHTED, heads, weighted_nodes
from edgectl.builder.int8.quantize import Quantized, quantize
from edgectl.builder.int8.reconstruct import adopt, reconstruct
from edgectl.builder.int8.sensitivity import LayerRun, outputs_of, rank_runs, sqnr_db
from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.builder.judge.significance import affordable
from edgectl.builder.passes.base import FloatReference, run_passes
from edgectl.core.bundle import LayerReport, SessionSettings
from edgectl.core.errors import EdgectlError, EngineError, ModelError
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model

__all__ = [
    "RECONSTRUCT_SAMPLES",
    "FamilyGraphs",
    "FineTune",
    "QuantizationBasis",
    "escalate",
    "fewest_float_runs",
    "float_report",
    "judge_graph",
    "prepare_basis",
    "spread",
]

RECONSTRUCT_SAMPLES = 16
_TRIAL_SAMPLES, _TRIAL_ROWS = 8, 1536  # enough to compare two graphs
_PROXY_SAMPLES = 6
# weighted nodes up to which every structural alternative is tried
_SMALL = 32
# with this much and the budget held, only the rounding is refined; few samples alone would not tell
_EASY_DB = 30.0
_WORTH_DB = 0.2  # what a remedy must gain to be kept
# of the MACs: below, a mixed graph is float with conversions
_LEAST_INT8 = 0.2
# parts: those with the most work; each try is a run over the whole slice
_TRIED_BACK = 4

Tell = Callable[[str], None]
FineTune = Callable[[Quantized], Quantized]


@dataclass(frozen=True)
class QuantizationBasis:
    """The float graph that int8 is written from, its calibration, and how it was prepared."""

    model: ModelProto
    table: CalibrationTable
    passes: tuple[str, ...]
    ranges: RangeKind
    easy: bool = False
    """Plain rounding is so close already that one reconstruction is all that was added."""
    kept: frozenset[str] = frozenset()
    """Nodes that are float in every graph that is written from it."""


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


def prepare_basis(
    model: ModelProto,
    table: CalibrationTable,
    family: Family,
    samples: Sequence[Feeds],
    judge: Judge,
    *,
    max_drop: float,
    tell: Tell,
    budget: Budget | None = None,
    kept: frozenset[str] = frozenset(),
) -> QuantizationBasis:
    """Choose the range kind, by SQNR and against ``minmax`` by the metric, and whether to equalise, by the
    SQNR that reconstructed int8 has. ``samples`` calibrate. ``kept``: nodes that stay float.

    A graph that has 30 dB with plain rounding, and holds the budget on the judge's slice, is not equalised.
    Nor is one when the time of ``budget`` is over.
    """
    time = budget or Budget()
    if time.over(QUANTIZE, "the choice of ranges"):
        return QuantizationBasis(model, table, (), "minmax", kept=kept)
    proxy = spread(samples, _PROXY_SAMPLES)
    reference = outputs_of(model, proxy)

    def rounded(kind: RangeKind) -> ModelProto:
        return quantize(model, table, family, ranges=kind, kept=kept).model

    tell("ranges")
    sqnr = {kind: sqnr_db(reference, outputs_of(rounded(kind), proxy)) for kind in RANGE_KINDS}
    kind = max(RANGE_KINDS, key=lambda k: sqnr[k])
    # few samples speak for saturating outliers, and the metric may be made of them
    if kind != "minmax":
        judged = {k: judge_graph(rounded(k), judge, max_drop, "the plain graph") for k in ("minmax", kind)}
        kind = "minmax" if judged["minmax"].drop < judged[kind].drop else kind
    if sqnr[kind] >= _EASY_DB:
        simplest = rounded(kind)
        if affordable(judge_graph(simplest, judge, max_drop, f"the {family.name} graph"), max_drop):
            return QuantizationBasis(model, table, (), kind, easy=True, kept=kept)

    def rebuilt(m: ModelProto, t: CalibrationTable) -> float:
        q = quantize(m, t, family, ranges=kind, kept=kept)
        trial = reconstruct(q, m, family, spread(samples, _TRIAL_SAMPLES), rows=_TRIAL_ROWS)
        return sqnr_db(reference, outputs_of(trial.model, proxy))

    basis = QuantizationBasis(model, table, (), kind, kept=kept)
    peaks = {} if time.over(QUANTIZE, "equalisation") else _peaks(model, samples)
    if peaks:
        tell("equalise")
        equal, log = run_passes(
            model, [Equalise(peaks)], FloatReference.record(model.SerializeToString(), samples[0])
        )
        if log.modified:
            few = spread(samples, RECONSTRUCT_SAMPLES)  # a full calibration only if it is worth it
            before, after = (
                rebuilt(m, calibrate(m, few, data_digest=table.data_digest)) for m in (model, equal)
            )
            if after > before + _WORTH_DB:
                again = calibrate(equal, samples, data_digest=table.data_digest)
                basis = QuantizationBasis(equal, again, tuple(log.modified), kind, kept=kept)
    return basis


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
    if family.placement == "tensors" and matmuls_dominate(basis.model):
        for form in FORMS:
            try:
                attempt(form, functools.partial(rewrite_matmuls, basis.model, form, family, kept=basis.kept))
            except ModelError as e:
                # a runtime without that operator has the other candidates
                notes.append(f"{form} was left out: {e.message}")
    if not held and "full" in judged and not time.over(QUANTIZE, "parts kept float"):
        runs = rank_runs(basis.model, alike, spread(samples, _PROXY_SAMPLES), timed=timed)

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
        _explained(made, runs), judged, tuple(runs), tuple(notes), dict(full.placement.reasons), refused
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


def spread(samples: Sequence[Feeds], count: int) -> Sequence[Feeds]:
    """At most ``count``, spread evenly."""
    return samples[:: max(1, math.ceil(len(samples) / count))]


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


def judge_graph(model: ModelProto, judge: Judge, limit: float, what: str) -> Accuracy:
    """In ONNX Runtime as this machine runs it; a family of other machines is confirmed later without graph
    optimisation. Raises :class:`EngineError` where it does not run."""
    try:
        engine = open_model(model.SerializeToString(), SessionSettings(threads=2))
        try:
            return judge.judge(engine, limit=limit)
        finally:
            engine.close()
    except EdgectlError as e:
        raise EngineError(f"{what} does not run in ONNX Runtime: {e.message}") from e


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


def _peaks(model: ModelProto, samples: Sequence[Feeds]) -> dict[str, NDArray[np.float64]]:
    """Largest absolute value of each channel of each tensor that can be equalised, behind its Relu where
    there is one."""
    index = GraphIndex(model)
    found = chains(index)
    watched = ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(
        helper.make_tensor_value_info(c.tensor, TensorProto.FLOAT, None) for c in found
    )
    if not found:
        return {}
    rectified = {c.tensor: all(r.op_type == "Relu" for r, _ in index.readers[c.tensor]) for c in found}
    engine = open_model(watched.SerializeToString(), SessionSettings())
    peaks: dict[str, NDArray[np.float64]] = {}
    for feeds in spread(samples, RECONSTRUCT_SAMPLES):
        for name, x in engine.run(feeds).items():
            channel = 1 if x.ndim > 2 else x.ndim - 1
            size = np.maximum(x, 0) if rectified[name] else np.abs(x)
            peak = size.max(axis=tuple(a for a in range(x.ndim) if a != channel)).astype(np.float64)
            peaks[name] = np.maximum(peaks[name], peak) if name in peaks else peak
    engine.close()
    return peaks
