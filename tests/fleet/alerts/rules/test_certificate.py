from __future__ import annotations

from support.alerts import NOW, fleet, found

from edgectl.fleet.alerts.rules import RULES
from edgectl.fleet.alerts.settings import AlertsConfig


def test_certificate_is_told_of_before_it_ends_and_wakes_somebody_when_it_has() -> None:
    ends = {"far": NOW + 15 * 86400, "near": NOW + 13 * 86400, "over": NOW - 1}
    facts = fleet(certificates=ends)
    assert found("certificate", facts) == {"near": "it ends in 13 days", "over": "it has expired"}
    severity = {f.who: f.severity for f in RULES["certificate"].look(facts, AlertsConfig())}
    assert severity == {"near": "ticket", "over": "page"}
