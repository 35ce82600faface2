"""The way to all devices."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import AlertRule, Finding
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["RULE"]


def _look(facts: AlertFacts, settings: AlertsConfig) -> Iterator[Finding]:
    if not facts.connected:
        yield Finding(
            "broker",
            "the controller does not reach the broker: nothing is known of any device",
            severity="page",
        )


RULE = AlertRule(
    doc="The controller does not reach the broker. While that is so, no device is called silent.",
    look=_look,
    for_s=60.0,
    clear_s=60.0,
)
