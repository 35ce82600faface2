"""The escalation ladder: from plain int8 to what the accuracy budget allows, cheapest remedy first.

Per-channel weights → the better range kind → cross-layer equalisation → reconstruction (rounding and biases) → the parts that
cost most kept float, as few as the budget allows → float. Remedies are compared by SQNR, the number of float parts by the task's
metric on the search slice; whoever ships is confirmed on another slice. Left out: speed (:mod:`edgectl.builder.search`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgectl.builder import lint
from edgectl.builder.accuracy import Accuracy, Judge
from edgectl.builder.calibrate import RANGE_KINDS, CalibrationTable, RangeKind, calibrate
from edgectl.builder.families import Family
from edgectl.builder.graph import GraphIndex
from edgectl.builder.passes.equalise import Equalise, chains
from edgectl.builder.placement import heads, weighted_nodes
from edgectl.builder.quantize import Quantized, quantize
from edgectl.builder.reconstruct import adopt, reconstruct
from edgectl.builder.sensitivity import Part, outputs_of, rank_parts, sqnr_db
from edgectl.core.bundle import LayerReport, SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.engines.base import Feeds
from edgectl.engines.open import open_model

__all__ = ["Basis", "Rungs", "Tune", "climb", "float_report", "prepare_basis", "smallest"]

_RECONSTRUCT_SAMPLES = 8
_PROXY_SAMPLES = 6
_SMALL = 32  # weighted nodes up to which every structural alternative is tried
_WORTH_DB = 0.2  # what a remedy must gain to be kept
_LEAST_INT8 = 0.2  # of the MACs: below, a mixed graph is float with conversions

Tell = Callable[[str], None]
Tune = Callable[[Quantized], Quantized]


@dataclass(frozen=True)
class Basis:
    """The float graph that int8 is written from, its calibration, and how it was prepared."""

    model: ModelProto
    table: CalibrationTable
    passes: tuple[str, ...]
    ranges: RangeKind
    full: dict[str, Quantized]
    """Kernel family → the whole graph in int8, as far as it was already written to choose the basis."""


@dataclass(frozen=True)
class Rungs:
    """What the ladder gave for one family: graphs worth measuring, and what was learnt about each part."""

    recipes: dict[str, Quantized]
    judged: dict[str, Accuracy]
    """Drop on the search slice in ONNX Runtime."""
    parts: tuple[Part, ...]


def prepare_basis(model: ModelProto, table: CalibrationTable, family: Family, samples: Sequence[Feeds], tell: Tell) -> Basis:
    """Choose the range kind and whether to equalise, by the SQNR that reconstructed int8 has. ``samples`` calibrate."""
    proxy = samples[:: max(1, len(samples) // _PROXY_SAMPLES)]
    reference = outputs_of(model, proxy)

    def plain(kind: RangeKind) -> float:
        return sqnr_db(reference, outputs_of(quantize(model, table, family, ranges=kind).model, proxy))

    tell("ranges")
    kind = max(RANGE_KINDS, key=plain)

    def whole(m: ModelProto, t: CalibrationTable) -> tuple[float, Quantized]:
        q = _reconstructed(m, t, family, samples, (), True, kind)
        return sqnr_db(reference, outputs_of(q.model, proxy)), q

    tell("reconstruct")
    as_it_is = whole(model, table)
    peaks = _peaks(model, samples)
    if peaks:
        tell("equalise")
        equal, modified = Equalise(peaks).run(model)
        if modified:
            again = calibrate(equal, samples, data_digest=table.data_digest)
            equalised = whole(equal, again)
            if equalised[0] > as_it_is[0] + _WORTH_DB:
                return Basis(equal, again, ("equalise",), kind, {family.name: equalised[1]})
    return Basis(model, table, (), kind, {family.name: as_it_is[1]})


def climb(
    basis: Basis, family: Family, samples: Sequence[Feeds], judge: Judge, *, max_drop: float, tell: Tell, tune: Tune | None = None
) -> Rungs:  # fmt: skip
    """The graphs of ``family`` that hold the budget on the judge's slice; if none does, none is in ``recipes``.

    ``judged`` then has the best that was reached. ``tune`` trains the whole graph in int8, if that loses anything and as long as it helps.
    """
    index = GraphIndex(basis.model)
    names = [n.name for n in weighted_nodes(index)]
    made: dict[str, Quantized] = {}
    judged: dict[str, Accuracy] = {}

    tell("reconstruct")
    full = basis.full.get(family.name) or _reconstructed(basis.model, basis.table, family, samples, (), True, basis.ranges)

    def alike(exclude: Collection[str], chains: bool = True) -> Quantized:
        """A variation of ``full`` with its codes: nearly as good as its own reconstruction, for nothing."""
        q = quantize(basis.model, basis.table, family, exclude=exclude, chains=chains, ranges=basis.ranges)
        return adopt(q, full)

    def attempt(name: str, q: Quantized) -> bool:
        tell(name)
        if not any(r.precision == "int8" and r.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") for r in q.layers):
            return False
        lint.check(q.model, family)
        judged[name] = _judge(q.model, judge, max_drop, f"the {family.name} graph ({name})")
        if judged[name].drop <= max_drop:
            made[name] = q
        return judged[name].drop <= max_drop

    fits = attempt("full", full)
    if tune is not None and "full" in judged and judged["full"].drop > 0:
        tuned = tune(full)
        fits = attempt("full-tuned", tuned) or fits
        worse = max(("full-tuned", "full"), key=lambda name: judged[name].drop)
        made.pop(worse, None)
        full = tuned if worse == "full" else full
    parts: list[Part] = []
    if fits or len(names) <= _SMALL:
        if family.placement == "tensors":
            attempt("conv-only", alike((), False))
            if len(names) <= _SMALL:
                attempt("no-head", alike(heads(index)))
        if 1 < len(names) <= _SMALL:
            attempt("no-first", alike(names[:1]))
    proxy = samples[:: max(1, len(samples) // _PROXY_SAMPLES)]
    if not made and "full" in judged:
        parts = rank_parts(basis.model, basis.table, family, proxy, ranges=basis.ranges)

        def holds(k: int) -> bool:
            kept = [n for p in parts[:k] for n in p.nodes]
            q = _reconstructed(basis.model, basis.table, family, samples, kept, True, basis.ranges)
            return attempt(f"keep-{len(kept)}", q)

        most = _most(parts)
        if most:
            smallest(holds, 1, most)
    return Rungs(_explained(made, parts), judged, tuple(parts))


def smallest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number in ``low``..``high`` that holds, by bisection; None if even ``high`` does not.

    Accuracy on few samples is not monotone in what stays float: what is returned holds, a smaller one might too.
    """
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def float_report(model: ModelProto, rungs: Rungs | None, max_drop: float, reason: str) -> tuple[LayerReport, ...]:
    """The per-layer report of a float variant: what int8 would have cost each layer, and why none of it shipped."""
    part = {n: p for p in (rungs.parts if rungs else ()) for n in p.nodes}
    if not reason and rungs and rungs.judged:
        best = min(a.drop for a in rungs.judged.values())
        reason = f"float: int8 loses {best:.4f} of {max_drop:g} allowed" if best > max_drop else ""
    return tuple(
        LayerReport(
            node=n.name, op=n.op_type, precision="float32", reason=reason or "float: the fallback runs on any machine",
            sqnr_db=round(part[n.name].sqnr_db, 2) if n.name in part else None,
        )
        for n in weighted_nodes(GraphIndex(model))
    )  # fmt: skip


def _most(parts: Sequence[Part]) -> int:
    """How many parts may stay float."""
    left, k = 1.0, 0
    for p in parts:
        left -= p.work
        if left < _LEAST_INT8 or k == len(parts) - 1:
            break
        k += 1
    return k


def _reconstructed(
    model: ModelProto, table: CalibrationTable, family: Family, samples: Sequence[Feeds], exclude: Collection[str],
    whole: bool, ranges: RangeKind,
) -> Quantized:  # fmt: skip
    q = quantize(model, table, family, exclude=exclude, chains=whole, ranges=ranges)
    return reconstruct(q, model, family, samples[:: max(1, math.ceil(len(samples) / _RECONSTRUCT_SAMPLES))])


def _judge(model: ModelProto, judge: Judge, limit: float, what: str) -> Accuracy:
    """In ONNX Runtime as this machine runs it; a family of other machines is confirmed later without graph optimisation."""
    try:
        engine = open_model(model.SerializeToString(), SessionSettings(threads=2))
        try:
            return judge.judge(engine, limit=limit)
        finally:
            engine.close()
    except EdgectlError as e:
        raise ModelError(f"{what} does not run in ONNX Runtime: {e.message}") from e


def _explained(made: dict[str, Quantized], parts: Sequence[Part]) -> dict[str, Quantized]:
    """Recipes whose layer reports say what each part costs."""
    of = {n: p for p in parts for n in p.nodes}
    total = sum(p.noise for p in parts)

    def told(r: LayerReport) -> LayerReport:
        p = of.get(r.node)
        if p is None:
            return r.model_copy(update={"reason": "kept float by this recipe"}) if r.reason == "excluded" else r
        gain = 10 * math.log10(total / max(total - p.noise, total * 1e-3))
        reason = f"kept float: costs {gain:.1f} dB" if r.reason == "excluded" else r.reason
        return r.model_copy(update={"sqnr_db": round(p.sqnr_db, 2), "reason": reason})

    return {name: replace(q, layers=tuple(told(r) for r in q.layers)) for name, q in made.items()}


def _peaks(model: ModelProto, samples: Sequence[Feeds]) -> dict[str, NDArray[np.float64]]:
    """Largest absolute value of each channel of each tensor that can be equalised, behind its Relu where there is one."""
    index = GraphIndex(model)
    found = chains(index)
    watched = ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(c.tensor, TensorProto.FLOAT, None) for c in found)
    if not found:
        return {}
    rectified = {c.tensor: all(r.op_type == "Relu" for r, _ in index.readers[c.tensor]) for c in found}
    engine = open_model(watched.SerializeToString(), SessionSettings())
    peaks: dict[str, NDArray[np.float64]] = {}
    for feeds in samples[:: max(1, len(samples) // _RECONSTRUCT_SAMPLES)]:
        for name, x in engine.run(feeds).items():
            channel = 1 if x.ndim > 2 else x.ndim - 1
            size = np.maximum(x, 0) if rectified[name] else np.abs(x)
            peak = size.max(axis=tuple(a for a in range(x.ndim) if a != channel)).astype(np.float64)
            peaks[name] = np.maximum(peaks[name], peak) if name in peaks else peak
    engine.close()
    return peaks
