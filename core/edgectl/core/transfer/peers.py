"""Suppression: which of several possible senders stays silent. A device that holds a blob waits for the
controller, and for other devices, before it sends.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Suppression"]


@dataclass
class _Blob:
    start_at: float | None = None
    """When to begin, if nobody else has by then."""
    quiet_until: float = 0.0
    left: dict[str, int] = field(default_factory=dict)
    """Device → what it misses."""
    progress_at: float = 0.0


class Suppression:
    """For one peer, over all blobs. It begins a jittered wait after the first need, and only if nobody else
    was heard.

    Another peer is believed only while devices get on: one that claims to send and does not would silence
    all. Of two peers that begin at the same moment, the one whose name sorts later stops as soon as it hears
    the other.
    """

    _WAIT_S = (3.0, 6.0)
    _QUIET_S = 8.0  # a seeder at work is heard every 2 s
    _BELIEF_S = 16.0
    _MAX_BLOBS = 1024
    _MAX_DEVICES = 256

    def __init__(self, name: str, seed: int = 0) -> None:
        self._name = name
        self._random = random.Random(seed)
        self._blobs: dict[str, _Blob] = {}

    def wanted(self, digest: str, device: str, left: int, now: float) -> None:
        """A device of the site misses ``left`` chunks of a blob that this peer holds."""
        if digest not in self._blobs and len(self._blobs) >= self._MAX_BLOBS:
            self._blobs = {
                d: b for d, b in self._blobs.items() if b.start_at is not None or b.quiet_until > now
            }
        blob = self._blobs.setdefault(digest, _Blob(progress_at=now))
        if left < blob.left.get(device, left + 1):
            blob.progress_at = now
        if device in blob.left or len(blob.left) < self._MAX_DEVICES:
            blob.left[device] = left
        if blob.start_at is None:
            blob.start_at = max(now, blob.quiet_until) + self._random.uniform(*self._WAIT_S)

    def heard(self, digest: str, other: str | None, now: float) -> None:
        """Another seeder speaks of this blob: None is the controller's. A peer of a later name gives way
        to this one instead."""
        blob = self._blobs.get(digest)
        if blob is None:
            return
        if other is not None and (
            now - blob.progress_at > self._BELIEF_S or (other >= self._name and self.may_send(digest, now))
        ):
            return
        blob.start_at, blob.quiet_until = None, now + self._QUIET_S

    def may_send(self, digest: str, now: float) -> bool:
        blob = self._blobs.get(digest)
        return blob is not None and blob.start_at is not None and now >= blob.start_at

    def over(self, digest: str) -> None:
        """Nobody needs this blob any more."""
        self._blobs.pop(digest, None)
