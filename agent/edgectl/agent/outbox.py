"""Telemetry and events on their way out: on disk until the broker has them, and the first to go where the disk is full."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from pathlib import Path

from edgectl.agent.deploy.reporter import Reporter
from edgectl.agent.streams.telemetry import telemetry_payload
from edgectl.core.errors import StorageError
from edgectl.link.mqtt import Link
from edgectl.link.spool import Kind, Spool, SpoolSender

__all__ = ["Outbox"]

log = logging.getLogger(__name__)

_FULL_BYTES = 1 << 20
"""Of disk, below which a journal may not find room."""


class Outbox:
    """Any thread."""

    def __init__(
        self, state_dir: Path, link: Link, reporter: Reporter, *, max_bytes: int, max_age_s: float
    ) -> None:
        self._state_dir = state_dir
        self._reporter = reporter
        self.spool = Spool(state_dir / "spool.db", max_bytes=max_bytes, max_age_s=max_age_s)
        self._sender = SpoolSender(
            self.spool,
            link,
            payload=lambda row: telemetry_payload(row, time.time()),
            name="telemetry",
        )

    @property
    def thread(self) -> threading.Thread:
        return self._sender.thread

    def put(self, kind: Kind, topic: str, payload: bytes) -> None:
        try:
            self.spool.put(kind, topic, payload, time.time())
            self._reporter.storage_works()
        except StorageError as e:
            self._reporter.storage_fails(e)
            log.error("%s", e.message)
        self._sender.nudge()

    def nudge(self) -> None:
        """The broker is there."""
        self._sender.nudge()

    def make_room(self) -> None:
        """For what a deployment has to write down, a way back before all. On a full disk only."""
        with contextlib.suppress(OSError):
            if shutil.disk_usage(self._state_dir).free < _FULL_BYTES:
                self.give_way()

    def give_way(self) -> None:
        """What the device must not forget is worth more than the telemetry that waits."""
        with contextlib.suppress(StorageError):
            if self.spool.give_way():
                log.warning("unsent telemetry was deleted to make room")

    def stop(self) -> None:
        """Send nothing more. The spool stays open for what is still told."""
        self._sender.stop()
        if self.thread.ident is not None:
            self.thread.join()

    def close(self) -> None:
        self.spool.close()
