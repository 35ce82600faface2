"""The rules of alerts that there are. A rule is one file of this folder: its code and one line of documentation."""

from __future__ import annotations

from edgectl.fleet.alerts.rule_type import AlertRule
from edgectl.fleet.alerts.rules import (
    broker,
    certificate,
    data_quality,
    deadline,
    disk,
    metadata,
    silence,
    stream,
)

__all__ = ["RULES"]

RULES: dict[str, AlertRule] = {
    "deadline": deadline.RULE,
    "silence": silence.RULE,
    "stream": stream.RULE,
    "data_quality": data_quality.RULE,
    "certificate": certificate.RULE,
    "metadata": metadata.RULE,
    "disk": disk.RULE,
    "broker": broker.RULE,
}
