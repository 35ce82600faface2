"""What the rules of alerts look at: the fleet as it is at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["AlertFacts", "BurnRates", "DeviceFacts", "StreamFacts"]


@dataclass(frozen=True)
class BurnRates:
    """Share of frames over their budget, in the last 5 minutes, half hour, hour and 6 hours; None: there were none."""

    m5: float | None = None
    m30: float | None = None
    h1: float | None = None
    h6: float | None = None


@dataclass(frozen=True)
class StreamFacts:
    state: str = "running"
    reason: str = ""
    late: BurnRates = BurnRates()


@dataclass(frozen=True)
class DeviceFacts:
    name: str
    site: str = ""
    online: bool = True
    clean: bool = False
    """It is away because its agent was stopped in good order."""
    silent_s: float | None = None
    """Since its last live telemetry; None: none came since the controller began."""
    window_s: float = 60.0
    """How often it sends some."""
    streams: Mapping[str, StreamFacts] = field(default_factory=dict)
    clock_wrong: bool = False
    missing: int = 0
    """Messages of telemetry that did not come, by their numbers."""
    dropped: int = 0
    """Messages that its spool has given up in the last hour."""
    disk_free_mb: float | None = None


@dataclass(frozen=True)
class AlertFacts:
    now_s: float
    """Unix time."""
    connected: bool
    """The controller reaches the broker, for long enough to know who is silent. Where it does not, nobody is."""
    devices: tuple[DeviceFacts, ...] = ()
    metadata: Mapping[str, float] = field(default_factory=dict)
    """Signed metadata that are due → Unix time at which they end."""
    certificates: Mapping[str, float] = field(default_factory=dict)
    """What it is → Unix time at which it ends."""
