from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgectl.core.histogram import Histogram
from edgectl.core.wire import Frames, StreamStats, Telemetry
from edgectl.fleet.control import metrics_book
from edgectl.fleet.control.metrics_book import MetricsBook
from edgectl.fleet.store.rollup import LatencyClass
from edgectl.fleet.telemetry.families import OTHER


def told(processed: int, dropped: Mapping[str, int] = {}, errors: int = 0, **changes: object) -> Telemetry:
    frames = Frames(captured=processed, processed=processed, dropped=dict(dropped))
    stats = StreamStats(kind="surveillance", frames=frames, errors=errors)
    return Telemetry(epoch=1, seq=1, window_s=60.0, streams={"yard": stats}).model_copy(update=changes)


def histogram(n: int) -> Histogram:
    h = Histogram()
    for _ in range(n):
        h.record(1000.0)
    return h


def test_counters_of_streams_grow_by_what_is_new_and_never_shrink() -> None:
    book = MetricsBook()
    book.add("d0", told(100, {"superseded": 10}, 1))  # since when is not known
    book.add("d0", told(150, {"superseded": 12, "late": 1}, 3))
    book.add("d1", told(1000))
    book.add("d0", told(20, {"superseded": 2}))  # its worker was started anew
    book.add("d0", told(500, {"superseded": 99}, replay=True))
    book.add("d0", told(30, {"superseded": 1}))
    assert book.processed == {("surveillance",): 50 + 20 + 10}
    assert book.errors == {("surveillance",): 2}
    assert book.dropped == {("surveillance", "superseded"): 2 + 2, ("surveillance", "late"): 1}
    assert (book.messages, book.replays) == (5, 1)


def test_device_that_left_is_counted_from_its_next_first_message() -> None:
    book = MetricsBook()
    book.add("d0", told(100))
    book.remove("d0")
    book.add("d0", told(900))
    assert not book.processed.total()


def test_names_that_a_device_makes_up_are_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_book, "_CAUSES", 3)
    monkeypatch.setattr(metrics_book, "SERIES", 2)
    book = MetricsBook()
    for n in range(2):
        for i in range(5):
            book.add(f"d{i}", told(n, {f"cause-{i}": n}))
    assert book.dropped[("surveillance", OTHER)] == 2
    for i in range(5):
        book.count({LatencyClass(f"slot-{i}", "", "cpu", "engine"): histogram(i + 1)})
    assert {k[0]: h.n for k, h in book.latency.items()} == {"slot-0": 1, "slot-1": 2, OTHER: 12}


def test_conditions_of_an_engine_add_up_and_its_stand_in_is_left_out() -> None:
    book, of = MetricsBook(), LatencyClass("gate", "sha256:a", "cpu", "engine")
    book.count(
        {of: histogram(1), LatencyClass("gate", "sha256:a", "cpu", "engine", throttled=True): histogram(2)}
    )
    book.count({LatencyClass("gate", "sha256:a", "cpu", "engine", preference="low-power"): histogram(9)})
    assert [h.n for h in book.latency.values()] == [3]
