"""Device memory and the stream of the TensorRT engine, through cuda-python or pycuda, whichever is
installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import EngineError

__all__ = ["Cuda", "CudaGraph", "open_cuda"]


class CudaGraph(Protocol):
    """Work on a stream, recorded once and launched with one call."""

    def launch(self) -> None: ...

    def close(self) -> None: ...


class Cuda(Protocol):
    """One stream on the first device. Copies are asynchronous on that stream; only :meth:`synchronize`
    waits."""

    stream: int

    def identity(self) -> dict[str, str]:
        """``device``, ``sm``, ``multiprocessors`` and ``driver`` (CUDA driver API version): parts of the
        plan's cache key."""
        ...

    def enter(self) -> None:
        """Make the device current in this thread, until :meth:`leave`."""
        ...

    def leave(self) -> None: ...

    def allocate(self, nbytes: int) -> int: ...

    def free(self, pointer: int) -> None: ...

    def upload(self, pointer: int, array: NDArray[Any]) -> None: ...

    def download(self, array: NDArray[Any], pointer: int) -> None: ...

    def synchronize(self) -> None: ...

    def capture(self, work: Callable[[], object]) -> CudaGraph | None:
        """Record what ``work`` puts on the stream. None: this binding has no CUDA graphs. Raises
        :class:`EngineError` if the work cannot be recorded; the stream is usable afterwards."""
        ...


def open_cuda() -> Cuda:
    """The installed binding, cuda-python first: pycuda has no CUDA graphs. Raises :class:`EngineError` if
    there is none, or no device."""
    problems = []
    for binding in (_CudaPython, _PyCuda):
        try:
            return binding()
        except ImportError as e:
            problems.append(str(e))
        except Exception as e:
            raise EngineError(
                f"the CUDA device cannot be opened: {e}",
                hint="check the driver with nvidia-smi or tegrastats",
            ) from e
    raise EngineError(
        f"neither pycuda nor cuda-python is installed ({'; '.join(problems)})",
        hint="pip install 'edgectl[tensorrt]' (pycuda) or 'edgectl[cuda-graphs]' (cuda-python)",
    )


class _PyCuda:
    def __init__(self) -> None:
        import pycuda.driver as driver

        driver.init()
        self._driver: Any = driver
        self._device = driver.Device(0)
        self._context = self._device.retain_primary_context()
        self.enter()
        self._stream = driver.Stream()
        self.leave()
        self.stream = int(self._stream.handle)
        self._held: dict[int, Any] = {}

    def identity(self) -> dict[str, str]:
        major, minor = self._device.compute_capability()
        count = self._device.get_attribute(self._driver.device_attribute.MULTIPROCESSOR_COUNT)
        driver = str(self._driver.get_driver_version())
        return {
            "device": self._device.name(),
            "sm": f"{major}.{minor}",
            "multiprocessors": str(count),
            "driver": driver,
        }

    def enter(self) -> None:
        self._context.push()

    def leave(self) -> None:
        self._context.pop()

    def allocate(self, nbytes: int) -> int:
        allocation = self._driver.mem_alloc(nbytes)
        self._held[int(allocation)] = allocation
        return int(allocation)

    def free(self, pointer: int) -> None:
        self._held.pop(pointer).free()

    def upload(self, pointer: int, array: NDArray[Any]) -> None:
        self._driver.memcpy_htod_async(pointer, np.ascontiguousarray(array), self._stream)

    def download(self, array: NDArray[Any], pointer: int) -> None:
        self._driver.memcpy_dtoh_async(array, pointer, self._stream)

    def synchronize(self) -> None:
        self._stream.synchronize()

    def capture(self, work: Callable[[], object]) -> CudaGraph | None:
        return None


class _CudaPython:
    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            from cuda import cudart as runtime  # type: ignore[import-not-found,unused-ignore]
        self._rt: Any = runtime
        self._call("cudaSetDevice", 0)
        self._handle = self._call("cudaStreamCreate")
        self.stream = int(self._handle)

    def identity(self) -> dict[str, str]:
        p = self._call("cudaGetDeviceProperties", 0)
        name = p.name.decode() if isinstance(p.name, bytes) else str(p.name)
        count, driver = str(p.multiProcessorCount), str(self._call("cudaDriverGetVersion"))
        return {
            "device": name.rstrip("\0"),
            "sm": f"{p.major}.{p.minor}",
            "multiprocessors": count,
            "driver": driver,
        }

    def enter(self) -> None:
        self._call("cudaSetDevice", 0)

    def leave(self) -> None:
        """The runtime API has nothing to undo."""

    def allocate(self, nbytes: int) -> int:
        return int(self._call("cudaMalloc", nbytes))

    def free(self, pointer: int) -> None:
        self._call("cudaFree", pointer)

    def upload(self, pointer: int, array: NDArray[Any]) -> None:
        data = np.ascontiguousarray(array)
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, data.ctypes.data, data.nbytes, kind, self._handle)

    def download(self, array: NDArray[Any], pointer: int) -> None:
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, kind, self._handle)

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self._handle)

    def capture(self, work: Callable[[], object]) -> CudaGraph | None:
        self._call(
            "cudaStreamBeginCapture",
            self._handle,
            self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
        )
        try:
            work()
        finally:
            # whatever happened, the stream leaves capture mode
            graph = self._call("cudaStreamEndCapture", self._handle)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return _CudaGraph(
            lambda: self._call("cudaGraphLaunch", executable, self._handle),
            lambda: self._call("cudaGraphExecDestroy", executable),
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._rt, name)(*arguments)
        if int(error) != 0:
            raise EngineError(f"{name} failed: {error}")
        return values[0] if values else None


class _CudaGraph:
    def __init__(self, launch: Callable[[], object], destroy: Callable[[], object]) -> None:
        self._launch, self._destroy = launch, destroy

    def launch(self) -> None:
        self._launch()

    def close(self) -> None:
        self._destroy()
