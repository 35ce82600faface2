"""What measures for a builder on a device: within bounds, and gone without a trace whatever ends it. Files come from a
dictionary; measuring is a double, and a real child where it is killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from support.fleet import wait_until
from support.variants import small_model

from edgectl.agent.config import MeasureConfig
from edgectl.agent.deploy.memory_gate import MemoryGate
from edgectl.agent.measure.measurer import Measurer, forget_measured
from edgectl.agent.state.store import Store
from edgectl.agent.transfer.download import Cancelled
from edgectl.core.bundle import Descriptor
from edgectl.core.errors import BusyError, EngineError, UsageError
from edgectl.core.measuring import MeasureAnswer, MeasureOrder, MeasureState
from edgectl.core.memory import MIB
from edgectl.core.tensors import write_npz
from edgectl.core.transfer import describe
from edgectl.device_profiles.admission import MemoryBound, MemoryRoom
from edgectl.engines.child import run_child
from edgectl.engines.measure.job import Contender, MeasureJob


@dataclass
class Files:
    """The fetcher of an agent whose broker is a dictionary. ``hold``: fetching waits, as from a broker that is away."""

    store: Store
    there: dict[str, bytes] = field(default_factory=dict)
    hold: threading.Event = field(default_factory=threading.Event)

    def fetch_blobs(
        self, blobs: Sequence[Descriptor], cancelled: Callable[[], bool], progress: Callable[[Any], None]
    ) -> None:
        self.store.check_space(sum(d.size for d in blobs))
        while self.hold.is_set():
            if cancelled():
                raise Cancelled
            self.hold.wait(0.01)
        for d in blobs:
            self.store.put(d.digest, self.there[d.digest])


class Device:
    """``now``: its clock; ``other``: what it has to do beside."""

    def __init__(self, folder: Path, config: MeasureConfig | None, *, free_mb: int = 10_000) -> None:
        self.state_dir = folder
        self.now = 0.0
        self.other: str | None = None
        self.free_mb = free_mb
        self.files = Files(Store(folder / "store", reserve=0))
        self.asked: list[int | None] = []
        self.run: Callable[..., Any] = self._answer
        self.gate = MemoryGate(self.room, 64)
        self.measurer = Measurer(
            config,
            folder,
            self.files,  # type: ignore[arg-type]
            self.gate,
            self.room,
            machine=lambda: {"arch": "x86_64"},
            idle=lambda: self.other,
            quiet=lambda seconds: None,
            reserve_mb=64,
            run=lambda *a, **k: self.run(*a, **k),
            clock=lambda: self.now,
        )

    def room(self, gpu: bool) -> MemoryRoom:
        return MemoryRoom((MemoryBound(self.free_mb * MIB, 16_000 * MIB, "this machine"),))

    def _answer(self, module: str, arguments: list[str], **options: Any) -> dict[str, Any]:
        self.asked.append(options["memory_mb"])
        Path(arguments[2]).write_bytes(b'{"result": 1}')
        return {}

    def forever(self, module: str, arguments: list[str], **options: Any) -> dict[str, Any]:
        """A child that ends only when it is stopped."""
        while (why := options["stop"]()) is None:
            threading.Event().wait(0.01)
        raise why

    def order(self, act: str, session: str = "a", **more: object) -> MeasureAnswer:
        order = {"act": act, "session": session, "lease_s": 10.0, **more}
        return MeasureAnswer.model_validate(self.measurer.obey(MeasureOrder.model_validate(order)))

    def reaches(self, *states: MeasureState) -> MeasureAnswer:
        return wait_until(  # type: ignore[no-any-return]
            lambda: found if (found := self.order("look")).state in states else None, f"it is {states}"
        )

    def open(self) -> None:
        self.order("open")
        self.reaches(MeasureState.READY)

    def start(self, job: MeasureJob | bytes, files: dict[str, bytes] | None = None, **more: object) -> None:
        data = job if isinstance(job, bytes) else job.model_dump_json().encode()
        self.files.there |= {describe(data).digest: data, **(files or {})}
        self.order("start", job=describe(data), **more)

    def left(self) -> list[str]:
        return [p.name for p in self.state_dir.iterdir() if p.name == "measure"]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path, MeasureConfig(minutes=10))
    yield device
    device.files.hold.clear()
    device.measurer.close()
    assert not device.left()


QUIET = MeasureJob(kind="quiet", seconds=1, timeout_s=60)


def test_device_that_was_not_told_to_measures_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"its agent.toml has no \[measure\]"):
        Device(tmp_path, None).order("open")


def test_one_builder_at_a_time_and_each_job_of_it_within_the_memory_that_is_free(device: Device) -> None:
    device.open()
    with pytest.raises(BusyError, match="another build measures"):
        device.order("open", session="b")
    with pytest.raises(UsageError, match="no such measuring session"):
        device.order("look", session="b")
    device.start(QUIET)
    assert device.reaches(MeasureState.DONE).pages == 1
    device.free_mb = 1000
    device.start(QUIET)
    device.reaches(MeasureState.DONE)
    assert device.asked == [4096, 936], "no more than allowed, and than is free beside the reserve"
    assert device.left()
    assert device.measurer.active
    device.order("close")
    wait_until(lambda: not device.measurer.active, "it is over")
    assert not device.left()


def test_without_memory_beside_the_reserve_a_job_ends_in_a_sentence_with_the_numbers(device: Device) -> None:
    device.open()
    device.free_mb = 150
    device.start(QUIET)
    trouble = device.reaches(MeasureState.DONE).trouble
    assert trouble is not None
    assert trouble.code == "memory"
    assert "150 MiB of 16000 are free" in trouble.detail
    assert not device.asked


def test_busy_device_says_what_with_and_takes_the_next_builder_when_it_is_idle(device: Device) -> None:
    device.other = "slot gate is activating"
    device.order("open")
    ended = device.reaches(MeasureState.ENDED)
    assert ended.trouble is not None
    assert "this device is busy: slot gate is activating" in ended.trouble.detail
    device.other = None
    wait_until(lambda: not device.left(), "the last session is over")
    assert wait_until(lambda: _opens(device, "b"), "the next one may")


def _opens(device: Device, session: str) -> bool:
    try:
        device.order("open", session=session)
    except BusyError:
        return False
    return True


@pytest.mark.parametrize("busy_with", ["fetching", "measuring"])
@pytest.mark.parametrize("end", ["deployment", "lease", "close", "agent"])
def test_whatever_ends_a_session_ends_what_goes_on_and_leaves_nothing(
    device: Device, busy_with: str, end: str
) -> None:
    device.open()
    if busy_with == "fetching":
        device.files.hold.set()
    else:
        device.run = device.forever
    device.start(QUIET)
    wait_until(lambda: device.order("look").stage.startswith(busy_with), f"it is {busy_with}")
    if end == "deployment":
        device.other = "slot gate is fetching"
        words = "this device stopped measuring: slot gate is fetching"
    elif end == "lease":
        device.now += 11
        words = "did not renew its lease of 10 s"
    elif end == "close":
        device.order("close")
        words = "the builder closed the measuring session"
    else:
        device.measurer.close()
        words = "the agent of this device stops"
    trouble = device.reaches(MeasureState.ENDED).trouble
    assert trouble is not None
    assert words in trouble.detail
    wait_until(lambda: not device.left(), "nothing is left")
    assert device.gate.claim("slot", _all_but(64)).fits, "no memory stays promised"


def _all_but(reserve: int) -> Any:
    from edgectl.device_profiles.admission import Demand

    return Demand(resident=(10_000 - reserve) * MIB)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (b"no json", "measuring job is not valid"),
        (b'{"kind": "quiet", "seconds": 1, "timeout_s": 5, "more": 1}', "more"),
        (b'{"kind": "rounds", "seconds": 1, "timeout_s": 5}', "contenders come with everything but quiet"),
        (b'{"version": 2, "kind": "quiet", "seconds": 1, "timeout_s": 5}', "version"),
    ],
)
def test_document_that_is_no_job_costs_the_job_and_not_the_session(
    device: Device, job: bytes, words: str
) -> None:
    device.open()
    device.start(job)
    trouble = device.reaches(MeasureState.DONE).trouble
    assert trouble is not None
    assert words in trouble.detail
    device.start(QUIET)
    assert device.reaches(MeasureState.DONE).trouble is None


def test_job_with_more_files_than_the_device_allows_is_refused_before_they_come(tmp_path: Path) -> None:
    device = Device(tmp_path, MeasureConfig(disk_mb=1))
    device.open()
    large = Descriptor(mediaType="x", digest="sha256:" + "2" * 64, size=2 * MIB)
    contender = Contender(name="a", model=large)
    device.start(MeasureJob(kind="rounds", contenders=(contender,), feeds=large, seconds=1, timeout_s=60))
    trouble = device.reaches(MeasureState.DONE).trouble
    assert trouble is not None
    assert trouble.code == "storage"
    assert "quota of 1.0 MiB" in trouble.detail
    assert "raise disk_mb of [measure]" in trouble.detail
    device.measurer.close()


def test_files_of_the_jobs_before_go_where_those_of_the_next_one_would_not_fit(tmp_path: Path) -> None:
    device = Device(tmp_path, MeasureConfig(disk_mb=1))
    device.open()
    for content in (b"1", b"2", b"3"):
        large = content * (700 << 10)
        model = describe(large)
        job = MeasureJob(
            kind="rounds",
            contenders=(Contender(name="a", model=model),),
            feeds=model,
            seconds=1,
            timeout_s=60,
        )
        device.start(job, {model.digest: large})
        assert device.reaches(MeasureState.DONE).trouble is None
    device.measurer.close()


def test_what_a_killed_agent_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "measure" / "store" / "blobs").mkdir(parents=True)
    (tmp_path / "measure" / "store" / "blobs" / "x").write_bytes(b"x")
    (tmp_path / "journal.db").write_bytes(b"j")
    forget_measured(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["journal.db"]
    forget_measured(tmp_path)


def job_of(*models: bytes, seconds: float) -> tuple[MeasureJob, dict[str, bytes]]:
    x = np.zeros((1, 3, 8, 8), np.float32)
    feeds = write_npz({"0/x": x, "1/x": x + 1})
    contenders = tuple(Contender(name=f"c{i}", model=describe(m)) for i, m in enumerate(models))
    job = MeasureJob(
        kind="rounds",
        contenders=contenders,
        feeds=describe(feeds),
        seconds=seconds,
        fewest=20,
        most=20 if seconds < 1 else 10_000,
        timeout_s=600,
    )
    return job, {describe(d).digest: d for d in (feeds, *models)}


def test_a_child_that_is_killed_ends_its_job_and_one_of_a_dead_lease_is_killed(device: Device) -> None:
    device.run = run_child
    device.open()
    device.start(*job_of(small_model(), seconds=3600.0))
    child = wait_until(_measuring_child, "a child measures")
    assert psutil.Process().nice() + 10 == child.nice() or child.nice() == 19
    child.kill()
    trouble = device.reaches(MeasureState.DONE).trouble
    assert trouble is not None
    assert "measuring died by SIGKILL" in trouble.detail
    assert "fallback" not in trouble.detail
    assert "[measure] in its agent.toml" in trouble.detail
    device.start(*job_of(small_model(), seconds=3600.0))
    child = wait_until(_measuring_child, "the next one measures")
    device.now += 11
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert device.reaches(MeasureState.ENDED).trouble is not None


def test_child_knows_how_long_it_has_and_a_device_that_allows_less_says_so(device: Device) -> None:
    asked: list[tuple[float, float]] = []
    over = threading.Event()

    def child(module: str, arguments: list[str], **options: Any) -> dict[str, Any]:
        asked.append((float(arguments[4]) - time.monotonic(), options["timeout_s"]))
        device.now += options["timeout_s"]
        over.set()
        raise EngineError(f"measuring took more than {options['timeout_s']:g} s and was stopped")

    device.run = child
    device.open()
    for timeout_s in (60.0, 3600.0):
        device.start(QUIET.model_copy(update={"timeout_s": timeout_s}), lease_s=600.0)
        over.wait(30)
        over.clear()
        trouble = device.reaches(MeasureState.DONE).trouble
        assert trouble is not None
        told = "more than the 10 min that this device allows (raise minutes"
        assert (told in trouble.detail) == (timeout_s > 600)
    assert [timeout_s for _, timeout_s in asked] == [60.0, 600.0]
    assert all(left_s == pytest.approx(timeout_s, abs=30) for left_s, timeout_s in asked)


def _measuring_child() -> psutil.Process | None:
    """Once it has stepped back, which is the first that it does of its own."""
    for child in psutil.Process().children():
        try:
            if (
                "edgectl.engines.measure.job_child" in child.cmdline()
                and child.nice() > psutil.Process().nice()
            ):
                return child
        except psutil.Error:
            continue
        if psutil.Process().nice() == 19 and "edgectl.engines.measure.job_child" in child.cmdline():
            return child
    return None


@pytest.mark.parametrize("asks", ["look", "claim"])
def test_slot_that_asks_for_memory_finds_none_taken_by_what_is_measured(device: Device, asks: str) -> None:
    """Else a deployment, in its first quarter of a second, would pass over the variant that fits."""

    def child(module: str, arguments: list[str], **options: Any) -> dict[str, Any]:
        device.free_mb -= options["memory_mb"]
        try:
            return device.forever(module, arguments, **options)
        finally:
            device.free_mb += options["memory_mb"]

    device.run = child
    device.open()
    device.start(QUIET)
    wait_until(lambda: device.free_mb < 10_000, "it measures")
    assert getattr(device.gate, asks)("gate", _all_but(64)).fits is True
    ended = device.reaches(MeasureState.ENDED)
    assert ended.trouble is not None
    assert "this device stopped measuring: a deployment began" in ended.trouble.detail
    assert not device.left(), "nor of the disk"


@pytest.mark.parametrize("job", ["none yet", "fetching", "measuring", "done"])
def test_whoever_deploys_finds_neither_a_child_nor_files(device: Device, job: str) -> None:
    device.open()
    if job == "fetching":
        device.files.hold.set()
    if job == "measuring":
        device.run = device.forever
    if job != "none yet":
        device.start(QUIET)
        wait_until(lambda: job in (device.order("look").stage.split(" ")[0], device.order("look").state), job)
    device.measurer.give_way()
    assert not device.left()
    assert device.order("look").state is MeasureState.ENDED


def test_whoever_deploys_does_not_wait_for_a_device_that_only_looks_whether_it_is_idle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device, looks, go = Device(tmp_path, MeasureConfig()), threading.Event(), threading.Event()

    def quiet(seconds: float) -> None:
        looks.set()
        go.wait(60)

    device.measurer._quiet = quiet
    device.order("open")
    assert looks.wait(60)
    device.measurer.give_way()
    assert not caplog.records, "it did not wait until it gave up"
    go.set()
    assert device.order("look").state is MeasureState.ENDED
    device.measurer.close()
