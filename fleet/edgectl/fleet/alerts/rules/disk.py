"""Disks that fill up."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import AlertRule, Finding
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["RULE"]


def _look(facts: AlertFacts, settings: AlertsConfig) -> Iterator[Finding]:
    for d in facts.devices:
        if d.disk_free_mb is not None and d.disk_free_mb < settings.disk_free_mb:
            yield Finding(d.name, f"{d.disk_free_mb:.0f} MB of its disk are free", d.site)


RULE = AlertRule(
    doc="A device has less than `disk_free_mb` of its disk free.", look=_look, for_s=300.0, clear_s=600.0
)
