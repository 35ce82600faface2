"""``edgectl device``: devices join the fleet, and are spoken to."""

from __future__ import annotations

from edgectl.cli._nouns import Noun
from edgectl.cli.device.certificates import certificates, renew, revoke
from edgectl.cli.device.diagnosis import diagnose, show
from edgectl.cli.device.enrolment import enroll, remove, request
from edgectl.cli.device.orders import cancel, force, hold, lock, release, rollback, unlock
from edgectl.cli.device.questions import health, logs, probe

__all__ = ["app"]

app = Noun("device")
app.add(request, enroll, remove, renew, revoke, certificates)
app.add(lock, unlock, hold, release, force, cancel, rollback)
app.add(show, probe, logs, health, diagnose)
