"""Whether a device is online, and whether one machine or several use its name. Only what was heard counts.
Pure; time is monotonic seconds.

A broker that is killed forgets the wills of its clients, and what it retained says "online" for ever. So
presence needs evidence: an agent says in its birth within which time it comes again
(:attr:`edgectl.core.wire.Conn.heartbeat_s`), and is away when it was silent for :data:`MISSED` times that, as
far as the controller could hear at all (:attr:`edgectl.link.mqtt.Link.hears`).

An identity may be on two disks. Each start of an agent is an *instance*; a new one takes the place of the one
before it, as after any restart. If the one before it speaks again, two machines claim to be the device. The
last to start counts, until it is gone; then the other does.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgectl.core.wire import Conn, Reported

__all__ = ["MISSED", "Claim", "Claims", "is_news"]

MISSED = 1.5
"""Periods of silence after which a device is away: one heartbeat is missing, and half a period late. With
what the controller itself needs to connect and to look, that is known within two."""

_KEPT = 8


@dataclass
class Claim:
    """One instance, and what it said last."""

    conn: Conn
    sign_s: float
    """When it was heard last."""
    again: bool = False
    """It was heard after another one had taken its place."""
    reported: Reported | None = None
    """Of one that does not count: what is to be known of the device once it does."""

    @property
    def description(self) -> str:
        """Which start on which machine, for people."""
        c = self.conn
        machine, address = c.host or "a machine", c.address or "an unknown address"
        return f"start {c.epoch} on {machine} at {address} (instance {c.instance or '-'})"


class Claims:
    """Everybody who says to be one device. Bounded."""

    def __init__(self) -> None:
        self._of: dict[str, Claim] = {}
        self._current: str | None = None

    @property
    def current(self) -> Claim | None:
        """The one that counts."""
        return self._of.get(self._current) if self._current is not None else None

    @property
    def rivals(self) -> list[Claim]:
        """All who were heard side by side, the one that counts first; empty for a device that is one
        machine."""
        others = [c for key, c in self._of.items() if key != self._current and c.again]
        return [self.current, *others] if self.current is not None and others else []

    def of(self, instance: str | None) -> Claim | None:
        """What this instance said last; None: it was not heard, or is gone."""
        return self._of.get(_key(instance))

    def aside(self, instance: str | None) -> Claim | None:
        """The claim of this instance if another one counts."""
        key = _key(instance)
        return None if key == self._current else self._of.get(key)

    def birth(self, conn: Conn, now_s: float) -> bool:
        """A birth or heartbeat. True: this instance counts, now or still; False: another one does."""
        key = _key(conn.instance)
        known = self._of.get(key)
        if known is None:
            # an agent of an older build does not say which start it is: most likely it was this one before an
            # update
            self._of.pop("", None)
            self._of[key] = Claim(conn, now_s)
            self._current = key
            while len(self._of) > _KEPT:
                oldest = min((k for k in self._of if k != key), key=lambda k: self._of[k].sign_s)
                del self._of[oldest]
            return True
        known.conn, known.sign_s = conn, now_s
        if self._current is None:
            self._current = key
        if key == self._current:
            return True
        known.again = True
        return False

    def sign(self, now_s: float) -> None:
        """Another message of the device. It does not say of which instance: where there are several, it is
        no evidence for any."""
        if len(self._of) == 1 and self.current is not None:
            self.current.sign_s = max(self.current.sign_s, now_s)

    def death(self, instance: str | None) -> bool:
        """True: it was the one that counted; :attr:`current` is who does now."""
        return self._remove(_key(instance))

    def silence(self, since_s: float, until_s: float) -> Claim | None:
        """Forget whoever was silent for too long, where all was heard from ``since_s`` to ``until_s``.
        Returns the one that counted, if it was among them."""
        gone = [
            key
            for key, c in self._of.items()
            if c.conn.heartbeat_s is not None
            and until_s - max(since_s, c.sign_s) >= MISSED * c.conn.heartbeat_s
        ]
        lost = None
        for key in gone:
            claim = self._of[key]
            if self._remove(key):
                lost = lost or claim
        return lost

    def _remove(self, key: str) -> bool:
        self._of.pop(key, None)
        if key != self._current:
            return False
        # Not one that was only superseded: it is most likely the start before this one.
        rest = {k: c for k, c in self._of.items() if c.again}
        self._current = max(rest, key=lambda k: rest[k].sign_s) if rest else None
        if len(self._of) == 1 and self.current is not None:
            self.current.again = False
        return True


def is_news(reported: Reported, last: Reported | None, conn: Conn | None) -> bool:
    """Whether a report is newer than the ``last`` one, or comes from the start or machine that now counts
    (``conn``) while the last one does not."""
    if last is None or (reported.epoch, reported.seq) > (last.epoch, last.seq):
        return True
    if conn is None:
        return False
    another_start = reported.epoch == conn.epoch != last.epoch
    another_machine = reported.instance is not None and reported.instance == conn.instance != last.instance
    return another_start or another_machine


def _key(instance: str | None) -> str:
    return instance or ""
