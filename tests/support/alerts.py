"""The fleet as rules of alerts see it."""

from __future__ import annotations

from typing import Any

from edgectl.fleet.alerts.facts import AlertFacts, DeviceFacts
from edgectl.fleet.alerts.rules import RULES
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["NOW", "fleet", "found"]

NOW = 1_800_000_000.0


def fleet(*devices: DeviceFacts, connected: bool = True, now_s: float = NOW, **facts: Any) -> AlertFacts:
    return AlertFacts(now_s, connected, devices, **facts)


def found(rule: str, facts: AlertFacts, **settings: Any) -> dict[str, str]:
    """Who → why."""
    return {f.who: f.why for f in RULES[rule].look(facts, AlertsConfig(**settings))}
