"""The state of this machine while something is measured: load, temperature, clock governor, power mode,
and who else computes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgectl.core.measured import Conditions
from edgectl.engines.measure.contexts import Load, busy_because
from edgectl.engines.timing import load_1m

__all__ = [
    "CpuTimes",
    "Heat",
    "busy_with",
    "evidence_of",
    "read_conditions",
    "read_cpu",
    "read_heat",
    "wait_until_quiet",
]

_LOOK_S = 1.0
_POSSIBLE_C = (-40.0, 150.0)
"""A sensor beyond it is broken, or of a chip that is switched off."""


@dataclass(frozen=True)
class CpuTimes:
    """Counters of the whole machine since it started, and when they were read."""

    busy_s: float
    """Time that all cores computed for anyone."""
    steal_s: float
    cores: int
    at_s: float
    """CLOCK_MONOTONIC."""


@dataclass(frozen=True)
class Heat:
    """None: this machine does not tell."""

    temperature_c: float | None = None
    """Of the hottest sensor or zone, °C."""
    mhz: float | None = None
    """Mean clock of the cores."""
    throttles: int | None = None
    """How often cores or packages slowed down for heat since the machine started (x86's ``thermal_throttle``)."""
    cooling: bool | None = None
    """Whether the kernel holds a processor's clock down for heat (cooling devices of Linux's thermal framework)."""


def read_heat(root: Path = Path("/")) -> Heat:
    """Read it now. ``root`` is where ``sys`` is read."""
    cpus = root / "sys/devices/system/cpu"
    mhz = [khz / 1e3 for khz in _numbers(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    counted = _numbers(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    # every core of a package counts for it
    package = max(_numbers(cpus.glob("cpu[0-9]*/thermal_throttle/package_throttle_count")), default=0)
    cooling = [
        state
        for device in (root / "sys/class/thermal").glob("cooling_device*")
        if re.match(r"(?i)processor|cpufreq|cpu", _text(device / "type"))
        for state in _numbers([device / "cur_state"])
    ]
    zones = _numbers((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    return Heat(
        temperature_c=_hottest([*_sensors_c(), *(z / 1000 for z in zones)]),
        mhz=sum(mhz) / len(mhz) if mhz else None,
        throttles=sum(counted) + package if counted else None,
        cooling=any(cooling) if cooling else None,
    )


def read_cpu(root: Path = Path("/")) -> CpuTimes | None:
    """The counters now; None where there is no ``proc/stat`` under ``root``."""
    lines = [
        line.split() for line in _text(root / "proc/stat", 1 << 20).splitlines() if line.startswith("cpu")
    ]
    if not lines or len(lines[0]) < 9:
        return None
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, steal = (int(x) / tick for x in lines[0][1:9])
    return CpuTimes(user + nice + system + irq + softirq, steal, max(1, len(lines) - 1), time.monotonic())


def evidence_of(before: CpuTimes | None, after: CpuTimes | None, own_s: float, spread: float = 0.0) -> Load:
    """What two readings say of the others. ``own_s``: processor time of what was measured meanwhile. Pure."""
    if before is None or after is None or after.at_s <= before.at_s:
        return Load(None, after.cores if after else 1, None, spread)
    passed = after.at_s - before.at_s
    others = max(0.0, after.busy_s - before.busy_s - own_s) / passed
    return Load(
        round(others, 3), after.cores, max(0.0, after.steal_s - before.steal_s) / passed / after.cores, spread
    )


def wait_until_quiet(
    seconds: float,
    *,
    read: Callable[[], CpuTimes | None] = read_cpu,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait for a second in which this machine has little else to do, at most ``seconds``. False if none
    came, or it does not tell."""
    deadline = clock() + seconds
    while clock() + _LOOK_S <= deadline:
        before = read()
        sleep(_LOOK_S)
        after = read()
        if before is None or after is None:
            return False
        if not busy_because(evidence_of(before, after, 0.0)):
            return True
    return False


def busy_with(
    seconds: float,
    cores: float | None = None,
    *,
    read: Callable[[], CpuTimes | None] = read_cpu,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """What else this machine does, in words, unless there comes a second in ``seconds`` (at least one second) in which
    it is little. ``cores``: what others may take; None: what a measurement lets them. None where the machine does not
    tell."""
    deadline, said = clock() + seconds, None
    while True:
        before = read()
        sleep(_LOOK_S)
        seen = evidence_of(before, read(), 0.0)
        if seen.others is None:
            return None
        if cores is None:
            found = busy_because(seen)
            said = found[0] if found else None
        else:
            over = seen.others > cores
            said = f"other processes took {seen.others:.1f} of {seen.cores} cores" if over else None
        if said is None or clock() + _LOOK_S > deadline:
            return said


def read_conditions(root: Path = Path("/")) -> Conditions:
    """Read it now. What this machine does not tell is None. ``root`` is where ``sys`` and ``var`` are
    read."""
    mode = re.search(r"pmode:(\w+)", _text(root / "var/lib/nvpmodel/status"))
    return Conditions(
        load=load_1m(),
        temperature_c=_hottest(_sensors_c()),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        power_mode=mode[1] if mode else None,
    )


def _sensors_c() -> list[float]:
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return [t.current for readings in sensors.values() for t in readings if t.current]


def _hottest(found_c: Sequence[float]) -> float | None:
    possible = [t for t in found_c if _POSSIBLE_C[0] < t < _POSSIBLE_C[1]]
    return round(max(possible), 1) if possible else None


def _numbers(paths: Iterable[Path]) -> list[int]:
    """Those that can be read and hold one."""
    return [int(text) for p in paths if re.fullmatch(r"-?\d{1,15}", text := _text(p).strip())]


def _text(path: Path, most: int = 4096) -> str:
    try:
        with path.open(errors="replace") as f:
            return f.read(most)
    except OSError:
        return ""
