"""Answers without an end: server-sent events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["EventStream", "event"]


class EventStream(StreamingResponse):
    """What it ``entered`` is left as soon as the client has gone, also one that goes before it begins."""

    def __init__(self, body: AsyncIterator[bytes], entered: contextlib.ExitStack) -> None:
        super().__init__(body, media_type="text/event-stream")
        self._entered = entered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._entered:
            await super().__call__(scope, receive, send)


def event(name: str, value: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
