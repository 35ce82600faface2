from __future__ import annotations

import pytest

from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import Conn, Failure, Frames, Reported, ReportedSlot, StreamStats, Telemetry
from edgectl.fleet.control.telemetry_view import LatencyBook, rows

D = "sha256:" + "a" * 64


def telemetry(seq: int, ms: float = 5, *, epoch: int = 1, replay: bool = False, digest: str = D) -> Telemetry:
    h = Histogram()
    for _ in range(100):
        h.record(ms * 1000)
    s = StreamStats(
        kind="surveillance",
        slots={"gate": digest},
        stages={"engine": h.data(), "decode": h.data()},
        frames=Frames(captured=120, processed=100, dropped={"deadline": 15, "queue": 5}),
        fps=10,
    )
    return Telemetry(epoch=epoch, seq=seq, window_s=10, streams={"yard": s}, replay=replay)


def test_row_shows_latency_of_the_engine_drops_and_the_slot() -> None:
    book = LatencyBook()
    assert book.add("cam", telemetry(1))
    slot = ReportedSlot(state=State.PROBATION, active=D, active_release="m@2")
    conn = Conn(epoch=1, online=True, slots=("gate",), streams={"yard": "surveillance"})
    (row,) = rows({"cam": (conn, Reported(epoch=1, seq=1, gen=1, slots={"gate": slot}))}, book)
    assert (row.device, row.stream, row.slot_state, row.release, row.dropped) == (
        "cam",
        "yard",
        "probation",
        "m@2",
        20,
    )
    assert row.p95_ms is None, "100 samples are not enough for p95"
    assert row.p50_ms is not None
    assert 4.9 < row.p50_ms < 5.1


def test_the_latency_of_a_lighter_variant_is_not_the_engines() -> None:
    book, t = LatencyBook(), telemetry(1)
    light = t.streams["yard"].model_copy(update={"stand_ins": {"gate": "low-power"}})
    assert book.add("cam", t.model_copy(update={"streams": {"yard": light}}))
    assert book.engine("gate", D).n == 0
    assert book.add("cam", telemetry(2))
    assert book.engine("gate", D).n == 100


def test_device_without_telemetry_has_its_streams_and_its_error() -> None:
    conn = Conn(epoch=1, online=False, streams={"yard": "surveillance"})
    slot = ReportedSlot(state=State.FAILED, error=Failure(code="storage", detail="disk full"))
    (row,) = rows({"cam": (conn, Reported(epoch=1, seq=1, gen=1, slots={"gate": slot}))}, LatencyBook())
    assert (row.online, row.state, row.error, row.kind) == (False, "unknown", "disk full", "surveillance")


def test_repeated_and_older_windows_are_counted_once() -> None:
    book = LatencyBook()
    assert book.add("cam", telemetry(2))
    assert not book.add("cam", telemetry(2))
    assert not book.add("cam", telemetry(1))
    assert book.add("cam", telemetry(1, epoch=2))
    assert book.engine("gate", D).n == 200


def test_replay_counts_in_the_totals_and_never_replaces_what_is_live() -> None:
    book = LatencyBook()
    book.add("cam", telemetry(5))
    assert book.add("cam", telemetry(3, ms=50, replay=True))
    assert book.latest["cam"].seq == 5
    assert book.stream("cam", "yard").n == 100
    assert book.engine("gate", D).n == 200
    assert book.engine("gate", D, frozenset({"other"})).n == 0


def test_engines_of_one_stream_are_kept_apart() -> None:
    book, other = LatencyBook(), "sha256:" + "b" * 64
    slow, fast = Histogram(), Histogram()
    for _ in range(10):
        slow.record(9000)
        fast.record(1000)
    stages = {"engine:vad": fast.data(), "engine:words": slow.data()}
    s = StreamStats(kind="speech", slots={"vad": D, "words": other}, stages=stages)
    book.add("kiosk", Telemetry(epoch=1, seq=1, window_s=1, streams={"desk": s}))
    assert 8.9 < (book.engine("words", other).percentile_ms(50) or 0) < 9.1
    assert 0.9 < (book.engine("vad", D).percentile_ms(50) or 0) < 1.1
    assert book.stream("kiosk", "desk").n == 20


def test_after_a_swap_the_row_speaks_of_the_engine_that_serves_now() -> None:
    book = LatencyBook()
    for seq, ms, digest in ((1, 5, D), (2, 50, "sha256:" + "b" * 64), (3, 5, D)):
        book.add("cam", telemetry(seq, ms=ms, digest=digest))
    assert book.stream("cam", "yard").percentile_ms(90) == pytest.approx(5, rel=0.02)
    assert book.engine("gate", D).n == 200


def test_device_that_makes_names_up_fills_no_memory_and_crowds_nobody_out() -> None:
    book = LatencyBook()
    book.add("honest", telemetry(1))
    h = Histogram()
    h.record(1000)
    for seq in range(1, 8):
        streams = {
            f"s{seq}-{i}": StreamStats(
                kind="x", slots={f"{seq}-{i}-{k}": D for k in range(100)}, stages={"engine": h.data()}
            )
            for i in range(64)
        }
        book.add("liar", Telemetry(epoch=1, seq=seq, window_s=1, streams=streams))
    assert book.engine("gate", D).n == 100
    assert len(book.engines()) <= 33
    assert book.stream("liar", "s1-0").n == 0
    assert book.stream("liar", "s7-0").n == 1


def test_engines_of_many_devices_all_count() -> None:
    book = LatencyBook()
    devices, message = [f"d{i}" for i in range(5000)], telemetry(1)
    for device in devices:
        book.add(device, message)
    assert book.engine("gate", D).n == 500_000
    assert book.engine("gate", D, frozenset(devices[:10])).n == 1000


def test_a_second_stage_is_another_engine_and_not_the_latency_of_the_stream() -> None:
    fast, slow = Histogram(), Histogram()
    fast.record(1000)
    slow.record(50_000)
    view, other = LatencyBook(), "sha256:" + "2" * 64
    for seq, stages in (
        (1, {"engine": slow.data()}),
        (2, {"engine": slow.data(), "engine:gear": fast.data()}),
    ):
        s = StreamStats(
            kind="surveillance", slots={"gate": D, "gear": other}, stages=stages, crops={"gear": Frames()}
        )
        view.add("gate-1", Telemetry(epoch=1, seq=seq, window_s=10, streams={"yard": s}))
    assert (view.engine("gate", D).n, view.engine("gear", other).n) == (2, 1)
    assert view.engine("gear", other).max_us == pytest.approx(1000, rel=0.03)
    assert view.stream("gate-1", "yard").n == 2
