"""With what the variants of a model are tried."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgectl.builder.judge.judges import Judges
from edgectl.builder.monitor import BuildMonitor
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
