"""An engine of two files: the graph, and its large weights in another one that is called by its own digest.

On disk, in one folder: ``<name>.onnx``, and ``<64 hex digits>``, which the graph names. Under these names both lie in a
bundle, too; the graph's own digest covers that of the weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from onnx import ModelProto, TensorProto

from edgectl.builder.large.weights import StoredWeight, bytes_of
from edgectl.core.files import storage

__all__ = ["LargeEngine", "WeightSource", "stored", "write_engine"]

_PAGE = 4096
"""Weights begin at whole pages: a runtime maps them."""


class WeightSource(Protocol):
    """Where the values of a weight come from."""

    def __call__(self, kind: int) -> Iterator[memoryview]:
        """Its bytes in order, a piece at a time, as values of ``kind`` (``TensorProto.DataType``)."""
        ...


@dataclass(frozen=True)
class LargeEngine:
    """``graph``: the file's bytes. ``file`` and ``weights`` lie in one folder."""

    graph: bytes
    file: Path
    weights: Path

    @property
    def nbytes(self) -> int:
        return len(self.graph) + self.weights.stat().st_size


def stored(weights: Mapping[str, StoredWeight]) -> dict[str, WeightSource]:
    """Weights as they lie in the model's own files."""
    return {name: w.pieces for name, w in weights.items()}


def write_engine(
    model: ModelProto, sources: Mapping[str, WeightSource], folder: Path, name: str
) -> LargeEngine:
    """Write a hollow graph and what fills it; a piece of a weight at a time is in memory. The same model gives the same
    bytes. Raises :class:`StorageError`, and :class:`ModelError` where a source has gone."""
    graph = ModelProto()
    graph.CopyFrom(model)
    hollow = [t for t in graph.graph.initializer if t.name in sources]
    beginning = folder / f".{name}.weights"
    sha = hashlib.sha256()
    with storage(str(beginning)), beginning.open("wb") as f:

        def write(pieces: Iterable[memoryview | bytes]) -> None:
            for piece in pieces:
                sha.update(piece)
                f.write(piece)

        places = []
        for t in hollow:
            write([bytes(-f.tell() % _PAGE)])
            start = f.tell()
            write(sources[t.name](t.data_type))
            length = f.tell() - start
            assert length == bytes_of(t.data_type, tuple(t.dims)), t.name
            places.append((start, length))
        f.flush()
        os.fsync(f.fileno())
    weights = folder / sha.hexdigest()
    with storage(str(weights)):
        beginning.replace(weights)
    for t, (offset, length) in zip(hollow, places, strict=True):
        t.data_location = TensorProto.EXTERNAL
        del t.external_data[:]
        for key, value in (("location", weights.name), ("offset", offset), ("length", length)):
            t.external_data.add(key=key, value=str(value))
    data = graph.SerializeToString(deterministic=True)
    file = folder / f"{name}.onnx"
    with storage(str(file)):
        file.write_bytes(data)
    return LargeEngine(data, file, weights)
