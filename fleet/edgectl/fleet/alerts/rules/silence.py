"""Devices of which nothing is heard."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import AlertRule, Finding
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["RULE"]

_LEAST_S = 180.0


def _look(facts: AlertFacts, settings: AlertsConfig) -> Iterator[Finding]:
    if not facts.connected:
        return
    for d in facts.devices:
        if not d.online:
            if not d.clean:
                yield Finding(d.name, "it is away, and its agent was not stopped", d.site)
        elif d.silent_s is not None and d.silent_s > max(settings.silent_windows * d.window_s, _LEAST_S):
            yield Finding(
                d.name, f"it is there, and sent no telemetry for {d.silent_s / 60:.0f} minutes", d.site
            )


RULE = AlertRule(
    doc="A device is away without having been stopped, or is there and sends no telemetry.",
    look=_look,
    for_s=120.0,
    clear_s=120.0,
)
