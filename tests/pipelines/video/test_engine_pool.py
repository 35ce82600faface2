"""One engine for many streams: opened once, closed by the last one, and a call that hangs is seen."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.pipelines import BoxEngine, box_task, make_variant

from edgectl.core.bundle import Variant
from edgectl.core.errors import EngineError
from edgectl.pipelines.video import engine_pool
from edgectl.pipelines.video.engine_pool import EnginePool, Ran

TENSOR = np.zeros((1, 3, 64, 64), np.float32)


class Opener:
    """Opens doubles, and counts them."""

    def __init__(self) -> None:
        self.engines: list[BoxEngine] = []
        self.error: Exception | None = None
        self.may_open = threading.Event()
        self.may_open.set()
        self.opening = threading.Event()

    def __call__(self, variant: Variant) -> BoxEngine:
        self.opening.set()
        assert self.may_open.wait(10)
        if self.error is not None:
            raise self.error
        self.engines.append(BoxEngine(lambda _: []))
        return self.engines[-1]


@pytest.fixture
def variant(tmp_path: Path) -> Variant:
    return make_variant(tmp_path, box_task())


def test_streams_of_one_variant_share_one_engine_until_the_last_leaves(
    variant: Variant, tmp_path: Path
) -> None:
    pool, opener = EnginePool(), Opener()
    first, second = pool.join(variant, opener), pool.join(variant, opener)
    other = pool.join(make_variant(tmp_path, box_task(), name="other"), opener)
    assert len(pool.variants()) == len(opener.engines) == 2
    first.close()
    assert not opener.engines[0].closed.is_set()
    second.infer([TENSOR])
    second.close()
    assert opener.engines[0].closed.is_set()
    assert not opener.engines[1].closed.is_set()
    second.close()
    assert len(pool.variants()) == 1
    other.close()
    assert len(pool.variants()) == 0
    pool.join(variant, opener).close()
    assert len(opener.engines) == 3


def test_of_several_that_join_at_once_one_opens(variant: Variant) -> None:
    pool, opener = EnginePool(), Opener()
    opener.may_open.clear()
    joined: list[Any] = []
    threads = [threading.Thread(target=lambda: joined.append(pool.join(variant, opener))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert opener.opening.wait(10)
    opener.may_open.set()
    for thread in threads:
        thread.join(10)
    assert len(joined) == 4
    assert len(set(map(id, joined))) == len(opener.engines) == 1


def test_an_engine_that_does_not_open_leaves_nothing_and_the_next_one_tries_again(variant: Variant) -> None:
    pool, opener = EnginePool(), Opener()
    opener.error = EngineError("no memory")
    with pytest.raises(EngineError, match="no memory"):
        pool.join(variant, opener)
    assert len(pool.variants()) == 0
    opener.error = None
    pool.join(variant, opener)
    assert len(pool.variants()) == 1


def test_a_call_that_hangs_is_seen_and_does_not_hang_the_one_who_leaves(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 0.0)
    monkeypatch.setattr(engine_pool, "_CLOSE_S", 0.01)
    inside, go_on = threading.Event(), threading.Event()

    def hang(_: NDArray[Any]) -> list[Any]:
        inside.set()
        assert go_on.wait(10)
        return []

    pool = EnginePool()
    double = BoxEngine(hang)
    engine = pool.join(variant, lambda _: double)
    assert pool.stuck() == ()
    thread = threading.Thread(target=engine.infer, args=([TENSOR],))
    thread.start()
    assert inside.wait(10)
    (stuck,) = pool.stuck()
    assert (stuck.variant, stuck.name, stuck.doing) == (variant.digest, "double", "run")
    assert stuck.since_s > 0
    engine.close()
    assert not double.closed.is_set()
    go_on.set()
    thread.join(10)
    assert pool.stuck() == ()


def test_an_engine_that_hangs_while_it_opens_is_seen(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_OPEN_LIMIT_S", 0.0)
    pool, opener = EnginePool(), Opener()
    opener.may_open.clear()
    thread = threading.Thread(target=pool.join, args=(variant, opener))
    thread.start()
    assert opener.opening.wait(10)
    assert [s.doing for s in pool.stuck()] == ["open"]
    opener.may_open.set()
    thread.join(10)
    assert pool.stuck() == ()


def test_a_new_edition_is_opened_once_and_the_old_one_stays_with_those_who_have_it(variant: Variant) -> None:
    pool, opener = EnginePool(), Opener()
    old = pool.join(variant, opener)
    new = pool.join(variant, opener, 1)
    assert pool.join(variant, opener, 1) is new
    assert pool.join(variant, opener) is new, "a stream that starts takes the better one"
    assert len(opener.engines) == 2
    old.close()
    assert [e.closed.is_set() for e in opener.engines] == [True, False]
    for _ in range(3):
        assert not opener.engines[1].closed.is_set()
        new.close()
    assert opener.engines[1].closed.is_set()
    assert len(pool.variants()) == 0


class Job:
    """A frame that is wanted if its turn comes."""

    def __init__(self, *values: float) -> None:
        """``values``: what is in each of its regions."""
        self.tensor, *self.more = [np.full_like(TENSOR, v) for v in values or (0.0,)]
        self.over = threading.Event()
        self.result: Ran | None = None

    def wanted(self, now_ns: int) -> bool:
        return True

    def ran(self, result: Ran) -> None:
        self.result = result
        self.over.set()

    def failed(self, e: Exception) -> None:
        raise AssertionError(e)

    def gone(self) -> None:
        self.over.set()


def test_what_all_streams_ask_of_an_engine_is_counted_also_what_it_does_not_come_to(variant: Variant) -> None:
    pool, opener = EnginePool(), Opener()
    engine = pool.join(variant, opener)
    ready = threading.Event()
    before = engine.work()
    mine, theirs = engine.seat(1, False, ready.is_set), engine.seat(1, False, ready.is_set)
    jobs = [Job() for _ in range(3)]
    displaced = [seat.offer(job, 0) for seat, job in zip((mine, mine, theirs), jobs, strict=True)]
    assert displaced == [None, jobs[0], None]
    ready.set()
    mine.wake()
    assert all(job.over.wait(10) for job in jobs[1:])
    work = engine.work()
    assert (work.offered - before.offered, work.ran - before.ran) == (3, 2)
    assert work.busy_ns > before.busy_ns
    assert 0 < work.recent_ns < work.busy_ns
    for seat in (mine, theirs):
        seat.close()
    engine.close()


@pytest.mark.parametrize("batch", [1, 4])
def test_all_regions_of_a_frame_run_in_as_few_calls_as_the_batch_allows(variant: Variant, batch: int) -> None:
    calls: list[int] = []

    class Counting(BoxEngine):
        def __init__(self) -> None:
            super().__init__(lambda _: [])
            spec = self.inputs[0]
            self.inputs = (spec.model_copy(update={"shape": (batch, *spec.shape[1:])}),)

        def run(self, feeds: Any) -> dict[str, NDArray[Any]]:
            images = feeds["image"]
            calls.append(len(images))
            boxes = np.zeros((batch, 16, 4), np.float32)
            # each row says which region it is of
            boxes[:, 0] = images.mean(axis=(1, 2, 3))[:, None]
            return {"boxes": boxes, "scores": np.zeros((batch, 16, 2), np.float32)}

    engine = EnginePool().join(variant, lambda _: Counting())
    ready = threading.Event()
    seats = [engine.seat(1, False, ready.is_set) for _ in range(2)]
    jobs = [Job(1.0, 2.0, 3.0, 4.0, 5.0), Job(6.0)]
    for i, (seat, job) in enumerate(zip(seats, jobs, strict=True)):
        assert seat.offer(job, i) is None
    ready.set()
    seats[0].wake()
    assert all(job.over.wait(10) for job in jobs)
    seen = [[float(o["boxes"][0, 0, 0]) for o in (r.outputs, *r.more)] for job in jobs if (r := job.result)]
    assert seen == [[1, 2, 3, 4, 5], [6]]
    assert len(calls) == (6 if batch == 1 else 3)
    work = engine.work()
    assert (work.offered, work.ran) == (6, 6)
    ran = jobs[0].result
    assert ran is not None
    assert ran.ended_ns > ran.started_ns
    for seat in seats:
        seat.close()
    engine.close()
