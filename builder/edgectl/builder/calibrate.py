"""One pass over the calibration samples: the range of every float tensor, in memory that does not grow with the samples.

A collector sees each tensor of each sample once and keeps a few numbers of it; the activations of one sample are all that is
ever held. :class:`MinMax` is what the writers use; a histogram is another :class:`Collector`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgectl.builder.graph import GraphIndex
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import DataError
from edgectl.core.files import digest_of
from edgectl.engines.base import Feeds
from edgectl.engines.onnxruntime import OnnxRuntimeEngine

__all__ = ["CalibrationTable", "Collector", "MinMax", "Range", "calibrate"]


@dataclass(frozen=True)
class Range:
    """What a tensor was seen to hold. ``low``/``high``: extremes of all samples; ``typical_*``: means of each sample's extremes."""

    low: float
    high: float
    typical_low: float
    typical_high: float


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges by tensor name of one very graph and one set of samples: the one table that every family is written from."""

    ranges: dict[str, Range]
    samples: int
    data_digest: str
    method: str = "minmax"

    def to_json(self) -> bytes:
        """Canonical bytes: the layer of the bundle, and what :attr:`digest` names."""
        rows = {n: [r.low, r.high, r.typical_low, r.typical_high] for n, r in sorted(self.ranges.items())}
        whole = {"method": self.method, "samples": self.samples, "data": self.data_digest, "ranges": rows}
        return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        return digest_of(self.to_json())


class Collector(Protocol):
    def update(self, name: str, values: NDArray[Any]) -> None:
        """See one tensor of one sample."""
        ...

    def ranges(self) -> dict[str, Range]: ...


class MinMax:
    """Running extremes, and running means of the extremes. Raises :class:`DataError` for a tensor that is not finite."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}
        self._count: dict[str, int] = {}

    def update(self, name: str, values: NDArray[Any]) -> None:
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"tensor {name} is not finite on a calibration sample", hint="check the model and its preprocessing")
        seen = self._seen.setdefault(name, [low, high, 0.0, 0.0])
        n = self._count[name] = self._count.get(name, 0) + 1
        seen[0], seen[1] = min(seen[0], low), max(seen[1], high)
        seen[2] += (low - seen[2]) / n
        seen[3] += (high - seen[3]) / n

    def ranges(self) -> dict[str, Range]:
        return {n: Range(*v) for n, v in self._seen.items()}


def calibrate(
    model: ModelProto,
    samples: Iterable[Feeds],
    *,
    data_digest: str,
    collector: Collector | None = None,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTable:
    """Run the float model over the samples and collect the range of every float tensor of its top-level graph.

    ``progress`` is told the number of samples done. Raises :class:`DataError` if there is no sample.
    """
    collector = collector or MinMax()
    watched = ModelProto()
    watched.CopyFrom(model)
    index = GraphIndex(model)
    tensors = [o for n in index.nodes for o in n.output if index.is_float(o)]
    outputs = set(index.outputs)
    watched.graph.output.extend(helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in tensors if t not in outputs)
    engine = OnnxRuntimeEngine(watched.SerializeToString(), SessionSettings())
    count = 0
    for feeds in samples:
        for name, values in (*feeds.items(), *engine.run(feeds).items()):
            if values.dtype == np.float32:
                collector.update(name, values)
        count += 1
        if progress is not None:
            progress(count)
    engine.close()
    if not count:
        raise DataError("there are no calibration samples", hint="give a longer video, more images or more arrays")
    return CalibrationTable(collector.ranges(), count, data_digest)
