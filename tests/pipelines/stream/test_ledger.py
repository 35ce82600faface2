"""The ledger: nothing lost, nothing counted twice."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.stream.ledger import CAUSES, Ledger


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


def test_who_waits_for_the_others_hears_when_only_its_own_frame_is_left() -> None:
    ledger = Ledger()
    ledger.capture(3)
    assert not ledger.wait_for_others(0)
    heard = threading.Event()

    def wait() -> None:
        if ledger.wait_for_others(30):
            heard.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    ledger.process()
    assert not ledger.wait_for_others(0)
    ledger.drop("stale")
    assert heard.wait(30)
    waiting.join()
