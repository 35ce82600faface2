"""``agent.toml`` read again while the agent runs: streams whose configuration is another one go on with it.

A file with a mistake changes nothing. What is not a stream's own holds from the agent's next start on, and is named.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgectl.agent.config import AgentConfig, StreamConfig, read_agent_config
from edgectl.agent.streams.supervisor import Supervisor
from edgectl.core.config_file import ConfigFile
from edgectl.core.errors import ConfigError, UsageError

__all__ = ["ConfigReload"]

log = logging.getLogger(__name__)


class ConfigReload:
    """``asked`` is set from anywhere, also by a signal; :meth:`look` is called now and then and does not wait."""

    def __init__(self, path: Path, config: AgentConfig, file: ConfigFile) -> None:
        """``config`` and ``file``: what the agent was started with."""
        self.asked = threading.Event()
        self._path = path
        self._known = config
        self._file = file
        self._thread: threading.Thread | None = None
        self._supervisor: Supervisor | None = None
        self._released: Callable[[str, dict[str, Any]], str | None] = lambda stream, config: None
        self._accepted: Callable[[str, dict[str, Any]], None] = lambda stream, config: None
        self._refused: Callable[[str, str], None] = lambda stream, why: None

    def serves(
        self,
        supervisor: Supervisor,
        released: Callable[[str, dict[str, Any]], str | None],
        accepted: Callable[[str, dict[str, Any]], None],
        refused: Callable[[str, str], None],
    ) -> None:
        """``released`` hears what the file has for a stream, says which release goes before it, and may raise
        :class:`ConfigError`; ``accepted`` hears what a stream goes on with; ``refused`` hears of a stream that goes on as
        before, and why."""
        self._supervisor, self._released = supervisor, released
        self._accepted, self._refused = accepted, refused
        supervisor.written_in(self._file.place)

    def look(self) -> None:
        if not self.asked.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        self.asked.clear()
        self._thread = threading.Thread(target=self.reload, name="reload", daemon=True)
        self._thread.start()

    def reload(self) -> None:
        """Read the file, and wait for every stream that it concerns."""
        assert self._supervisor is not None
        try:
            new, file = read_agent_config(self._path)
        except UsageError as e:
            log.error("nothing has changed: %s", e.message)
            return
        known, self._known, self._file = self._known, new, file
        self._supervisor.written_in(file.place)
        for what in _not_now(known, new):
            log.warning("%s: it holds from the agent's next start on", file.place(what))
        done = self._supervisor.configure(
            new.pipelines,
            lambda stream: self._told(new.pipelines[stream]),
            lambda stream, config: self._without_released(stream, known.pipelines.get(stream), config),
            self._accepted,
        )
        for stream, came in done.items():
            if isinstance(came, ConfigError):
                place = file.place(("pipelines", stream, "config", *came.key))
                log.error("%s: %s; %s goes on as before", place, came.message, stream)
                self._refused(stream, f"{place}: {came.message}")
            else:
                log.info("%s: %s", stream, came)
        if not done:
            log.info("the configuration of no stream has changed")

    def _without_released(self, stream: str, before: StreamConfig | None, new: StreamConfig) -> StreamConfig:
        """What of it can hold now: the configuration that a release brought goes before that of the file, which had
        ``before``. Raises :class:`ConfigError`."""
        assert self._supervisor is not None
        release = self._released(stream, new.config)
        if release is None:
            return new
        if before is None or new.config != before.config:
            log.warning(
                "%s: its configuration is %s: that of the file holds once the slot is empty", stream, release
            )
        return new.model_copy(update={"config": self._supervisor.stream(stream).config.config})

    def _told(self, config: StreamConfig) -> dict[str, Any]:
        text = json.dumps(config.config, sort_keys=True, separators=(",", ":"))
        return {"name": self._path.name, "digest": f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"}


def _not_now(known: AgentConfig, new: AgentConfig) -> list[tuple[str, ...]]:
    """Settings that a running agent does not take."""
    found: list[tuple[str, ...]] = [
        (name,)
        for name in AgentConfig.model_fields
        if name not in ("pipelines", "state_dir") and getattr(known, name) != getattr(new, name)
    ]
    return found + [("pipelines", name) for name in sorted({*known.pipelines} ^ {*new.pipelines})]
