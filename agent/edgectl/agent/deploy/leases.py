"""Leases: a pipeline or an operator says "change no engine now" for a while. A lease that is not renewed expires.

Leases outlive a restart of the agent with the time that they had left when it was last written down: wall
clocks jump, and a device that has just started cannot know how long it was away. It is written down every ten
minutes, so that a device which is switched off each night does not hold one for ever.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from edgectl.agent.state.journal import Journal
from edgectl.core.errors import StorageError

__all__ = ["Lease", "Leases"]

log = logging.getLogger(__name__)

_SAVE_S = 600.0


@dataclass(frozen=True)
class Lease:
    owner: str
    ttl_s: float
    reason: str
    until_s: float
    """On the clock of :class:`Leases`."""
    saved_s: float
    """When what was left was written down."""


class Leases:
    """Thread-safe. ``clock``: monotonic seconds."""

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        now = clock()
        self._held = {
            owner: Lease(owner, ttl_s, reason, now + ttl_s, now) for owner, ttl_s, reason in journal.leases()
        }

    @property
    def owners(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._held)

    def take(self, owner: str, ttl_s: float, reason: str = "") -> None:
        """Take or renew. Only a lease that is new or different is written to disk: renewals come every few
        seconds."""
        with self._lock:
            before, now = self._held.get(owner), self._clock()
            written = (
                before is not None
                and (before.ttl_s, before.reason) == (ttl_s, reason)
                and now - before.saved_s < _SAVE_S
            )
            self._held[owner] = Lease(
                owner, ttl_s, reason, now + ttl_s, before.saved_s if before is not None and written else now
            )
            if not written:
                self._kept(lambda: self._journal.save_lease(owner, ttl_s, reason))

    def drop(self, owner: str) -> bool:
        """Give back. False: there was none."""
        with self._lock:
            if self._held.pop(owner, None) is None:
                return False
            self._kept(lambda: self._journal.drop_lease(owner))
            return True

    def holder(self) -> Lease | None:
        """The lease that lasts longest; None while everybody agrees."""
        self.tidy()
        with self._lock:
            return max(self._held.values(), key=lambda lease: lease.until_s, default=None)

    def tidy(self) -> None:
        """Forget what has run out, and write down now and then how much is left. To be called now and
        then."""
        with self._lock:
            now = self._clock()
            for owner in [o for o, lease in self._held.items() if lease.until_s <= now]:
                del self._held[owner]
                self._kept(lambda owner=owner: self._journal.drop_lease(owner))  # type: ignore[misc]
            for lease in list(self._held.values()):
                if now - lease.saved_s >= _SAVE_S:
                    self._held[lease.owner] = replace(lease, saved_s=now)
                    self._kept(
                        partial(self._journal.save_lease, lease.owner, lease.until_s - now, lease.reason)
                    )

    @staticmethod
    def _kept(write: Callable[[], None]) -> None:
        try:
            write()
        except StorageError as e:
            log.warning("a lease cannot be stored, and counts until the agent restarts: %s", e.message)
