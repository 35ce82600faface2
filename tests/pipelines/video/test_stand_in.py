"""Another variant in the detector's place: opened beside the stream, closed when it is not wanted, and never in the way of
a swap of the slot's own engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.keypoints import ENDS
from support.pipelines import BoxEngine, box_task, make_variant

from edgectl.core.bundle import Variant
from edgectl.core.errors import EdgectlError, EngineError
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.engine_pool import EnginePool
from edgectl.pipelines.video.stand_in import StandIn
from edgectl.pipelines.video.swap import HotSwap


class Rig:
    def __init__(self, folder: Path, labels: tuple[str, ...] = ("person", "vehicle")) -> None:
        self.folder = folder
        self.pool = EnginePool()
        self.engines: dict[str, BoxEngine] = {}
        self.over = False
        self.may_open = threading.Event()
        self.may_open.set()
        self.failed: list[tuple[str | None, EdgectlError]] = []
        self.own = self.slot("own")
        self.swap = HotSwap(self.opened(self.own), lambda: self.over)
        self.changed = threading.Condition()
        small = make_variant(folder / "small", box_task(labels, (32, 32)), name="small")
        self.small = PartVariant(small, stands_in="small-input")
        self.stand_in = StandIn("s", self.swap, self.opened, self.hear)

    def slot(self, name: str) -> PartVariant:
        return PartVariant(make_variant(self.folder / name, box_task(), name=name))

    def opened(self, slot: PartVariant) -> Detector:
        def engine(variant: Variant) -> BoxEngine:
            name = variant.config.name
            if name == "small":
                assert self.may_open.wait(10)
            if name == "broken":
                raise EngineError("no memory")
            size = (32, 32) if name == "small" else (64, 64)
            self.engines[name] = BoxEngine(lambda _: [], size=size, classes=len(variant.config.task.labels))
            return self.engines[name]

        return Detector(slot, self.pool.join(slot.variant, engine))

    def want(self, variant: PartVariant | None) -> None:
        self.stand_in.want(self.swap.engine, variant)

    def hear(self, variant: PartVariant, e: EdgectlError) -> None:
        with self.changed:
            self.failed.append((variant.stands_in, e))
            self.changed.notify_all()

    def running(self) -> str:
        return self.swap.running.slot.variant.config.name

    def finish(self) -> None:
        self.over = True
        self.stand_in.close()
        assert self.swap.close()
        assert all(engine.closed.is_set() for engine in self.engines.values())
        assert self.pool.variants() == ()


def wait_for(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(1000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_frames_run_on_another_variant_while_it_is_wanted_and_on_their_own_before_and_after(rig: Rig) -> None:
    rig.may_open.clear()
    rig.want(rig.small)
    assert not rig.stand_in.settled
    assert rig.swap.begin() is rig.swap.engine, "the stream goes on while it is opened"
    rig.swap.engine.end()
    rig.may_open.set()
    wait_for(lambda: rig.stand_in.settled)
    assert rig.running() == "small"
    detector = rig.swap.begin()
    assert detector.size == (32, 32)
    rig.want(None)
    # its frame is still under way
    assert not rig.engines["small"].closed.is_set()
    detector.end()
    wait_for(lambda: rig.stand_in.settled)
    assert rig.running() == "own"
    assert rig.engines["small"].closed.is_set()
    assert not rig.engines["own"].closed.is_set()
    rig.finish()


def test_a_stream_that_ends_closes_it(rig: Rig) -> None:
    rig.want(rig.small)
    wait_for(lambda: rig.stand_in.settled)
    rig.finish()


def test_a_stream_that_ends_while_it_is_opened_keeps_nothing(rig: Rig) -> None:
    rig.may_open.clear()
    rig.want(rig.small)
    rig.over = True
    rig.may_open.set()
    rig.finish()


def test_a_swap_of_the_slots_engine_ends_it(rig: Rig) -> None:
    rig.want(rig.small)
    wait_for(lambda: rig.stand_in.settled)
    rig.swap.switch(rig.opened(rig.slot("new")))
    assert rig.running() == "new"
    assert rig.engines["small"].closed.is_set()
    rig.swap.revert()
    assert rig.running() == "own"
    rig.finish()


def test_after_a_swap_one_of_the_new_engine_takes_its_place(rig: Rig) -> None:
    rig.want(rig.small)
    wait_for(lambda: rig.stand_in.settled)
    first = rig.engines["small"]
    rig.swap.switch(rig.opened(rig.slot("new")))
    rig.want(rig.small)
    wait_for(lambda: rig.stand_in.settled)
    assert rig.running() == "small"
    assert first.closed.is_set()
    rig.finish()


def test_one_that_is_wanted_for_an_engine_that_has_gone_is_not_taken(rig: Rig) -> None:
    gone = rig.swap.engine
    rig.swap.switch(rig.opened(rig.slot("new")))
    rig.stand_in.want(gone, rig.small)
    wait_for(lambda: rig.stand_in.settled)
    assert rig.running() == "new"
    rig.finish()


def test_one_that_is_ready_only_after_a_swap_comes_too_late(rig: Rig) -> None:
    rig.may_open.clear()
    rig.want(rig.small)
    rig.swap.switch(rig.opened(rig.slot("new")))
    rig.may_open.set()
    wait_for(lambda: rig.stand_in.settled)
    assert rig.running() == "new"
    assert rig.engines["small"].closed.is_set()
    rig.finish()


def test_one_that_cannot_be_opened_is_told_and_the_own_one_goes_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.want(replace(rig.slot("broken"), stands_in="low-power"))
    with rig.changed:
        assert rig.changed.wait_for(lambda: bool(rig.failed), 10)
    ((name, e),) = rig.failed
    assert (name, e.message) == ("low-power", "no memory")
    assert rig.stand_in.settled
    assert rig.running() == "own"
    rig.finish()


def test_one_with_other_labels_is_not_taken(tmp_path: Path) -> None:
    rig = Rig(tmp_path, labels=("cat",))
    rig.want(rig.small)
    with rig.changed:
        assert rig.changed.wait_for(lambda: bool(rig.failed), 10)
    assert "has 1 labels, the detector has 2" in rig.failed[0][1].message
    assert rig.running() == "own"
    rig.finish()


def test_one_with_other_keypoints_is_not_taken(rig: Rig) -> None:
    rig.swap.engine.keypoints = ENDS
    rig.want(rig.small)
    with rig.changed:
        assert rig.changed.wait_for(lambda: bool(rig.failed), 10)
    assert "the keypoints of variant small-input" in rig.failed[0][1].message
    assert rig.running() == "own"
    rig.finish()
