"""What psutil tells on every machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

from edgectl.core.resources import MAX_CORES, MAX_SENSORS, Resources, plausible

__all__ = ["hottest", "read_host"]

_POSSIBLE_C = (-40.0, 150.0)
"""A sensor beyond it is broken, or of a chip that is switched off."""
_MIB = 2**20


def read_host(disk: Path, temperatures: Iterable[tuple[str, float]] = ()) -> Resources:
    """Loads are those since the call before; the first call has none. ``temperatures``: more of them, of zones that psutil
    does not have."""
    loads = psutil.cpu_percent(percpu=True)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    found: dict[str, float] = {}
    with contextlib.suppress(OSError):
        usage = psutil.disk_usage(str(disk))
        found = {"disk_total_mb": usage.total / _MIB, "disk_free_mb": usage.free / _MIB}
    return plausible(
        Resources,
        core_load_pct=tuple(round(min(100.0, max(0.0, load)), 1) for load in loads[:MAX_CORES]),
        memory_total_mb=round(memory.total / _MIB, 1),
        memory_available_mb=round(memory.available / _MIB, 1),
        swap_total_mb=round(swap.total / _MIB, 1) if swap.total else None,
        swap_used_mb=round(swap.used / _MIB, 1) if swap.total else None,
        temperatures_c=hottest([*_sensors(), *temperatures]),
        **{name: round(mb, 1) for name, mb in found.items()},
    )


def hottest(readings: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Of each name the hottest that is possible; the hottest names, where there are too many."""
    found: dict[str, float] = {}
    for name, celsius in readings:
        if _POSSIBLE_C[0] < celsius < _POSSIBLE_C[1]:
            found[name[:64]] = max(round(celsius, 1), found.get(name[:64], -100.0))
    most = sorted(found, key=lambda name: -found[name])[:MAX_SENSORS]
    return {name: found[name] for name in sorted(most)}


def _sensors() -> list[tuple[str, float]]:
    try:
        groups = psutil.sensors_temperatures()
    except (AttributeError, OSError, ValueError):  # systems without sensors
        return []
    # 0: a sensor that is there and does not measure
    return [(name, s.current) for name, group in groups.items() for s in group if s.current]
