"""Streams whose source is away."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import AlertRule, Finding
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["RULE"]

_AWAY = frozenset({"outage", "restarting"})


def _look(facts: AlertFacts, settings: AlertsConfig) -> Iterator[Finding]:
    if not facts.connected:
        return
    for d in facts.devices:
        if d.online:
            for name, s in d.streams.items():
                if s.state in _AWAY:
                    yield Finding(
                        f"{d.name}/{name}", f"{s.state}: {s.reason or 'it does not say why'}", d.site
                    )


RULE = AlertRule(
    doc="A stream of a device that is there has no source, or its worker starts again and again.",
    look=_look,
    for_s=300.0,
    clear_s=120.0,
)
