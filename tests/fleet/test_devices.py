"""What the controller makes of what devices say, and of what somebody says on their topics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support_controller import T, World

from edgectl.core.states import State
from edgectl.core.wire import MAX_GEN, Conn, Desired, Telemetry


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, monkeypatch)
    yield world
    world.controller.inventory.close()


def test_device_with_another_disk_counts_its_starts_anew_and_is_heard(world: World) -> None:
    world.born("d0", epoch=57)
    world.reports("d0", 57, 900)
    world.controller.latency.add("d0", Telemetry(epoch=57, seq=5, window_s=1))
    world.hears(T.conn("d0"), Conn(epoch=57, online=False))
    world.born("d0", epoch=1)
    world.reports("d0", 1, 1, state=State.IDLE)
    d = world.controller._devices["d0"]
    assert d.conn is not None
    assert (d.conn.online, d.conn.epoch) == (True, 1)
    assert d.reported is not None
    assert d.reported.slots["gate"].state is State.IDLE
    assert world.controller.latency.add("d0", Telemetry(epoch=1, seq=1, window_s=1))
    world.hears(T.conn("d0"), Conn(epoch=57, online=False))
    assert d.conn.online, "the will of the disk that was taken out comes late"
    world.reports("d0", 57, 901)
    assert d.reported.epoch == 1
    world.hears(T.conn("d0"), Conn(epoch=1, online=False))
    assert world.controller._devices["d0"].conn.online is False  # type: ignore[union-attr]


def test_late_death_and_late_report_of_an_earlier_start_are_ignored(world: World) -> None:
    world.born("d0", epoch=5)
    world.reports("d0", 5, 3)
    world.hears(T.conn("d0"), Conn(epoch=4, online=False))
    world.reports("d0", 4, 99, state=State.FAILED)
    d = world.controller._devices["d0"]
    assert d.conn is not None
    assert d.conn.online
    assert d.reported is not None
    assert d.reported.slots["gate"].state is State.COMMITTED


@pytest.mark.parametrize("name", ["UPPER", "a b", "x" * 65, "..", "ä"])
def test_device_whose_name_is_none_is_ignored(world: World, name: str) -> None:
    """It could not be answered: the first rollout would end the controller, and every start of it after that."""
    world.hears(f"{T.root}/d/{name}/conn", Conn(epoch=1, online=True, slots=("gate",)))
    world.born("d0")
    world.rollout("1")
    world.tick()
    assert {d.name for d in world.controller.devices()} == {"d0"}


def test_device_that_lies_about_its_generation_costs_the_controller_nothing(world: World) -> None:
    world.born("d0")
    for seq, version in ((1, "1"), (2, "2"), (3, "3")):
        world.reports("d0", 1, seq, gen=MAX_GEN - 1)
        rollout = world.rollout(version)
        world.tick()
        world.controller.change_rollout(rollout, "abort")
        world.tick()
        world.born("d0", epoch=1 + seq)
        world.hears(T.conn("d0"), Conn(epoch=1 + seq, online=False))  # the rollout ends without it
        world.tick()
        world.born("d0", epoch=1 + seq)
    world.controller.inventory.close()
    world.boot()  # reads every document back
    assert world.controller._devices["d0"].desired.gen < 100


def test_last_generation_of_all_is_used_again(world: World) -> None:
    world.born("d0")
    world.controller._devices["d0"].desired = Desired(gen=MAX_GEN)
    world.rollout("1")
    world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert (wish.gen, wish.slots["gate"].release) == (MAX_GEN, "gate@1")


def test_word_on_the_broker_that_is_not_ours_is_written_over(world: World) -> None:
    world.born("d0")
    world.rollout("1")
    world.tick()
    ours = world.wire.retained[T.desired("d0")]
    for rubbish in (b"{", Desired(gen=99).encode()):
        world.wire.retained[T.desired("d0")] = rubbish
        world.hears(T.desired("d0"), rubbish)
        world.tick()
        assert world.wire.retained[T.desired("d0")] == ours
    told = [e.text for e in world.controller.inventory.events() if e.kind == "trust"]
    assert len([t for t in told if "not ours was on the broker" in t]) == 2


def test_rubbish_in_a_fleet_without_a_director_is_written_over_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.born("d0")
    world.rollout("1")
    world.tick()
    monkeypatch.setattr("edgectl.fleet.trust.director_keys", lambda _: None)
    world.hears(T.desired("d0"), b"{")
    world.wire.retained.clear()
    world.tick()
    assert Desired.model_validate_json(world.wire.retained[T.desired("d0")]).slots["gate"].release == "gate@1"
