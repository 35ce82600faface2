"""Three streams in one real worker process (tests/support/worker.py): what one of them does to the others."""

from __future__ import annotations

import os
import queue
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.bundle import make_bundle
from support.fleet import wait_until

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.supervised_stream import WorkerCallbacks
from edgectl.agent.streams.supervisor import Supervisor
from edgectl.agent.streams.worker_life import Timing
from edgectl.core.bundle import Bundle
from edgectl.core.errors import EngineError
from edgectl.pipelines.host.protocol import EngineRef, EventMessage, Stats

WORKER = (sys.executable, str(Path(__file__).parents[2] / "support" / "worker.py"))
TIMING = Timing(start_s=20, stop_s=3, steady_s=0.3, backoff_s=(0.05, 0.2), crashes=2)
CAMERA = "synth://yard"


def ref(folder: Path, version: str, **behaviour: object) -> EngineRef:
    bundle = Bundle(make_bundle(folder / version, version=version, size=5000, **behaviour))
    return EngineRef(
        blobs=bundle.blobs, manifest=bundle.variants[0].digest, release=f"m@{version}", bundle=bundle.digest
    )


class Cameras:
    """Streams with one slot, by their sources."""

    def __init__(self, folder: Path, timing: Timing = TIMING, **sources: str) -> None:
        self.journal = Journal(folder / "j.db")
        self.one = ref(folder, "1")
        self.active = {"gate": self.one}
        self.stats: dict[str, queue.Queue[Stats]] = {name: queue.Queue() for name in sources}
        self.starts: dict[str, queue.Queue[int]] = {name: queue.Queue() for name in sources}
        """The process in which a stream became ready."""
        self.loops: queue.Queue[str] = queue.Queue()
        self.supervisor = Supervisor(
            {name: self.config(uri) for name, uri in sources.items()},
            self.active.get,
            self.journal,
            WorkerCallbacks(
                lambda stream, stats: self.stats[stream].put(stats),
                self._on_event,
                lambda stream, *_: self.loops.put(stream),
            ),
            command=WORKER,
            stats_every_s=0.05,
            timing=timing,
        )
        self.supervisor.start()

    def config(self, uri: str) -> StreamConfig:
        alone, _, source = uri.rpartition(" ")
        return StreamConfig(
            kind="surveillance",
            source=source,
            slots={"detector": "gate"},
            # only who hangs is found to do so soon: a busy machine is no hang
            stall_s=0.6 if "hang" in source else 20.0,
            isolate=alone == "alone",
        )

    def _on_event(self, stream: str, message: EventMessage) -> None:
        self.starts[stream].put(message.event["pid"])

    def started(self, stream: str) -> int:
        return self.starts[stream].get(timeout=20)

    def goes_on(self, stream: str) -> None:
        """It processes frames from now on."""
        while not self.stats[stream].empty():
            self.stats[stream].get_nowait()
        first = self.stats[stream].get(timeout=20).stats.frames.processed
        wait_until(
            lambda: self.stats[stream].get(timeout=20).stats.frames.processed > first, f"{stream} goes on"
        )

    def runs(self, stream: str, engine: EngineRef) -> None:
        wait_until(
            lambda: self.stats[stream].get(timeout=20).stats.slots["detector"] == engine.bundle,
            f"{stream} runs the engine",
        )

    def reason(self, stream: str) -> str:
        return self.supervisor.states()[stream][1] or ""

    def steady(self, *streams: str) -> None:
        for stream in streams:
            wait_until(
                lambda s=stream: self.supervisor._streams[s].life.steady,  # type: ignore[misc]
                f"{stream} is steady",
            )

    def close(self) -> None:
        self.supervisor.close()
        self.journal.close()


@pytest.fixture
def cameras(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cameras]:
    told = request.param if hasattr(request, "param") else dict.fromkeys(("yard", "door", "hall"), CAMERA)
    found = Cameras(tmp_path, **told)
    yield found
    found.close()
    assert all(s.worker.pid is None for s in found.supervisor._streams.values()), "nothing is left behind"


def with_bad(source: str) -> dict[str, str]:
    return {"yard": CAMERA, "bad": source, "hall": CAMERA}


def test_streams_with_the_same_slots_are_in_one_process(cameras: Cameras) -> None:
    assert len({cameras.started(s) for s in ("yard", "door", "hall")}) == 1
    assert {cameras.supervisor.worker_of(s) for s in ("yard", "door", "hall")} == {"yard+2"}


@pytest.mark.parametrize("cameras", [{"yard": CAMERA, "door": f"alone {CAMERA}"}], indirect=True)
def test_isolated_stream_has_a_process_of_its_own(cameras: Cameras) -> None:
    assert cameras.started("yard") != cameras.started("door")
    assert (cameras.supervisor.worker_of("yard"), cameras.supervisor.worker_of("door")) == ("yard", "door")


@pytest.mark.parametrize(
    ("source", "why"),
    [("broken://", "the camera is gone"), ("hang://", "a call of its source does not come back")],
)
def test_stream_that_dies_or_hangs_leaves_its_neighbours_alone(tmp_path: Path, source: str, why: str) -> None:
    cameras = Cameras(tmp_path, replace(TIMING, backoff_s=(600, 600)), **with_bad(source))
    try:
        first = {s: cameras.started(s) for s in ("yard", "hall")}
        wait_until(lambda: cameras.reason("bad") == why, "it fails and says why")
        for neighbour in ("yard", "hall"):
            cameras.goes_on(neighbour)
            assert cameras.starts[neighbour].empty(), "it was never started again"
        assert first["yard"] == first["hall"] == cameras.supervisor._streams["yard"].worker.pid
        assert cameras.loops.empty(), "no engine is blamed"
    finally:
        cameras.close()


@pytest.mark.parametrize("cameras", [with_bad("hang://")], indirect=True)
def test_too_many_streams_left_behind_replace_the_process_in_good_order(cameras: Cameras) -> None:
    before = cameras.started("yard")
    after = cameras.started("yard")
    assert after != before
    # three starts of the one that hangs in the first process, the fourth in the second
    assert [cameras.started("bad") == before for _ in range(4)] == [True, True, True, False]
    cameras.goes_on("yard")
    assert cameras.loops.empty()


@pytest.mark.parametrize("cameras", [with_bad("engine-hang://")], indirect=True)
def test_engine_that_hangs_has_the_process_replaced_and_says_why(cameras: Cameras) -> None:
    """The fake says at the stop what the real one says of an engine that several streams wait for."""
    before = cameras.started("yard")
    # a stream that has not begun has nothing to be stopped
    assert cameras.started("bad") == before
    cameras.supervisor._streams["bad"].restart()
    assert cameras.started("yard") != before
    cameras.goes_on("hall")


@pytest.mark.parametrize("cameras", [with_bad("deaf://")], indirect=True)
def test_worker_that_does_not_answer_is_killed_and_only_the_one_it_was_asked_about_is_to_blame(
    cameras: Cameras,
) -> None:
    before = cameras.started("yard")
    cameras.steady("yard", "hall")
    bad = cameras.supervisor._streams["bad"]
    bad.restart()
    assert cameras.started("yard") != before
    assert "did not stop bad" in (cameras.supervisor._streams["yard"].life.last_end or "")
    assert cameras.supervisor._streams["yard"].life.attempt == 0
    cameras.goes_on("yard")


def test_all_come_back_after_a_kill_and_nobody_is_blamed(cameras: Cameras) -> None:
    before = {s: cameras.started(s) for s in ("yard", "door", "hall")}
    cameras.steady("yard", "door", "hall")
    os.kill(before["yard"], signal.SIGKILL)
    after = {s: cameras.started(s) for s in ("yard", "door", "hall")}
    assert len(set(after.values())) == 1
    assert after["yard"] != before["yard"]
    for stream in after:
        cameras.goes_on(stream)
    assert cameras.loops.empty()


@pytest.mark.parametrize("cameras", [with_bad("crash://")], indirect=True)
def test_stream_that_crashes_the_worker_gets_one_of_its_own_and_only_it_is_blamed(cameras: Cameras) -> None:
    """It is started in turn, so that a crash has one suspect; its neighbours come back at once each time."""
    assert cameras.loops.get(timeout=60) == "bad"
    assert cameras.supervisor.worker_of("bad") == "bad"
    assert cameras.supervisor.worker_of("yard") == "yard+2"
    while not cameras.starts["yard"].empty():
        cameras.starts["yard"].get_nowait()
    assert cameras.loops.get(timeout=60) == "bad"
    cameras.steady("yard", "hall")
    assert cameras.starts["yard"].empty(), "alone it crashes nobody else"
    assert cameras.loops.get(timeout=60) == "bad", "and goes on to be tried"
    assert cameras.supervisor.proven("bad", cameras.one)
    assert not cameras.supervisor.proven("bad", cameras.one.model_copy(update={"manifest": "another"}))


def test_activation_swaps_every_stream_of_the_slot_and_one_that_refuses_takes_all_back(
    cameras: Cameras, tmp_path: Path
) -> None:
    for stream in cameras.starts:
        cameras.started(stream)
    two = ref(tmp_path, "2")
    cameras.supervisor.ensure("gate", two, 20, lambda: False)
    for stream in cameras.starts:
        cameras.runs(stream, two)
    cameras.supervisor.commit("gate")
    three = ref(tmp_path, "3", refused_by=["hall"])
    with pytest.raises(EngineError, match="hall did not take the engine: the engine does not open"):
        cameras.supervisor.ensure("gate", three, 20, lambda: False)
    for stream in cameras.starts:
        cameras.runs(stream, two)
    assert all(s.life.parts.serving["detector"] == two for s in cameras.supervisor._streams.values())
    assert all(queue.empty() for queue in cameras.starts.values()), "no stream was started again"
