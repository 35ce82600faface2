"""Counts how often a stream was started in a row with the same engines and configuration; on disk, before each start."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from edgectl.agent.state.journal import Journal
from edgectl.core.errors import StorageError
from edgectl.pipelines.host.protocol import EngineRef

__all__ = ["StartCount"]

log = logging.getLogger(__name__)


class StartCount:
    """Of one stream. While the disk takes nothing it counts in memory: inference goes on."""

    def __init__(self, stream: str, journal: Journal) -> None:
        self._stream = stream
        self._journal = journal
        self._uncounted = 0
        """Starts since the journal could last be written."""

    def name(self, engines: Mapping[str, EngineRef], config: Mapping[str, Any]) -> str:
        """The counter in the journal: it belongs to the stream with these very engines and this configuration. What the
        one did not survive is not held against the next."""
        names = ",".join(f"{part}={e.manifest}" for part, e in sorted(engines.items()))
        what = f"{names} {json.dumps(config, sort_keys=True, default=str)}"
        return f"crash:{self._stream}:{hashlib.sha256(what.encode()).hexdigest()[:16]}"

    def add(self, engines: Mapping[str, EngineRef], config: Mapping[str, Any]) -> int:
        """Starts in a row, this one counted."""
        name = self.name(engines, config)
        try:
            starts = self._journal.count(name)
        except StorageError as e:
            log.error("%s: %s", self._stream, e.message)
            self._uncounted += 1
            with contextlib.suppress(StorageError):
                return self._journal.value(name) + self._uncounted
            return self._uncounted
        self._uncounted = 0
        return starts

    def clear(self, engines: Mapping[str, EngineRef], config: Mapping[str, Any]) -> None:
        self._uncounted = 0
        try:
            self._journal.clear(self.name(engines, config))
        except StorageError as e:
            log.error("%s: %s", self._stream, e.message)
