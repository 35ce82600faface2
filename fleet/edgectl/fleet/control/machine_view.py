"""What a device told last of its machine, in words for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.core.resources import GpuReading, Resources
from edgectl.core.schema import Message
from edgectl.core.wire import Telemetry

__all__ = ["MachineView", "machine_of"]

_SENSORS = 6
"""The hottest that are shown."""


class MachineView(Message):
    """Of the last window of telemetry. Absent: the device does not tell."""

    wall_s: float | None = None
    resources: Resources | None = None
    power_mode: str | None = None
    throttled: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """What, and how it is; only of what is known."""
        return list(self._rows())

    def _rows(self) -> Iterator[tuple[str, str]]:
        r = self.resources
        if self.power_mode is not None:
            yield "power mode", self.power_mode
        if self.throttled or (r is not None and r.throttled_share is not None):
            share = "" if r is None or r.throttled_share is None else f"{r.throttled_share:.0%} of the time"
            yield "slowed down", ": ".join(filter(None, (share, ", ".join(self.throttled))))
        if r is None:
            return
        if r.core_load_pct:
            mean = sum(r.core_load_pct) / len(r.core_load_pct)
            yield (
                "cores",
                f"{len(r.core_load_pct)}, {mean:.0f} % busy, the busiest {max(r.core_load_pct):.0f} %",
            )
        for what, free, total in (
            ("memory", r.memory_available_mb, r.memory_total_mb),
            ("disk", r.disk_free_mb, r.disk_total_mb),
        ):
            if free is not None and total is not None:
                yield what, f"{free:,.0f} of {total:,.0f} MiB free"
        if r.swap_used_mb is not None and r.swap_total_mb is not None:
            yield "swap", f"{r.swap_used_mb:,.0f} of {r.swap_total_mb:,.0f} MiB used"
        if r.power_w is not None:
            yield "power", f"{r.power_w:.1f} W"
        hottest = sorted(r.temperatures_c.items(), key=lambda one: -one[1])[:_SENSORS]
        if hottest:
            yield "temperatures", ", ".join(f"{name} {celsius:.0f} °C" for name, celsius in hottest)
        for gpu in r.gpus:
            yield f"GPU {gpu.name}", ", ".join(_gpu(gpu)) or "tells nothing"


def machine_of(t: Telemetry | None) -> MachineView:
    if t is None:
        return MachineView()
    return MachineView(wall_s=t.wall_s, resources=t.resources, power_mode=t.power_mode, throttled=t.throttled)


def _gpu(g: GpuReading) -> Iterator[str]:
    if g.load_pct is not None:
        yield f"{g.load_pct:.0f} % busy"
    if g.memory_used_mb is not None and g.memory_total_mb is not None:
        yield f"{g.memory_used_mb:,.0f} of {g.memory_total_mb:,.0f} MiB used"
    if g.clock_mhz is not None:
        yield f"{g.clock_mhz:,.0f} MHz" + (f" of {g.clock_max_mhz:,.0f}" if g.clock_max_mhz else "")
    if g.temperature_c is not None:
        yield f"{g.temperature_c:.0f} °C"
    if g.power_w is not None:
        yield f"{g.power_w:.1f} W" + (f" of {g.power_limit_w:.0f}" if g.power_limit_w else "")
