"""``slot clear``: who is meant, who is not to be disturbed, and what devices are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.controller import DIGEST, T, World

from edgectl.core.errors import RolloutError, StorageError, UsageError
from edgectl.core.states import State
from edgectl.core.wire import ClearSlot, Conn, Reported, ReportedSlot
from edgectl.fleet.control.clearing import ClearRequest


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, monkeypatch)
    for name, site in (("d0", "a"), ("d1", "a"), ("d2", "b")):
        world.hears(T.conn(name), Conn(epoch=1, online=True, slots=("gate",), labels={"site": site}))
    yield world
    world.controller.inventory.close()


def has(world: World, device: str, version: str, gen: int, seq: int) -> None:
    """It says that it runs this."""
    r = ReportedSlot(
        state=State.COMMITTED,
        gen=gen,
        release=f"gate@{version}",
        digest=DIGEST[version],
        active=DIGEST[version],
        active_release=f"gate@{version}",
    )
    world.hears(T.reported(device), Reported(epoch=1, seq=seq, gen=gen, slots={"gate": r}))


def done(world: World) -> str:
    rollout = world.rollout("1")
    world.tick()
    for device in ("d0", "d1", "d2"):
        has(world, device, "1", 1, 1)
    world.tick()
    assert world.controller.rollout(rollout)[1].state.value == "done"
    return rollout


def test_devices_that_are_meant_are_told_in_their_signed_documents_and_the_others_are_not(
    world: World,
) -> None:
    done(world)
    told = world.controller.clear_slot("gate", ClearRequest(labels={"site": "a"}))
    assert [(c.device, c.gen, c.active_release) for c in told] == [("d0", 2, "gate@1"), ("d1", 2, "gate@1")]
    world.tick()
    for device in ("d0", "d1"):
        wish = world.told(device)
        assert wish is not None
        assert (dict(wish.slots), wish.clear) == ({}, {"gate": ClearSlot(number=1)})
    other = world.told("d2")
    assert other is not None
    assert other.slots["gate"].release == "gate@1"
    about = [e.text for e in world.controller.inventory.events() if e.kind == "device" and e.subject == "d0"]
    assert about == ["slot gate is to be empty, by the operator"]


def test_asking_twice_is_asking_once_unless_the_device_gave_it_up(world: World) -> None:
    one = ClearRequest(devices=("d0",))
    (first,) = world.controller.clear_slot("gate", one)
    (second,) = world.controller.clear_slot("gate", one)
    assert first.gen == second.gen == 1
    gave_up = ReportedSlot(state=State.CANCELED, gen=1)
    world.hears(T.reported("d0"), Reported(epoch=1, seq=1, gen=1, slots={"gate": gave_up}))
    world.controller.clear_slot("gate", one)
    world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert wish.clear["gate"].number == 2


def test_release_fills_the_slot_again_and_its_rollback_empties_it(world: World) -> None:
    world.controller.clear_slot("gate", ClearRequest(devices=("d0",)))
    rollout = world.rollout("1", "d0")
    world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert (wish.slots["gate"].release, dict(wish.clear)) == ("gate@1", {})
    world.controller.change_rollout(rollout, "rollback")
    world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert (dict(wish.slots), wish.clear) == ({}, {"gate": ClearSlot(number=1)})


@pytest.mark.parametrize(
    ("slot", "request_", "why"),
    [
        ("gate", ClearRequest(), "no device is named"),
        ("gate", ClearRequest(devices=("nobody",)), "there is no device nobody"),
        ("porch", ClearRequest(devices=("d0",)), "d0 has no slot porch; it has gate"),
        ("gate", ClearRequest(labels={"site": "c"}), "no device that is meant"),
        ("gate", ClearRequest(devices=("d0",), labels={"site": "b"}), "no device that is meant"),
    ],
)
def test_who_cannot_be_meant_is_told_in_a_sentence(
    world: World, slot: str, request_: ClearRequest, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        world.controller.clear_slot(slot, request_)
    world.tick()
    assert world.told("d0") is None


def test_device_that_a_rollout_is_at_work_with_is_left_to_it(world: World) -> None:
    rollout = world.rollout("1", "d0", "d1")
    world.tick()
    with pytest.raises(RolloutError, match="rollout gate-1 of gate@1 is running in slot gate of d0") as e:
        world.controller.clear_slot("gate", ClearRequest(devices=("d2", "d0")))
    assert "skip gate-1 d0" in str(e.value.hint)
    world.controller.clear_slot("gate", ClearRequest(devices=("d2",)))
    world.controller.skip_device(rollout, "d0")
    world.controller.clear_slot("gate", ClearRequest(devices=("d0",)))


def test_desired_state_outlives_a_kill_or_was_never_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise StorageError("killed")

    with monkeypatch.context() as m:
        m.setattr("edgectl.fleet.store.devices.save", killed)
        with pytest.raises(StorageError):
            world.controller.clear_slot("gate", ClearRequest(devices=("d0", "d1")))
    world.tick()
    assert world.told("d0") is None
    world.wire.is_up = False
    world.controller.clear_slot("gate", ClearRequest(devices=("d0",)))
    world.controller.inventory.close()
    world.boot()
    world.wire.is_up = True
    world.wire.on_up()
    world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert "gate" in wish.clear
