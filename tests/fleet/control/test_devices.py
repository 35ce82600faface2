"""What the controller makes of what devices say, and of what somebody says on their topics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.controller import T, World

from edgectl.core.errors import UsageError
from edgectl.core.histogram import HistogramData
from edgectl.core.states import State
from edgectl.core.wire import MAX_GEN, Conn, Desired, Reported, ReportedSlot, StreamStats, Telemetry
from edgectl.fleet.rollouts.planner import DeviceOutcome
from edgectl.fleet.store.totals import TotalsQuery


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
    """It could not be answered: the first rollout would end the controller, and every start of it after
    that."""
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


def test_newer_word_of_ours_counts_although_an_older_one_is_on_its_way_to_take_its_place(
    world: World,
) -> None:
    """The database is an older one: everything is published again while the broker still sends what it had
    kept."""
    world.born("d0")
    world.rollout("1")
    world.tick()
    told = world.told("d0")
    assert told is not None
    newer = world.controller.director.seal("d0", told.model_copy(update={"gen": 5})).payload

    def meanwhile(topic: str) -> None:
        if topic == T.desired("d0"):
            world.wire.on_publish = lambda _: None
            world.wire.deliver(topic, newer)

    world.wire.on_publish = meanwhile
    world.controller._on_up()
    world.tick()
    world.tick()
    told = world.told("d0")
    assert told is not None
    assert told.gen == 5


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
    told = [e.text for e in world.controller.inventory.events() if e.kind == "broker"]
    assert len([t for t in told if "not ours was on the broker" in t]) == 2


def test_rubbish_in_a_fleet_without_a_director_is_written_over_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.born("d0")
    world.rollout("1")
    world.tick()
    monkeypatch.setattr("edgectl.fleet.keys.trust.director_keys", lambda _: None)
    world.hears(T.desired("d0"), b"{")
    world.wire.retained.clear()
    world.tick()
    assert Desired.model_validate_json(world.wire.retained[T.desired("d0")]).slots["gate"].release == "gate@1"


# ---- presence needs evidence


def beat(
    world: World, device: str = "d0", instance: str = "a", epoch: int = 1, address: str = "10.0.0.5"
) -> None:
    """A birth or heartbeat; the device promises one every 30 s."""
    conn = Conn(
        epoch=epoch,
        online=True,
        slots=("gate",),
        heartbeat_s=30.0,
        instance=instance,
        host="gate",
        address=address,
    )
    world.hears(T.conn(device), conn)


def pass_by(world: World, seconds: float, *, up_for: float = 1e6) -> None:
    """The controller has heard everything of the next ``seconds``, and of the ``up_for`` before that."""
    now = time.monotonic()
    world.wire.hears = (now - up_for, now + seconds)
    world.tick()


def is_online(world: World, device: str = "d0") -> bool:
    conn = world.controller._devices[device].conn
    assert conn is not None
    return conn.online


def told(world: World, kind: str) -> list[str]:
    return [e.text for e in world.controller.inventory.events() if e.kind == kind]


def test_device_whose_will_died_with_the_broker_is_away_when_it_is_silent(world: World) -> None:
    beat(world)
    pass_by(world, 40)
    assert is_online(world)
    pass_by(world, 46)
    assert not is_online(world)
    assert any("nothing was heard" in text for text in told(world, "presence"))
    world.controller.inventory.close()
    world.boot()
    assert not is_online(world), "it is kept"
    beat(world)
    assert is_online(world)


def test_nobody_is_away_because_the_controller_hears_nothing(world: World) -> None:
    beat(world)
    world.wire.hears = None
    world.tick()
    assert is_online(world)
    # an hour later the broker is back, for ten seconds
    pass_by(world, 3600, up_for=-3590)
    assert is_online(world)


def test_two_machines_with_one_identity_are_told_of_and_neither_locks_the_other_out(world: World) -> None:
    beat(world, instance="true", epoch=5)
    world.hears(
        T.reported("d0"),
        Reported(epoch=5, seq=9, gen=0, instance="true", slots={"gate": ReportedSlot(state=State.COMMITTED)}),
    )
    beat(world, instance="copy", epoch=6, address="10.0.0.6")
    world.hears(
        T.reported("d0"),
        Reported(epoch=6, seq=1, gen=0, instance="copy", slots={"gate": ReportedSlot(state=State.IDLE)}),
    )
    assert world.controller.rivals("d0") == []
    beat(world, instance="true", epoch=5)
    assert {c.conn.address for c in world.controller.rivals("d0")} == {"10.0.0.5", "10.0.0.6"}
    assert world.controller.contested() == {"d0"}
    (text,) = told(world, "presence")
    assert "2 machines claim to be d0" in text
    assert "10.0.0.5" in text
    assert "10.0.0.6" in text
    world.hears(
        T.reported("d0"),
        Reported(epoch=5, seq=10, gen=0, instance="true", slots={"gate": ReportedSlot(state=State.FETCHING)}),
    )
    d = world.controller._devices["d0"]
    assert d.reported is not None
    assert d.reported.slots["gate"].state is State.IDLE, "the last to start counts while it is there"
    world.hears(T.conn("d0"), Conn(epoch=6, online=False, instance="copy"))
    assert is_online(world)
    assert d.reported.slots["gate"].state is State.FETCHING
    assert world.controller.rivals("d0") == []
    world.hears(
        T.reported("d0"),
        Reported(
            epoch=5, seq=11, gen=0, instance="true", slots={"gate": ReportedSlot(state=State.COMMITTED)}
        ),
    )
    assert d.reported.slots["gate"].state is State.COMMITTED
    assert any("only one machine" in text for text in told(world, "presence"))


def test_true_device_that_a_copy_declared_dead_is_there_with_its_next_heartbeat(world: World) -> None:
    """The controller was restarted meanwhile and has never heard of the true one."""
    beat(world, instance="copy", epoch=6)
    world.hears(T.reported("d0"), Reported(epoch=6, seq=50, gen=0, instance="copy"))
    world.hears(T.conn("d0"), Conn(epoch=6, online=False, instance="copy"))
    world.controller.inventory.close()
    world.boot()
    beat(world, instance="true", epoch=6)
    assert is_online(world)
    world.hears(
        T.reported("d0"),
        Reported(epoch=6, seq=2, gen=0, instance="true", slots={"gate": ReportedSlot(state=State.COMMITTED)}),
    )
    d = world.controller._devices["d0"]
    assert d.reported is not None
    assert d.reported.instance == "true"


def test_report_that_is_only_said_again_is_not_written_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat(world)
    world.reports("d0", 1, 1)
    saved: list[str] = []
    monkeypatch.setattr(world.controller.inventory, "note_device", lambda d: saved.append(d.name))
    beat(world)
    world.reports("d0", 1, 2)
    assert saved == []


def test_birth_that_a_crashed_broker_has_from_before_is_no_sign_of_life(world: World) -> None:
    """It writes what it retains once a minute: after a crash it may give out the start before this one, or
    one that ended."""
    beat(world, instance="before", epoch=5)
    beat(world, instance="now", epoch=6)
    world.wire.is_kept = True
    beat(world, instance="before", epoch=5)
    world.wire.is_kept = False
    assert world.controller.rivals("d0") == []
    pass_by(world, 46)
    assert not is_online(world)
    world.wire.is_kept = True
    beat(world, instance="now", epoch=6)
    assert not is_online(world), "nobody has said anything"
    beat(world, instance="after", epoch=7)
    assert is_online(world), "a start that was missed"
    world.wire.is_kept = False
    pass_by(world, 46)
    beat(world, instance="after", epoch=7)
    assert is_online(world)


def test_death_with_the_number_of_an_earlier_start_is_none_whoever_it_names(world: World) -> None:
    beat(world, epoch=5)
    world.hears(T.conn("d0"), Conn(epoch=4, online=False, instance="a"))
    assert is_online(world)
    world.hears(T.conn("d0"), Conn(epoch=5, online=False, instance="a"))
    assert not is_online(world)


# ---- what is retained


def test_desired_document_that_is_deleted_at_the_broker_is_put_back_and_told_of(world: World) -> None:
    world.born("d0")
    world.rollout("1")
    world.tick()
    ours = world.wire.retained.pop(T.desired("d0"))
    world.hears(T.desired("d0"), b"")
    world.tick()
    assert world.wire.retained[T.desired("d0")] == ours
    assert told(world, "broker") == ["its desired document was deleted at the broker, and is put back"]


def test_older_document_that_is_put_over_ours_is_told_of(world: World) -> None:
    world.born("d0")
    first = world.rollout("1")
    world.tick()
    old = world.wire.retained[T.desired("d0")]
    world.controller.change_rollout(first, "abort")
    world.tick()
    ours = world.wire.retained[T.desired("d0")]
    assert ours != old
    world.wire.publish(T.desired("d0"), old)
    world.tick()
    assert world.wire.retained[T.desired("d0")] == ours
    (text,) = told(world, "broker")
    assert text.startswith("generation 1 was put over its desired document")


# ---- devices that leave


def test_removed_device_leaves_fleet_broker_and_rollouts_and_is_archived(world: World) -> None:
    for device in ("d0", "d1"):
        world.born(device)
        world.reports(device, 1, 1)
    rollout = world.rollout("1")
    world.tick()
    assert world.controller.remove("d0") == [rollout]
    world.tick()
    assert {d.name for d in world.controller.devices()} == {"d1"}
    gone = world.controller.rollout(rollout)[1].members["d0"]
    assert (gone.outcome, gone.detail) == (DeviceOutcome.SKIPPED, "it left the fleet")
    assert [world.wire.retained[t] for t in (T.desired("d0"), T.conn("d0"), T.reported("d0"))] == [
        b"",
        b"",
        b"",
    ]
    (kept,) = world.controller.inventory.archived()
    assert kept.device.name == "d0"
    assert kept.device.reported is not None
    assert any(e.subject == "d0/gate" for e in world.controller.inventory.events(about="d0"))


def test_removed_device_that_still_speaks_is_not_let_in_and_told_of_once(world: World) -> None:
    world.born("d0")
    world.controller.remove("d0")
    for _ in range(3):
        world.born("d0", epoch=2)
        world.reports("d0", 2, 1)
        world.tick()
    assert world.controller.devices() == []
    assert len([text for text in told(world, "presence") if "was removed" in text]) == 1
    assert world.wire.retained[T.conn("d0")] == b""
    world.controller.inventory.close()
    world.boot()
    world.born("d0", epoch=3)
    assert world.controller.devices() == []


def test_removed_device_can_be_enrolled_again(world: World) -> None:
    world.born("d0", epoch=9)
    world.controller.remove("d0")
    assert world.controller.enroll("d0")["new"]
    world.born("d0", epoch=1)
    assert is_online(world)


def test_purged_device_leaves_no_trace_but_that_an_operator_removed_it(world: World) -> None:
    world.born("d0")
    world.reports("d0", 1, 1)
    world.controller.remove("d0", purge=True)
    (kept,) = world.controller.inventory.archived()
    assert (kept.device.conn, kept.device.reported) == (None, None)
    assert [(e.kind, e.text) for e in world.controller.inventory.events(about="d0")] == [
        ("device", "removed, and what was known of it purged")
    ]


def test_revoked_device_leaves_rollouts_and_joins_no_other_until_it_is_enrolled_again(world: World) -> None:
    world.born("d0")
    world.born("d1")
    rollout = world.rollout("1", "d0", "d1")
    world.tick()
    assert world.controller.revoke("d0") == [rollout]
    world.tick()
    gone = world.controller.rollout(rollout)[1].members["d0"]
    assert (gone.outcome, gone.detail) == (DeviceOutcome.SKIPPED, "it left the fleet")
    world.controller.inventory.close()
    world.boot()
    assert "d0" not in world.controller._devices.views()
    assert world.controller.is_revoked("d0")
    assert not world.controller.enroll("d0")["new"]
    assert "d0" in world.controller._devices.views()


def test_device_is_enrolled_twice_only_if_that_is_meant(world: World) -> None:
    world.controller.enroll("d0")
    with pytest.raises(UsageError, match="d0 is in the fleet already"):
        world.controller.enroll("d0")
    assert not world.controller.enroll("d0", again=True)["new"]


def test_what_a_device_measured_is_kept_once_whether_it_came_live_or_late(world: World) -> None:
    world.born("d0")
    stats = StreamStats(kind="sound", stages={"infer": HistogramData(offset=3, counts=(1, 2), sum_us=9.0)})
    live = Telemetry(epoch=1, seq=5, window_s=60.0, streams={"gate": stats})
    late = live.model_copy(update={"seq": 3, "replay": True})
    for message in (live, late, late, live):
        world.hears(T.telemetry("d0"), message)
    world.hears(T.telemetry("nobody"), live)
    assert [m.histogram.n for m in world.controller.inventory.measurements("d0")] == [3, 3]
    assert world.controller.inventory.measurements("nobody") == []


def test_totals_of_the_fleet_know_profile_and_whether_the_clock_was_believed(world: World) -> None:
    stats = StreamStats(kind="sound", stages={"infer": HistogramData(offset=3, counts=(1,), sum_us=9.0)})
    world.hears(T.conn("d0"), Conn(epoch=1, online=True, profile="jetson-orin"))
    world.hears(
        T.telemetry("d0"), Telemetry(epoch=1, seq=1, wall_s=time.time(), window_s=1, streams={"a": stats})
    )
    world.hears(T.reported("d0"), Reported(epoch=1, seq=1, gen=0, clock="untrusted"))
    world.hears(
        T.telemetry("d0"), Telemetry(epoch=1, seq=2, wall_s=time.time(), window_s=1, streams={"a": stats})
    )
    world.tick()
    ((of, spans),) = world.controller.inventory.totals(TotalsQuery(), 9).items()
    assert of.profile == "jetson-orin"
    assert sorted(t.clock for t in spans) == ["arrival", "device"]


def test_telemetry_with_a_number_that_no_database_holds_is_refused(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.born("d0")
    world.hears(T.telemetry("d0"), Telemetry(epoch=1, seq=2 * MAX_GEN, window_s=60.0))
    world.controller.inventory.flush()
    assert "telemetry of d0 has a number above" in caplog.text


def test_device_whose_state_was_replaced_is_counted_from_its_new_first_message(world: World) -> None:
    forgotten: list[str] = []
    world.controller.inventory.forget_start = forgotten.append  # type: ignore[method-assign]
    world.born("d0", epoch=9)
    world.born("d0", epoch=1)
    assert forgotten == ["d0"]
