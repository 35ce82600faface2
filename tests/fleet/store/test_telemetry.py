from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from support.postgres import postgres, store_url  # noqa: F401, fixtures

from edgectl.core.histogram import Histogram, HistogramData
from edgectl.core.wire import StreamStats, Telemetry
from edgectl.fleet.config import TelemetryRetention
from edgectl.fleet.store import telemetry
from edgectl.fleet.store.inventory import Device, Inventory
from edgectl.fleet.store.rollup import DAY_S, HOUR_S
from edgectl.fleet.store.telemetry import Measurement
from edgectl.fleet.store.totals import TotalsQuery

A = "sha256:" + "a" * 64
NOW = 1_800_000_000.0 // DAY_S * DAY_S + HOUR_S / 2
RETENTION = TelemetryRetention(raw_hours=2, hourly_days=2, daily_days=10)


def _window(seq: int, wall_s: float | None, *us: float, epoch: int = 1, **slots: str) -> Telemetry:
    h = Histogram()
    for value in us or (1000.0,):
        h.record(value)
    stats = StreamStats(kind="surveillance", slots=slots or {"gate": A}, stages={"infer": h.data()})
    return Telemetry(epoch=epoch, seq=seq, wall_s=wall_s, window_s=60.0, streams={"gate": stats})


def _keep(inventory: Inventory, t: Telemetry, now_s: float, device: str = "d0") -> None:
    """As it came at ``now_s``."""
    inventory._said.note_telemetry(telemetry.message(device, t, now_s, inventory._retention))
    inventory._telemetry_bytes = None


def _count(inventory: Inventory) -> None:
    while inventory.count_telemetry() is not None:
        pass


def _retain(inventory: Inventory, now_s: float) -> None:
    pieces = 0
    _count(inventory)
    while inventory.retain(now_s):
        pieces += 1
        assert pieces < 1000, "there is always more to do"


def _samples(found: list[Measurement]) -> int:
    return sum(m.histogram.n for m in found)


@pytest.fixture
def inventory(tmp_path: Path, store_url: str | None) -> Iterator[Inventory]:
    inventory = Inventory(tmp_path, store_url, RETENTION)
    yield inventory
    inventory.close()


def test_messages_become_hours_and_hours_days_and_days_end(inventory: Inventory) -> None:
    for i in range(6):
        _keep(inventory, _window(i, NOW + i * HOUR_S / 2), NOW + i * HOUR_S / 2)
    _retain(inventory, NOW + 3 * HOUR_S)
    assert Counter(m.span_s for m in inventory.measurements("d0")) == {HOUR_S: 1, 0: 5}
    _retain(inventory, NOW + 6 * HOUR_S)
    assert [(m.span_s, m.start_s, m.histogram.n) for m in inventory.measurements("d0")] == [
        (HOUR_S, NOW - HOUR_S / 2 + i * HOUR_S, n) for i, n in enumerate((1, 2, 2, 1))
    ]
    _retain(inventory, NOW + 4 * DAY_S)
    assert [(m.span_s, m.start_s, m.histogram.n) for m in inventory.measurements("d0")] == [
        (DAY_S, NOW - HOUR_S / 2, 6)
    ]
    _retain(inventory, NOW + 11 * DAY_S)
    assert inventory.measurements("d0") == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["d0", "d1"]),
            st.integers(0, 20),  # seq: some come twice
            st.integers(0, 5 * 24),  # hours that it is late
            st.integers(0, 6),  # hours that pass
            st.lists(st.floats(2, 1e6), min_size=1, max_size=4),
        ),
        max_size=20,
    )
)
def test_every_sample_counts_once_however_late_it_comes_and_whenever_it_is_merged(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, int, int, list[float]]],
) -> None:
    """Also long after the message is merged into its hour."""
    retention = RETENTION.model_copy(update={"daily_days": 40.0})
    now_s, kept, samples = NOW, set[tuple[str, int]](), Counter[str]()
    with contextlib.closing(Inventory(tmp_path_factory.mktemp("store"), None, retention)) as inventory:
        for device, seq, late_h, pass_h, values in steps:
            t = _window(seq, now_s - late_h * HOUR_S, *values).model_copy(update={"replay": late_h > 0})
            _keep(inventory, t, now_s, device)
            if (device, seq) not in kept:
                kept.add((device, seq))
                samples[device] += len(values)
            now_s += pass_h * HOUR_S
            _count(inventory)
            inventory.retain(now_s)
            for name in ("d0", "d1"):
                assert _samples(inventory.measurements(name)) == samples[name]
        _retain(inventory, now_s + 3 * DAY_S)
        for name in ("d0", "d1"):
            found = inventory.measurements(name)
            assert _samples(found) == samples[name]
            assert {m.span_s for m in found} <= {DAY_S}
        totals = inventory.totals(TotalsQuery(), 100)
        assert sum(t.histogram.n for of in totals.values() for t in of) == samples.total()


def test_whole_is_bounded_in_bytes_and_the_newest_is_what_stays(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_retention", RETENTION.model_copy(update={"telemetry_mb": 0.01}))
    for day in range(6):
        for i in range(30):
            at = NOW + day * DAY_S + i * 60
            _keep(inventory, _window(100 * day + i, at, *range(10, 3000, 30)), at)
        _retain(inventory, NOW + day * DAY_S + HOUR_S / 4)
        assert inventory._read(telemetry.size) <= 10_000
    found = inventory.measurements("d0")
    assert found[-1].start_s >= NOW + 5 * DAY_S - HOUR_S
    assert found[-1].span_s < DAY_S, "of today, more than a day's histogram is kept"


def test_device_that_makes_names_up_crowds_out_only_itself(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.fleet.store.telemetry._KEYS", 5)
    for i in range(20):
        _keep(inventory, _window(i, NOW, **{f"slot-{i}": A}), NOW)
    _keep(inventory, _window(1, NOW), NOW, "d1")
    _retain(inventory, NOW + 6 * HOUR_S)
    assert len(inventory.measurements("d0")) == 5
    assert len(inventory.measurements("d1")) == 1


@pytest.mark.parametrize(
    ("wall_s", "replay"),
    [
        (None, False),
        (None, True),
        (0.0, False),
        (NOW + DAY_S, False),
        (NOW - DAY_S, False),
        (NOW - 11 * DAY_S, True),
    ],
)
def test_clock_that_cannot_be_believed_counts_as_the_time_of_arrival(
    inventory: Inventory, wall_s: float | None, replay: bool
) -> None:
    _keep(inventory, _window(1, wall_s).model_copy(update={"replay": replay}), NOW)
    assert [m.start_s for m in inventory.measurements("d0")] == [NOW]
    _count(inventory)
    (spans,) = inventory.totals(TotalsQuery(), 9).values()
    assert [(t.clock, t.start_s) for t in spans] == [("arrival", NOW - HOUR_S / 2)]


def test_measurements_since_a_time_begin_with_the_span_that_holds_it(inventory: Inventory) -> None:
    for i in range(4):
        _keep(inventory, _window(i, NOW + i * HOUR_S), NOW + i * HOUR_S)
    _retain(inventory, NOW + 5 * HOUR_S)
    since = inventory.measurements("d0", NOW + HOUR_S)
    assert [m.start_s for m in since] == [NOW + (i - 0.5) * HOUR_S for i in (1, 2)] + [NOW + 3 * HOUR_S]


def test_device_that_is_purged_leaves_no_measurement(inventory: Inventory) -> None:
    for name in ("d0", "d1"):
        _keep(inventory, _window(1, NOW), NOW, name)
    _retain(inventory, NOW + 6 * HOUR_S)
    inventory.archive(Device("d0"), purge=True)
    inventory.archive(Device("d1"))
    assert inventory.measurements("d0") == []
    assert _samples(inventory.measurements("d1")) == 1


def test_piece_of_work_is_bounded(inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgectl.fleet.store.telemetry._PIECE", 3)
    for i in range(10):
        _keep(inventory, _window(1, NOW), NOW, f"d{i}")
    _count(inventory)
    assert inventory.retain(NOW + 6 * HOUR_S)
    raw = sum(m.span_s == 0 for i in range(10) for m in inventory.measurements(f"d{i}"))
    assert raw == 7


def test_device_that_says_to_have_measured_more_than_there_is_disturbs_nobody(
    inventory: Inventory, caplog: pytest.LogCaptureFixture
) -> None:
    most = HistogramData(offset=3, counts=((1 << 53) - 1,))
    stats = StreamStats(kind="sound", slots={"gate": A}, stages={"infer": most})
    for seq in (1, 2):
        _keep(inventory, Telemetry(epoch=1, seq=seq, window_s=60.0, streams={"gate": stats}), NOW)
    _keep(inventory, _window(1, NOW), NOW, "d1")
    _retain(inventory, NOW + 6 * HOUR_S)
    # as much as a histogram holds, and no more
    assert _samples(inventory.measurements("d0")) == (1 << 53) - 1
    assert _samples(inventory.measurements("d1")) == 1
    assert "calls of infer in one message are left out" in caplog.text
