"""Hand-over, ledger and tracer: nothing lost, nothing counted twice, nobody waits for ever."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.stream.flow import Fifo, LatestSlot
from edgectl.pipelines.stream.ledger import CAUSES, Ledger
from edgectl.pipelines.stream.trace import Tracer


def test_the_latest_wins_and_the_displaced_comes_back() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert slot.put(1) is None
    assert slot.put(2) == 1
    assert slot.take(0) == 2
    assert slot.take(0) is None
    assert not slot.finished
    slot.put(3)
    slot.close()
    assert slot.put(4) == 4
    assert not slot.finished
    assert slot.take(0) == 3
    assert slot.finished


def test_a_fifo_keeps_order_and_waits_for_room() -> None:
    fifo: Fifo[int] = Fifo(2)
    got: list[int] = []

    def produce() -> None:
        for i in range(50):
            assert fifo.put(i) is None
        fifo.close()

    thread = threading.Thread(target=produce)
    thread.start()
    while not fifo.finished:
        item = fifo.take(1)
        if item is not None:
            got.append(item)
    thread.join()
    assert got == list(range(50))


def test_closing_wakes_a_waiting_producer_and_gives_its_item_back() -> None:
    fifo: Fifo[int] = Fifo(1)
    fifo.put(1)
    back: list[int | None] = []
    thread = threading.Thread(target=lambda: back.append(fifo.put(2)))
    thread.start()
    fifo.close()
    thread.join(5)
    assert back == [2]


@given(st.lists(st.sampled_from(["process", *CAUSES]), max_size=60), st.integers(0, 10))
def test_the_ledger_always_adds_up(fates: list[str], extra: int) -> None:
    ledger = Ledger()
    ledger.capture(len(fates) + extra)
    for fate in fates:
        ledger.process() if fate == "process" else ledger.drop(fate)  # type: ignore[arg-type]
        frames = ledger.frames()
        assert frames.captured == frames.processed + sum(frames.dropped.values()) + frames.in_flight
    assert ledger.frames().in_flight == extra


def test_a_frame_booked_twice_shows() -> None:
    ledger = Ledger()
    ledger.capture()
    ledger.process()
    ledger.drop("stale")
    with pytest.raises(AssertionError, match="twice"):
        ledger.frames()


def test_windows_of_the_tracer_add_up_to_its_totals() -> None:
    tracer = Tracer()
    counts = []
    for round_ in range(3):
        for i in range(10 * (round_ + 1)):
            tracer.record("engine", 1_000_000 + i)
        window = tracer.window()
        counts.append(sum(window["engine"].counts) + window["engine"].zero)
    assert counts == [10, 20, 30]
    assert tracer.window() == {}
    assert tracer.totals()["engine"].n == 60
