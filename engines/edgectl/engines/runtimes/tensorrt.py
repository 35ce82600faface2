"""TensorRT: an engine over a plan that the finaliser compiled on this very device. TensorRT 8.6, 10.x and
11.x.

Static shapes; inputs and outputs are copied through one stream. From the second inference on, the kernels are
launched as one CUDA graph where the binding has them and the engine can be recorded. Only names that all
three generations have are used (``tests/engines/runtimes/test_tensorrt_types.py`` checks them against the
vendor's signatures).
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

from edgectl.core.bundle import TensorSpec
from edgectl.core.errors import EngineError
from edgectl.engines.base import Feeds, Outputs, check_feeds
from edgectl.engines.runtimes.cuda import Cuda, CudaGraph, open_cuda

__all__ = ["TensorRtEngine", "trt_version"]

log = logging.getLogger(__name__)

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}


def trt_version() -> str:
    """The full version with build number, e.g. ``10.3.0.30`` where the package says so."""
    return str(vars(trt)["__version__"])


class TensorRtEngine:
    """A plan, deserialised. Raises :class:`EngineError` if this TensorRT does not accept it."""

    def __init__(self, plan: Path, *, cuda: Cuda | None = None) -> None:
        self._cuda: Cuda | None = cuda or open_cuda()
        self.runtime = f"tensorrt {trt_version()}"
        self._buffers: dict[str, int] = {}
        self._graph: CudaGraph | None = None
        self._runs = 0
        self._cuda.enter()
        try:
            self._open(plan)
        except BaseException:
            self._free()
            raise
        finally:
            self._cuda.leave()

    def _open(self, plan: Path) -> None:
        assert self._cuda is not None
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        try:
            engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        except OSError as e:
            raise EngineError(f"cannot read the plan {plan.name}: {e.strerror or e}") from e
        # The binding answers None, not an exception, for a plan of another version or device.
        self._engine: trt.ICudaEngine | None = engine or None
        if self._engine is None:
            raise EngineError(
                f"TensorRT {trt_version()} does not accept the plan {plan.name}",
                hint="finalise the variant again",
            )
        context = self._engine.create_execution_context()
        self._context: trt.IExecutionContext | None = context or None
        if self._context is None:
            raise EngineError(
                "TensorRT cannot create an execution context",
                hint="not enough GPU memory: stop other engines",
            )
        specs: dict[bool, list[TensorSpec]] = {True: [], False: []}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            spec = TensorSpec(name=name, shape=_shape(self._engine, name), dtype=_dtype(self._engine, name))
            specs[is_input].append(spec)
            self._buffers[name] = self._cuda.allocate(
                max(1, math.prod(spec.shape) * np.dtype(spec.dtype).itemsize)
            )
            self._context.set_tensor_address(name, self._buffers[name])
        self.inputs, self.outputs = tuple(specs[True]), tuple(specs[False])

    def run(self, feeds: Feeds) -> Outputs:
        if self._cuda is None or self._context is None:
            raise EngineError("the engine is closed")
        check_feeds(self.inputs, feeds)
        outputs: Outputs = {spec.name: np.empty(spec.shape, spec.dtype) for spec in self.outputs}
        self._cuda.enter()
        try:
            for name, array in feeds.items():
                self._cuda.upload(self._buffers[name], array)
            # the first one, outside a graph, lets TensorRT finish its deferred set-up
            if self._runs == 1:
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
            raise EngineError(f"TensorRT failed to run the engine: {e}") from e
        finally:
            self._cuda.leave()
        return outputs

    def layers(self) -> str:
        """What TensorRT's engine inspector says of every layer, JSON; see
        :mod:`edgectl.engines.finalise.plan_layers`."""
        if self._engine is None:
            raise EngineError("the engine is closed")
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _enqueue(self) -> None:
        assert self._cuda is not None
        assert self._context is not None
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT refused to run the engine")

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

    def close(self) -> None:
        if self._cuda is None:
            return
        self._cuda.enter()
        try:
            if self._graph is not None:
                self._graph.close()
                self._graph = None
            self._context = None
            self._engine = None
            self._free()
        finally:
            self._cuda.leave()
            self._cuda = None

    def _free(self) -> None:
        assert self._cuda is not None
        while self._buffers:
            _, pointer = self._buffers.popitem()
            self._cuda.free(pointer)


def _shape(engine: trt.ICudaEngine, name: str) -> tuple[int, ...]:
    dims = engine.get_tensor_shape(name)
    shape = tuple(int(dims[i]) for i in range(len(dims)))
    if any(d < 0 for d in shape):
        raise EngineError(
            f"tensor {name} of the plan has a dynamic shape {list(shape)}",
            hint="build the bundle with static shapes",
        )
    return shape


def _dtype(engine: trt.ICudaEngine, name: str) -> str:
    kind: Any = engine.get_tensor_dtype(name)
    if kind.name not in _DTYPES:
        raise EngineError(f"tensor {name} of the plan has type {kind.name}, which numpy does not know")
    return _DTYPES[kind.name]
