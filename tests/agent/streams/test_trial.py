"""Whether an engine is on trial: the worker hears it at the start, and once it is over, whenever that is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fleet import wait_until

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.engine_requests import commit_engine
from edgectl.agent.streams.supervised_stream import SupervisedStream, WorkerCallbacks
from edgectl.agent.streams.worker_process import Left, ProcessSeat
from edgectl.pipelines.host.protocol import Commit, EngineRef, FromWorker, Ready, Start

ONE = EngineRef(blobs=Path("blobs"), manifest="sha256:" + "1" * 64)


class Worker:
    """What a stream is in, without a process."""

    name = "yard"

    def __init__(self) -> None:
        self.starts: list[Start] = []
        self.sent: list[object] = []
        self.seat: ProcessSeat | None = None
        self.entering: Callable[[], None] = lambda: None

    def enter(self, start: Start, restart: Callable[[str], None], wanted: Callable[[], bool]) -> ProcessSeat:
        self.starts.append(start)
        self.entering()
        self.seat = ProcessSeat(start.stream, restart)
        return self.seat

    def send(self, place: ProcessSeat, message: object) -> None:
        self.sent.append(message)

    def leave(self, place: ProcessSeat, within_s: float, take: Callable[[FromWorker], None]) -> Left:
        return Left()


class Stream:
    def __init__(self, folder: Path) -> None:
        self.worker = Worker()
        self.trials = {"gate"}
        """Slots whose engine is judged."""
        self.journal = Journal(folder / "j.db")
        config = StreamConfig(
            kind="surveillance", source="synth://yard", slots={"detector": "gate", "gear": "gate-gear"}
        )
        self.stream = SupervisedStream(
            "yard",
            config,
            lambda slot: ONE,
            self.journal,
            WorkerCallbacks(lambda *_: None, lambda *_: None, lambda *_: None),
            self.worker,  # type: ignore[arg-type]
            lambda: self.worker,  # type: ignore[arg-type, return-value]
            on_trial=lambda slot: slot in self.trials,
        )

    def ready(self) -> None:
        wait_until(lambda: self.worker.seat is not None, "it has entered")
        assert self.worker.seat is not None
        self.worker.seat.put(Ready(stream="yard", seconds=0.1))
        wait_until(lambda: self.stream.state[0] == "running", "it runs")

    def committed(self) -> list[str]:
        return [m.part for m in self.worker.sent if isinstance(m, Commit)]


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Stream]:
    one = Stream(tmp_path)
    yield one
    one.stream.stop()
    one.stream.thread.join(20)
    one.journal.close()


def test_a_worker_hears_at_the_start_what_is_judged_and_later_that_it_stays(yard: Stream) -> None:
    yard.stream.thread.start()
    yard.ready()
    assert yard.worker.starts[0].on_trial == ("detector",)
    assert yard.committed() == ["gear"]
    commit_engine(yard.stream, "detector")
    assert yard.committed() == ["gear", "detector"]


def test_a_trial_that_ends_while_the_stream_starts_is_over(yard: Stream) -> None:
    over = threading.Event()

    def ends() -> None:
        yard.trials.clear()
        commit_engine(yard.stream, "detector")
        over.set()

    yard.worker.entering = ends
    yard.stream.thread.start()
    yard.ready()
    assert over.is_set()
    assert yard.worker.starts[0].on_trial == ("detector",)
    assert sorted(yard.committed()) == ["detector", "gear"]
