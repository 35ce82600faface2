"""The live page of one process: its address, its streams, its end."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgectl.core.errors import LinkError, UsageError
from edgectl.core.wire import StreamStats
from edgectl.pipelines.view.board import Board
from edgectl.pipelines.view.editor import ShapeEditor
from edgectl.pipelines.view.guard import DEFAULT_PORT, MIN_TOKEN, Guard, is_loopback
from edgectl.pipelines.view.looks import Keep, PictureSource

if TYPE_CHECKING:
    from edgectl.pipelines.sinks.base import Record, Sink

__all__ = ["LiveView"]

_ANY = ("0.0.0.0", "::")  # noqa: S104


class LiveView:
    """Listens at once; answers from :meth:`start` on. Raises :class:`UsageError` where the extra ``[view]`` is missing
    and for a token that is too short, :class:`LinkError` for an address that cannot be had.

    An address that others can reach needs a token: without one, one is made. ``port`` None: the usual one, or any that
    is free. ``pictures`` makes what the pictures come from, given what keeps those of events; None: they are made in this
    process.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int | None = None,
        *,
        token: str | None = None,
        fps: float = 10.0,
        max_viewers: int = 8,
        pictures: Callable[[Keep], PictureSource] | None = None,
    ) -> None:
        try:
            from edgectl.pipelines.view import app, server
        except ModuleNotFoundError as e:
            raise UsageError(
                f"the live page needs {e.name}, which is not installed", hint="pip install 'edgectl[view]'"
            ) from e
        if token is not None and len(token) < MIN_TOKEN:
            raise UsageError(
                f"the token of the live page has {len(token)} characters, it needs at least {MIN_TOKEN}",
                hint="leave it out, and one is made",
            )
        made = token is None and not is_loopback(host)
        if made:
            token = secrets.token_urlsafe(24)
        try:
            self._socket = server.listen(host, DEFAULT_PORT if port is None else port)
        except LinkError:
            if port is not None:
                raise
            self._socket = server.listen(host, 0)
        self._host = host
        self.port: int = self._socket.getsockname()[1]
        self._made_token = token if made else None
        self._board = Board()
        if pictures is None:
            # needs OpenCV, which who only passes pictures on does not
            from edgectl.pipelines.view.pictures import PictureHub

            self._hub: PictureSource = PictureHub(self._board.keep, fps=fps, max_viewers=max_viewers)
        else:
            self._hub = pictures(self._board.keep)
        self._editors: dict[str, ShapeEditor] = {}
        self._guard = Guard(token, self.port)
        page = app.make_app(self._board, self._hub, self._editors, self._guard)
        self._server = server.PageServer(page, self._socket)

    @property
    def url(self) -> str:
        """Where it is, without the token."""
        host = socket.gethostname() if self._host in _ANY else self._host
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    @property
    def told_url(self) -> str:
        """For the person who started it: with the token, if it was made here and nobody knows it. For no log."""
        return self.url if self._made_token is None else f"{self.url}?token={self._made_token}"

    def add(
        self, stream: str, kind: str, source: str, *, pictures: bool, editor: ShapeEditor | None = None
    ) -> tuple[Sink, ...]:
        """Show a stream. What comes back are the sinks that it needs: none where it has no pictures."""
        self._board.add(stream, kind, source, pictures=pictures)
        if editor is not None:
            self._editors[stream] = editor
        return self._hub.sinks(stream) if pictures else ()

    def heard(self, record: Record) -> None:
        self._board.heard(record)

    def update(self, stream: str, stats: StreamStats) -> None:
        self._board.update(stream, stats)

    def mark(self, stream: str, state: str, reason: str | None) -> None:
        """It does not run; ``state``: what it does instead."""
        self._board.mark(stream, state, reason)

    def start(self) -> None:
        self._server.start()

    def close(self) -> None:
        """Viewers are sent away, every thread has ended."""
        self._board.close()
        self._hub.close()
        self._server.close()

    def __enter__(self) -> LiveView:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
