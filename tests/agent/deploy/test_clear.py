"""A slot that is to be empty: whatever was in it, on its way or on trial, and whoever says "not now"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.device import SLOT, Catalogue, Device

from edgectl.agent.state.records import Slot
from edgectl.core.states import State
from edgectl.core.wire import ReportedSlot


@pytest.fixture
def world(tmp_path: Path) -> Catalogue:
    world = Catalogue(tmp_path)
    for version in ("1", "2"):
        world.add(version, 3000)
    world.add("slow", 3000, latency_ms=50.0)
    return world


@pytest.fixture
def device(tmp_path: Path, world: Catalogue) -> Iterator[Device]:
    device = Device(tmp_path / "device", world).boot()
    yield device
    device.off()


def serves(device: Device, version: str, gen: int = 1) -> None:
    device.want(version, gen)
    assert device.run() is State.COMMITTED


def assert_empty(device: Device) -> None:
    assert device.run() is State.CLEARED
    device.check_rest()
    assert device.journal.slot(SLOT) == Slot()
    assert device.serving is None
    assert not any(device.store.blobs.iterdir()), "what nothing refers to any more takes no room"


def told(device: Device) -> ReportedSlot:
    return device.deployer.report()


def test_release_that_serves_is_taken_out_with_all_that_it_brought(device: Device) -> None:
    serves(device, "1")
    serves(device, "2", 2)
    device.clear(3)
    assert_empty(device)
    r = told(device)
    assert (r.state, r.gen, r.release, r.digest, r.active, r.previous) == (
        State.CLEARED,
        3,
        None,
        None,
        None,
        None,
    )


def test_first_release_of_an_empty_slot_is_taken_back_from_its_trial(device: Device) -> None:
    device.want("1", 1)
    device.run(lambda: device.state is State.PROBATION)
    device.clear(2)
    assert_empty(device)
    ended = [state for _, _, state in device.seen]
    assert State.COMMITTED not in ended
    device.want("1", 3)
    assert device.run() is State.COMMITTED, (
        "it was not the release's fault: the same attempt is welcome again"
    )


@pytest.mark.parametrize("state", [State.FETCHING, State.STAGED, State.WARMING])
def test_release_on_its_way_is_given_up(device: Device, state: State) -> None:
    device.want("1", 1)
    device.run(lambda: device.state is state)
    device.clear(2)
    assert_empty(device)
    assert (1, 1, State.CANCELED) in device.seen


def test_empty_slot_is_cleared_at_once_whatever_is_held(device: Device) -> None:
    device.frozen = True
    device.clear(1)
    assert_empty(device)


def test_the_same_desired_state_in_a_newer_document_is_taken_note_of_and_no_more(device: Device) -> None:
    device.clear(1)
    device.run()
    device.clear(2)
    device.deployer.turn()
    assert (told(device).state, told(device).gen) == (State.CLEARED, 2)
    assert [s for _, _, s in device.seen].count(State.CLEARING) == 1


def waits(device: Device, stage: str, then: Callable[[], object]) -> None:
    """Once it waits at this stage, and the engine still serves, ``then`` happens."""

    def waiting() -> None:
        if told(device).stage == stage and told(device).state is State.CLEARING:
            assert device.serving is not None
            device.waiting = None
            then()

    device.waiting = waiting


def test_engine_serves_on_while_the_fleet_is_frozen_or_somebody_says_not_now(device: Device) -> None:
    serves(device, "1")
    device.frozen = True
    device.clear(2)

    def forced() -> None:
        assert device.deployer.order("force")

    def thawed() -> None:
        device.leases.take("car", 360_000.0, "it drives")
        device.frozen = False
        waits(device, "car says not now: it drives", forced)

    waits(device, "frozen", thawed)
    assert_empty(device)


def test_clearing_that_waits_is_given_up_by_a_cancel_and_by_a_newer_desired_state(device: Device) -> None:
    serves(device, "1")
    device.frozen = True
    device.clear(2)
    waits(device, "frozen", lambda: device.deployer.order("cancel"))
    assert device.run() is State.CANCELED
    assert device.serving is not None
    device.clear(3)
    device.deployer.turn()
    assert told(device).state is State.CANCELED, "an operator gave this very wish up"
    device.clear(4, 2)
    waits(device, "frozen", lambda: device.want("1", 5))
    assert device.run() is State.COMMITTED
    device.check_rest()


def test_document_that_does_not_speak_of_the_slot_any_more_ends_a_clearing_that_waits(device: Device) -> None:
    serves(device, "1")
    device.frozen = True
    device.clear(2)
    waits(device, "frozen", lambda: device.deployer.want_nothing(3))
    assert device.run() is State.CANCELED
    device.frozen = False
    device.clear(4)
    assert_empty(device)


def test_clearing_that_is_held_up_for_ever_fails_at_its_deadline_and_the_engine_serves_on(
    device: Device,
) -> None:
    serves(device, "1")
    device.frozen = True
    device.clear(2)
    assert device.run() is State.FAILED
    assert told(device).error is not None
    device.check_rest()
    assert device.serving is not None


def test_crash_of_the_engine_that_is_gone_is_nobodys_trouble(device: Device) -> None:
    serves(device, "1")
    device.during["ensure None"] = [device.deployer.crash_loop]
    device.clear(2)
    assert_empty(device)
    device.deployer.crash_loop()
    device.deployer.turn()
    assert (told(device).state, told(device).error) == (State.CLEARED, None)


def test_slot_whose_record_came_back_is_emptied_again(device: Device, world: Catalogue) -> None:
    """A backup of the disk, or a mirror that knew more."""
    serves(device, "1")
    device.clear(2)
    device.run()
    device.journal.save_slot(SLOT, Slot(world.installed("1")))
    device.clear(3)
    assert_empty(device)
