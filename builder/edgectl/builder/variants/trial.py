"""With what the variants of a model are tried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgectl.builder.judge.judges import Judges
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.search.elsewhere import MeasuringDevice
from edgectl.builder.variants.restriction import UNRESTRICTED, Restriction
from edgectl.device_profiles.machine import Machine

__all__ = ["Trial"]


@dataclass(frozen=True)
class Trial:
    """The judges of the model, this machine, and who hears of it."""

    judges: Judges
    machine: Machine
    monitor: BuildMonitor
    tuning: Path | None = None
    """Where measurements are kept until the bundle is whole; None: nowhere."""
    restriction: Restriction = UNRESTRICTED
    """What competes."""
    device: MeasuringDevice | None = None
    """Where candidates are timed, and :attr:`machine` is then what it found itself to be; None: here."""
    here: Machine | None = None
    """This machine, where :attr:`machine` is another one."""

    def on(self, device: MeasuringDevice) -> Trial:
        """The same on a device."""
        return replace(self, device=device, machine=device.machine, here=self.here or self.machine)
