"""What waits to be handled is bounded."""

from __future__ import annotations

import queue

import pytest

from edgectl.link.incoming import Incoming, IncomingQueue


def test_broker_that_sends_faster_than_handlers_work_fills_no_memory() -> None:
    inbox = IncomingQueue(4096, 8 << 20)
    waiting = 0
    while True:
        try:
            inbox.put_nowait(Incoming("t", bytes(1 << 20), 0.0))
        except queue.Full:
            break
        waiting += 1
    assert 7 <= waiting <= 9
    for _ in range(waiting):
        inbox.get_nowait()
    for i in range(4096):
        inbox.put_nowait(Incoming("t", b"small", 0.0) if i else None)
    with pytest.raises(queue.Full):
        inbox.put_nowait(None)
