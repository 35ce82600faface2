"""Certificates of the controller that end."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import AlertRule, Finding
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["RULE"]


def _look(facts: AlertFacts, settings: AlertsConfig) -> Iterator[Finding]:
    for what, end_s in facts.certificates.items():
        days = (end_s - facts.now_s) / 86400
        if days <= 0:
            yield Finding(what, "it has expired", severity="page")
        elif days < settings.expiry_days:
            yield Finding(what, f"it ends in {days:.0f} days")


RULE = AlertRule(
    doc="The certificate by which the controller, or its authority, is known to the broker ends within `expiry_days`.",
    look=_look,
    for_s=0.0,
    clear_s=0.0,
)
