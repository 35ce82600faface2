"""What the workers tell, to whoever it concerns: telemetry, health of engines, events, leases, crashes.

Called by the threads of the streams; nothing here waits.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgectl.agent.config import StreamConfig
from edgectl.agent.deploy.config_probation import ConfigHealthBook
from edgectl.agent.deploy.leases import Leases
from edgectl.agent.deploy.probation import HealthBook
from edgectl.agent.deploy.slot_thread import SlotThread
from edgectl.agent.outbox import Outbox
from edgectl.agent.streams.supervisor import Supervisor
from edgectl.agent.streams.telemetry import TelemetryCollector, by_slot
from edgectl.core.errors import StorageError
from edgectl.link.spool import Kind
from edgectl.pipelines.host.protocol import EngineRef, EventMessage, LeaseMessage, Stats
from edgectl.pipelines.stream.events import SCHEMA, is_update

if TYPE_CHECKING:
    from edgectl.agent.streams.device_page import DevicePage

__all__ = ["WorkerNews", "suspects"]

log = logging.getLogger(__name__)

_LOGGED_BYTES = 2048
"""Of an event that the command ``logs`` repeats: the reply stays within one message."""
_LOGGED = 64


def recent_events() -> deque[dict[str, object]]:
    """For those that the command ``logs`` repeats."""
    return deque(maxlen=_LOGGED)


@dataclass(frozen=True)
class WorkerNews:
    pipelines: Mapping[str, StreamConfig]
    supervisor: Supervisor
    deployers: Mapping[str, SlotThread]
    engine_of: Callable[[str], EngineRef | None]
    """Slot → the engine that it is to run now."""
    config_of: Callable[[str], Mapping[str, Any]]
    """Stream → the configuration that it is to run now."""
    set_engines_of: Callable[[str], Mapping[str, EngineRef]]
    """Stream → part → engine of the set that this configuration is."""
    activated: Callable[[str], int]
    """Slot → when what it has came into force, in the order of all slots; 0: it was there before."""
    live: HealthBook
    config_health: ConfigHealthBook
    collector: TelemetryCollector
    leases: Leases
    outbox: Outbox
    topic_of: Callable[[str], str]
    """Stream → where its events go."""
    epoch: int
    page: DevicePage | None = None
    recent: deque[dict[str, object]] = field(default_factory=recent_events)

    def stats(self, stream: str, stats: Stats) -> None:
        if self.page is not None:
            self.page.update(stream, stats)
        slot_of = self.pipelines[stream].slots
        self.live.record(stream, stats, slot_of)
        self.config_health.stats(stream, stats)
        self.collector.record(stream, by_slot(stats, slot_of), self.supervisor.worker_of(stream))

    def event(self, stream: str, message: EventMessage) -> None:
        if self.page is not None:
            self.page.heard(stream, message)
        self.config_health.event(stream, message)
        event = {"epoch": self.epoch, "stream": stream, "wall_s": time.time(), **message.event}
        payload = json.dumps(event).encode()
        if len(payload) <= _LOGGED_BYTES:
            self.recent.append(event)
        kind: Kind = "update" if is_update(message.event) else "event"
        self.outbox.put(kind, self.topic_of(stream), payload)

    def refused_config(self, stream: str, why: str) -> None:
        """Of the agent's own: a configuration that a stream does not take."""
        now = time.time()
        event = {
            "schema": SCHEMA,
            "id": f"{now:017.6f}-config",
            "type": "configuration",
            "phase": "refused",
            "stream": stream,
            "time": round(now, 6),
            "detail": why[:500],
        }
        self.event(stream, EventMessage(stream=stream, event=event))

    def crash_loop(self, stream: str, engines: Mapping[str, EngineRef], config: Mapping[str, Any]) -> None:
        """``engines``: part → what it was started with, with ``config``."""
        slot_of, config_slot = self.pipelines[stream].slots, self.pipelines[stream].config_slot
        try:
            if self.config_of(stream) != config:
                return  # it is about to be started with another one
            of_set = self.set_engines_of(stream)
            if any(engines.get(part) != ref for part, ref in of_set.items()):
                return  # the same
            engines = {part: ref for part, ref in engines.items() if part not in of_set}
            # a stream that shares its slots may say so when the engine has just been taken back for another
            running = {
                slot_of[part]: ref for part, ref in engines.items() if self.engine_of(slot_of[part]) == ref
            }
            activated = {slot: self.activated(slot) for slot in running}
            if config_slot is not None and len(running) == len(engines):
                activated[config_slot] = self.activated(config_slot)
        except StorageError as e:
            log.error("%s: %s", stream, e.message)
            return  # it is said again with the next start
        on_trial = [slot for slot in activated if self.deployers[slot].on_trial]
        proven = [slot for slot, ref in running.items() if self.supervisor.proven(stream, ref)]
        for slot in suspects(activated, on_trial, proven, config_slot, is_set=bool(of_set)):
            self.deployers[slot].crash_loop()

    def lease(self, stream: str, lease: LeaseMessage) -> None:
        self.leases.take(stream, lease.ttl_s, lease.reason)


def suspects(
    activated: Mapping[str, int],
    on_trial: Collection[str],
    proven: Collection[str],
    config_slot: str | None = None,
    *,
    is_set: bool = False,
) -> list[str]:
    """Slots whose engine, or configuration, a stream's crashes are blamed on.

    In this order: the configuration on trial; engines on trial; the configuration, if it came into force after every
    engine; each engine that serves no other stream well; the configuration, if it ``is_set``. ``activated``: slot → when
    what it has came into force, 0 for what was there before; engines of a set are the set.
    """
    if config_slot in on_trial:
        return [str(config_slot)]
    engines = {slot: at for slot, at in activated.items() if slot != config_slot}
    if new := sorted(set(engines) & set(on_trial)):
        return new
    if config_slot is not None and activated.get(config_slot, 0) > max(engines.values(), default=0):
        return [config_slot]
    found = sorted(set(engines) - set(proven))
    return [str(config_slot)] if not found and is_set and config_slot in activated else found
