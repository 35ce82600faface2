"""What each part of an int8 graph costs: it is put back to float alone, and the noise that goes and the time
that comes are measured.

Parts are runs of neighbouring weighted nodes, not single nodes: a float island in an int8 chain pays for two
conversions and saves little noise, because its input and output are quantized anyway. Noise is relative to
the signal at the worst output, each channel weighted by its amplitude: by power, four box coordinates
outweigh the eighty class scores that decide.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.builder.int8.quantize import Quantized
from edgectl.core.bundle import SessionSettings
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave

__all__ = ["LayerRun", "outputs_of", "price", "rank_runs", "sqnr_db"]

_PARTS = 14
_TIMED_SECONDS = 1.5
_PRICE_FLOOR = 0.01
_CLEARLY = 3  # × or a third of its share of the MACs
# share of the latency that the clock is off by on a busy machine
_UNSURE = 0.035


@dataclass(frozen=True)
class LayerRun:
    """``noise``: power relative to the signal that keeping these nodes float takes away; ``work``: share of
    all MACs.

    ``price``: its share of the MACs, or a third or thrice of that where this machine clearly says so. Three
    steps, so that the order of parts does not follow the noise of the clock and the same build gives the same
    graph.
    """

    nodes: tuple[str, ...]
    noise: float
    work: float
    price: float

    @property
    def sqnr_db(self) -> float:
        return -10 * math.log10(max(self.noise, 1e-12))


def rank_runs(
    model: ModelProto,
    without: Callable[[Collection[str]], Quantized],
    samples: Sequence[Feeds],
    *,
    timed: bool,
) -> list[LayerRun]:
    """The parts of a graph, most noise per price first: the order in which keeping them float is worth most.

    ``model``: the float graph; ``without(nodes)``: its int8 form with these nodes float. ``timed``: price by
    latency on this machine.
    """
    index = GraphIndex(model)
    full = without(())
    fit = [n.name for n in weighted_nodes(index) if n.name in full.placement.nodes]
    size = max(1, math.ceil(len(fit) / _PARTS))
    # the first layers one by one: they see the raw input, read few channels and are often the worst of all
    cuts = [*range(min(2, len(fit))), *range(min(2, len(fit)), len(fit), size), len(fit)]
    runs = [tuple(fit[a:b]) for a, b in itertools.pairwise(cuts) if a < b]
    engines = [
        open_model(q.SerializeToString(), SessionSettings())
        for q in (full.model, *(without(r).model for r in runs))
    ]
    reference = outputs_of(model, samples)
    noise = [10 ** (-sqnr_db(reference, [e.run(f) for f in samples]) / 10) for e in engines]
    macs = {n: _macs(index, n) for n in fit}
    work = [sum(macs[n] for n in run) / max(1, sum(macs.values())) for run in runs]
    prices = [price(w, s) for w, s in zip(work, _slower(engines, samples), strict=True)] if timed else work
    for e in engines:
        e.close()
    ranked = [
        LayerRun(r, max(0.0, noise[0] - n), w, p)
        for r, n, w, p in zip(runs, noise[1:], work, prices, strict=True)
    ]
    return sorted(ranked, key=lambda p: -p.noise / (p.price + _PRICE_FLOOR))


def price(work: float, slower: float) -> float:
    """What a part counts for that has a share ``work`` of the MACs and adds a share ``slower`` of the
    latency."""
    if slower > work * _CLEARLY + 2 * _UNSURE:
        return work * _CLEARLY
    return work / _CLEARLY if slower < work / _CLEARLY - _UNSURE else work


def _slower(engines: Sequence[Engine], samples: Sequence[Feeds]) -> list[float]:
    """Share of the first engine's latency that each of the others takes longer."""
    calls = {str(i): functools.partial(e.run, samples[0]) for i, e in enumerate(engines)}
    times = interleave(calls, seconds=_TIMED_SECONDS, min_rounds=8, max_rounds=60)
    base = np.asarray(times["0"])
    return [float(np.median(np.asarray(times[str(i)]) / base)) - 1 for i in range(1, len(engines))]


def outputs_of(model: ModelProto, samples: Sequence[Feeds]) -> list[Outputs]:
    engine = open_model(model.SerializeToString(), SessionSettings())
    outputs = [engine.run(feeds) for feeds in samples]
    engine.close()
    return outputs


def sqnr_db(reference: list[Outputs], got: list[Outputs]) -> float:
    """Signal to quantization noise of the worst output; −120 if something is not finite, at most 120."""
    worst = 120.0
    for name in reference[0]:
        signal = sum(_power(o[name]) for o in reference)
        noise = sum(_power(a[name].astype(np.float64) - b[name]) for a, b in zip(reference, got, strict=True))
        if not np.all(np.isfinite(noise)):
            return -120.0
        amplitude = np.sqrt(signal)
        if not amplitude.size:
            continue  # an output without values has no noise
        relative = float(
            np.sum(noise / np.maximum(amplitude, amplitude.max() * 1e-3 + 1e-30))
            / max(amplitude.sum(), 1e-30)
        )
        if relative:
            worst = min(worst, -10 * math.log10(relative))
    return worst


def _power(x: NDArray[np.generic]) -> NDArray[np.float64]:
    """Per channel (axis 1) of a map; of a vector, in all: there the largest entry is the answer."""
    square = np.square(x.astype(np.float64))
    return np.asarray(
        square.sum(axis=tuple(a for a in range(x.ndim) if a != 1))
        if x.ndim > 2
        else square.sum(keepdims=True).ravel()
    )


def _macs(index: GraphIndex, name: str) -> int:
    """Multiply-accumulates of one weighted node."""
    n = next(n for n in index.nodes if n.name == name)
    weights = math.prod(int(d) for d in index.initializers[n.input[1]].dims)
    shape = index.shape(n.output[0]) or ()
    return weights * (math.prod(shape[2:]) if n.op_type.startswith("Conv") else math.prod(shape[:-1]))
