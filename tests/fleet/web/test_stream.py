"""Server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgectl.fleet.web.stream import EventStream, event


@given(st.text())
def test_an_event_is_two_lines_whatever_it_says(text: str) -> None:
    """A line that begins otherwise would be another field, or another event."""
    sent = event("parts", {"a": {"html": text}}).decode("utf-8", "surrogatepass")
    assert sent.startswith("event: parts\ndata: {")
    assert sent.endswith("\n\n")
    assert sent.count("\n") == 3
    assert "\r" not in sent


def test_what_was_entered_is_left_also_by_a_client_that_goes_before_it_begins() -> None:
    left: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    async def run() -> None:
        entered = contextlib.ExitStack()
        entered.callback(lambda: left.append(True))
        await EventStream(body(), entered)({"type": "http", "asgi": {}}, gone, send)

    asyncio.run(run())
    assert left == [True]
