"""How the machine is that all streams share: heat, memory, power."""

from __future__ import annotations

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
    """Read it now. Takes some milliseconds where there are many sensors."""
    # psutil has no sensors on some systems
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    found = [t.current for readings in sensors.values() for t in readings if t.current]
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return MachineState(
        max(found, default=None),
        psutil.virtual_memory().available / 2**20,
        battery is not None and battery.power_plugged is False,
    )
