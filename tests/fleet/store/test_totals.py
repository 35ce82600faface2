from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.postgres import postgres, store_url  # noqa: F401, fixtures

from edgectl.core.histogram import Histogram, HistogramData
from edgectl.core.wire import StreamStats, Telemetry
from edgectl.fleet.config import TelemetryRetention
from edgectl.fleet.store import migrate, telemetry, totals
from edgectl.fleet.store.database import open_engine
from edgectl.fleet.store.inventory import Device, Inventory
from edgectl.fleet.store.rollup import DAY_S, HOUR_S, LatencyClass
from edgectl.fleet.store.telemetry import ARRIVAL, DEVICE
from edgectl.fleet.store.totals import TotalsQuery

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NOW = 1_800_000_000.0 // DAY_S * DAY_S + 12.5 * HOUR_S
RETENTION = TelemetryRetention(raw_hours=2, hourly_days=2, daily_days=10)
ALL = TotalsQuery()


def told(seq: int, wall_s: float | None = NOW, *us: float, digest: str = A, **changes: Any) -> Telemetry:
    h = Histogram()
    for value in us or (1000.0,):
        h.record(value)
    of_stream = {k: changes.pop(k) for k in ("stand_ins", "slots") if k in changes}
    stats = StreamStats(kind="sound", **{"slots": {"gate": digest}, **of_stream}, stages={"engine": h.data()})
    changes = {"epoch": 1, "streams": {"gate": stats}, **changes}
    return Telemetry(seq=seq, wall_s=wall_s, window_s=60.0, **changes)


def keep(
    inventory: Inventory, t: Telemetry, now_s: float = NOW, device: str = "d0", profile: str = "jetson-orin"
) -> None:
    """As it came at ``now_s``."""
    inventory._said.note_telemetry(telemetry.message(device, t, now_s, RETENTION, profile=profile))


def count(inventory: Inventory) -> None:
    while inventory.count_telemetry() is not None:
        pass


def samples(inventory: Inventory, query: TotalsQuery = ALL) -> dict[LatencyClass, int]:
    found = inventory.totals(query, 1000)
    return {of: sum(t.histogram.n for t in spans) for of, spans in found.items()}


@pytest.fixture
def inventory(tmp_path: Path, store_url: str | None) -> Iterator[Inventory]:
    inventory = Inventory(tmp_path, store_url, RETENTION)
    yield inventory
    inventory.close()


def test_devices_of_one_class_add_up_and_other_conditions_are_other_classes(inventory: Inventory) -> None:
    keep(inventory, told(1, NOW, 1000, 2000))
    keep(inventory, told(1, NOW, 4000), device="d1")
    keep(inventory, told(2, digest=B))
    keep(inventory, told(3), profile="cpu")
    keep(inventory, told(4, power_mode="15W"))
    keep(inventory, told(5, throttled=("thermal", "power")))
    keep(inventory, told(6, stand_ins={"gate": "low-power"}))
    count(inventory)
    usual = LatencyClass("gate", A, "jetson-orin", "engine")
    assert samples(inventory) == {
        usual: 3,
        LatencyClass("gate", B, "jetson-orin", "engine"): 1,
        LatencyClass("gate", A, "cpu", "engine"): 1,
        LatencyClass("gate", A, "jetson-orin", "engine", power_mode="15W"): 1,
        LatencyClass("gate", A, "jetson-orin", "engine", throttled=True): 1,
        LatencyClass("gate", A, "jetson-orin", "engine", preference="low-power"): 1,
    }
    assert samples(inventory, TotalsQuery(throttled=True)).keys() == {
        LatencyClass("gate", A, "jetson-orin", "engine", throttled=True)
    }
    assert len(samples(inventory, TotalsQuery(digest=A, profile="jetson-orin", power_mode=""))) == 3
    assert samples(inventory, TotalsQuery(slot="other")) == {}


def test_late_message_counts_in_the_hour_in_which_it_was_measured(inventory: Inventory) -> None:
    keep(inventory, told(1, NOW - 30 * HOUR_S, replay=True))
    keep(inventory, told(2, NOW))
    keep(inventory, told(3, None, replay=True))
    count(inventory)
    (spans,) = inventory.totals(ALL, 9).values()
    assert [(t.start_s, t.clock) for t in spans] == [
        (NOW - 30.5 * HOUR_S, DEVICE),
        (NOW - HOUR_S / 2, ARRIVAL),
        (NOW - HOUR_S / 2, DEVICE),
    ]
    since = inventory.totals(TotalsQuery(since_s=NOW - HOUR_S), 9)
    assert sum(len(x) for x in since.values()) == 2
    assert samples(inventory, TotalsQuery(until_s=NOW - 20 * HOUR_S)) == {
        LatencyClass("gate", A, "jetson-orin", "engine"): 1
    }


def test_message_that_comes_again_after_its_row_is_gone_counts_once(inventory: Inventory) -> None:
    keep(inventory, told(1))
    count(inventory)
    for at in (NOW + 6 * HOUR_S, NOW + 40 * HOUR_S):
        while inventory.retain(at):
            pass
        keep(inventory, told(1, replay=True), at)
        count(inventory)
        assert list(samples(inventory).values()) == [1]
    keep(inventory, told(2), NOW + 41 * HOUR_S)
    count(inventory)
    assert list(samples(inventory).values()) == [2]


def test_device_that_counts_its_starts_anew_is_believed_again(inventory: Inventory) -> None:
    keep(inventory, told(1))
    count(inventory)
    while inventory.retain(NOW + 6 * HOUR_S):
        pass
    inventory.forget_start("d0")
    keep(inventory, told(1, NOW + 7 * HOUR_S), NOW + 7 * HOUR_S)
    count(inventory)
    assert list(samples(inventory).values()) == [2]


def test_piece_that_is_cut_off_is_counted_whole_the_next_time(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seq in range(3):
        keep(inventory, told(seq))
    inventory.flush()
    with monkeypatch.context() as m:
        m.setattr(totals, "bindparam", None)  # fails after the sums were written
        with pytest.raises(TypeError):
            inventory.count_telemetry()
    assert samples(inventory) == {}
    count(inventory)
    assert list(samples(inventory).values()) == [3]


def test_what_was_counted_is_told_piece_by_piece(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "_PIECE", 2)
    for seq in range(5):
        keep(inventory, told(seq, NOW - seq * HOUR_S, replay=True))
    pieces = []
    while (piece := inventory.count_telemetry()) is not None:
        pieces.append([h.n for h in piece.values()])
    assert pieces == [[2], [2], [1]]


def test_hours_become_days_and_days_end(inventory: Inventory) -> None:
    for i in range(4):
        keep(inventory, told(i, NOW + i * HOUR_S), NOW + i * HOUR_S)
    count(inventory)
    while inventory.retain(NOW + 4 * DAY_S):
        pass
    (spans,) = inventory.totals(ALL, 9).values()
    assert [(t.span_s, t.start_s, t.histogram.n) for t in spans] == [(DAY_S, NOW - 12.5 * HOUR_S, 4)]
    while inventory.retain(NOW + 12 * DAY_S):
        pass
    assert inventory.totals(ALL, 9) == {}


def test_pages_follow_each_other_without_a_gap(inventory: Inventory) -> None:
    for i in range(7):
        keep(inventory, told(i, slots={f"slot-{i}": A}))
    count(inventory)
    pages = [list(inventory.totals(ALL, 3, after)) for after in (0, 3, 6, 9)]
    assert [len(p) for p in pages] == [3, 3, 1, 0]
    assert sorted(of.slot for p in pages for of in p) == [f"slot-{i}" for i in range(7)]


def test_device_that_makes_names_up_crowds_out_only_itself(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(totals, "BROUGHT", 5)
    for i in range(20):
        keep(inventory, told(i, slots={f"made-up-{i}": A}))
    for i in range(3):
        keep(inventory, told(i), device=f"honest-{i}")
    count(inventory)
    found = samples(inventory)
    assert sum(of.slot.startswith("made-up") for of in found) == 5
    assert found[LatencyClass("gate", A, "jetson-orin", "engine")] == 3
    assert "d0: 15 classes of latency are left out" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "a\0b", "𐐷" * 300],
)
def test_names_that_a_database_does_not_take_stop_nobody(inventory: Inventory, name: str) -> None:
    keep(inventory, told(1, slots={name: name}, power_mode=name[:256]), profile=name)
    keep(inventory, told(1), device="d1")
    count(inventory)
    while inventory.retain(NOW + 6 * HOUR_S):
        pass
    assert samples(inventory)[LatencyClass("gate", A, "jetson-orin", "engine")] == 1
    assert len(inventory.measurements("d0")) == 1


def test_device_that_claims_to_have_measured_the_world_leaves_room_for_others(inventory: Inventory) -> None:
    most = HistogramData(offset=3, counts=((1 << 53) - 1,))
    stats = StreamStats(kind="sound", slots={"gate": A}, stages={"engine": most})
    keep(inventory, Telemetry(epoch=1, seq=1, window_s=60.0, streams={"gate": stats}))
    keep(inventory, told(1), device="d1")
    count(inventory)
    assert list(samples(inventory).values()) == [1]


def test_device_that_is_purged_leaves_no_name(inventory: Inventory) -> None:
    keep(inventory, told(1))
    count(inventory)
    inventory.archive(Device("d0"), purge=True)
    assert list(samples(inventory).values()) == [1]
    assert inventory._db.read(lambda db: db.execute(text("SELECT founder FROM telemetry_totals")).all()) == [
        ("",)
    ]


def test_messages_from_before_the_totals_count_with_the_profile_of_their_device(
    tmp_path: Path, store_url: str | None
) -> None:
    engine = open_engine(store_url or f"sqlite:///{tmp_path / 'fleet.db'}")
    row = telemetry.message("d0", told(1), NOW, RETENTION)
    with engine.begin() as db:
        migrate.upgrade(db, "0004")
        conn = '{"epoch":1,"online":true,"profile":"jetson-orin"}'
        db.execute(text("INSERT INTO devices (name, conn, seen_s) VALUES ('d0', :c, 0)"), {"c": conn})
        names = ("device", "epoch", "seq", "kept_s", "wall_s", "bytes", "message")
        values = ", ".join(f":{n}" for n in names)
        db.execute(
            text(f"INSERT INTO telemetry_raw ({', '.join(names)}) VALUES ({values})"),
            {n: row[n] for n in names},
        )
    engine.dispose()
    inventory = Inventory(tmp_path, store_url, RETENTION)
    count(inventory)
    assert samples(inventory) == {LatencyClass("gate", A, "jetson-orin", "engine"): 1}
    inventory.close()
