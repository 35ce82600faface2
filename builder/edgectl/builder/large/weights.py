"""Where a weight of a large model lies, and how it is read: a piece at a time, by plain reads. (A file that is mapped
kills the process that reads it once somebody cuts it short.)"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgectl.core.errors import ModelError

__all__ = ["HALF_BYTES", "StoredWeight", "bytes_of"]

_PIECE = 8 << 20  # bytes
HALF_BYTES = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)
"""Types of which a byte holds two values."""


def bytes_of(kind: int, shape: tuple[int, ...]) -> int:
    """What a tensor takes as raw bytes; ``kind``: a ``TensorProto.DataType``. Raises ValueError for one without a fixed
    size (strings)."""
    values = math.prod(shape)
    if kind in HALF_BYTES:
        return (values + 1) // 2
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    except KeyError as e:
        raise ValueError(f"unknown type {kind}") from e
    if dtype.kind == "O":
        raise ValueError("strings have no fixed size")
    return values * dtype.itemsize


@dataclass(frozen=True)
class StoredWeight:
    """Raw little-endian values, row by row, from ``offset`` of ``file`` on. ``kind``: a ``TensorProto.DataType``.
    ``mtime_ns``: when the file had last been written as it was looked at; None: it is the build's own."""

    file: Path
    offset: int
    kind: int
    shape: tuple[int, ...]
    mtime_ns: int | None = None

    @property
    def nbytes(self) -> int:
        return bytes_of(self.kind, self.shape)

    def pieces(self, kind: int) -> Iterator[memoryview]:
        """Its bytes in order, as values of ``kind``: its own, or float32 for any float. Raises :class:`ModelError` for a
        file that has changed since it was looked at, and for values beyond float32."""
        dtype = None if kind == self.kind else self._dtype
        with self._opened() as f:
            left = self.nbytes
            while left:
                data = f.read(min(left, _PIECE))
                if not data:
                    raise self._changed("became shorter")
                left -= len(data)
                if dtype is None:
                    yield memoryview(data)
                else:
                    yield self._widened(np.frombuffer(data, dtype)).data.cast("B")
            self._check_unwritten(f)

    def values(self) -> NDArray[np.float32]:
        """All of it, float32."""
        dtype = self._dtype
        with self._opened() as f:
            found = np.fromfile(f, dtype, math.prod(self.shape))
            if found.size != math.prod(self.shape):
                raise self._changed("became shorter")
            self._check_unwritten(f)
        return self._widened(found).reshape(self.shape)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.kind))

    def _opened(self) -> Any:
        try:
            f = self.file.open("rb")
            f.seek(self.offset)
        except OSError as e:
            raise ModelError(f"cannot read {self.file.name}: {e.strerror or e}") from e
        return f

    def _widened(self, values: NDArray[Any]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            wide = np.asarray(values, np.float32)
        if values.dtype == np.float64 and not np.array_equal(np.isfinite(wide), np.isfinite(values)):
            raise ModelError(
                f"a weight in {self.file.name} holds values beyond float32",
                hint="export the model in float32",
            )
        return wide

    def _check_unwritten(self, f: Any) -> None:
        """After it was read: what is shipped is what the digest was taken of, in each precision."""
        if self.mtime_ns is not None and os.fstat(f.fileno()).st_mtime_ns != self.mtime_ns:
            raise self._changed("was written")

    def _changed(self, what: str) -> ModelError:
        return ModelError(
            f"{self.file.name} {what} while the model was built",
            hint="leave it alone and build again",
        )
