"""Decides when the device publishes `reported`: a new state at once, progress now and then, and once more
whenever the broker may not have it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Literal

from edgectl.agent.trust.store import TrustStore
from edgectl.core.errors import EdgectlError, StorageError
from edgectl.core.wire import Failure, Reported, ReportedSlot

__all__ = ["Reporter"]

log = logging.getLogger(__name__)

_PROGRESS_S = 0.5


class Reporter:
    """:meth:`report` is for one thread, all else for any."""

    def __init__(
        self,
        epoch: int,
        trust: TrustStore,
        send: Callable[[Reported], None],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        instance: str | None = None,
    ) -> None:
        """``send`` raises :class:`EdgectlError` where it cannot; ``wake``: whoever calls :meth:`report`
        shall do so soon. ``clock``: monotonic seconds."""
        self._epoch = epoch
        self._instance = instance
        self._trust = trust
        self._send = send
        self.changed = wake
        """Called when there may be something new."""
        self._clock = clock
        self.trouble: Failure | None = None
        """What is wrong with the device as a whole; the last word counts."""
        self._seq = 0
        self._again = True
        self._said: tuple[object, object] = ((), ())
        """States, then progress."""
        self._said_s = 0.0

    def again(self) -> None:
        """Report soon, even if nothing is new: the broker may have lost it, or a number in it that alone
        makes no report is asked for."""
        self._again = True
        self.changed()

    def storage_fails(self, e: StorageError) -> None:
        self.trouble = Failure(code="storage", detail=e.message, retryable=True)

    def storage_works(self) -> None:
        if self.trouble is not None and self.trouble.code == "storage":
            self.trouble = None

    def report(self, gen: int, slots: Mapping[str, ReportedSlot], error: Failure | None) -> bool:
        """Send it if it is time to. False: it was not, or it could not be sent."""
        # first: what is asked for from here on is not answered by this report
        again, self._again = self._again, False
        clock: Literal["untrusted"] | None = None if self._trust.clock_trusted else "untrusted"
        states = (
            error,
            clock,
            *((slot, r.state, r.gen, r.active, r.error) for slot, r in sorted(slots.items())),
        )
        everything = (states, tuple((r.stage, r.pct) for r in slots.values()))
        now = self._clock()
        due = everything != self._said and now - self._said_s >= _PROGRESS_S
        if not (again or states != self._said[0] or due):
            return False
        self._seq += 1
        reported = Reported(
            epoch=self._epoch,
            seq=self._seq,
            gen=gen,
            slots=dict(slots),
            trust_version=self._trust.version,
            clock=clock,
            instance=self._instance,
            heard=self._trust.heard,
            error=error,
        )
        try:
            self._send(reported)
        except EdgectlError as e:
            log.info("the report waits: %s", e.message)
            self._again = self._again or again
            return False
        self._said, self._said_s = everything, now
        return True
