from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
from conftest import Broker, free_port, start_mosquitto
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fleet import wait_until
from support.forwarder import Forwarder

from edgectl.core.errors import StorageError
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.link.spool import Kind, Spool, SpoolSender

NOW = 1.7e9


def topics(spool: Spool) -> list[str]:
    return [r.topic for r in spool.oldest(1000)]


def test_what_is_not_acknowledged_survives_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db")
    for i in range(3):
        spool.put("tele", f"t{i}", b"x", 100.0 + i)
    spool.delete(spool.oldest(1)[0])
    spool.close()
    spool = Spool(tmp_path / "s.db")
    assert topics(spool) == ["t1", "t2"]
    assert spool.size == 2
    spool.close()


def test_events_go_first_and_are_dropped_last(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", max_bytes=100)
    for i in range(5):
        spool.put("tele", f"t{i}", b"x" * 20, float(i))
    spool.put("event", "e0", b"x" * 20, 5.0)
    assert topics(spool) == ["e0", "t1", "t2", "t3", "t4"]
    for i in range(1, 8):
        spool.put("event", f"e{i}", b"x" * 20, 5.0 + i)
    assert topics(spool) == ["e3", "e4", "e5", "e6", "e7"]
    assert spool.dropped == 8
    spool.close()


def test_old_messages_go_by_age(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.db", max_age_s=10)
    spool.put("event", "old", b"x", NOW)
    spool.put("event", "new", b"x", NOW + 11.0)
    assert topics(spool) == ["new"]
    spool.close()


def test_what_was_written_before_the_clock_was_set_does_not_go_when_it_is(tmp_path: Path) -> None:
    """A device without a battery for its clock was offline: the time comes back with the network, just
    before the events can go."""
    spool = Spool(tmp_path / "s.db", max_age_s=10, max_bytes=100)
    spool.put("event", "offline", b"x", 3600.0)
    spool.put("event", "now", b"x", NOW)
    assert topics(spool) == ["offline", "now"]
    spool.put("event", "much", b"x" * 99, NOW + 1)
    assert topics(spool) == ["much"] or topics(spool) == ["now", "much"], (
        "it counts against the bytes as ever"
    )
    spool.close()


def test_corrupt_database_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"rubbish" * 1000)
    spool = Spool(path)
    spool.put("event", "e", b"x", 0.0)
    assert topics(spool) == ["e"]
    assert (tmp_path / "s.corrupt").read_bytes().startswith(b"rubbish")
    spool.close()


def test_corrupt_database_on_a_disk_that_takes_nothing_stops_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flash at its end corrupts files first and goes read-only then."""
    path = tmp_path / "s.db"
    path.write_bytes(b"rubbish" * 1000)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    spool = Spool(path)
    spool.put("event", "e", b"x", 0.0)
    assert topics(spool) == ["e"]
    spool.close()


def test_page_that_has_rotted_in_the_middle_stops_no_agent(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    spool = Spool(path)
    for i in range(300):
        spool.put("tele", f"t{i}", bytes(300), NOW)
    spool._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    spool.close()
    whole = path.read_bytes()
    for page in range(1, len(whole) // 4096):
        path.write_bytes(whole[: page * 4096] + b"\xeb" * 4096 + whole[(page + 1) * 4096 :])
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        spool = Spool(path)
        spool.put("event", "after", b"x", NOW)
        assert "after" in topics(spool)
        spool.close()


KINDS: list[Kind] = ["tele", "update", "event"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 60)), max_size=40))
def test_bounds_hold_and_nothing_is_dropped_before_what_matters_less(
    messages: list[tuple[Kind, int]],
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "s.db", max_bytes=200)
        for i, (kind, size) in enumerate(messages):
            before = [r.kind for r in spool.oldest(1000)] + [kind]
            spool.put(kind, f"{i}", b"x" * size, float(i))
            rows = spool.oldest(1000)
            assert sum(len(r.payload) for r in rows) == spool.size <= 200
            now = [r.kind for r in rows]
            for worth, each in enumerate(KINDS):
                if now.count(each) < before.count(each):
                    assert not any(KINDS.index(k) < worth for k in now)
            events = [r.id for r in rows if r.kind != "tele"]
            assert events == sorted(events)
        spool.close()


def test_events_arrive_in_order_and_none_is_lost_when_the_broker_is_killed_twice(tmp_path: Path) -> None:
    port = free_port()
    spool = Spool(tmp_path / "s.db")
    received: list[int] = []
    broker = start_mosquitto(tmp_path, port)
    way = Forwarder(free_port(), port)
    way.join()
    watching = threading.Event()
    with (
        Link(BrokerOptions("127.0.0.1", port), "watcher", max_backoff_s=0.2) as watcher,
        Link(BrokerOptions("127.0.0.1", way.port), "dev", max_backoff_s=0.2) as link,
    ):
        watcher.subscribe("e", lambda _, payload: received.append(int(payload)))
        watcher.subscribe("watching", lambda *_: watching.set())

        def hears_itself() -> bool:
            watcher.publish("watching", b"")
            return watching.is_set()

        watcher.connect()
        link.connect()
        sender = SpoolSender(spool, link)
        sender.thread.start()
        for i in range(300):
            spool.put("update" if i % 3 else "event", "e", str(i).encode(), NOW)
            sender.nudge()
            if i in (100, 200):
                # what a broker had acknowledged and not passed on would be its loss, not ours
                wait_until(lambda n=i: received[-1:] == [n], "all so far arrived")
                broker.process.kill()
                broker.process.wait()
                way.cut()
            if i in (150, 250):
                broker = start_mosquitto(tmp_path, port)
                watching.clear()
                wait_until(hears_itself, "who counts is back")
                way.join()
        wait_until(lambda: not spool.oldest(1), "the broker has all", 60)
        wait_until(lambda: bool(received) and received[-1] == 299, "the last arrived")
        sender.stop()
        sender.thread.join(10)
    way.cut()
    spool.close()
    broker.process.terminate()
    broker.process.wait()
    assert list(dict.fromkeys(received)) == list(range(300))


def test_what_the_sender_handed_over_is_not_handed_over_again(tmp_path: Path, mosquitto: Broker) -> None:
    spool = Spool(tmp_path / "s.db")
    received: list[bytes] = []
    broker = BrokerOptions(mosquitto.host, mosquitto.port)
    with Link(broker, "watcher") as watcher, Link(broker, "dev") as link:
        watcher.subscribe("e", lambda _, payload: received.append(payload))
        watcher.connect()
        link.connect()
        sender = SpoolSender(spool, link)
        for i in range(25):
            spool.put("event", "e", str(i).encode(), NOW)
        mosquitto.process.send_signal(signal.SIGSTOP)
        assert sender._send()
        assert sender._send()  # no answer has come: it waits for that, and says nothing twice
        assert len(spool.oldest(30)) == 25
        mosquitto.process.send_signal(signal.SIGCONT)
        while sender._send():
            pass
        wait_until(lambda: len(received) >= 25, "all arrive")
    assert received == [str(i).encode() for i in range(25)]
    spool.close()


def test_spool_gives_its_files_up_and_goes_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    for i in range(8):
        spool.put("tele", "t", bytes(100_000), float(i))
    before = spool.oldest(1)[0]
    assert spool.give_way()
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 200_000
    assert (spool.size, spool.dropped, spool.oldest(9)) == (0, 8, [])
    spool.put("event", "t", b"after", 100.0)
    # its acknowledgement comes late, and the new file counts from one again
    spool.delete(before)
    assert [r.payload for r in spool.oldest(9)] == [b"after"]
    assert not spool.give_way(), "there is nothing to gain"
    spool.close()


def test_files_that_cannot_be_removed_do_not_end_telemetry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool.db")
    for i in range(8):
        spool.put("tele", "t", bytes(100_000), float(i))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as m:
        m.setattr(Path, "unlink", refuse)
        with pytest.raises(StorageError):
            spool.give_way()
    spool.put("tele", "t", b"after", 9.0)
    assert spool.oldest(20)[-1].payload == b"after"
    assert (spool.size, spool.dropped) == (800_005, 0)
    spool.close()


def test_write_ahead_log_stays_small(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", max_bytes=1 << 20)
    for i in range(200):
        spool.put("tele", "t", bytes(20_000), float(i))
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 2 << 20
    spool.close()


def test_spool_and_its_log_are_private(tmp_path: Path) -> None:
    (tmp_path / "s.db").touch(mode=0o644)
    spool = Spool(tmp_path / "s.db")
    spool.put("event", "t", b"who was seen where", NOW)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    spool.close()
    assert {"s.db", "s.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}
