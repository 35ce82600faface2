"""What a device tells of its resources, in telemetry. What a machine does not tell is absent, never 0."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from edgectl.core.schema import Message

__all__ = ["MAX_CORES", "MAX_GPUS", "MAX_SENSORS", "GpuReading", "Resources", "plausible"]

MAX_CORES = 256
MAX_GPUS = 8
MAX_SENSORS = 32

_Percent = Annotated[float, Field(ge=0, le=100)]
_Amount = Annotated[float, Field(ge=0, le=1e9)]
_Name = Annotated[str, Field(max_length=64)]


_Reading = TypeVar("_Reading", bound=Message)


def plausible(kind: type[_Reading], **figures: Any) -> _Reading:
    """Without the figures that cannot be: a driver may say anything, and no device stops for that."""
    try:
        return kind(**figures)
    except ValidationError as e:
        wrong = {problem["loc"][0] for problem in e.errors() if problem["loc"]}
        return kind(**{name: value for name, value in figures.items() if name not in wrong})


class GpuReading(Message):
    """A GPU now. Memory of a Jetson's is the machine's own, and not told here."""

    name: _Name
    load_pct: _Percent | None = None
    memory_used_mb: _Amount | None = None
    memory_total_mb: _Amount | None = None
    clock_mhz: _Amount | None = None
    clock_max_mhz: _Amount | None = None
    temperature_c: float | None = Field(default=None, ge=-100, le=300)
    power_w: _Amount | None = None
    power_limit_w: _Amount | None = None


class Resources(Message):
    """A machine. Loads are of the window, all else is of its end."""

    core_load_pct: tuple[_Percent, ...] = Field(default=(), max_length=MAX_CORES)
    """Of each core."""
    memory_total_mb: _Amount | None = None
    memory_available_mb: _Amount | None = None
    swap_total_mb: _Amount | None = None
    swap_used_mb: _Amount | None = None
    disk_total_mb: _Amount | None = None
    """Of the file system of the state folder."""
    disk_free_mb: _Amount | None = None
    temperatures_c: dict[_Name, Annotated[float, Field(ge=-100, le=300)]] = Field(
        default={}, max_length=MAX_SENSORS
    )
    """Sensor or thermal zone → its hottest reading."""
    power_w: _Amount | None = None
    """Of the whole board."""
    gpus: tuple[GpuReading, ...] = Field(default=(), max_length=MAX_GPUS)
    throttled_share: float | None = Field(default=None, ge=0, le=1)
    """What part of the window something slowed it down, as far as it was looked at; None: it cannot tell."""
