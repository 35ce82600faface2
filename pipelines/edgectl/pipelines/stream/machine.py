"""How the machine is that all streams share: heat, memory, power. Reading is apart from what the readings mean."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

__all__ = ["MachineReadings", "MachineState", "machine_state", "read_machine", "state_of"]

Untold = Literal["temperature", "memory", "battery", "power mode"]

_POSSIBLE_C = (-40.0, 150.0)
"""A zone beyond it is broken, or a chip that is switched off."""


@dataclass(frozen=True, slots=True)
class MachineReadings:
    """As they were read. Empty, or None: this machine has nothing of the kind."""

    sensors_c: tuple[float | None, ...] = ()
    zones: Mapping[str, str] = field(default_factory=dict)
    """Type → temperature in thousandths of a degree, as Linux's thermal zones write it. A Jetson has them beside
    its sensors."""
    available_bytes: int | None = None
    plugged: bool | None = None
    """None: no battery, or one that does not tell."""
    nvpmodel_status: str = ""
    """``pmode:0002``, where NVIDIA's nvpmodel keeps it."""
    nvpmodel_conf: str = ""
    """Its table: ``< POWER_MODEL ID=2 NAME=MODE_15W >``."""
    platform_profile: str = ""
    """Of the firmware of other machines: ``low-power``, ``balanced``, ``performance``."""


@dataclass(frozen=True, slots=True)
class MachineState:
    """None: this machine does not tell."""

    temperature_c: float | None = None
    """Of the hottest sensor or zone."""
    memory_mb: float | None = None
    """Available, MiB."""
    on_battery: bool = False
    power_mode: str | None = None
    """nvpmodel's name (its number where it names none), or the firmware's profile."""
    untold: tuple[Untold, ...] = ()
    """What this machine does not tell, and nothing can be done about."""


def machine_state(root: Path = Path("/")) -> MachineState:
    """Now. Takes some milliseconds where there are many sensors."""
    return state_of(read_machine(root))


def state_of(readings: MachineReadings) -> MachineState:
    """Pure."""
    temperatures = [t for t in readings.sensors_c if t]
    for text in readings.zones.values():
        with contextlib.suppress(ValueError):
            temperatures.append(int(text) / 1000)
    possible = [t for t in temperatures if _POSSIBLE_C[0] < t < _POSSIBLE_C[1]]
    mode = _nvpmodel(readings) or readings.platform_profile.strip() or None
    told: dict[Untold, bool] = {
        "temperature": bool(possible),
        "memory": readings.available_bytes is not None,
        "battery": readings.plugged is not None,
        "power mode": mode is not None,
    }
    return MachineState(
        max(possible, default=None),
        None if readings.available_bytes is None else readings.available_bytes / 2**20,
        readings.plugged is False,
        mode,
        tuple(name for name, known in told.items() if not known),
    )


def read_machine(root: Path = Path("/")) -> MachineReadings:
    """``root``: where ``sys``, ``var`` and ``etc`` lie. What cannot be read is not there: no stream ends of it."""
    sensors: tuple[float | None, ...] = ()
    plugged: bool | None = None
    available: int | None = None
    # psutil has no sensors on some systems
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sensors = tuple(t.current for found in psutil.sensors_temperatures().values() for t in found)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        battery = psutil.sensors_battery()
        plugged = None if battery is None else battery.power_plugged
    with contextlib.suppress(OSError, ValueError):
        available = psutil.virtual_memory().available
    return MachineReadings(
        sensors,
        {
            _text(zone / "type") or zone.name: _text(zone / "temp")
            for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))
        },
        available,
        plugged,
        _text(root / "var/lib/nvpmodel/status"),
        _text(root / "etc/nvpmodel.conf", 1 << 16),
        _text(root / "sys/firmware/acpi/platform_profile"),
    )


def _nvpmodel(readings: MachineReadings) -> str | None:
    status = re.search(r"pmode:(\d{1,4})", readings.nvpmodel_status)
    if status is None:
        return None
    number = int(status[1])
    named = re.search(rf"<\s*POWER_MODEL\s+ID=0*{number}\s+NAME=(\S+)", readings.nvpmodel_conf)
    return named[1] if named else str(number)


def _text(path: Path, most: int = 4096) -> str:
    try:
        with path.open(errors="replace") as f:
            return f.read(most).strip()
    except OSError:
        return ""
