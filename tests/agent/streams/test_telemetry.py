from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from conftest import Broker, free_port, start_mosquitto
from support.fleet import wait_until

from edgectl.agent.machine.watch import MachineWindow
from edgectl.agent.streams.telemetry import TelemetryCollector, by_slot, machine_health, telemetry_payload
from edgectl.core.histogram import Histogram
from edgectl.core.resources import Resources
from edgectl.core.wire import Frames, StreamStats, Telemetry
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.link.spool import Spool, SpoolSender
from edgectl.pipelines.host.protocol import Stats

MACHINE = MachineWindow(Resources(throttled_share=0.25), "15W", ("under-voltage",))


def stats(processed: int, n: int = 10, window_s: float = 2.0) -> Stats:
    h = Histogram()
    for _ in range(n):
        h.record(5000)
    s = StreamStats(
        kind="surveillance",
        stages={"engine": h.data()},
        frames=Frames(captured=processed, processed=processed),
    )
    return Stats(stream="yard", window_s=window_s, stats=s, rss_mb=10, cpu_s=1)


def window(c: TelemetryCollector, **states: tuple[str, str | None]) -> Telemetry:
    return c.window(10, states, dict.fromkeys(states, "surveillance"), {}, 0, MACHINE)


def test_window_adds_histograms_and_keeps_totals() -> None:
    c = TelemetryCollector(epoch=7)
    for processed in (20, 40, 60):
        c.record("yard", stats(processed), "yard")
    first = window(c, yard=("running", None))
    yard = first.streams["yard"]
    assert Histogram.of(yard.stages["engine"]).n == 30
    assert yard.frames.processed == 60
    assert yard.fps == pytest.approx(10)
    c.record("yard", stats(80), "yard")
    second = window(c, yard=("running", None))
    assert Histogram.of(second.streams["yard"].stages["engine"]).n == 10, "each sample is sent once"
    assert second.streams["yard"].fps == pytest.approx(10)
    assert (second.epoch, second.seq) == (7, 2)


def test_what_stood_in_for_an_engine_in_a_part_of_the_window_is_told() -> None:
    c = TelemetryCollector(epoch=1)
    low = stats(20)
    low = low.model_copy(
        update={"stats": low.stats.model_copy(update={"stand_ins": {"detector": "low-power"}})}
    )
    c.record("yard", by_slot(low, {"detector": "gate"}), "yard")
    c.record("yard", stats(40), "yard")
    assert window(c, yard=("running", None)).streams["yard"].stand_ins == {"gate": "low-power"}
    c.record("yard", stats(60), "yard")
    assert window(c, yard=("running", None)).streams["yard"].stand_ins == {}


def test_parts_become_slots_on_the_wire() -> None:
    h = Histogram().data()
    s = StreamStats(
        kind="speech",
        slots={"vad": "sha256:1", "keyword": "sha256:2"},
        releases={"vad": "silero@5"},
        stages={"engine:vad": h, "engine:keyword": h, "decode": h},
    )
    t = by_slot(
        Stats(stream="yard", window_s=1, stats=s, rss_mb=1, cpu_s=1),
        {"vad": "kiosk-vad", "keyword": "kiosk-words"},
    ).stats
    assert t.slots == {"kiosk-vad": "sha256:1", "kiosk-words": "sha256:2"}
    assert t.releases == {"kiosk-vad": "silero@5"}
    assert set(t.stages) == {"engine:kiosk-vad", "engine:kiosk-words", "decode"}


def test_silent_stream_is_reported_with_its_reason() -> None:
    t = window(TelemetryCollector(epoch=1), yard=("waiting", "a slot has no engine yet"))
    assert (t.streams["yard"].state, t.streams["yard"].reason) == ("waiting", "a slot has no engine yet")
    assert t.streams["yard"].stages == {}


def test_rate_survives_a_worker_restart() -> None:
    c = TelemetryCollector(epoch=1)
    c.record("yard", stats(1000), "yard")
    window(c, yard=("running", None))
    c.record("yard", stats(20), "yard")
    assert window(c, yard=("running", None)).streams["yard"].fps == pytest.approx(10)


def test_health_has_only_what_is_known(tmp_path: Path) -> None:
    found = machine_health(tmp_path)
    assert {"load1", "memory_available_mb", "disk_free_mb"} <= set(found)
    assert all(v == v for v in found.values()), "no NaN"


def test_spooled_messages_arrive_once_the_broker_is_there_and_are_marked_as_late(tmp_path: Path) -> None:
    port, now = free_port(), 1e9
    spool = Spool(tmp_path / "s.db")
    spool.put("tele", "t/tele", Telemetry(epoch=1, seq=1, window_s=1).encode(), now)
    spool.put("event", "t/ev", b'{"event": 1}', now)
    link = Link(BrokerOptions("127.0.0.1", port), "dev")
    sender = SpoolSender(spool, link, payload=lambda row: telemetry_payload(row, now + 500))
    link.start()
    sender.thread.start()
    received: dict[str, bytes] = {}
    broker: Broker = start_mosquitto(tmp_path, port)
    with Link(BrokerOptions("127.0.0.1", port), "watcher") as watcher:
        watcher.subscribe("t/#", received.__setitem__)
        watcher.connect()
        wait_until(lambda: len(received) == 2, "both arrive")
    wait_until(lambda: not spool.oldest(1), "acknowledged messages leave the spool")
    assert Telemetry.model_validate_json(received["t/tele"]).replay
    assert received["t/ev"] == b'{"event": 1}'
    sender.stop()
    sender.thread.join(10)
    link.close()
    spool.close()
    broker.process.terminate()
    broker.process.wait()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("payload", b'{"epoch": 1, "seq"'),
        ("payload", b"\xff\xfe"),
        ("topic", "t/#"),
        ("topic", ""),
        ("created", "yesterday"),
    ],
)
def test_message_that_has_rotted_in_the_spool_is_dropped_and_ends_no_thread(
    mosquitto: Broker, tmp_path: Path, column: str, value: object
) -> None:
    """A sender that ends takes the agent with it, and the next start would find the same row."""
    spool = Spool(tmp_path / "s.db")
    spool.put("tele", "t/tele", Telemetry(epoch=1, seq=1, window_s=1).encode(), 1e9)
    spool.put("tele", "t/tele", Telemetry(epoch=1, seq=2, window_s=1).encode(), 1e9)
    other = sqlite3.connect(tmp_path / "s.db")
    with other:
        other.execute(f"UPDATE spool SET {column} = ? WHERE id = 1", (value,))
    other.close()
    received: list[bytes] = []
    with (
        Link(BrokerOptions(mosquitto.host, mosquitto.port), "watcher") as watcher,
        Link(watcher.broker, "dev") as link,
    ):
        watcher.subscribe("t/#", lambda _topic, payload: received.append(payload))
        watcher.connect()
        link.connect()
        sender = SpoolSender(spool, link, payload=lambda row: telemetry_payload(row, 1e9 + 500))
        sender.thread.start()
        wait_until(lambda: received, "the one behind it arrives")
        wait_until(lambda: not spool.oldest(1), "both left the spool")
        sender.stop()
        sender.thread.join(10)
    assert [Telemetry.model_validate_json(p).seq for p in received] == [2]
    assert spool.dropped == 1
    assert spool.size == 0 or column == "payload", (
        "what a rotten row says of its size is not what was counted"
    )
    spool.close()


def test_crops_of_a_second_stage_are_those_of_its_slot() -> None:
    s = stats(10)
    more = {"crops": {"gear": Frames(captured=4, processed=4)}, "slots": {"detector": "d", "gear": "g"}}
    s = s.model_copy(update={"stats": s.stats.model_copy(update=more)})
    renamed = by_slot(s, {"detector": "gate", "gear": "gate-gear"}).stats
    assert (set(renamed.crops), renamed.slots) == ({"gate-gear"}, {"gate": "d", "gate-gear": "g"})


def test_machine_goes_along_with_its_power_mode_and_what_slowed_it_down() -> None:
    told = window(TelemetryCollector(1))
    assert told.resources == Resources(throttled_share=0.25)
    assert (told.power_mode, told.throttled) == ("15W", ("under-voltage",))
