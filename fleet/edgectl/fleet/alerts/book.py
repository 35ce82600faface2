"""When an alert fires and when it ends. Pure, bounded; time is Unix seconds of a clock that does not jump.

What one rule finds at one site is one alert, however many devices it is. It has to be found for a rule's ``for_s`` before it
fires, and not be found for ``clear_s`` before it ends: what comes and goes is one alert that stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from edgectl.core.schema import Message
from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.rule_type import Finding, Severity
from edgectl.fleet.alerts.rules import RULES
from edgectl.fleet.alerts.settings import AlertsConfig

__all__ = ["Alert", "AlertBook", "AlertChange"]

_ALERTS = 1000
_MORE = 5
"""So many more, and twice as many, is a lot worse."""
_OF_THE_CONTROLLER = frozenset({"broker", "certificate", "metadata"})
"""Rules that look at no device."""
_NAMED = 20
"""Of those that an alert is about."""


class Alert(Message):
    """One that fires."""

    rule: str
    site: str = ""
    severity: Severity
    since_s: float
    """When it fired."""
    count: int
    """How many it is about; and some of them,"""
    about: dict[str, str] = Field(default={}, max_length=_NAMED)
    """with what is wrong."""

    @property
    def key(self) -> tuple[str, str]:
        return self.rule, self.site


@dataclass(frozen=True)
class AlertChange:
    what: Literal["firing", "resolved"]
    alert: Alert


class AlertBook:
    def __init__(self, firing: Iterable[Alert] = ()) -> None:
        """``firing``: those that fired before a restart."""
        self.firing: dict[tuple[str, str], Alert] = {a.key: a for a in firing}
        self._found_s: dict[tuple[str, str], float] = {}
        """Found, and does not fire yet → since when."""
        self._gone_s: dict[tuple[str, str], float] = {}
        """Fires, and is not found any more → since when."""
        self._told = dict(self.firing)
        """As it was told last."""

    def copy(self) -> AlertBook:
        """To step, and be thrown away where what it decided cannot be kept."""
        other = AlertBook(self.firing.values())
        other._found_s, other._gone_s = dict(self._found_s), dict(self._gone_s)
        other._told = dict(self._told)
        return other

    def step(self, facts: AlertFacts, settings: AlertsConfig) -> list[AlertChange]:
        """What began and ended."""
        now_s, changes = facts.now_s, list[AlertChange]()
        found: dict[tuple[str, str], list[Finding]] = {}
        for name, rule in RULES.items():
            if name not in settings.off:
                for finding in rule.look(facts, settings):
                    found.setdefault((name, finding.site), []).append(finding)
        for key, findings in found.items():
            self._gone_s.pop(key, None)
            if key in self.firing:
                now = self.firing[key] = _alert(key, findings, self.firing[key].since_s)
                if _worse(self._told[key], now):
                    self._told[key] = now
                    changes.append(AlertChange("firing", now))
                continue
            if key not in self._found_s and len(self.firing) + len(self._found_s) >= _ALERTS:
                continue
            if now_s - self._found_s.setdefault(key, now_s) >= RULES[key[0]].for_s:
                del self._found_s[key]
                self.firing[key] = self._told[key] = _alert(key, findings, now_s)
                changes.append(AlertChange("firing", self.firing[key]))
        for key in self._found_s.keys() - found.keys():
            del self._found_s[key]
        for key in [k for k in self.firing if k not in found and not _unknown(k, facts)]:
            clear_s = RULES[key[0]].clear_s if key[0] in RULES else 0.0
            if now_s - self._gone_s.setdefault(key, now_s) >= clear_s:
                del self._gone_s[key], self._told[key]
                changes.append(AlertChange("resolved", self.firing.pop(key)))
        return changes


def _unknown(key: tuple[str, str], facts: AlertFacts) -> bool:
    """Nothing is known of devices while the broker is away: what fired goes on."""
    return not facts.connected and key[0] not in _OF_THE_CONTROLLER


def _worse(told: Alert, now: Alert) -> bool:
    """It is told again where it got a lot worse: one device that is away must not hide a site that is."""
    paged = (told.severity, now.severity) == ("ticket", "page")
    return paged or now.count >= max(2 * told.count, told.count + _MORE)


def _alert(key: tuple[str, str], findings: list[Finding], since_s: float) -> Alert:
    about: Mapping[str, str] = {f.who[:200]: f.why[:300] for f in findings[:_NAMED]}
    severity: Severity = "page" if any(f.severity == "page" for f in findings) else "ticket"
    return Alert(
        rule=key[0], site=key[1], severity=severity, since_s=since_s, count=len(findings), about=dict(about)
    )
