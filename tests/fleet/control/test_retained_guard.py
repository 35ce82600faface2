"""Our state and the signed metadata on a broker where somebody deletes or overwrites them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.controller import DIGEST, T, World

from edgectl.core.wire import ControllerState


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(tmp_path, monkeypatch)
    world.controller._on_up()
    world.tick()
    yield world
    world.controller.inventory.close()


def told(world: World) -> list[str]:
    return [e.text for e in world.controller.inventory.events() if e.kind == "broker"]


@pytest.mark.parametrize(
    ("topic", "what"), [(T.ctl, "the state of the controller was"), (T.trust, "the signed metadata were")]
)
@pytest.mark.parametrize(("payload", "change"), [(b"", "deleted"), (b"{}", "overwritten")])
def test_what_is_lost_is_put_back_and_told_of(
    world: World, topic: str, what: str, payload: bytes, change: str
) -> None:
    ours = world.wire.retained[topic]
    assert len(ours) > 10
    world.wire.publish(topic, payload)
    world.tick()
    assert len(world.wire.retained[topic]) >= len(ours)
    (text,) = told(world)
    assert text.startswith(f"{what} {change} at the broker")


def test_own_messages_and_those_of_before_are_nobodys_fault(world: World) -> None:
    world.controller.freeze(True)
    world.controller._on_up()
    world.hears(T.ctl, b"what the broker kept")
    world.tick()
    world.tick()
    assert told(world) == []


def test_will_of_a_controller_that_is_gone_is_put_right_without_an_alarm(world: World) -> None:
    world.wire.publish(T.ctl, ControllerState(epoch=1, online=False).encode())
    world.tick()
    assert b'"online":true' in world.wire.retained[T.ctl].replace(b" ", b"")
    assert told(world) == []


def test_second_controller_of_one_fleet_is_called_that(world: World) -> None:
    state = world.controller.director.seal_state(
        ControllerState(epoch=1_700_000_000, online=True, seq=10**13)
    )
    world.wire.publish(T.ctl, state)
    world.tick()
    (text,) = told(world)
    assert text.startswith("another controller speaks for this fleet, too (it began at 2023-11-14 22:13 UTC)")


def test_pages_of_what_is_being_fetched_are_offered_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deleted them at the broker: a device that needs them would wait in vain."""
    world.born("d0")
    world.rollout("1")
    world.tick()
    monkeypatch.setattr(world.controller.blobs, "offered", lambda digest: [f"part of {digest}"])
    world.seeder.offered.clear()
    world.tick()
    assert world.seeder.offered == []
    world.controller._retained_guard._pages_s -= 60.0
    world.tick()
    assert world.seeder.offered == [f"part of {DIGEST['1']}"]
