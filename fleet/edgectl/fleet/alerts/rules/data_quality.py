"""Measurements that are not what they seem."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import AlertRule, Finding
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["RULE"]


def _look(facts: AlertFacts, settings: AlertsConfig) -> Iterator[Finding]:
    for d in facts.devices:
        found = []
        if d.clock_wrong:
            found.append("its clock is behind the time that signed metadata attest")
        if d.dropped:
            found.append(f"its spool gave up {d.dropped} messages within the hour")
        if d.missing:
            found.append(f"{d.missing} messages of telemetry did not come")
        if found:
            yield Finding(d.name, "; ".join(found), d.site)


RULE = AlertRule(
    doc="A device's clock is wrong, its spool has given messages up, or numbers are missing among those that came.",
    look=_look,
    for_s=600.0,
    clear_s=600.0,
)
