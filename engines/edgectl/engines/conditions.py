"""The state of this machine while something is measured: load, temperature, clock governor, power mode."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from edgectl.core.measured import Conditions
from edgectl.engines.timing import load_1m

__all__ = ["read_conditions"]


def read_conditions(root: Path = Path("/")) -> Conditions:
    """Read it now. What this machine does not tell is None. ``root`` is where ``sys`` and ``var`` are read."""
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    temperatures = [t.current for readings in sensors.values() for t in readings if t.current]
    mode = re.search(r"pmode:(\w+)", _text(root / "var/lib/nvpmodel/status"))
    return Conditions(
        load=load_1m(),
        temperature_c=round(max(temperatures), 1) if temperatures else None,
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        power_mode=mode[1] if mode else None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[:4096]
    except OSError:
        return ""
