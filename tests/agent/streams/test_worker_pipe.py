"""The pipes to a worker process."""

from __future__ import annotations

import signal
import sys

import pytest

from edgectl.agent.streams import worker_pipe
from edgectl.agent.streams.worker_pipe import WorkerPipe
from edgectl.core.errors import ProtocolError
from edgectl.pipelines.host.protocol import MAX_LINE_BYTES, Commit


def read_all(worker: WorkerPipe) -> list[bytes]:
    lines: list[bytes] = []
    while (found := worker.read(20)) is not None:
        lines += found
    return lines


def test_worker_that_does_not_read_is_killed_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_pipe, "_SEND_S", 0.05)
    deaf = WorkerPipe("deaf", [sys.executable, "-c", "import signal; signal.pause()"])
    while deaf.returncode is None:
        deaf.send(Commit(stream="yard", part="x" * 60))
    assert deaf.end(20) == -signal.SIGKILL
    deaf.send(Commit(stream="yard", part="detector"))


def test_worker_that_does_not_go_is_killed() -> None:
    stubborn = WorkerPipe("stubborn", [sys.executable, "-c", "import signal; signal.pause()"])
    assert stubborn.end(0.05) == -signal.SIGKILL


def test_lines_come_whole_whatever_the_pieces_they_were_written_in() -> None:
    code = "import os; [os.write(1, p) for p in (b'o', b'ne\\ntw', b'o\\n', b'rest')]"
    worker = WorkerPipe("pieces", [sys.executable, "-c", code])
    assert read_all(worker) == [b"one", b"two"]
    assert worker.end(20) == 0


def test_line_without_an_end_breaks_the_protocol() -> None:
    endless = WorkerPipe("endless", [sys.executable, "-c", f"print('x' * {2 * MAX_LINE_BYTES}, flush=True)"])
    with pytest.raises(ProtocolError, match="a line of more than"):
        read_all(endless)
    endless.end(0)
