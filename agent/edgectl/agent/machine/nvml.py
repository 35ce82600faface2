"""NVIDIA's management library, where a driver brings it: desktop GPUs, and Jetson Thor in parts.

Called as C, without a package between: what is used has not changed since driver 470. A figure that a GPU does not support is
left out. Tested over a double of these calls.
"""

from __future__ import annotations

import ctypes
import logging
from ctypes import byref, c_char_p, c_uint, c_ulonglong, c_void_p
from typing import Any

from edgectl.core.resources import MAX_GPUS, GpuReading, plausible

__all__ = ["Nvml", "load_nvml"]

log = logging.getLogger(__name__)

_CLOCK_GRAPHICS, _SENSOR_GPU = 0, 0
_MIB = 2**20
_REASONS = {
    0x04: "GPU power limit",
    0x08: "GPU slowed by hardware",
    0x20: "GPU too hot (driver)",
    0x40: "GPU too hot (hardware)",
    0x80: "GPU power brake",
}
"""Bits of ``nvmlDeviceGetCurrentClocksThrottleReasons`` that mean slower than it can be. Idle, clocks that somebody has set
and boost that is shared do not."""


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", c_uint), ("memory", c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


def load_nvml() -> Nvml | None:
    """None: there is none, or no GPU that it knows."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return Nvml.of(library)


class Nvml:
    """For one thread."""

    def __init__(self, library: Any, handles: list[c_void_p]) -> None:
        self._call = library
        self._handles = handles

    @classmethod
    def of(cls, library: Any) -> Nvml | None:
        """``library``: its functions, as C has them: pointers in, a code out, 0 is good."""
        count = c_uint()
        if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(byref(count)):
            log.info("the NVIDIA management library does not start")
            return None
        handles = []
        for i in range(min(count.value, MAX_GPUS)):
            handle = c_void_p()
            if not library.nvmlDeviceGetHandleByIndex_v2(c_uint(i), byref(handle)):
                handles.append(handle)
        return cls(library, handles) if handles else None

    def gpus(self) -> tuple[GpuReading, ...]:
        return tuple(self._gpu(handle) for handle in self._handles)

    def slowed_by(self) -> frozenset[str] | None:
        """Why any of them is slower than it can be, now; None: none of them says."""
        masks = [
            self._number("nvmlDeviceGetCurrentClocksThrottleReasons", h, c_ulonglong) for h in self._handles
        ]
        told = [mask for mask in masks if mask is not None]
        return frozenset(why for bit, why in _REASONS.items() for m in told if m & bit) if told else None

    def _gpu(self, handle: c_void_p) -> GpuReading:
        use, memory = _Utilization(), _Memory()
        used = self._says("nvmlDeviceGetUtilizationRates", handle, byref(use))
        held = self._says("nvmlDeviceGetMemoryInfo", handle, byref(memory)) and memory.total > 0
        power = self._number("nvmlDeviceGetPowerUsage", handle)
        limit = self._number("nvmlDeviceGetEnforcedPowerLimit", handle)
        return plausible(
            GpuReading,
            name=self._name(handle),
            load_pct=float(min(100, use.gpu)) if used else None,
            memory_used_mb=round(memory.used / _MIB, 1) if held else None,
            memory_total_mb=round(memory.total / _MIB, 1) if held else None,
            clock_mhz=self._number("nvmlDeviceGetClockInfo", handle, c_uint, c_uint(_CLOCK_GRAPHICS)),
            clock_max_mhz=self._number("nvmlDeviceGetMaxClockInfo", handle, c_uint, c_uint(_CLOCK_GRAPHICS)),
            temperature_c=self._number("nvmlDeviceGetTemperature", handle, c_uint, c_uint(_SENSOR_GPU)),
            power_w=None if power is None else power / 1000,
            power_limit_w=None if limit is None else limit / 1000,
        )

    def _number(self, call: str, handle: c_void_p, kind: Any = c_uint, *which: c_uint) -> int | None:
        value = kind()
        return int(value.value) if self._says(call, handle, *which, byref(value)) else None

    def _says(self, call: str, *args: Any) -> bool:
        """A library of another year may lack it."""
        function = getattr(self._call, call, None)
        return function is not None and function(*args) == 0

    def _name(self, handle: c_void_p) -> str:
        buffer = ctypes.create_string_buffer(96)
        named = self._says("nvmlDeviceGetName", handle, ctypes.cast(buffer, c_char_p), c_uint(len(buffer)))
        return buffer.value.decode("utf-8", "replace")[:64] if named else "NVIDIA GPU"
