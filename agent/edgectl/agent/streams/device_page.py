"""``[view]``: the live page of a device, with every stream of it. The streams run in workers, which draw and encode their
pictures only while somebody watches; this process passes them on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgectl.agent.config import StreamConfig, ViewConfig
from edgectl.core.errors import EdgectlError, UsageError
from edgectl.pipelines.host.protocol import EventMessage, Stats
from edgectl.pipelines.view.live_view import LiveView
from edgectl.pipelines.view.picture_relay import PictureRelay

if TYPE_CHECKING:
    from edgectl.pipelines.view.editor import ShapeEditor

__all__ = ["DevicePage"]

log = logging.getLogger(__name__)

_NEEDED = frozenset({"id", "type"})
"""Of an event: what the page cannot do without."""


class DevicePage:
    """Answers from :meth:`start` on. Raises :class:`UsageError` where the extra is missing and for a token that cannot be
    used, :class:`LinkError` for an address that cannot be had. Safe for any thread."""

    def __init__(
        self,
        config: ViewConfig,
        pipelines: Mapping[str, StreamConfig],
        socket_of: Callable[[str], Path],
    ) -> None:
        """``socket_of``: stream → where the worker that it is in serves its pictures."""
        host, port = config.address
        self._view = LiveView(
            host,
            port,
            token=None if config.token_file is None else _token(config.token_file),
            pictures=lambda keep: PictureRelay(keep, socket_of, max_viewers=config.max_viewers),
        )
        self._states: dict[str, tuple[str, str | None]] = {}
        self._lock = threading.Lock()
        for name, stream in pipelines.items():
            pictures, editor = _shown(name, stream)
            self._view.add(name, stream.kind, stream.source, pictures=pictures, editor=editor)

    @property
    def url(self) -> str:
        return self._view.url

    def start(self) -> None:
        self._view.start()

    def close(self) -> None:
        self._view.close()

    def heard(self, stream: str, message: EventMessage) -> None:
        if message.event.keys() >= _NEEDED:
            self._view.heard({**message.event, "stream": stream})

    def update(self, stream: str, stats: Stats) -> None:
        with self._lock:
            self._states.pop(stream, None)
        self._view.update(stream, stats.stats)

    def tell(self, states: Mapping[str, tuple[str, str | None]]) -> None:
        """What streams do that do not run: stream → state and reason."""
        for stream, state in states.items():
            with self._lock:
                known = self._states.get(stream)
                self._states[stream] = state
            if state != known and state[0] != "running":
                self._view.mark(stream, *state)


def _token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(
            f"the token of the live page cannot be read: {e}",
            hint="[view] token_file names a file with 16 characters or more",
        ) from e


def _shown(name: str, stream: StreamConfig) -> tuple[bool, ShapeEditor | None]:
    """Whether it has pictures, and what draws on them: YAML to copy, since this configuration is no file of its own."""
    from edgectl.pipelines.host.config import parse_config
    from edgectl.pipelines.host.live import has_pictures, shape_editor

    pictures = has_pictures(stream.kind)
    try:
        return pictures, shape_editor(stream.kind, parse_config(stream.kind, stream.config))
    except EdgectlError as e:
        # the worker says it too, and the stream is shown as failed
        log.warning("nothing can be drawn on %s: %s", name, e.message)
        return pictures, None
