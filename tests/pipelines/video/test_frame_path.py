"""Frames through shared engines: whatever the threads do, each is booked once and results keep their order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.pipelines import BoxEngine, box_task, make_variant

from edgectl.core.errors import EngineError
from edgectl.pipelines.stream.borders import Borders
from edgectl.pipelines.stream.flow import FlowConfig, room
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.stream.ledger import Ledger
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.trace import Tracer
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.engine_pool import EnginePool
from edgectl.pipelines.video.frame_path import FramePath, FrameResult
from edgectl.pipelines.video.regions.cover import Region
from edgectl.pipelines.video.swap import HotSwap

IMAGE = np.full((48, 64, 3), 90, np.uint8)


class Stream:
    """A path with its capture and analysis threads. ``seqs`` are the frames that came through."""

    def __init__(
        self,
        pool: EnginePool,
        slot: PartVariant,
        engine: Callable[[], BoxEngine],
        flow: FlowConfig,
        *,
        frames: int,
        realtime: bool,
        max_age_ms: float | None = None,
        rng: random.Random | None = None,
        regions: Any = None,
    ) -> None:
        self.ledger = Ledger()
        self.seqs: list[int] = []
        self.parts: list[tuple[int, int]] = []
        self.ended = threading.Event()
        self._pool, self._opener = pool, engine
        self._frames = frames
        self._rng = rng or random.Random(0)
        self.engines = HotSwap(self.open(slot), self.ended.is_set)
        self.path = FramePath(
            "s",
            room(flow, realtime),
            Borders(None, max_age_ms),
            self.engines,
            self.ledger,
            Tracer(),
            pool.timeline,
            regions=regions,
            pictures=False,
        )
        self.path.seat(self.engines.engine)
        self.threads = [threading.Thread(target=f) for f in (self._capture, self._analyse)]

    def open(self, slot: PartVariant) -> Detector:
        return Detector(slot, self._pool.join(slot.variant, lambda _: self._opener()))

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def finish(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        self.path.stop()
        assert self.engines.close()

    def _capture(self) -> None:
        for seq in range(self._frames):
            self.ledger.capture()
            now = time.monotonic_ns()
            self.path.take_over(Frame.of_bgr(IMAGE, Stamp(seq, now, now)))
            if self._rng.random() < 0.3:
                time.sleep(0.0005)
        self.path.end()

    def _analyse(self) -> None:
        while not self.path.finished:
            item = self.path.next(0.05)
            if isinstance(item, FrameResult):
                if self._rng.random() < 0.2:
                    time.sleep(0.001)
                if item.error is not None:
                    self.ledger.drop("engine_error")
                    continue
                self.seqs.append(item.frame.stamp.seq)
                assert item.ran is not None
                self.parts.append((len(item.metas), 1 + len(item.ran.more)))
                self.path.through(item, time.monotonic_ns(), None)
        self.ended.set()


class SomeRegions:
    """The whole picture, and up to three regions of it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def regions(self, *_: Any, **__: Any) -> tuple[Region | None, ...]:
        regions = tuple(Region(4 * self._rng.randrange(8), 4, 32, 24) for _ in range(self._rng.randrange(4)))
        return (None, *regions) if self._rng.random() < 0.5 or not regions else regions


def slot_of(folder: Path, name: str) -> PartVariant:
    return PartVariant(make_variant(folder, box_task(), name=name))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    modes=st.lists(st.sampled_from(["latest", "fifo", "every"]), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
    fails=st.sampled_from([0.0, 0.2]),
    swaps=st.integers(0, 2),
    stops=st.booleans(),
    stale=st.booleans(),
    regions=st.booleans(),
)
def test_every_frame_is_booked_once_and_in_order_whatever_the_threads_do(
    tmp_path: Path,
    modes: list[str],
    seed: int,
    fails: float,
    swaps: int,
    stops: bool,
    stale: bool,
    regions: bool,
) -> None:
    rng = random.Random(seed)

    def engine() -> BoxEngine:
        def look(_: NDArray[Any]) -> list[Any]:
            if double.runs > 2:
                time.sleep(rng.choice([0, 0, 0.0005, 0.002]))
                if rng.random() < fails:
                    raise EngineError("it stumbled")
            return []

        double = BoxEngine(look)
        return double

    slots = [slot_of(tmp_path, f"v{i}") for i in range(3)]
    pool = EnginePool()
    streams = [
        Stream(
            pool,
            slots[0],
            engine,
            FlowConfig.model_validate({"mode": mode, "max_queue": 3}),
            frames=40,
            realtime=mode != "every",
            max_age_ms=3 if stale and mode != "every" else None,
            rng=rng,
            regions=SomeRegions(rng) if regions else None,
        )
        for mode in modes
    ]
    for stream in streams:
        stream.start()
    for i in range(swaps):
        detector = streams[0].open(slots[i + 1])
        streams[0].path.seat(detector)
        try:
            streams[0].engines.switch(detector)
        except EngineError:
            assert streams[0].ended.is_set()
            break
        streams[0].engines.revert() if rng.random() < 0.5 else streams[0].engines.commit()
    if stops:
        streams[-1].path.stop()
    for stream in streams:
        stream.finish()
    for i, (mode, stream) in enumerate(zip(modes, streams, strict=True)):
        frames = stream.ledger.frames()
        assert (frames.captured, frames.in_flight) == (40, 0)
        assert frames.processed == len(stream.seqs)
        assert stream.seqs == sorted(set(stream.seqs))
        assert all(seen == ran for seen, ran in stream.parts)
        if mode == "every" and not (stops and i == len(streams) - 1):
            assert set(frames.dropped) <= {"engine_error"}
    assert pool.variants() == ()


def test_a_slow_engine_never_makes_a_camera_wait(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hang(_: NDArray[Any]) -> list[Any]:
        if double.runs > 2:
            inside.set()
            assert go_on.wait(30)
        return []

    double = BoxEngine(hang)
    stream = Stream(
        EnginePool(), slot_of(tmp_path, "v"), lambda: double, FlowConfig(), frames=200, realtime=True
    )
    stream.threads[1].start()
    stream.threads[0].start()
    stream.threads[0].join(30)
    assert not stream.threads[0].is_alive(), "200 frames are captured while the engine has the first one"
    assert inside.wait(10)
    assert stream.ledger.frames().dropped == {"superseded": 198}
    go_on.set()
    stream.finish()
    assert len(stream.seqs) == 2


def test_a_stream_whose_analysis_hangs_does_not_keep_the_engine_from_others(tmp_path: Path) -> None:
    pool, slot = EnginePool(), slot_of(tmp_path, "v")
    double = BoxEngine(lambda _: [])
    hung, well = (
        Stream(pool, slot, lambda: double, FlowConfig(mode="every"), frames=50, realtime=False)
        for _ in range(2)
    )
    hung.threads[0].start()
    well.start()
    well.finish()
    assert len(well.seqs) == 50
    assert hung.ledger.frames().in_flight > 0
    hung.threads[1].start()
    hung.finish()
    assert len(hung.seqs) == 50


@pytest.mark.parametrize("batch", [4, -1])
def test_an_engine_with_a_batch_takes_frames_of_several_streams_in_one_call(
    tmp_path: Path, batch: int
) -> None:
    calls: list[int] = []
    entered, go_on = threading.Event(), threading.Event()

    class Batched(BoxEngine):
        def __init__(self) -> None:
            super().__init__(lambda _: [])
            spec = self.inputs[0]
            self.inputs = (spec.model_copy(update={"shape": (batch, *spec.shape[1:])}),)

        def run(self, feeds: Any) -> dict[str, NDArray[Any]]:
            images = feeds["image"]
            calls.append(int(sum(image.any() for image in images)) if batch > 0 else len(images))
            if len(calls) == 3:
                entered.set()
                assert go_on.wait(30)
            boxes = np.zeros((len(images), 16, 4), np.float32)
            # each row says which picture it is of
            boxes[:, 0] = np.stack([np.full(4, image.mean()) for image in images])
            return {"boxes": boxes, "scores": np.zeros((len(images), 16, 2), np.float32)}

    pool, slot = EnginePool(), slot_of(tmp_path, "v")
    slot.variant.config = slot.variant.config.model_copy(update={"batch": 4})
    engine = pool.join(slot.variant, lambda _: Batched())
    assert engine.batch == 4
    results: dict[float, float] = {}
    finished = threading.Semaphore(0)

    class Job:
        def __init__(self, value: float) -> None:
            self.tensor = np.full((1, 3, 64, 64), value, np.float32)
            self.more = ()
            self.value = value

        def wanted(self, now_ns: int) -> bool:
            return True

        def ran(self, ran: Any) -> None:
            results[self.value] = float(ran.outputs["boxes"][0, 0, 0])
            assert {k: v.shape[0] for k, v in ran.outputs.items()} == {"boxes": 1, "scores": 1}
            finished.release()

        def failed(self, e: Exception) -> None:
            raise e

        def gone(self) -> None:
            raise AssertionError

    engine.sample(np.zeros((1, 3, 64, 64), np.float32))
    seats = [engine.seat(1, False, lambda: True) for _ in range(3)]
    first = Job(0.5)
    seats[0].offer(first, 1)
    assert entered.wait(10)
    for i, seat in enumerate(seats):
        assert seat.offer(Job(i + 1.0), i) is None
    go_on.set()
    for _ in range(4):
        assert finished.acquire(timeout=10)
    assert results == {0.5: 0.5, 1.0: 1.0, 2.0: 2.0, 3.0: 3.0}
    assert calls[3] == 3
    engine.close()


def test_a_frame_that_is_no_picture_is_booked_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    stream = Stream(
        EnginePool(),
        slot_of(tmp_path, "v"),
        lambda: BoxEngine(lambda _: []),
        FlowConfig(),
        frames=0,
        realtime=True,
    )
    stream.ledger.capture()
    broken = Frame(Stamp(0, 1, 1), 8, 8, "I420", ())
    with pytest.raises(ValueError, match="zip"):
        stream.path.take_over(broken)
    assert (stream.ledger.frames().dropped, stream.ledger.frames().in_flight) == ({"corrupt": 1}, 0)
    stream.start()
    stream.finish()
