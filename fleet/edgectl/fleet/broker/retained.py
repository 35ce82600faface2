"""Notices when a retained message of ours was deleted or overwritten at the broker, and says when to publish
it again. Pure; time is monotonic seconds.

Whoever may write to a broker can delete or overwrite what it retains, a person with a tool before all. The
controller hears its own retained topics, and so sees that: its own messages come back to it, others do not.
What was changed is put back, at once and, where somebody changes it again and again (another controller),
ever more slowly.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Arrival", "RetainedTopics"]

_ECHO_S = 10.0
"""A message of ours that did not come back within this time will not."""
_AT_ONCE = 4
"""So often it is put back at once; a person who tries things out is no war of two controllers."""
_CALM_S = 300.0
_SLOWEST_S = 60.0


class Arrival(Enum):
    """What a message on one of our topics is."""

    OURS = "ours"
    EARLY = "early"
    """We have sent nothing there yet, since we are connected: it is from before."""
    OVERTAKEN = "overtaken"
    """What we have sent since is on its way and takes its place."""
    OTHER = "other"
    """The broker does not keep ours any more. It is :meth:`~Retained.due` to be put back."""


@dataclass
class _Topic:
    last: bytes
    sent: deque[tuple[bytes, float]] = field(default_factory=lambda: deque(maxlen=64))
    """What has not come back yet."""
    strikes: int = 0
    struck_s: float = 0.0


class RetainedTopics:
    """One thread sends, another one receives: every method is one step."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        self._due: dict[str, float] = {}

    def connected(self) -> None:
        """A new connection: the broker may have lost everything, and everything is sent again."""
        for topic in list(self._topics):
            t = self._topics[topic]
            self._topics[topic] = _Topic(b"", strikes=t.strikes, struck_s=t.struck_s)
        self._due.clear()

    def sent(self, topic: str, payload: bytes, now_s: float) -> None:
        """To be called before it is handed over: it may be back before that returns."""
        key = _hash(payload)
        t = self._topics.setdefault(topic, _Topic(key))
        t.last = key
        t.sent.append((key, now_s))
        self._due.pop(topic, None)

    def forget(self, topic: str) -> None:
        """Nothing is kept there any more."""
        self._topics.pop(topic, None)
        self._due.pop(topic, None)

    def arrival_of(self, topic: str, payload: bytes, now_s: float) -> Arrival:
        t = self._topics.get(topic)
        if t is None or not t.last:
            return Arrival.EARLY
        while t.sent and now_s - t.sent[0][1] > _ECHO_S:
            t.sent.popleft()
        key = _hash(payload)
        if any(key == k for k, _ in t.sent):
            while t.sent.popleft()[0] != key:
                pass
            return Arrival.OURS
        if t.sent:
            return Arrival.OVERTAKEN
        if key == t.last:
            return Arrival.OURS
        if topic not in self._due:
            t.strikes = t.strikes + 1 if now_s - t.struck_s < _CALM_S else 0
            t.struck_s = now_s
            self._due[topic] = now_s + (
                0.0 if t.strikes < _AT_ONCE else min(_SLOWEST_S, 2.0 ** (t.strikes - _AT_ONCE))
            )
        return Arrival.OTHER

    def due(self, now_s: float) -> list[str]:
        """Topics that have to be published again now."""
        found = [topic for topic, due_s in list(self._due.items()) if now_s >= due_s]
        for topic in found:
            self._due.pop(topic, None)
        return found


def _hash(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
