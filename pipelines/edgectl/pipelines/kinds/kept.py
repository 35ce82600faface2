"""The file in which the rules' counts and what they learned outlast the process. Written by a thread of its own: a
disk that hangs does not hold the stream."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

from edgectl.core.errors import StorageError
from edgectl.core.files import atomic_write
from edgectl.pipelines.stream.threads import within

__all__ = ["KeptState"]

_log = logging.getLogger(__name__)

_MOST_BYTES = 16 << 20
_FIRST_S = 20.0
"""So long it may take to read what was kept."""
_LAST_S = 2.0
"""So long the last state may take to be written."""


class KeptState:
    """One file of JSON, replaced as a whole. What comes faster than it can be written is skipped: only the latest
    counts."""

    def __init__(self, path: Path, stream: str) -> None:
        self.path = path
        self._next: dict[str, Any] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._failed = False
        self._stream = stream
        self._thread: threading.Thread | None = None

    def read(self) -> Any:
        """What was kept; None where there is no file. What is no JSON is returned as an empty string: the rules say
        that they do not understand it."""
        try:
            data = within(_FIRST_S, self._content)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise StorageError(
                f"{self.path} cannot be read: {e.strerror or 'the disk does not answer'}",
                hint="is the folder of --out one that can be read and written?",
            ) from e
        try:
            return json.loads(data) if len(data) <= _MOST_BYTES else ""
        except ValueError:
            return ""

    def _content(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(_MOST_BYTES + 1)

    def keep(self, state: dict[str, Any]) -> None:
        """Returns at once."""
        with self._changed:
            self._next = state
            if self._thread is None:
                name = f"rules-{self._stream}"
                self._thread = threading.Thread(target=self._write_all, name=name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Write the last state. What takes longer than some seconds is given up."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(_LAST_S)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._closed)
                state, self._next = self._next, None
            if state is None:
                return
            try:
                atomic_write(self.path, json.dumps(state, separators=(",", ":")).encode())
                self._failed = False
            except StorageError as e:
                if not self._failed:
                    _log.warning("%s cannot be written, counts will not outlast this run: %s", self.path, e)
                self._failed = True
