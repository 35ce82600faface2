"""uvicorn's HTTP/1.1 connection with deadlines for whatever a client has to send or take, and a bound on how
many there are.

uvicorn itself waits for ever for a head, a body, or a reader of its answer. Here a client that is slow, half
open or hostile costs one connection for :data:`PATIENCE_S`, and the log one line, however many there are of
it. Not here: what requests mean.
Needs uvicorn, which comes with ``[fleet]`` and ``[view]``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakKeyDictionary

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgectl.core.errors import UsageError

__all__ = ["MAX_CONNECTIONS", "PATIENCE_S", "BoundedProtocol", "read_body"]

log = logging.getLogger(__name__)

PATIENCE_S = 10.0
"""For a whole head, and for :data:`_LEAST_BYTES` of a body; for any progress where the client has to read."""
MAX_CONNECTIONS = 256
"""With one more, the one that has had us wait for longest without sending much is closed."""
_LEAST_BYTES = 4096
_TOLD_EVERY_S = 5.0
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


async def read_body(pieces: AsyncIterator[bytes], what: str, *, max_bytes: int, within_s: float) -> bytes:
    """The whole body of a request. Raises :class:`UsageError` for more than ``max_bytes``, in which ``what`` names it, and
    :class:`TimeoutError` for one that is not there ``within_s``."""

    async def read() -> bytes:
        body = bytearray()
        async for piece in pieces:
            body += piece
            if len(body) > max_bytes:
                raise UsageError(f"{what} has more than {max_bytes} bytes")
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), within_s)
    except asyncio.TimeoutError as e:  # another class in Python 3.10
        raise TimeoutError from e


class _ClosedCount:
    """How many connections of one server were closed since the log said so last: one line for all of them."""

    def __init__(self) -> None:
        self._closed: dict[str, int] = {}
        self._due: asyncio.TimerHandle | None = None

    def closed(self, loop: asyncio.AbstractEventLoop, why: str) -> None:
        self._closed[why] = self._closed.get(why, 0) + 1
        if self._due is None:
            self._due = loop.call_later(1.0, self._tell, loop)

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed:
            log.warning(
                "closed HTTP connections of clients: %s",
                "; ".join(f"{n} {why}" for why, n in self._closed.items()),
            )
        self._due = loop.call_later(_TOLD_EVERY_S, self._tell, loop) if self._closed else None
        self._closed = {}


_told: WeakKeyDictionary[asyncio.AbstractEventLoop, _ClosedCount] = WeakKeyDictionary()


class BoundedProtocol(H11Protocol):
    """One connection. A *wait* begins with the connection, with each request and with each answer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waits_since_s = 0.0
        self._came_bytes = 0
        self._left_bytes = 0
        self._took_some = False
        self._look_at: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            waiting = [
                c for c in self.connections if isinstance(c, BoundedProtocol) and c._waits and c is not self
            ]
            # A head that does not come is worth less than a body that does.
            victim = min(
                waiting,
                key=lambda c: (c.conn.their_state is not h11.IDLE, c._came_bytes, c._waits_since_s),
                default=self,
            )
            victim._give_up(f"to make room: there are more than {MAX_CONNECTIONS}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look_at is not None:
            self._look_at.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        self._came_bytes += len(data)
        try:
            super().data_received(data)
        except h11.LocalProtocolError:
            # it goes on in a way that is no HTTP after it was answered: there are no words for that
            self.transport.abort()
            return
        if self.cycle is not before:
            self._wait()

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """The client took most of what waited for it: it is slow, and goes on."""
        self._took_some = True
        super().resume_writing()

    @property
    def _waits(self) -> bool:
        """It is the client's turn to send."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.flow.read_paused

    def _wait(self) -> None:
        self._waits_since_s = self.loop.time()
        self._came_bytes = 0
        self._took_some = False
        self._left_bytes = self.transport.get_write_buffer_size()
        if self._look_at is not None:
            self._look_at.cancel()
        self._look_at = None if self.transport.is_closing() else self.loop.call_later(PATIENCE_S, self._look)

    def _look(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left >= self._left_bytes > 0 and not self._took_some:
            self._give_up("that did not take their answer")
        elif self._waits and self.conn.their_state is h11.IDLE:
            self._give_up(f"that sent no request within {PATIENCE_S:g} s")
        elif self._waits and self._came_bytes < _LEAST_BYTES:
            self._give_up(f"that sent less than {_LEAST_BYTES} bytes of a body in {PATIENCE_S:g} s")
        elif self.conn.their_state is h11.SEND_BODY and self.conn.our_state in (h11.DONE, h11.MUST_CLOSE):
            self._give_up("that went on sending after they had their answer")
        else:
            self._wait()

    def _give_up(self, why: str) -> None:
        _told.setdefault(self.loop, _ClosedCount()).closed(self.loop, why)
        if self.conn.our_state is h11.SEND_RESPONSE and not self.transport.get_write_buffer_size():
            self.transport.write(_TIMEOUT)
            self.transport.close()
        else:
            self.transport.abort()
