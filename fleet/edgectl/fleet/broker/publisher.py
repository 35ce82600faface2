"""Publishes what the broker must retain (the controller's state, signed metadata, desired documents, manifest
pages), and remembers what it has not taken yet.

What changes is marked, and stays marked until it is handed over; a full window or a lost connection costs
time only. A mark goes before its message is made, and comes back if it is not taken: what changes meanwhile
is marked again, never forgotten. Any thread may mark, and never waits. Handing over waits for the broker: no
handler of its messages does that, and nobody with a lock held that a handler takes. Not here: what the
messages say.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from edgectl.core.errors import EdgectlError, LinkError
from edgectl.core.wire import Desired, Topics
from edgectl.fleet.broker.retained import Arrival, RetainedTopics
from edgectl.link.mqtt import Link

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0


class Publisher:
    def __init__(
        self,
        link: Link,
        topics: Topics,
        *,
        state: Callable[[], bytes],
        trust: Callable[[], bytes],
        desired: Callable[[str, Desired], bytes | None],
        pages: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``state``, ``trust``: their messages as of now; ``desired``: of a device, None while it must not
        go out; ``pages``: publishes those of a blob."""
        self._link = link
        self._topics = topics
        self._state = state
        self._trust = trust
        self._desired = desired
        self._pages = pages
        self._clock = clock
        self._retained = RetainedTopics()
        self._one_state = threading.Lock()
        self._state_due = False
        self._trust_due = False
        # Thread-safe by single steps only: popitem, setdefault, an assignment.
        self._unsent_desired: dict[str, Desired] = {}
        self._blobs: dict[str, None] = {}
        self._gone: dict[str, None] = {}

    # ---- marks

    def state_changed(self) -> None:
        """What devices are told of us is not the newest, or they would not believe its number."""
        self._state_due = True

    def trust_changed(self) -> None:
        self._trust_due = True

    def tell(self, device: str, desired: Desired) -> None:
        """Have the broker keep ``desired``, in place of any older one. Nothing is said before anything was
        ever wanted (generation 0)."""
        if desired.gen:
            self._unsent_desired[device] = desired

    def clear(self, device: str) -> None:
        """Have the broker keep nothing any more of a device that was removed."""
        self._unsent_desired.pop(device, None)
        self.forget([self._topics.desired(device), self._topics.conn(device), self._topics.reported(device)])

    def offer(self, blobs: Iterable[str]) -> None:
        """Let devices know how to fetch these."""
        for digest in blobs:
            self._blobs[digest] = None

    def forget(self, topics: Iterable[str]) -> None:
        """Have the broker keep nothing on these any more."""
        for topic in topics:
            self._gone[topic] = None

    # ---- what comes back

    def connected(self) -> None:
        """There is a new connection, maybe to a broker that lost everything: whoever marks everything
        again calls this first."""
        self._retained.connected()

    def arrival_of(self, topic: str, payload: bytes) -> Arrival:
        """What a message on a topic that we retain is. One that took the place of ours is :meth:`lost`
        until it is marked again."""
        return self._retained.arrival_of(topic, payload, self._clock())

    def lost(self) -> list[str]:
        """Topics whose message the broker does not keep any more and that are to be marked now."""
        return self._retained.due(self._clock())

    # ---- handing over

    def publish(self, progress: Callable[[], None] = lambda: None) -> None:
        """Hand over all that is marked, what devices need to go on first, while there is a connection. One
        thread calls this.

        ``progress`` is called after each message. Raises :class:`EdgectlError` for the first that cannot be
        handed over; it stays marked, and so do those behind it.
        """
        while self._link.is_up and self._publish_next():
            progress()

    def publish_state(self) -> None:
        """Hand our state over at once if it is marked, from any thread that may wait. Raises
        :class:`EdgectlError`; then it stays marked.

        One after the other: states must reach the broker in the order of their numbers.
        """
        with self._one_state:
            if not self._state_due:
                # another thread was faster, and saw the same change
                return
            self._state_due = False
            try:
                self._retain(self._topics.ctl, self._state())
            except BaseException:
                self._state_due = True
                raise

    def _publish_next(self) -> bool:
        """False: nothing is marked."""
        if self._state_due:
            self.publish_state()
        elif self._trust_due:
            self._publish_trust()
        elif self._unsent_desired:
            self._publish_desired()
        elif self._gone:  # before the pages: what is offered again stays
            self._publish_nothing()
        elif self._blobs:
            self._publish_pages()
        else:
            return False
        return True

    def _publish_trust(self) -> None:
        self._trust_due = False
        try:
            self._retain(self._topics.trust, self._trust())
        except BaseException:
            self._trust_due = True
            raise

    def _publish_desired(self) -> None:
        device, desired = self._unsent_desired.popitem()
        try:
            payload = self._desired(device, desired)
            if payload is not None:
                topic = self._topics.desired(device)
                # of a device of that name that was removed before: this takes its place
                self._gone.pop(topic, None)
                self._retain(topic, payload)
        except BaseException:
            self._unsent_desired.setdefault(device, desired)  # unless there is a newer one
            raise

    def _publish_nothing(self) -> None:
        topic, _ = self._gone.popitem()
        self._retained.forget(topic)
        try:
            self._link.publish(topic, b"", retain=True, timeout_s=_TIMEOUT_S)
        except BaseException:
            self._gone[topic] = None
            raise

    def _publish_pages(self) -> None:
        digest, _ = self._blobs.popitem()
        try:
            self._pages(digest)
        except LinkError:
            self._blobs[digest] = None
            raise
        except EdgectlError as e:
            # one that is damaged here keeps no other from the devices
            log.error("blob %s cannot be offered: %s", digest, e.message)

    def _retain(self, topic: str, payload: bytes) -> None:
        self._retained.sent(topic, payload, self._clock())
        self._link.publish(topic, payload, retain=True, timeout_s=_TIMEOUT_S)
