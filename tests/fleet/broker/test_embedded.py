"""The embedded broker where it cannot start."""

from __future__ import annotations

import logging
import socket
import threading

import pytest

from edgectl.core.errors import LinkError
from edgectl.fleet.broker.embedded import run_broker


def test_a_port_that_is_taken_is_one_sentence_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            caplog.at_level(logging.INFO),
            pytest.raises(LinkError, match=f"cannot listen on 127.0.0.1:{port}") as e,
        ):
            run_broker("127.0.0.1", port, threading.Event())
    assert e.value.hint is not None
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == []
