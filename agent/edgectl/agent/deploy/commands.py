"""Executes the commands that operators send to this device. A command that overrides the fleet's desired
state goes into the audit log, with the operator's name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgectl.agent.deploy.deployer import SlotDeployer
from edgectl.agent.deploy.leases import Leases
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.telemetry import machine_health
from edgectl.agent.transfer.fetch import MachineFacts
from edgectl.core.errors import StorageError, UsageError
from edgectl.core.measuring import MeasureOrder
from edgectl.core.wire import Command

__all__ = ["Commands"]

log = logging.getLogger(__name__)

_MAX_LEASES = 64
"""Whoever can send commands shall not fill the disk with them."""


class Commands:
    """``events``: the last ones of the pipelines; ``measure`` obeys what a builder orders."""

    def __init__(
        self,
        state_dir: Path,
        machine: MachineFacts,
        journal: Journal,
        leases: Leases,
        deployers: Mapping[str, SlotDeployer],
        events: Sequence[Mapping[str, object]],
        measure: Callable[[MeasureOrder], dict[str, object]],
    ) -> None:
        self._state_dir = state_dir
        self._machine = machine
        self._journal = journal
        self._leases = leases
        self._deployers = deployers
        self._events = events
        self._measure = measure

    def obey(self, command: Command) -> dict[str, object]:
        """Do it, and return the reply's ``result``. Raises :class:`EdgectlError`: it is not possible now,
        or not a whole command."""
        if command.op == "probe":
            return {"facts": sorted(self._machine.facts), "runtimes": sorted(self._machine.runtimes)}
        if command.op == "logs":
            return {
                "events": list(self._events),
                "audit": [[round(wall_s, 3), what] for wall_s, what in self._journal.audited()],
            }
        if command.op == "health":
            return {"health": machine_health(self._state_dir)}
        owner = command.owner or "operator"
        if command.measure is not None:
            found = self._measure(command.measure)
            if command.measure.act == "open":
                self._audit(f"{owner}: measures candidates of a build here")
            return found
        if command.op in ("lock", "unlock"):
            return self._lease(command, owner)
        if command.slot is not None and command.slot not in self._deployers:
            raise UsageError(
                f"this device has no slot {command.slot}; it has {', '.join(sorted(self._deployers))}"
            )
        chosen = [d for slot, d in sorted(self._deployers.items()) if command.slot in (None, slot)]
        obeyed = [d.slot for d in chosen if d.order(command.op)]  # every one, not up to the first
        if not obeyed:
            states = ", ".join(f"{d.slot}: {d.report().state.value}" for d in chosen)
            raise UsageError(f"{command.op} is not possible now ({states or 'this device has no slots'})")
        self._audit(f"{owner}: {command.op} of {', '.join(obeyed)}: {command.reason or 'no reason given'}")
        return {"slots": obeyed}

    def _lease(self, command: Command, owner: str) -> dict[str, object]:
        if command.op == "lock":
            if command.ttl_s is None:
                raise UsageError("a lease needs ttl_s, the seconds after which it runs out")
            if len(self._leases.owners - {owner}) >= _MAX_LEASES:
                raise UsageError(f"{_MAX_LEASES} others hold a lease already")
            self._leases.take(owner, command.ttl_s, command.reason)
        elif not self._leases.drop(owner):
            raise UsageError(
                f"{owner} holds no lease; who does: {', '.join(sorted(self._leases.owners)) or 'nobody'}"
            )
        self._audit(f"{owner}: {command.op}: {command.reason or 'no reason given'}")
        for deployer in self._deployers.values():
            deployer.nudge()
        return {"owner": owner, "ttl_s": command.ttl_s if command.op == "lock" else 0}

    def _audit(self, what: str) -> None:
        log.warning("by hand: %s", what)
        try:
            self._journal.audit(time.time(), what)
        except StorageError as e:
            log.error("%s", e.message)
