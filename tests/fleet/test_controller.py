"""The controller without a broker: what it makes of what devices say, and what is left when a step is cut off in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgectl.core.errors import BundleError, LinkError, StorageError
from edgectl.core.states import State
from edgectl.core.wire import MAX_GEN, Conn, Desired, Message, Reported, ReportedSlot, Telemetry, Topics
from edgectl.fleet.ceremony import init_keys
from edgectl.fleet.config import ControllerConfig
from edgectl.fleet.controller import Controller, RolloutRequest
from edgectl.fleet.inventory import Release
from edgectl.fleet.rollout import Outcome
from edgectl.link.config import BrokerConfig

T = Topics("home")
DIGEST = {v: "sha256:" + v * 64 for v in "123"}


class Wire:
    """A broker that keeps what is retained; ``takes`` messages, then it is full."""

    def __init__(self) -> None:
        self.is_up = True
        self.takes = 10_000
        self.retained: dict[str, bytes] = {}

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None) -> None:
        if not self.takes:
            raise LinkError("20 messages wait for an answer of the broker")
        self.takes -= 1
        self.retained[topic] = payload

    def close(self) -> None:
        pass


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        init_keys(folder / "keys")
        self.wire = Wire()
        self.offered: list[str] = []
        self.now = 1000.0
        self.boot()

    def boot(self) -> Controller:
        config = ControllerConfig(
            broker=BrokerConfig(host="127.0.0.1"), state_dir=self.folder / "state", keys=self.folder / "keys"
        )
        self.controller = Controller(config)
        self.controller._link = self.wire  # type: ignore[assignment]
        self.controller.seeder.publish_pages = self.offered.append  # type: ignore[method-assign]
        return self.controller

    def hears(self, topic: str, message: Message | bytes) -> None:
        c = self.controller
        handlers: dict[str, Callable[[str, bytes], None]] = {
            "conn": c._on_conn, "reported": c._on_reported, "tele": c._on_telemetry, "desired": c._on_desired,
        }  # fmt: skip
        payload = message if isinstance(message, bytes) else message.encode()
        c._guarded(handlers[topic.rsplit("/", 1)[-1]])(topic, payload)

    def born(self, device: str, epoch: int = 1) -> None:
        self.hears(T.conn(device), Conn(epoch=epoch, online=True, slots=("gate",)))

    def reports(self, device: str, epoch: int, seq: int, gen: int = 0, state: State = State.COMMITTED) -> None:
        slot = ReportedSlot(state=state, gen=gen)
        self.hears(T.reported(device), Reported(epoch=epoch, seq=seq, gen=gen, slots={"gate": slot}))

    def rollout(self, version: str, *devices: str) -> str:
        release = f"gate@{version}"
        self.controller.inventory.save_release(Release(release, DIGEST[version], (), self.now))
        return self.controller.start_rollout(RolloutRequest(release=release, slot="gate", devices=devices, canary=9)).id

    def tick(self) -> None:
        self.now += 1
        self.controller.tick(self.now)

    def told(self, device: str) -> Desired | None:
        payload = self.wire.retained.get(T.desired(device))
        return None if payload is None else self.controller.director.open(device, payload)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.controller.inventory.close()


# ---- steps that are cut off


def test_every_admitted_device_is_told_although_the_broker_was_full_in_the_middle(world: World) -> None:
    for i in range(5):
        world.born(f"d{i}")
    rollout = world.rollout("1")
    world.wire.takes = 2
    with pytest.raises(LinkError):
        world.tick()
    world.wire.takes = 100
    world.tick()
    for i in range(5):
        wish = world.told(f"d{i}")
        assert wish is not None
        assert wish.slots["gate"].release == "gate@1"
        assert world.controller.rollout(rollout)[1].members[f"d{i}"].outcome is Outcome.ADMITTED


def test_step_that_a_kill_cuts_off_is_taken_whole_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.born("d0")
    rollout = world.rollout("1")

    def killed(*_: object) -> None:
        raise StorageError("killed")

    with monkeypatch.context() as m:
        m.setattr("edgectl.fleet.inventory._device_values", killed)
        with pytest.raises(StorageError):
            world.tick()
    world.controller.inventory.close()
    world.boot()
    progress = world.controller.rollout(rollout)[1]
    assert not progress.members, "nobody counts as admitted who was not told"
    world.tick()
    assert world.told("d0") is not None


def test_wish_that_was_saved_and_not_published_is_published_after_a_start(world: World) -> None:
    world.born("d0")
    world.rollout("1")
    world.wire.is_up = False
    world.tick()
    assert world.told("d0") is None
    world.controller.inventory.close()
    world.boot()
    world.wire.is_up = True
    world.controller._on_up()
    world.tick()
    assert world.told("d0") is not None


def test_release_that_is_not_whole_here_keeps_no_wish_from_a_broker_that_forgot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.born("d0")
    world.rollout("1")  # of whose blobs none was ever uploaded
    world.tick()
    world.controller.inventory.save_release(Release("other@1", DIGEST["2"], (), 2.0))

    def closure(digest: str) -> list[object]:
        if digest == DIGEST["1"]:
            raise BundleError("the index is missing")
        return []

    monkeypatch.setattr(world.controller.blobs, "closure", closure)
    world.wire.retained.clear()
    world.controller._on_up()
    world.tick()
    assert world.told("d0") is not None
    assert world.offered == [DIGEST["2"]]


def test_everything_is_published_again_although_the_broker_went_away_in_the_middle(world: World) -> None:
    for i in range(3):
        world.born(f"d{i}")
    world.rollout("1")
    world.tick()
    world.controller.inventory.drop_release("gate@1")
    world.wire.retained.clear()
    world.controller._on_up()
    world.wire.takes = 3
    with pytest.raises(LinkError):
        world.tick()
    world.wire.takes = 100
    world.tick()
    assert all(world.told(f"d{i}") for i in range(3))


def test_renewed_metadata_that_the_broker_did_not_take_are_sent_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    renewals = iter([True])
    monkeypatch.setattr(world.controller.trust, "renew", lambda: next(renewals, False))
    world.wire.takes = 0
    with pytest.raises(LinkError):
        world.tick()
    world.wire.takes = 100
    world.tick()
    assert T.trust in world.wire.retained


def test_newer_word_of_ours_on_the_broker_is_put_back_where_an_older_one_was_written_over_it(world: World) -> None:
    """The database is an old backup: it says what was wanted then before the broker has told it better."""
    world.born("d0")
    world.rollout("1")
    world.tick()
    older = world.controller._devices["d0"].desired
    newer = older.model_copy(update={"gen": 9})
    payload = world.controller.director.seal("d0", newer).payload
    world.controller._on_up()
    world.tick()
    world.hears(T.desired("d0"), payload)
    world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert wish.gen == 9


def test_older_word_of_ours_that_somebody_replays_is_written_over(world: World) -> None:
    world.born("d0")
    world.rollout("1")
    world.tick()
    old = world.wire.retained[T.desired("d0")]
    world.controller.change_rollout("gate-1", "abort")
    world.tick()
    newest = world.wire.retained[T.desired("d0")]
    assert newest != old
    world.wire.retained[T.desired("d0")] = old
    world.hears(T.desired("d0"), old)
    world.tick()
    assert world.wire.retained[T.desired("d0")] == newest


# ---- what devices say


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
    assert set(world.controller._devices) == {"d0"}


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
