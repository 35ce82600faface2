"""How late it is at least, on disk: the last verified timestamp metadata attest it, and it outlives a power cut.

The rules are in :mod:`edgectl.agent.trust.time_floor`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from pydantic import Field
from tuf.api.metadata import Root, Timestamp

from edgectl.agent.trust.metadata_set import role_keys
from edgectl.agent.trust.time_floor import TimeFloor
from edgectl.core.errors import TrustError
from edgectl.core.files import atomic_write
from edgectl.core.schema import Message, parse_json
from edgectl.core.trust import keyset_id, signed_at

__all__ = ["AttestedTime"]

_SAVE_TIME_S = 3600.0
"""How much uptime a power cut may cost the attested time."""


class Attestation(Message):
    """``time.json``: how late it is at least, and which timestamp says so."""

    keys: str = ""
    """Of the timestamp role (:func:`edgectl.core.trust.keyset_id`): another key's versions are others."""
    version: int = 0
    attested_s: float = Field(default=0.0, ge=0, le=1 << 40)
    bound_s: float = Field(default=0.0, ge=0, le=1 << 40)


class AttestedTime:
    """Not thread-safe: the trust store's lock guards it."""

    def __init__(
        self, path: Path, wall: Callable[[], float], steady: Callable[[], float], built_s: float
    ) -> None:
        """``path``: ``time.json``; without it, time starts at ``built_s``, the build of the agent."""
        self._path = path
        self._wall = wall
        self._steady = steady
        self._built_s = built_s
        self._kept = Attestation()
        with contextlib.suppress(TrustError, OSError):
            self._kept = parse_json(
                Attestation, path.read_bytes(), max_bytes=4096, what="time.json", error=TrustError
            )
        self._floor = TimeFloor(self._kept.attested_s, max(self._kept.bound_s, built_s), steady())

    @property
    def trusts_clock(self) -> bool:
        """False: the wall clock is behind the time that is attested."""
        return self._floor.trusts(self._wall(), self._steady())

    def now(self) -> float:
        """Unix time to judge deadlines by."""
        return self._floor.now(self._wall(), self._steady())

    def now_by(self, timestamp: Timestamp, root: Root) -> float:
        """The same, as it would be once these (verified) timestamp metadata were taken."""
        floor = self._attested(timestamp) if self._is_newer(timestamp, root) else self._floor
        return floor.now(self._wall(), self._steady())

    def take(self, timestamp: Timestamp, root: Root) -> None:
        """Go on from verified timestamp metadata, if they are newer than those before. Raises
        :class:`StorageError`."""
        if not self._is_newer(timestamp, root):
            return
        self._floor = self._attested(timestamp)
        self._keep(
            Attestation(
                keys=keyset_id(role_keys(root, Timestamp.type)),
                version=timestamp.version,
                attested_s=self._floor.attested_s,
                bound_s=self._floor.at(self._steady()),
            )
        )

    def save(self) -> None:
        """Keep how late it is by now, at most once an hour. Raises :class:`StorageError`."""
        now = self._floor.at(self._steady())
        if self._kept.version and now - self._kept.bound_s >= _SAVE_TIME_S:
            self._keep(self._kept.model_copy(update={"bound_s": now}))

    def _is_newer(self, timestamp: Timestamp, root: Root) -> bool:
        keys = keyset_id(role_keys(root, Timestamp.type))
        return self._kept.keys != keys or timestamp.version > self._kept.version

    def _attested(self, timestamp: Timestamp) -> TimeFloor:
        return self._floor.attest(signed_at(timestamp), self._steady(), built_s=self._built_s)

    def _keep(self, attestation: Attestation) -> None:
        atomic_write(self._path, attestation.encode())
        self._kept = attestation
