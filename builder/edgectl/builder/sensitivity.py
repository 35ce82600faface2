"""Which parts of a graph cost most when they are quantized: each part is quantized alone and the noise at the outputs measured.

Parts are runs of neighbouring weighted nodes, not single nodes: a float island in an int8 chain pays for two conversions and
saves little noise, because its input and output are quantized anyway. The noise of parts adds up nearly enough to rank them and to
say how many decibels keeping one float gains; whether that pays is for the search to measure.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from edgectl.builder.calibrate import CalibrationTable, RangeKind
from edgectl.builder.families import Family
from edgectl.builder.graph import GraphIndex
from edgectl.builder.placement import place, weighted_nodes
from edgectl.builder.quantize import quantize
from edgectl.core.bundle import SessionSettings
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.open import open_model

__all__ = ["Part", "outputs_of", "rank_parts", "sqnr_db"]

_PARTS = 14


@dataclass(frozen=True)
class Part:
    """``noise``: power at the worst output relative to the signal, with only these nodes in int8; ``work``: share of all MACs."""

    nodes: tuple[str, ...]
    noise: float
    work: float

    @property
    def sqnr_db(self) -> float:
        return -10 * math.log10(max(self.noise, 1e-12))


def rank_parts(
    model: ModelProto,
    table: CalibrationTable,
    family: Family,
    samples: Sequence[Feeds],
    *,
    ranges: RangeKind = "minmax",
    progress: Callable[[int, int], None] | None = None,
) -> list[Part]:
    """The parts, most noise per work first: the order in which keeping them float is worth most."""
    index = GraphIndex(model)
    every = [n.name for n in weighted_nodes(index)]
    placed = place(index, family, ranges=table.ranges.keys()).nodes
    fit = [n for n in every if n in placed]
    size = max(1, math.ceil(len(fit) / _PARTS))
    # the first layers one by one: they see the raw input, read few channels and are often the worst of all
    cuts = [*range(min(2, len(fit))), *range(min(2, len(fit)), len(fit), size), len(fit)]
    runs = [tuple(fit[a:b]) for a, b in itertools.pairwise(cuts)]
    macs = {n: _macs(index, n) for n in fit}
    total = max(1, sum(macs.values()))
    reference = outputs_of(model, samples)
    parts = []
    for i, run in enumerate(runs):
        alone = quantize(model, table, family, exclude=[n for n in every if n not in run], ranges=ranges)
        noise = 10 ** (-sqnr_db(reference, outputs_of(alone.model, samples)) / 10)
        parts.append(Part(run, noise, sum(macs[n] for n in run) / total))
        if progress is not None:
            progress(i + 1, len(runs))
    return sorted(parts, key=lambda p: -p.noise / (p.work + 0.02))


def outputs_of(model: ModelProto, samples: Sequence[Feeds]) -> list[Outputs]:
    engine = open_model(model.SerializeToString(), SessionSettings())
    outputs = [engine.run(feeds) for feeds in samples]
    engine.close()
    return outputs


def sqnr_db(reference: list[Outputs], got: list[Outputs]) -> float:
    """Signal to quantization noise of the worst output."""
    worst = 120.0
    for name in reference[0]:
        signal = sum(float(np.square(o[name].astype(np.float64)).sum()) for o in reference)
        pairs = zip(reference, got, strict=True)
        noise = sum(float(np.square(a[name].astype(np.float64) - b[name]).sum()) for a, b in pairs)
        if not math.isfinite(noise):
            return -120.0
        if noise and signal:
            worst = min(worst, float(10 * np.log10(signal / noise)))
    return worst


def _macs(index: GraphIndex, name: str) -> int:
    """Multiply-accumulates of one weighted node."""
    n = next(n for n in index.nodes if n.name == name)
    weights = math.prod(int(d) for d in index.initializers[n.input[1]].dims)
    shape = index.shape(n.output[0]) or ()
    return weights * (math.prod(shape[2:]) if n.op_type.startswith("Conv") else math.prod(shape[:-1]))
