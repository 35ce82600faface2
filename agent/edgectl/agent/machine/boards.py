"""What Linux tells of boards: a Jetson's GPU, rails and alarms, thermal zones, what slows a processor down.

JetPack 5 and 6 have the GPU as ``17000000.ga10b`` or ``17000000.gpu`` below ``/sys/class/devfreq``, with ``device/load`` in
thousandths; JetPack 7 on Thor has ``gpu-gpc-0`` and no load (NVML has it: :mod:`edgectl.agent.machine.nvml`). Reading is apart from
what the readings mean; whatever is not there is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgectl.core.resources import GpuReading

__all__ = ["BoardReadings", "BoardState", "board_state", "read_board"]

_GPU = re.compile(r"(\d+\.)?(gpu|ga10b|gv11b|gp10b|gm20b)$|gpu-gpc-\d+$")
_SLOWS = re.compile(r"cpufreq|devfreq|gpu|^processor$", re.IGNORECASE)
"""Cooling devices that make something slower; fans do not."""
_ALARMS = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
"""Of a Jetson Orin and Thor (``soctherm_oc``)."""
_NO_CLOCK_HZ, _NO_BOARD_W = 10**11, 10_000
_RASPBERRY = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of ``get_throttled`` that hold now."""
_BOARD_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
_GPU_RAILS = ("VDD_GPU",)
"""``VDD_GPU_SOC`` is of more than the GPU."""


@dataclass(frozen=True)
class BoardReadings:
    """As text, as it was read. Empty: this machine has nothing of the kind."""

    zones: tuple[tuple[str, str], ...] = ()
    """Type of a thermal zone, of which there may be several; thousandths of a degree."""
    gpus: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name in devfreq → ``load`` (thousandths), ``cur_freq``, ``max_freq`` (Hz)."""
    rails: tuple[tuple[str, str, str], ...] = ()
    """Label, mV, mA."""
    alarms: Mapping[str, str] = field(default_factory=dict)
    """``oc1`` → how often since boot."""
    cooling: tuple[tuple[str, str], ...] = ()
    """Type of a cooling device, its state: above 0 it cools."""
    core_throttles: tuple[str, ...] = ()
    """Of each core of an Intel processor: how often since boot."""
    raspberry: str = ""
    """Bits, in hex."""


@dataclass(frozen=True)
class BoardState:
    temperatures: tuple[tuple[str, float], ...] = ()
    gpus: tuple[GpuReading, ...] = ()
    power_w: float | None = None
    slowed_by: frozenset[str] = frozenset()
    """Now."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Reason → how often it slowed the machine down since boot."""
    tells: bool = False
    """Whether this machine says at all what slows it down."""


def board_state(r: BoardReadings) -> BoardState:
    """Pure."""
    power = {label: w for label, mv, ma in _rails(r) if 0 <= (w := mv * ma / 1e6) < _NO_BOARD_W}
    gpu_w = next((power[name] for name in _GPU_RAILS if name in power), None)
    counts = {_ALARMS[name]: n for name, text in r.alarms.items() if (n := _whole(text)) is not None}
    throttles = [n for text in r.core_throttles if (n := _whole(text)) is not None]
    # of some of them, the sum would fall, and rise again with the next look
    if throttles and len(throttles) == len(r.core_throttles):
        counts["processor too hot"] = sum(throttles)
    slows = [(kind, state) for kind, text in r.cooling if (state := _whole(text)) is not None]
    slowed = {f"too hot: {kind[:48]}" for kind, state in slows if state > 0 and _SLOWS.search(kind)}
    bits = _hex(r.raspberry)
    if bits is not None:
        slowed |= {why for bit, why in _RASPBERRY.items() if bits >> bit & 1}
    return BoardState(
        temperatures=tuple((name, n / 1000) for name, text in r.zones if (n := _whole(text)) is not None),
        gpus=tuple(_gpu(name, told, gpu_w) for name, told in sorted(r.gpus.items())),
        power_w=next((round(power[name], 2) for name in _BOARD_RAILS if name in power), None),
        slowed_by=frozenset(slowed),
        counts=counts,
        tells=bool(counts) or bits is not None or any(_SLOWS.search(kind) for kind, _ in slows),
    )


def read_board(root: Path = Path("/")) -> BoardReadings:
    """``root``: where ``sys`` lies. Some milliseconds."""
    sys = root / "sys"
    thermal, hwmon = sys / "class/thermal", list(_folders(sys / "class/hwmon", "hwmon*"))
    rails, alarms = [], {}
    for chip in hwmon:
        name = _text(chip / "name")
        if name == "ina3221":
            rails += [
                (_text(chip / f"in{n}_label"), _text(chip / f"in{n}_input"), _text(chip / f"curr{n}_input"))
                for n in range(1, 4)
            ]
        elif name == "soctherm_oc":
            alarms = {oc: text for oc in _ALARMS if (text := _text(chip / f"{oc}_event_cnt"))}
    return BoardReadings(
        zones=tuple(
            (_text(zone / "type") or zone.name, _text(zone / "temp"))
            for zone in _folders(thermal, "thermal_zone*")
        ),
        gpus={
            gpu.name: {
                "load": _text(gpu / "device/load"),
                "cur_freq": _text(gpu / "cur_freq"),
                "max_freq": _text(gpu / "max_freq"),
            }
            for gpu in _folders(sys / "class/devfreq", "*")
            if _GPU.match(gpu.name)
        },
        rails=tuple(rails),
        alarms=alarms,
        cooling=tuple(
            (_text(device / "type"), _text(device / "cur_state"))
            for device in _folders(thermal, "cooling_device*")
        ),
        core_throttles=tuple(
            _text(core / "thermal_throttle/core_throttle_count")
            for core in _folders(sys / "devices/system/cpu", "cpu[0-9]*")
        ),
        raspberry=_text(sys / "devices/platform/soc/soc:firmware/get_throttled"),
    )


def _rails(r: BoardReadings) -> Iterator[tuple[str, int, int]]:
    for label, volts, amperes in r.rails:
        mv, ma = _whole(volts), _whole(amperes)
        if mv is not None and ma is not None:
            yield label, mv, ma


def _gpu(name: str, told: Mapping[str, str], power_w: float | None) -> GpuReading:
    load, now, most = (_whole(told.get(key, "")) for key in ("load", "cur_freq", "max_freq"))
    return GpuReading(
        name=name[:64],
        load_pct=None if load is None or load < 0 else min(100.0, load / 10),
        clock_mhz=_mhz(now),
        clock_max_mhz=_mhz(most),
        power_w=None if power_w is None else round(power_w, 2),
    )


def _mhz(hz: int | None) -> float | None:
    return hz / 1e6 if hz is not None and 0 < hz < _NO_CLOCK_HZ else None


def _folders(parent: Path, pattern: str) -> list[Path]:
    try:
        return sorted(parent.glob(pattern))[:512]
    except OSError:
        return []


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,15}", text) else None


def _hex(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text) else None


def _text(path: Path) -> str:
    try:
        with path.open(errors="replace") as f:
            return f.read(256).strip()
    except OSError:  # some zones say "try again" while their part of the chip sleeps
        return ""
