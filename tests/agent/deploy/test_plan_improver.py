"""When better engines are built, and what running streams notice: a fake clock, recorded calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgectl.agent.deploy.plan_improver import PlanImprover
from edgectl.core.errors import EngineError, StorageError
from edgectl.pipelines.host.protocol import EngineRef


def ref(name: str) -> EngineRef:
    digest = "sha256:" + name[0] * 64
    return EngineRef(blobs=Path("/blobs"), manifest=digest, release=f"{name}@1", bundle=digest)


@dataclass
class World:
    now: float = 0.0
    busy: bool = False
    better: bool | Exception = True
    active: dict[str, EngineRef] = field(default_factory=lambda: {"a-slot": ref("a"), "b-slot": ref("b")})
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.improver = PlanImprover(
            ["a-slot", "b-slot", "empty"],
            self.active.get,
            lambda: self.busy,
            self.improve,
            self.refresh,
            100.0,
            lambda: self.now,
        )

    def improve(self, ref: EngineRef) -> bool:
        self.calls.append(f"improve {ref.release}")
        if isinstance(self.better, Exception):
            raise self.better
        return self.better

    def refresh(self, slot: str, ref: EngineRef) -> None:
        self.calls.append(f"refresh {slot} {ref.release}")

    def at(self, now: float) -> str | None:
        self.now = now
        return self.improver.step()


def test_nothing_is_built_before_the_device_was_idle_for_the_whole_time() -> None:
    w = World()
    assert w.at(0) is None
    assert w.at(99) is None
    w.busy = True
    assert w.at(101) is None
    w.busy = False
    assert w.at(102) is None
    assert w.at(201) is None
    assert w.calls == []
    assert w.at(202) == "a-slot"


def test_one_engine_at_a_time_and_each_once() -> None:
    w = World()
    w.at(0)
    assert [w.at(100), w.at(101), w.at(102)] == ["a-slot", "b-slot", None]
    assert w.calls == ["improve a@1", "refresh a-slot a@1", "improve b@1", "refresh b-slot b@1"]
    w.active["a-slot"] = ref("c")
    assert w.at(103) == "a-slot"


def test_a_plan_that_is_not_better_disturbs_nobody() -> None:
    w = World(better=False)
    w.at(0)
    assert w.at(100) is None
    assert w.calls == ["improve a@1", "improve b@1"]


def test_a_build_that_fails_is_not_tried_again_and_the_others_follow() -> None:
    w = World(better=EngineError("out of memory"))
    w.at(0)
    assert w.at(100) is None
    w.better = True
    assert w.at(101) == "b-slot"
    assert w.at(102) is None
    assert w.calls == ["improve a@1", "improve b@1", "refresh b-slot b@1"]


def test_an_engine_that_was_replaced_meanwhile_is_not_opened_anew() -> None:
    w = World()

    def improve(_: EngineRef) -> bool:
        w.active["a-slot"] = ref("n")
        return True

    w.improver.improve = improve
    w.at(0)
    assert w.at(100) is None
    assert w.calls == []


def test_the_thread_ends_when_it_is_told_to() -> None:
    w = World(busy=True)
    w.improver.thread.start()
    w.improver.stop()
    w.improver.thread.join(10)
    assert not w.improver.thread.is_alive()


def test_journal_that_cannot_be_read_now_ends_no_thread() -> None:
    w = World()

    def unreadable(slot: str) -> EngineRef | None:
        raise StorageError("the agent's journal cannot be used: disk I/O error")

    w.improver.active = unreadable
    assert w.at(0) is None
    assert w.at(200) is None
    w.improver.active = w.active.get
    assert w.at(201) == "a-slot"
