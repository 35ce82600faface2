"""Which weighted nodes cost most when they are quantized: each is quantized alone and the error of the outputs is measured.

One model rewrite and a few inferences a node; cheap beside leave-one-out with a full validation. The ranking proposes which
nodes to keep float; whether that pays is for the search to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto

from edgectl.builder.calibrate import CalibrationTable
from edgectl.builder.families import Family
from edgectl.builder.graph import GraphIndex
from edgectl.builder.placement import place, weighted_nodes
from edgectl.builder.quantize import quantize
from edgectl.core.bundle import SessionSettings
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.open import open_model

__all__ = ["rank_nodes"]


def rank_nodes(
    model: ModelProto,
    table: CalibrationTable,
    family: Family,
    samples: Sequence[Feeds],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[str, float]]:
    """Quantizable nodes, worst first, with the SQNR in dB that quantizing this one alone leaves in the worst output."""
    index = GraphIndex(model)
    every = [n.name for n in weighted_nodes(index)]
    fit = [n for n in every if n in place(index, family, ranges=table.ranges.keys()).nodes]
    reference = _outputs(model, samples)
    ranked = []
    for i, name in enumerate(fit):
        alone = quantize(model, table, family, exclude=[n for n in every if n != name], chains=False)
        ranked.append((name, _sqnr_db(reference, _outputs(alone.model, samples))))
        if progress is not None:
            progress(i + 1, len(fit))
    return sorted(ranked, key=lambda r: r[1])


def _outputs(model: ModelProto, samples: Sequence[Feeds]) -> list[Outputs]:
    engine = open_model(model.SerializeToString(), SessionSettings())
    outputs = [engine.run(feeds) for feeds in samples]
    engine.close()
    return outputs


def _sqnr_db(reference: list[Outputs], got: list[Outputs]) -> float:
    worst = 120.0
    for name in reference[0]:
        signal = sum(float(np.square(o[name].astype(np.float64)).sum()) for o in reference)
        pairs = zip(reference, got, strict=True)
        noise = sum(float(np.square(a[name].astype(np.float64) - b[name]).sum()) for a, b in pairs)
        if noise and signal:
            worst = min(worst, float(10 * np.log10(signal / noise)))
    return worst
