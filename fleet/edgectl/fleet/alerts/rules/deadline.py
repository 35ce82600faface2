"""Frames over their budget, faster than the objective can bear (The Site Reliability Workbook, chapter 5, "Multiwindow,
Multi-Burn-Rate Alerts").

A burn rate of 1 uses up exactly what the objective allows. At 14.4 for an hour, 2 % of what a month allows are gone; at 6 for six
hours, 5 %. The short window, a twelfth, lets the alert end soon after the trouble does.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import AlertRule, Finding
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["RULE"]

_FAST, _SLOW = 14.4, 6.0


def _look(facts: AlertFacts, settings: AlertsConfig) -> Iterator[Finding]:
    allowed = 1 - settings.slo
    for d in facts.devices:
        for name, s in d.streams.items():
            late = s.late
            for long, short, rate, span in (
                (late.h1, late.m5, _FAST, "an hour"),
                (late.h6, late.m30, _SLOW, "six hours"),
            ):
                # more than all frames cannot be late: an objective that bears much has a lower limit
                limit = min(rate * allowed, 0.9)
                if long is not None and short is not None and min(long, short) > limit:
                    why = f"{100 * long:.1f} % of frames were over their budget for {span}"
                    yield Finding(f"{d.name}/{name}", why, d.site, "page")
                    break


RULE = AlertRule(
    doc="A stream misses its budget so often that the objective (`slo`) is used up: 14.4 times too fast for an hour, "
    "or 6 times for six.",
    look=_look,
    for_s=0.0,
    clear_s=300.0,
)
