"""What a rule of alerts is: one file of the folder ``rules/`` each, and one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["AlertRule", "Finding", "Severity"]

Severity = Literal["page", "ticket"]
"""Wake somebody up; or look at it tomorrow."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong now."""

    who: str
    """A device, ``device/stream``, a metadata file, a certificate."""
    why: str
    site: str = ""
    """What is found at one site is one alert."""
    severity: Severity = "ticket"


@dataclass(frozen=True)
class AlertRule:
    doc: str
    look: Callable[[AlertFacts, AlertsConfig], Iterable[Finding]]
    for_s: float
    """How long it has to be found before the alert fires."""
    clear_s: float
    """How long it must not be found before the alert ends."""
