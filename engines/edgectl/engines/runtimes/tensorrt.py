"""TensorRT: an engine over a plan that the finaliser compiled on this very device. TensorRT 8.6, 10.x and
11.x.

Only names that all three generations have are used (``tests/engines/runtimes/test_tensorrt_types.py`` checks them against
the vendor's signatures).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt as trt

from edgectl.core.errors import EngineError
from edgectl.engines.runtimes.cuda import Cuda
from edgectl.engines.runtimes.device_engine import DeviceEngine

__all__ = ["TensorRtEngine", "trt_version"]


def trt_version() -> str:
    """The full version with build number, e.g. ``10.3.0.30`` where the package says so."""
    return str(vars(trt)["__version__"])


class TensorRtEngine(DeviceEngine):
    """A plan, deserialised. Raises :class:`EngineError` if this TensorRT does not accept it."""

    def __init__(self, plan: Path, *, cuda: Cuda | None = None) -> None:
        self.runtime = f"tensorrt {trt_version()}"
        super().__init__(plan, cuda)

    def layers(self) -> str:
        """What TensorRT's engine inspector says of every layer, JSON; see
        :mod:`edgectl.engines.finalise.plan_layers`."""
        if self._engine is None:
            raise EngineError("the engine is closed")
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _open(self, data: bytes, name: str) -> None:
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(data)
        # The binding answers None, not an exception, for a plan of another version or device.
        self._engine: trt.ICudaEngine | None = engine or None
        if self._engine is None:
            raise EngineError(
                f"TensorRT {trt_version()} does not accept the plan {name}",
                hint="finalise the variant again",
            )
        context = self._engine.create_execution_context()
        self._context: trt.IExecutionContext | None = context or None
        if self._context is None:
            raise EngineError(
                "TensorRT cannot create an execution context",
                hint="not enough GPU memory: stop other engines",
            )
        for i in range(self._engine.num_io_tensors):
            tensor = self._engine.get_tensor_name(i)
            dims = self._engine.get_tensor_shape(tensor)
            kind: Any = self._engine.get_tensor_dtype(tensor)
            is_input = self._engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT
            shape = tuple(int(dims[k]) for k in range(len(dims)))
            self._context.set_tensor_address(tensor, self._bind(tensor, shape, kind.name, is_input=is_input))

    def _enqueue(self) -> None:
        assert self._cuda is not None
        assert self._context is not None
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT refused to run the engine")

    def _let_go(self) -> None:
        self._context = None
        self._engine = None
