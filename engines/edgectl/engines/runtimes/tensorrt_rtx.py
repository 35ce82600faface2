"""TensorRT-RTX: an engine that was compiled ahead of time, for a desktop GPU.

What the engine leaves to this very GPU is compiled when it is opened, and kept in a runtime cache beside it, so that the next
opening is quick. CUDA graphs are the runtime's own.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

from edgectl.core.errors import EngineError
from edgectl.core.files import atomic_write
from edgectl.engines.runtimes.cuda import Cuda
from edgectl.engines.runtimes.device_engine import DeviceEngine

__all__ = ["RtxEngine", "rtx_version"]

_MAX_CACHE = 1 << 30
"""Bytes of a runtime cache that are read."""


def rtx_version() -> str:
    """The full version, e.g. ``1.7.1.116``."""
    return str(vars(trt)["__version__"])


class RtxEngine(DeviceEngine):
    """An engine, deserialised. Raises :class:`EngineError` if this TensorRT-RTX does not accept it."""

    records = False

    def __init__(self, file: Path, *, cuda: Cuda | None = None) -> None:
        """``file``: the engine; its runtime cache lies beside it, or will."""
        self.runtime = f"tensorrt-rtx {rtx_version()}"
        self._kept = file.with_suffix(".runtime-cache")
        super().__init__(file, cuda)

    def keep_cache(self) -> None:
        """Write what was compiled here beside the engine, after it has run. Raises :class:`StorageError`."""
        if self._cache is None:
            raise EngineError("the engine is closed")
        data: Any = self._cache.serialize()
        atomic_write(self._kept, bytes(data))

    def _open(self, data: bytes, name: str) -> None:
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(data)
        # The binding answers None, not an exception, for an engine of another version or device.
        self._engine: trt.ICudaEngine | None = engine or None
        if self._engine is None:
            raise EngineError(
                f"TensorRT-RTX {rtx_version()} does not accept the engine {name}",
                hint="finalise the variant again",
            )
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache: trt.IRuntimeCache | None = config.create_runtime_cache()
        # a cache of another GPU, or a damaged one, is made anew
        with contextlib.suppress(OSError):
            if self._kept.stat().st_size <= _MAX_CACHE:
                self._cache.deserialize(self._kept.read_bytes())
        config.set_runtime_cache(self._cache)
        self._context: trt.IExecutionContext | None = self._engine.create_execution_context(config) or None
        if self._context is None:
            raise EngineError(
                "TensorRT-RTX cannot create an execution context",
                hint="not enough GPU memory: stop other engines",
            )
        for i in range(self._engine.num_io_tensors):
            tensor = self._engine.get_tensor_name(i)
            dims = self._engine.get_tensor_shape(tensor)
            shape = tuple(int(dims[k]) for k in range(len(dims)))
            kind: Any = self._engine.get_tensor_dtype(tensor)
            is_input = self._engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT
            self._context.set_tensor_address(tensor, self._bind(tensor, shape, kind.name, is_input=is_input))

    def _enqueue(self) -> None:
        assert self._cuda is not None
        assert self._context is not None
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT-RTX refused to run the engine")

    def _let_go(self) -> None:
        self._context = self._cache = self._engine = None
