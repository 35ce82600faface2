"""Real worker processes (tests/support/worker.py) that are swapped, crash, hang and go away."""

from __future__ import annotations

import errno
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
from support.bundle import make_bundle
from support.fleet import wait_until

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.engine_requests import Interrupted
from edgectl.agent.streams.supervised_stream import WorkerCallbacks
from edgectl.agent.streams.supervisor import Supervisor
from edgectl.agent.streams.worker_life import Timing
from edgectl.agent.streams.worker_states import WorkerState
from edgectl.core.bundle import Bundle
from edgectl.core.errors import EngineError, StorageError
from edgectl.core.wire import Failure, ShadowGate
from edgectl.pipelines.host.protocol import EngineRef, EventMessage, LeaseMessage, Stats

WORKER = (sys.executable, str(Path(__file__).parents[2] / "support" / "worker.py"))
TIMING = Timing(start_s=20, stop_s=3, steady_s=0.3, backoff_s=(0.05, 0.2), crashes=2)


def ref(folder: Path, version: str, **behaviour: object) -> EngineRef:
    bundle = Bundle(make_bundle(folder / version, version=version, size=5000, **behaviour))
    return EngineRef(
        blobs=bundle.blobs, manifest=bundle.variants[0].digest, release=f"m@{version}", bundle=bundle.digest
    )


@dataclass
class Bench:
    folder: Path
    source: str = "synth://yard"
    engines: dict[str, EngineRef] = field(default_factory=dict)
    stats: queue.Queue[Stats] = field(default_factory=queue.Queue)
    events: queue.Queue[EventMessage] = field(default_factory=queue.Queue)
    loops: queue.Queue[str] = field(default_factory=queue.Queue)
    leases: queue.Queue[LeaseMessage] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        self.journal = Journal(self.folder / "j.db")
        self.config = StreamConfig(
            kind="surveillance",
            source=self.source,
            slots={"detector": "gate"},
            # only who hangs is found to do so soon: a busy machine is no hang
            stall_s=0.6 if "hang" in self.source else 20.0,
        )
        hooks = WorkerCallbacks(
            lambda _, s: self.stats.put(s),
            lambda _, e: self.events.put(e),
            lambda stream, *_: self.loops.put(stream),
            lambda _, le: self.leases.put(le),
        )
        self.supervisor = Supervisor(
            {"yard": self.config},
            self.engines.get,
            self.journal,
            hooks,
            command=WORKER,
            stats_every_s=0.05,
            timing=TIMING,
        )

    def ensure(self, engine: EngineRef | None, timeout_s: float = 15) -> None:
        self.supervisor.ensure("gate", engine, timeout_s, lambda: False)

    def activate(self, engine: EngineRef) -> None:
        self.engines["gate"] = engine
        self.ensure(engine)

    def wait_served(self, engine: EngineRef) -> None:
        wait_until(
            lambda: self.stats.get(timeout=10).stats.slots["detector"] == engine.bundle,
            "the engine makes frames",
        )

    @property
    def state(self) -> str:
        return self.supervisor.states()["yard"][0]


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(tmp_path, getattr(request, "param", "synth://yard"))
    bench.supervisor.start()
    yield bench
    bench.supervisor.close()
    bench.journal.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("pipe-")]


def test_pipeline_waits_for_its_first_engine_and_then_runs(bench: Bench, tmp_path: Path) -> None:
    wait_until(lambda: bench.state == "waiting", "no engine yet")
    assert bench.supervisor.idle("gate")
    assert bench.supervisor.processes("gate") == (0, 1), "one would start with an engine"
    one = ref(tmp_path, "1")
    bench.activate(one)
    assert bench.state == "running"
    bench.wait_served(one)
    assert bench.supervisor.processes("gate") == (1, 0)
    assert bench.events.get(timeout=5).event["kind"] == "started"


def test_swap_commit_and_revert_keep_the_same_process(bench: Bench, tmp_path: Path) -> None:
    one, two = ref(tmp_path, "1"), ref(tmp_path, "2")
    bench.activate(one)
    process = bench.supervisor._streams["yard"].worker.pid
    bench.activate(two)
    bench.wait_served(two)
    bench.activate(one)  # still warm: reverted
    bench.wait_served(one)
    bench.activate(two)
    bench.supervisor.commit("gate")
    bench.wait_served(two)
    assert bench.supervisor._streams["yard"].worker.pid == process


def test_engine_that_was_unloaded_is_loaded_again_when_it_is_wanted_back(
    bench: Bench, tmp_path: Path
) -> None:
    one, two = ref(tmp_path, "1"), ref(tmp_path, "2")
    bench.activate(one)
    bench.activate(two)
    bench.supervisor.commit("gate")
    bench.wait_served(two)
    bench.activate(one)
    bench.stats = queue.Queue()
    bench.wait_served(one)


def test_refused_swap_says_why_and_the_old_engine_goes_on(bench: Bench, tmp_path: Path) -> None:
    one = ref(tmp_path, "1")
    bench.activate(one)
    with pytest.raises(EngineError, match="does not open"):
        bench.ensure(ref(tmp_path, "2", swap=False))
    bench.wait_served(one)


def test_engine_that_crashes_at_start_is_counted_before_each_start_and_told(
    bench: Bench, tmp_path: Path
) -> None:
    bad = ref(tmp_path, "bad", crash=True)
    bench.engines["gate"] = bad
    assert bench.loops.get(timeout=20) == "yard"
    counter = bench.supervisor._streams["yard"]._starts.name({"detector": bad}, {})
    assert bench.journal.value(counter) > TIMING.crashes
    with pytest.raises(EngineError, match="ended with code"):
        bench.ensure(bad, 5)
    good = ref(tmp_path, "good")
    bench.activate(good)
    bench.wait_served(good)


def test_worker_without_progress_is_replaced_although_it_is_alive(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "hung", hang=True))
    wait_until(
        lambda: "no frame was processed" in (bench.supervisor.states()["yard"][1] or ""), "the watchdog bites"
    )


def test_steady_worker_that_is_killed_comes_back_and_is_not_blamed(bench: Bench, tmp_path: Path) -> None:
    one = ref(tmp_path, "1")
    bench.activate(one)
    pipeline = bench.supervisor._streams["yard"]
    counter = pipeline._starts.name({"detector": one}, {})
    for _ in range(TIMING.crashes + 1):
        wait_until(lambda: bench.journal.value(counter) == 0, "steady progress clears the count")
        process = pipeline.worker.pid
        assert process is not None
        pipeline.worker.kill()
        wait_until(
            lambda p=process: pipeline.worker.pid not in (None, p) and bench.state == "running",
            "a new worker runs",
        )  # type: ignore[misc]
    assert bench.loops.empty()


@pytest.mark.parametrize("bench", ["broken://"], indirect=True)
def test_dead_camera_is_retried_and_no_engine_is_blamed(bench: Bench, tmp_path: Path) -> None:
    one = bench.engines["gate"] = ref(tmp_path, "1")
    with pytest.raises(EngineError, match="the camera is gone"):
        bench.ensure(one, 6)
    assert bench.loops.empty()


def test_empty_slot_stops_the_worker(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    del bench.engines["gate"]
    bench.ensure(None)
    wait_until(lambda: bench.state == "waiting", "stopped")
    assert bench.supervisor._streams["yard"].worker.pid is None


def test_stream_with_two_engines_starts_when_both_slots_have_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    config = StreamConfig(kind="speech", source="synth://kiosk", slots={"vad": "vad", "keyword": "words"})
    hooks = WorkerCallbacks(lambda _, s: bench.stats.put(s), lambda *_: None, lambda *_: None)
    s = Supervisor(
        {"desk": config},
        bench.engines.get,
        bench.journal,
        hooks,
        command=WORKER,
        stats_every_s=0.05,
        timing=TIMING,
    )
    s.start()
    vad, words = ref(tmp_path, "vad"), ref(tmp_path, "words")
    bench.engines["vad"] = vad
    s.ensure("vad", vad, 10, lambda: False)  # returns: there is nothing to run yet
    assert s.idle("vad")
    assert s.processes("vad") == (0, 0), "it lacks the other one still"
    assert s.processes("words") == (0, 1)
    assert s.opened_with("words") == [vad.manifest], "on record, and in no process yet"
    assert s.opened_with("vad") == []
    bench.engines["words"] = words
    s.ensure("words", words, 15, lambda: False)
    assert not s.idle("vad")
    assert s.opened_with("words") == []
    assert bench.stats.get(timeout=10).stats.slots == {"vad": vad.bundle, "keyword": words.bundle}
    s.close()
    bench.journal.close()


def test_an_engine_whose_file_became_better_is_opened_anew_without_a_restart(
    bench: Bench, tmp_path: Path
) -> None:
    one, two = ref(tmp_path, "1"), ref(tmp_path, "2")
    bench.activate(one)
    bench.wait_served(one)
    process = bench.supervisor._streams["yard"].worker.pid
    bench.supervisor.refresh("gate", one, 15)
    bench.supervisor.refresh("gate", two, 15)  # it does not run: nothing happens
    bench.wait_served(one)
    assert bench.supervisor._streams["yard"].worker.pid == process
    bench.activate(two)  # and a later deployment is not confused by it
    bench.wait_served(two)


def test_an_engine_that_cannot_be_opened_anew_goes_on(bench: Bench, tmp_path: Path) -> None:
    one = ref(tmp_path, "1", swap=False)
    bench.activate(one)
    bench.wait_served(one)
    with pytest.raises(EngineError, match="did not open the better engine"):
        bench.supervisor.refresh("gate", one, 15)
    bench.wait_served(one)


def test_shadow_is_asked_of_the_running_worker_and_its_numbers_come_back(
    bench: Bench, tmp_path: Path
) -> None:
    one = ref(tmp_path, "1")
    bench.activate(one)
    other = ref(tmp_path, "2", agreement=0.5)
    (told,) = bench.supervisor.shadow("gate", other, ShadowGate(frames=7), 15, lambda: False)
    assert (told.frames, told.agreement) == (7, 0.5)
    bench.wait_served(one)
    with pytest.raises(EngineError, match="has not seen 7 frames"):
        bench.supervisor.shadow(
            "gate", ref(tmp_path, "3", shadow_hang=True), ShadowGate(frames=7), 0.3, lambda: False
        )
    with pytest.raises(EngineError, match="ended while it ran the new engine beside"):
        bench.supervisor.shadow(
            "gate", ref(tmp_path, "4", shadow_crash=True), ShadowGate(), 15, lambda: False
        )
    bench.wait_served(one)


def test_restart_takes_what_the_record_says(bench: Bench, tmp_path: Path) -> None:
    one, two = ref(tmp_path, "1"), ref(tmp_path, "2")
    bench.activate(one)
    process = bench.supervisor._streams["yard"].worker.pid
    bench.engines["gate"] = two
    bench.supervisor.restart("gate")
    bench.wait_served(two)
    assert bench.supervisor._streams["yard"].worker.pid != process


@pytest.mark.parametrize("bench", ["busy://"], indirect=True)
def test_pipeline_in_the_middle_of_something_says_so(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    assert bench.leases.get(timeout=10) == LeaseMessage(stream="yard", ttl_s=60.0, reason="it drives")


def test_worker_is_started_although_the_journal_takes_no_count(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(bench.journal, "count", full)
    bad = ref(tmp_path, "bad", crash=True)
    bench.engines["gate"] = bad
    assert bench.loops.get(timeout=20) == "yard", "counted in memory meanwhile"
    good = ref(tmp_path, "good")
    bench.activate(good)
    bench.wait_served(good)


def test_machine_that_can_start_no_process_is_no_end_of_the_stream(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Semaphore(0)

    def no_memory(*_: object, **__: object) -> None:
        tried.release()
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    good = ref(tmp_path, "good")
    with monkeypatch.context() as patched:
        patched.setattr("subprocess.Popen", no_memory)
        bench.engines["gate"] = good
        for _ in range(5):  # more often than a crash loop takes
            assert tried.acquire(timeout=20)
    bench.wait_served(good)
    assert bench.loops.empty(), "no engine is to blame"


def test_journal_that_cannot_be_read_is_no_end_of_the_stream(bench: Bench, tmp_path: Path) -> None:
    asked = threading.Semaphore(0)
    good = ref(tmp_path, "good")

    class Unreadable(dict[str, EngineRef]):
        def get(self, *_: object) -> EngineRef:
            asked.release()
            raise StorageError("the agent's journal cannot be used")

    pipeline = bench.supervisor._streams["yard"]
    pipeline.engine_of = Unreadable().get
    for _ in range(2):
        assert asked.acquire(timeout=20)
    bench.engines["gate"] = good
    pipeline.engine_of = bench.engines.get
    bench.wait_served(good)


@pytest.mark.parametrize(
    ("code", "outside"), [("source", True), ("storage", True), ("crash", False), ("stalled", False)]
)
def test_comparison_that_a_worker_does_not_survive_says_whose_fault_it_is(
    bench: Bench, tmp_path: Path, code: str, outside: bool
) -> None:
    stream = bench.supervisor._streams["yard"]
    bench.activate(ref(tmp_path, "1"))
    stream.life = replace(stream.life, fault=Failure(code=code, detail="because"))
    with pytest.raises(EngineError) as e:
        bench.supervisor.shadow(
            "gate", ref(tmp_path, "3", shadow_hang=True), ShadowGate(frames=7), 0.1, lambda: False
        )
    assert isinstance(e.value, Interrupted) is outside


def test_worker_that_runs_another_engine_than_it_was_told_is_started_again_with_the_right_one(
    bench: Bench, tmp_path: Path
) -> None:
    one, two = ref(tmp_path, "1"), ref(tmp_path, "2")
    bench.activate(one)
    stream = bench.supervisor._streams["yard"]
    stream.timing = replace(TIMING, disagrees_s=0.2)
    before = stream.place
    bench.engines["gate"] = two  # what is on record
    # what a word that was lost would leave behind
    with stream.changed:
        stream.life = replace(stream.life, parts=replace(stream.life.parts, serving={"detector": two}))
    bench.wait_served(two)
    assert stream.place is not before


def test_another_engine_does_not_wait_until_the_back_off_of_one_that_crashes_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for while the crash is still to come: a rollback would leave the camera blind for that long."""
    monkeypatch.setattr(sys.modules[__name__], "TIMING", replace(TIMING, backoff_s=(600, 600)))
    bench = Bench(tmp_path)
    bench.engines["gate"] = ref(tmp_path, "1", crash=True)
    bench.supervisor.start()
    try:
        worker = bench.supervisor._streams["yard"]
        with worker.changed:
            assert worker.changed.wait_for(lambda: worker.life.state is WorkerState.LOADING, 20)
        bench.engines["gate"] = two = ref(tmp_path, "2")
        bench.ensure(two, 40)
        assert bench.state == "running"
    finally:
        bench.supervisor.close()
        bench.journal.close()


def test_refused_swap_says_why_though_the_worker_ends_with_it(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    with pytest.raises(EngineError, match="does not open"):
        bench.ensure(ref(tmp_path, "2", swap=False, crash=True))


def test_better_engine_that_ends_the_worker_is_not_taken_for_one_that_runs(
    bench: Bench, tmp_path: Path
) -> None:
    one = ref(tmp_path, "1", swap_crash=True)
    bench.activate(one)
    with pytest.raises(EngineError, match="did not open the better engine: it ended"):
        bench.supervisor.refresh("gate", one, 10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_defect_in_the_agent_leaves_no_worker_behind(bench: Bench, tmp_path: Path) -> None:
    bench.activate(ref(tmp_path, "1"))
    stream = bench.supervisor._streams["yard"]
    pid = stream.worker.pid
    assert pid is not None

    def defect(*_: object) -> None:
        raise RuntimeError("a defect")

    stream._hooks = replace(stream._hooks, stats=defect)
    stream.thread.join(20)
    assert stream.worker.pid is None
    assert not psutil.pid_exists(pid)
