"""One pass over the calibration samples: extremes and a histogram of every float tensor, in memory that does
not grow with the samples.

The collector sees each tensor of each sample once; the activations of one sample are all that is ever held,
beside 16 KiB of counts a tensor. Every method of choosing a range (:data:`RangeKind`) is worked out from what
that one pass left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgectl.builder.graph import GraphIndex
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import DataError
from edgectl.core.files import digest_of
from edgectl.engines.base import Feeds
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

__all__ = [
    "RANGE_KINDS",
    "ActivationCollector",
    "ActivationHistogram",
    "CalibrationTable",
    "RangeKind",
    "TensorRange",
    "calibrate",
]

RangeKind = Literal["minmax", "typical", "percentile", "mse", "entropy"]
"""``minmax``: nothing that was seen saturates. ``typical``: the mean of each sample's extremes, finer
steps, outliers saturate. ``percentile``: all but 0.01 % of the values, half of them on each side. ``mse``:
the least squared error of 8 bit codes. ``entropy``: the 8 bit distribution that diverges least from the
float one (Migacz, *8-bit Inference with TensorRT*, 2017)."""
RANGE_KINDS: tuple[RangeKind, ...] = ("minmax", "typical", "percentile", "mse", "entropy")

_BINS = 2048
_OUTSIDE = 1e-4
# of the magnitude: entropy calibration quantizes it to 7 bits and a sign
_CODES = 128


@dataclass(frozen=True)
class TensorRange:
    """What a tensor was seen to hold. ``low``/``high``: extremes of all samples; ``typical_*``: means of
    each sample's extremes."""

    low: float
    high: float
    typical_low: float
    typical_high: float


@dataclass
class ActivationHistogram:
    """Counts in 2048 equal bins over ±``limit``, which doubles when a larger value comes (pairs of bins
    then become one)."""

    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def update(self, values: NDArray[np.float32], largest: float) -> None:
        """Add values, all finite and at most ``largest`` in magnitude."""
        if not largest:
            self.counts[_BINS // 2] += values.size
            return
        if not self.limit:
            self.limit = largest
            zeros, self.counts = int(self.counts.sum()), np.zeros(_BINS, np.int64)
            self.counts[_BINS // 2] = zeros
        while largest > self.limit:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate(
                [np.zeros(_BINS // 4, np.int64), merged, np.zeros(_BINS // 4, np.int64)]
            )
            self.limit *= 2
        flat = values.ravel()
        # in pieces: the scaled copy must not be as large as the tensor
        for start in range(0, flat.size, 1 << 20):
            scaled = (flat[start : start + (1 << 20)].astype(np.float64) + self.limit) * (
                _BINS / (2 * self.limit)
            )
            bins = np.minimum(scaled.astype(np.int32), _BINS - 1)
            self.counts += np.bincount(bins, minlength=_BINS)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Of the bins, 2049 values."""
        return np.linspace(-self.limit, self.limit, _BINS + 1)

    def percentile(self) -> tuple[float, float]:
        cumulative = np.cumsum(self.counts) / max(1, int(self.counts.sum()))
        low = int(np.searchsorted(cumulative, _OUTSIDE / 2, side="right"))
        high = int(np.searchsorted(cumulative, 1 - _OUTSIDE / 2, side="left"))
        return float(self.edges[low]), float(self.edges[min(high, _BINS - 1) + 1])

    def mse(self, low: float, high: float) -> tuple[float, float]:
        """The part of ``low``..``high`` with the least squared error of rounding and saturating, over a
        grid of shrunk ranges."""
        centres, weights = (self.edges[:-1] + self.edges[1:]) / 2, self.counts
        best, chosen = np.inf, (low, high)
        for share in np.linspace(0.3, 1.0, 36):
            a, b = low * share, high * share
            step = max(b - a, 1e-12) / 255
            outside = centres - np.clip(centres, a, b)
            error = float(weights @ np.where(outside == 0, step * step / 12, np.square(outside)))
            if error < best:
                best, chosen = error, (float(a), float(b))
        return chosen

    def entropy(self, low: float, high: float) -> tuple[float, float]:
        """Saturate at the magnitude for which the Kullback–Leibler divergence of the quantized
        distribution is least."""
        middle = _BINS // 2
        magnitude = (self.counts[middle:] + self.counts[:middle][::-1]).astype(np.float64)
        # zeros of a rectifier are exact in any case and would outweigh all else
        magnitude[0] = magnitude[1]
        best, bins = np.inf, middle
        for kept in range(_CODES, middle + 1, _CODES // 8):
            p = magnitude[:kept].copy()
            p[-1] += magnitude[kept:].sum()
            starts = np.linspace(0, kept, _CODES + 1).astype(np.int64)[:-1]
            used = (magnitude[:kept] > 0).astype(np.float64)
            sums, filled = np.add.reduceat(magnitude[:kept], starts), np.add.reduceat(used, starts)
            q = np.repeat(sums / np.maximum(filled, 1), np.diff([*starts, kept])) * used
            p, q = p / max(p.sum(), 1e-30), q / max(q.sum(), 1e-30)
            seen = p > 0
            divergence = float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))))
            if divergence < best:
                best, bins = divergence, kept
        bound = self.limit * bins / middle
        return max(low, -bound), min(high, bound)


@dataclass(frozen=True)
class CalibrationTable:
    """What one pass saw of every tensor of one very graph (``model_digest``) on one set of samples
    (``data_digest``).

    The one table that every family is written from.
    """

    ranges: dict[str, TensorRange]
    samples: int
    data_digest: str
    model_digest: str
    histograms: dict[str, ActivationHistogram] = field(repr=False)

    def range(self, tensor: str, kind: RangeKind) -> tuple[float, float]:
        """Lowest and highest value that get a code of their own."""
        r, h = self.ranges[tensor], self.histograms[tensor]
        if kind == "minmax" or not h.limit:
            return r.low, r.high
        if kind == "typical":
            return r.typical_low, r.typical_high
        if kind == "percentile":
            low, high = h.percentile()
            return max(low, r.low), min(high, r.high)
        return h.mse(r.low, r.high) if kind == "mse" else h.entropy(r.low, r.high)

    def to_json(self) -> bytes:
        """Canonical bytes: the layer of the bundle, and what :attr:`digest` names. Histograms are named by
        their digest."""
        rows = {n: [r.low, r.high, r.typical_low, r.typical_high] for n, r in sorted(self.ranges.items())}
        counts = digest_of(b"".join(self.histograms[n].counts.astype("<i8").tobytes() for n in rows))
        whole = {
            "samples": self.samples,
            "data": self.data_digest,
            "model": self.model_digest,
            "ranges": rows,
            "histograms": counts,
        }
        return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        return digest_of(self.to_json())


class ActivationCollector:
    """Running extremes, running means of each sample's extremes, and a histogram of each tensor."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}
        self._count: dict[str, int] = {}
        self.histograms: dict[str, ActivationHistogram] = {}

    def update(self, name: str, values: NDArray[Any]) -> None:
        """See one tensor of one sample. Raises :class:`DataError` for one that is not finite."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                f"tensor {name} is not finite on a calibration sample",
                hint="check the model and its preprocessing",
            )
        seen = self._seen.setdefault(name, [low, high, 0.0, 0.0])
        n = self._count[name] = self._count.get(name, 0) + 1
        seen[0], seen[1] = min(seen[0], low), max(seen[1], high)
        seen[2] += (low - seen[2]) / n
        seen[3] += (high - seen[3]) / n
        self.histograms.setdefault(name, ActivationHistogram()).update(values, max(-low, high))

    def forget(self, name: str) -> None:
        """As if a tensor had never been seen."""
        self._seen.pop(name, None)
        self.histograms.pop(name, None)

    def ranges(self) -> dict[str, TensorRange]:
        return {n: TensorRange(*v) for n, v in self._seen.items()}


def calibrate(
    model: ModelProto,
    samples: Iterable[Feeds],
    *,
    data_digest: str,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTable:
    """Run the float model over the samples and collect the range of every float tensor of its top-level
    graph.

    ``progress`` is told the number of samples done. Raises :class:`DataError` if there is no sample.
    """
    collector = ActivationCollector()
    watched = ModelProto()
    watched.CopyFrom(model)
    index = GraphIndex(model)
    tensors = [o for n in index.nodes for o in n.output if index.is_float(o)]
    outputs = set(index.outputs)
    watched.graph.output.extend(
        helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in tensors if t not in outputs
    )
    engine = OnnxRuntimeEngine(watched.SerializeToString(), SessionSettings())
    masked: set[str] = set()
    count = 0
    for feeds in samples:
        for name, values in (*feeds.items(), *engine.run(feeds).items()):
            if values.dtype != np.float32 or name in masked:
                continue
            if name not in outputs and np.isinf(values).any() and not np.isnan(values).any():
                # what hides a part of a softmax; it has no range, so nothing that reads it is quantized
                masked.add(name)
                collector.forget(name)
            else:
                collector.update(name, values)
        count += 1
        if progress is not None:
            progress(count)
    engine.close()
    if not count:
        raise DataError(
            "there are no calibration samples", hint="give a longer video, more images or more arrays"
        )
    digest = digest_of(model.SerializeToString(deterministic=True))
    return CalibrationTable(collector.ranges(), count, data_digest, digest, collector.histograms)
