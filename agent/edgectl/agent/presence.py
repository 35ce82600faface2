"""What a device says of itself when it comes and when it goes."""

from __future__ import annotations

import importlib.metadata
import secrets
import socket
from dataclasses import dataclass, field

from edgectl.agent.config import AgentConfig
from edgectl.agent.transfer.fetch import MachineFacts
from edgectl.core.wire import Conn

__all__ = ["Presence"]


@dataclass(frozen=True)
class Presence:
    config: AgentConfig
    epoch: int
    profile: str | None
    machine: MachineFacts
    instance: str = field(default_factory=lambda: secrets.token_hex(8))
    """Of this start. Not kept: the copy of a disk must not have it."""

    def birth(self, address: str | None) -> Conn:
        """``address``: of this device, in the network that leads to the broker."""
        c = self.config
        return Conn(
            epoch=self.epoch,
            online=True,
            agent=_version(),
            profile=self.profile,
            facts=tuple(sorted(self.machine.facts)),
            labels=c.labels,
            slots=(*c.slots, *c.config_slots),
            config_slots=c.config_slots,
            streams={stream: p.kind for stream, p in c.pipelines.items()},
            heartbeat_s=c.heartbeat_s,
            instance=self.instance,
            host=socket.gethostname()[:255] or None,
            address=address,
            measures=c.measure is not None,
        )

    def death(self, *, clean: bool) -> Conn:
        return Conn(epoch=self.epoch, online=False, clean=clean, instance=self.instance)


def _version() -> str:
    try:
        return importlib.metadata.version("edgectl")
    except importlib.metadata.PackageNotFoundError:
        return "checkout"
