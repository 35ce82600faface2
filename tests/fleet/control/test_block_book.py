from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.histogram import Histogram
from edgectl.core.resources import Resources
from edgectl.core.wire import Frames, StreamStats, Telemetry
from edgectl.fleet.control.block_book import BlockBook

OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64


class Camera:
    """Sends windows of one stream, with counters as a worker has them."""

    def __init__(self, book: BlockBook, window_s: float = 10.0) -> None:
        self.book = book
        self.window_s = window_s
        self.now = 0.0
        self.digest = OLD
        self.frames = Frames()
        self.errors = 0

    def send(
        self,
        ms: float = 5.0,
        n: int = 300,
        *,
        dropped: int = 0,
        errors: int = 0,
        rss_mb: float = 150.0,
        crops: dict[str, Frames] | None = None,
        throttled: float | None = None,
        **changes: object,
    ) -> None:
        h = Histogram()
        for _ in range(n):
            h.record(ms * 1000)
        f = self.frames
        self.frames = Frames(
            captured=f.captured + n + dropped + errors,
            processed=f.processed + n,
            dropped={"deadline": sum(f.dropped.values()) + dropped},
        )
        self.errors += errors
        self.now += self.window_s
        stats = StreamStats(
            kind="surveillance",
            slots={"gate": self.digest},
            stages={"engine": h.data()},
            frames=self.frames,
            errors=self.errors,
            crops=crops or {},
        ).model_copy(update=changes)
        t = Telemetry(
            epoch=1,
            seq=1,
            window_s=self.window_s,
            streams={"yard": stats},
            health={"rss_mb.yard": rss_mb, "load1": 3.0},
            resources=Resources(throttled_share=throttled),
        )
        self.book.add("cam", t, self.now)

    def blocks(self, digest: str = OLD) -> list[tuple[float, float]]:
        """(end, median in ms) of each."""
        found = self.book.in_slot("gate").since("cam", digest, -math.inf)
        return [(b.at_s, round(2 ** b.quantiles[0] / 1000, 1)) for b in found]


def test_windows_are_put_together_until_they_cover_ten_seconds() -> None:
    camera = Camera(BlockBook(), window_s=1.0)
    for _ in range(31):
        camera.send(n=30)
    assert [at_s for at_s, _ in camera.blocks()] == [11.0, 21.0, 31.0], (
        "the first window may hold another engine"
    )
    (b, *_) = camera.book.in_slot("gate").since("cam", OLD, 0.0)
    assert (b.attempts, b.captured, b.seconds) == (300, 300, 10.0)


def test_window_of_a_minute_is_a_block() -> None:
    camera = Camera(BlockBook(), window_s=60.0)
    for _ in range(3):
        camera.send()
    assert [at_s for at_s, _ in camera.blocks()] == [120.0, 180.0]


def test_counters_since_start_become_those_of_the_block() -> None:
    camera = Camera(BlockBook())
    camera.send()
    camera.send(n=270, dropped=20, errors=10, rss_mb=150.0)
    camera.send(rss_mb=152.5)
    one, two = camera.book.in_slot("gate").since("cam", OLD, 0.0)
    assert (one.attempts, one.errors, one.captured, one.dropped) == (280, 10, 300, 20)
    assert (two.attempts, two.errors, two.captured, two.dropped) == (300, 0, 300, 0)
    assert math.isnan(one.growth_mb)
    assert two.growth_mb == 2.5


def test_worker_that_was_started_anew_counts_from_nothing() -> None:
    camera = Camera(BlockBook())
    camera.send()
    camera.frames = Frames()
    camera.send(n=60)
    (b,) = camera.book.in_slot("gate").since("cam", OLD, 0.0)
    assert b.attempts == 60


def test_first_window_of_an_engine_counts_for_neither() -> None:
    camera = Camera(BlockBook())
    for _ in range(3):
        camera.send(5.0)
    camera.digest = NEW
    camera.send(90.0)
    camera.send(9.0)
    assert camera.blocks() == [(20.0, 5.0), (30.0, 5.0)]
    assert camera.blocks(NEW) == [(50.0, 9.0)]


def test_camera_that_is_away_says_nothing_of_the_engine() -> None:
    camera = Camera(BlockBook())
    camera.send()
    camera.send(n=0, state="outage", reason="connect")
    camera.send()
    assert [at_s for at_s, _ in camera.blocks()] == [30.0]


def test_engine_that_hangs_is_no_camera_that_is_away() -> None:
    camera = Camera(BlockBook())
    camera.send()
    camera.send(n=0, state="outage", reason="engine_stuck")
    (b,) = camera.book.in_slot("gate").since("cam", OLD, 0.0)
    assert b.attempts == 0


def test_events_are_counted_where_a_worker_counts_them() -> None:
    camera = Camera(BlockBook())
    camera.send(counters={"events": 5})
    camera.send(counters={"events": 12})
    camera.send()
    one, two = camera.book.in_slot("gate").since("cam", OLD, 0.0)
    assert one.events == 7
    assert math.isnan(two.events)


def test_worker_that_does_not_come_back_is_a_block_without_frames() -> None:
    camera = Camera(BlockBook())
    camera.send()
    camera.send(n=0, state="restarting")
    (b,) = camera.book.in_slot("gate").since("cam", OLD, 0.0)
    assert b.attempts == 0
    assert math.isnan(b.quantiles[0])


def test_what_lies_on_both_sides_of_a_gap_is_not_one_block() -> None:
    camera = Camera(BlockBook(), window_s=6.0)
    camera.send()
    camera.send(1.0)
    camera.now += 600
    camera.send(9.0)
    camera.send(9.0)
    assert camera.blocks() == [(624.0, 9.0)]


def test_latency_of_a_lighter_variant_is_not_the_engines_but_its_frames_are() -> None:
    camera = Camera(BlockBook())
    camera.send()
    camera.send(stand_ins={"gate": "low-power"})
    (b,) = camera.book.in_slot("gate").since("cam", OLD, 0.0)
    assert math.isnan(b.quantiles[0])
    assert b.attempts == 300


def test_second_stage_is_judged_by_its_crops() -> None:
    camera = Camera(BlockBook())
    for n in (1, 2):
        crops = Frames(captured=10 * n, processed=7 * n, dropped={"engine_error": n, "queue": 2 * n})
        camera.send(crops={"gate": crops})
    (b,) = camera.book.in_slot("gate").since("cam", OLD, 0.0)
    assert (b.attempts, b.errors, b.captured, b.dropped) == (8, 1, 10, 3)
    assert math.isnan(b.quantiles[0]), "the stage 'engine' is the first engine's"


def test_history_ends_when_the_device_was_asked_and_has_coarser_levels() -> None:
    camera = Camera(BlockBook())
    for _ in range(200):
        camera.send(n=1)
    h = camera.book.in_slot("gate").history("cam", OLD, 1500.0)
    assert h.blocks[-1].at_s == 1500.0
    assert [len(level) for level in h.coarse] == [18, 2]
    assert h.coarse[0][0].seconds == 80.0
    assert h.coarse[1][0].seconds == 640.0
    assert h.covers_s > 1400.0


def test_book_is_bounded_however_long_a_device_runs_and_whatever_names_it_makes_up() -> None:
    camera = Camera(BlockBook())
    for k in range(20):
        camera.digest = f"sha256:{k:064d}"
        for _ in range(200):
            camera.send(n=1)
    engines = camera.book._engines["cam"]
    assert len(engines) == 8
    assert [len(level) for level in next(iter(engines.values())).levels] == [128, 24, 3]


def test_device_that_left_is_forgotten() -> None:
    camera = Camera(BlockBook())
    camera.send()
    camera.send()
    camera.book.remove("cam")
    assert camera.blocks() == []
    assert camera.book.in_slot("gate").last_s("cam", OLD) == -math.inf


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 7.0, 10.0, 60.0]), min_size=2, max_size=60))
def test_every_call_is_in_one_block_or_in_the_one_that_is_being_made(windows: list[float]) -> None:
    camera = Camera(BlockBook())
    for window_s in windows:
        camera.window_s = window_s
        camera.send(n=3)
    told = sum(b.attempts for b in camera.book.in_slot("gate").since("cam", OLD, -math.inf))
    being_made = sum(e.open.attempts for e in camera.book._engines["cam"].values())
    assert told + being_made == pytest.approx(3 * (len(windows) - 1))


def test_share_of_a_block_in_which_the_device_was_slowed_down() -> None:
    camera = Camera(BlockBook(), window_s=5.0)
    for share in (0.0, 0.0, 0.0, 0.2, 0.6, 0.0, None):
        camera.send(throttled=share)
    found = [b.throttled for b in camera.book.in_slot("gate").since("cam", OLD, -math.inf)]
    assert found[:2] == pytest.approx([0.0, 0.4])
    assert math.isnan(found[2]), "what is not told is not 0"
