"""What int8 is written from: the float graph, prepared, and its calibration.

The range kind is chosen here, and whether channels are equalised. Left out: which layers are int8
(:mod:`edgectl.builder.int8.escalate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgectl.builder.budget import QUANTIZE, Budget
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.calibrate import RANGE_KINDS, CalibrationTable, RangeKind, calibrate
from edgectl.builder.int8.equalise import Equalise, chains
from edgectl.builder.int8.families import Family
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.builder.int8.sensitivity import outputs_of, sqnr_db
from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.builder.judge.significance import affordable
from edgectl.builder.passes.base import FloatReference, run_passes
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EdgectlError, EngineError
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model

__all__ = [
    "PROXY_SAMPLES",
    "RECONSTRUCT_SAMPLES",
    "QuantizationBasis",
    "Tell",
    "judge_graph",
    "prepare_basis",
    "spread",
]

RECONSTRUCT_SAMPLES = 16
PROXY_SAMPLES = 6
_TRIAL_SAMPLES, _TRIAL_ROWS = 8, 1536  # enough to compare two graphs
# with this much and the budget held, only the rounding is refined; few samples alone would not tell
_EASY_DB = 30.0
_WORTH_DB = 0.2  # what a remedy must gain to be kept

Tell = Callable[[str], None]


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
    proxy = spread(samples, PROXY_SAMPLES)
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


def spread(samples: Sequence[Feeds], count: int) -> Sequence[Feeds]:
    """At most ``count``, spread evenly."""
    return samples[:: max(1, math.ceil(len(samples) / count))]


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
