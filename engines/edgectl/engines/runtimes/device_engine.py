"""What the engines of TensorRT and TensorRT-RTX have in common: inputs and outputs in device memory, copied through one
stream; from the second inference on, kernels that are launched as one CUDA graph where they can be recorded."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import EngineError
from edgectl.engines.base import Feeds, Outputs, check_feeds
from edgectl.engines.runtimes.cuda import Cuda, CudaGraph, open_cuda

__all__ = ["DTYPES", "DeviceEngine"]

log = logging.getLogger(__name__)

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""What the vendor calls a type → numpy's name."""


class DeviceEngine(ABC):
    """An engine whose file was opened. Static shapes."""

    runtime: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    records = True
    """Whether its work is recorded as a CUDA graph here; False where the runtime does that itself."""

    def __init__(self, file: Path, cuda: Cuda | None) -> None:
        self._cuda: Cuda | None = cuda or open_cuda()
        self._buffers: dict[str, int] = {}
        self._graph: CudaGraph | None = None
        self._runs = 0
        try:
            data = file.read_bytes()
        except OSError as e:
            raise EngineError(f"cannot read the plan {file.name}: {e.strerror or e}") from e
        self._cuda.enter()
        try:
            self._open(data, file.name)
        except BaseException:
            self._free()
            raise
        finally:
            self._cuda.leave()

    @abstractmethod
    def _open(self, data: bytes, name: str) -> None:
        """Take what the file of this name holds, and :meth:`_bind` each of its tensors. Raises :class:`EngineError`."""

    @abstractmethod
    def _enqueue(self) -> None:
        """Put one inference on the stream. Raises :class:`EngineError`."""

    @abstractmethod
    def _let_go(self) -> None:
        """Of everything that the vendor's library holds."""

    def run(self, feeds: Feeds) -> Outputs:
        if self._cuda is None:
            raise EngineError("the engine is closed")
        check_feeds(self.inputs, feeds)
        outputs: Outputs = {spec.name: np.empty(spec.shape, spec.dtype) for spec in self.outputs}
        self._cuda.enter()
        try:
            for name, array in feeds.items():
                self._cuda.upload(self._buffers[name], array)
            # the first one, outside a graph, lets the runtime finish its deferred set-up
            if self._runs == 1 and self.records:
                self._record()
            if self._graph is not None:
                self._graph.launch()
            else:
                self._enqueue()
            self._runs += 1
            for name, array in outputs.items():
                self._cuda.download(array, self._buffers[name])
            self._cuda.synchronize()
        except EngineError:
            raise
        except Exception as e:  # pycuda raises its own tree
            raise EngineError(f"{self.runtime} failed to run the engine: {e}") from e
        finally:
            self._cuda.leave()
        return outputs

    def close(self) -> None:
        if self._cuda is None:
            return
        self._cuda.enter()
        try:
            if self._graph is not None:
                self._graph.close()
                self._graph = None
            self._let_go()
            self._free()
        finally:
            self._cuda.leave()
            self._cuda = None

    def _bind(self, name: str, dims: tuple[int, ...], kind: str, *, is_input: bool) -> int:
        """Device memory for a tensor; its address. Raises :class:`EngineError`."""
        assert self._cuda is not None
        if any(d < 0 for d in dims):
            raise EngineError(
                f"tensor {name} of the plan has a dynamic shape {list(dims)}",
                hint="build the bundle with static shapes",
            )
        if kind not in DTYPES:
            raise EngineError(f"tensor {name} of the plan has type {kind}, which numpy does not know")
        spec = TensorSpec(name=name, shape=dims, dtype=DTYPES[kind])
        if is_input:
            self.inputs = (*self.inputs, spec)
        else:
            self.outputs = (*self.outputs, spec)
        address = self._cuda.allocate(max(1, math.prod(dims) * np.dtype(spec.dtype).itemsize))
        self._buffers[name] = address
        return address

    def _record(self) -> None:
        """A graph is faster and nothing else: an engine that cannot be recorded (loops, data-dependent
        shapes) runs without one."""
        assert self._cuda is not None
        try:
            self._graph = self._cuda.capture(self._enqueue)
        except EngineError as e:
            log.info("no CUDA graph of this engine: %s", e.message)
            return
        if self._graph is not None:
            self.runtime += ", CUDA graph"

    def _free(self) -> None:
        assert self._cuda is not None
        while self._buffers:
            _, pointer = self._buffers.popitem()
            self._cuda.free(pointer)
