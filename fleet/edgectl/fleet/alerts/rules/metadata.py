"""Signed metadata that end."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import AlertRule, Finding
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["RULE"]


def _look(facts: AlertFacts, settings: AlertsConfig) -> Iterator[Finding]:
    for role, end_s in facts.metadata.items():
        days = (end_s - facts.now_s) / 86400
        if days <= 0:
            yield Finding(
                role, f"expired: devices install nothing; edgectl keys renew {role}", severity="page"
            )
        else:
            yield Finding(role, f"ends in {days:.0f} days; edgectl keys renew {role}")


RULE = AlertRule(
    doc="Signed metadata are due to be renewed, or have expired: then devices install nothing.",
    look=_look,
    for_s=0.0,
    clear_s=0.0,
)
