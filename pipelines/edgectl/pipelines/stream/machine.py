"""How the machine is that all streams share: heat, memory, power."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil

__all__ = ["MachineState", "machine_state"]


@dataclass(frozen=True, slots=True)
class MachineState:
    """None: this machine does not tell."""

    temperature_c: float | None = None
    """Of the hottest sensor."""
    memory_mb: float | None = None
    """Available, MiB."""
    on_battery: bool = False


def machine_state() -> MachineState:
    """Read it now. Takes some milliseconds where there are many sensors. A sensor that cannot be read tells
    nothing: no stream ends of it."""
    temperature_c, on_battery = None, False
    with contextlib.suppress(OSError, ValueError):
        temperature_c = _hottest_c()
    with contextlib.suppress(OSError, ValueError):
        on_battery = _on_battery()
    return MachineState(temperature_c, psutil.virtual_memory().available / 2**20, on_battery)


def _hottest_c() -> float | None:
    # psutil has no sensors on some systems
    if not hasattr(psutil, "sensors_temperatures"):
        return None
    found = [t.current for readings in psutil.sensors_temperatures().values() for t in readings if t.current]
    return max(found, default=None)


def _on_battery() -> bool:
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False
