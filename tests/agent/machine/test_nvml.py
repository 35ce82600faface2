"""Over a double of the library: pointers in, a code out."""

from __future__ import annotations

from typing import Any

from edgectl.agent.machine.nvml import Nvml
from edgectl.core.resources import GpuReading

_NOT_SUPPORTED = 3


class Library:
    """``figures``: call → what it writes; a call that is not there is not supported."""

    def __init__(self, *, count: int = 1, init: int = 0, **figures: Any) -> None:
        self._count, self._init, self._figures = count, init, figures

    def nvmlInit_v2(self) -> int:
        return self._init

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = self._count
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        handle._obj.value = 1000 + index.value
        return 0

    def __getattr__(self, call: str) -> Any:
        def answer(_handle: Any, *rest: Any) -> int:
            found = self._figures.get(call)
            if found is None:
                return _NOT_SUPPORTED
            if call == "nvmlDeviceGetName":
                import ctypes

                ctypes.memmove(rest[0], found + b"\0", len(found) + 1)
                return 0
            target = rest[-1]._obj
            if isinstance(found, dict):
                for name, value in found.items():
                    setattr(target, name, value)
            else:
                target.value = found
            return 0

        return answer


DESKTOP = {
    "nvmlDeviceGetName": b"NVIDIA GeForce RTX 4070",
    "nvmlDeviceGetUtilizationRates": {"gpu": 87, "memory": 40},
    "nvmlDeviceGetMemoryInfo": {"total": 12 << 30, "free": 8 << 30, "used": 4 << 30},
    "nvmlDeviceGetClockInfo": 1920,
    "nvmlDeviceGetMaxClockInfo": 3105,
    "nvmlDeviceGetTemperature": 83,
    "nvmlDeviceGetPowerUsage": 198_500,
    "nvmlDeviceGetEnforcedPowerLimit": 200_000,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x24,
}


def test_desktop_gpu() -> None:
    nvml = Nvml.of(Library(**DESKTOP))
    assert nvml is not None
    assert nvml.gpus() == (
        GpuReading(
            name="NVIDIA GeForce RTX 4070",
            load_pct=87,
            memory_used_mb=4096,
            memory_total_mb=12288,
            clock_mhz=1920,
            clock_max_mhz=3105,
            temperature_c=83,
            power_w=198.5,
            power_limit_w=200,
        ),
    )
    assert nvml.slowed_by() == {"GPU power limit", "GPU too hot (driver)"}


def test_gpu_that_is_idle_or_whose_clocks_somebody_set_is_not_slowed_down() -> None:
    nvml = Nvml.of(Library(**DESKTOP | {"nvmlDeviceGetCurrentClocksThrottleReasons": 0x1 | 0x2 | 0x10}))
    assert nvml is not None
    assert nvml.slowed_by() == frozenset()


def test_what_a_gpu_does_not_support_is_left_out() -> None:
    nvml = Nvml.of(Library(count=2, nvmlDeviceGetName=b"Orin (nvgpu)"))
    assert nvml is not None
    assert nvml.gpus() == (GpuReading(name="Orin (nvgpu)"),) * 2
    assert nvml.slowed_by() is None


def test_driver_that_does_not_start_and_machine_without_a_gpu() -> None:
    assert Nvml.of(Library(init=9)) is None
    assert Nvml.of(Library(count=0)) is None


def test_figures_that_cannot_be_are_left_out_and_the_others_told() -> None:
    wild = {
        **DESKTOP,
        "nvmlDeviceGetTemperature": (1 << 32) - 5,
        "nvmlDeviceGetMemoryInfo": {"total": 1 << 63},
    }
    nvml = Nvml.of(Library(**wild))
    assert nvml is not None
    (gpu,) = nvml.gpus()
    assert (gpu.temperature_c, gpu.memory_total_mb, gpu.load_pct) == (None, None, 87)


def test_library_of_another_year_lacks_a_call_and_tells_the_rest() -> None:
    class Older(Library):
        def __getattr__(self, call: str) -> Any:
            if call in ("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetMemoryInfo"):
                raise AttributeError(call)
            return super().__getattr__(call)

    nvml = Nvml.of(Older(**DESKTOP))
    assert nvml is not None
    assert nvml.slowed_by() is None
    (gpu,) = nvml.gpus()
    assert (gpu.memory_total_mb, gpu.temperature_c) == (None, 83)
