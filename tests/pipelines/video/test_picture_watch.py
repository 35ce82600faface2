"""What the capture tells of a source: another size, a picture that stands still, nothing but damage, a
call that hangs, its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgectl.core.errors import DataError, EdgectlError
from edgectl.pipelines.sources import EndOfStream, SourceInfo
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Frame, Notice, Stamp
from edgectl.pipelines.stream.ledger import Ledger
from edgectl.pipelines.video import capture as capture_module
from edgectl.pipelines.video.capture import Capture
from edgectl.pipelines.video.picture_watch import PictureWatch


def frame(
    t_s: float, value: int = 0, size: tuple[int, int] = (32, 24), notices: tuple[Notice, ...] = ()
) -> Frame:
    image = np.full((size[1], size[0], 3), value, np.uint8)
    made = Frame.of_bgr(image, Stamp(round(t_s * 10), round(t_s * 1e9), 0, t_s, None, "pts"))
    made.notices = notices
    return made


class Scripted:
    """A source that gives what it is told: frames, damage, silence, and at last an end."""

    outage: str | None = None

    def __init__(
        self, *script: Frame | str | Callable[[], None], kind: Any = "file", end: Notice | None = None
    ) -> None:
        self.decode_errors = self.corrupt_frames = 0
        self.superseded_frames = self.degraded_frames = 0
        self._script = list(script)
        self._kind = kind
        self._end = end

    def open(self) -> SourceInfo:
        return SourceInfo("scripted", self._kind, 32, 24, 10.0, False)

    def read(self, timeout_s: float) -> Frame | None:
        while self._script:
            step = self._script.pop(0)
            if isinstance(step, Frame):
                return step
            if step == "corrupt":
                self.corrupt_frames += 1
                return None
            if step == "error":
                self.decode_errors += 1
            elif step == "superseded":
                self.superseded_frames += 1
            elif step == "degraded":
                self.degraded_frames += 1
            elif callable(step):
                step()
        raise EndOfStream(self._end)

    def only_key_frames(self, on: bool) -> bool:
        return True

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class Taker:
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.told: list[tuple[Event, Stamp]] = []

    def take_over(self, frame: Frame) -> None:
        self.frames.append(frame)

    def tell(self, event: Event, stamp: Stamp) -> None:
        assert event.type == "capability"
        self.told.append((event, stamp))

    def end(self) -> None: ...


class Taken:
    """A capture run to its end: what it told, what it handed over, what it booked."""

    def __init__(self, source: Scripted) -> None:
        self.ledger = Ledger()
        failed: list[EdgectlError] = []
        taker = Taker()
        capture = Capture("s", source, self.ledger, target_fps=None, seconds=None, failed=failed.append)
        capture.open()
        capture.deliver(taker)
        assert capture.join(10)
        assert failed == []
        self.frames = taker.frames
        self.ledger.process(len(self.frames))
        self.told = [(e.data["reason"], e.phase, e.data["available"], e.t_s) for e, _ in taker.told]


def test_the_end_of_a_source_is_told_with_its_reason_at_the_time_of_its_last_frame() -> None:
    taken = Taken(Scripted(frame(0), frame(0.1, 9), end=Notice("source", "truncated", False, "start")))
    assert taken.told == [("truncated", "start", False, 0.1)]


def test_two_threads_that_see_it_go_away_and_come_back_tell_it_in_this_order() -> None:
    back: list[threading.Thread] = []

    class Slow(Taker):
        def tell(self, event: Event, stamp: Stamp) -> None:
            if not back:
                back.append(threading.Thread(target=capture._tell_outage, args=(None, stamp)))
                back[0].start()
                back[0].join(0.5)
            super().tell(event, stamp)

    taker = Slow()
    capture = Capture("s", Scripted(frame(0)), Ledger(), target_fps=None, seconds=None, failed=lambda e: None)
    capture.open()
    capture.deliver(taker)
    assert capture.join(10)
    taker.told.clear()
    back.clear()
    capture._tell_outage("stalled")
    back[0].join()
    assert [(e.phase, e.data["available"]) for e, _ in taker.told] == [("start", False), ("end", True)]


def test_a_source_that_fails_is_told_before_the_stream_ends_of_it() -> None:
    def fail() -> None:
        raise DataError("x does not decode")

    taker = Taker()
    failed: list[EdgectlError] = []
    ledger = Ledger()
    capture = Capture(
        "s", Scripted(frame(0), "corrupt", fail), ledger, target_fps=None, seconds=None, failed=failed.append
    )
    capture.open()
    capture.deliver(taker)
    assert capture.join(10)
    assert [(e.data["reason"], e.data["available"], e.data["detail"]) for e, _ in taker.told] == [
        ("failed", False, "x does not decode")
    ]
    assert [e.message for e in failed] == ["x does not decode"]
    assert ledger.frames().dropped == {"corrupt": 1}


def test_damage_at_the_very_end_is_booked() -> None:
    taken = Taken(Scripted(frame(0), "corrupt", frame(0.3, 9), "error", "error"))
    frames = taken.ledger.frames()
    assert frames.dropped == {"corrupt": 1, "decode_error": 2}
    assert frames.captured == frames.processed + 3
    assert frames.in_flight == 0


def test_frames_that_a_source_lost_or_left_out_by_itself_are_booked_as_what_they_are() -> None:
    script = (frame(0), "superseded", "superseded", frame(0.3, 9), "degraded", "superseded", "error")
    taken = Taken(Scripted(*script))
    frames = taken.ledger.frames()
    assert (frames.captured, frames.processed, frames.in_flight) == (7, 2, 0)
    assert frames.dropped == {"superseded": 3, "degraded": 1, "decode_error": 1}
    assert taken.told == []


def test_a_short_stretch_of_damage_is_counted_and_a_long_one_is_an_outage() -> None:
    short = Taken(Scripted(frame(0), "corrupt", frame(1, 9)))
    assert short.told == []
    long = Taken(Scripted(frame(0), "corrupt", "corrupt", frame(2.5, 9)))
    assert long.told == [("corrupt", "start", False, 0.0), ("corrupt", "end", True, 2.5)]


def test_a_pause_without_damage_is_no_outage() -> None:
    assert Taken(Scripted(frame(0), frame(5, 9))).told == []


def test_another_size_is_told_once_per_change() -> None:
    taken = Taken(Scripted(frame(0), frame(0.1, 1, (64, 48)), frame(0.2, 2, (64, 48)), frame(0.3, 3)))
    assert [t[0] for t in taken.told] == ["size_changed", "size_changed"]


def test_pictures_of_a_folder_may_have_any_size() -> None:
    assert Taken(Scripted(frame(0), frame(1, 1, (64, 48)), kind="images")).told == []


def test_what_a_frame_brings_is_told_before_it() -> None:
    notice = Notice("clock", "clock_restarted", data={"jump_s": -5})
    taken = Taken(Scripted(frame(0), frame(0.1, 1, notices=(notice,))))
    assert taken.told == [("clock_restarted", None, True, 0.1)]


def test_a_picture_that_stands_still_is_told_after_ten_seconds_and_when_it_moves_again() -> None:
    watch = PictureWatch()
    told = []
    for i in range(160):
        told += [(n.reason, n.phase, i) for n in watch.good(frame(i / 10, 1 if i < 130 else 2))]
    assert told == [("frozen", "start", 100), ("frozen", "end", 130)]


def test_a_still_scene_with_noise_is_alive() -> None:
    watch = PictureWatch()
    rng = np.random.default_rng(0)
    for i in range(300):
        made = frame(i / 10)
        made.planes[0][...] = rng.integers(0, 2, made.planes[0].shape)
        assert watch.good(made) == ()


def test_a_source_that_hangs_in_a_native_call_is_told_of_from_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture_module, "_STALLED_S", -1.0)
    reading, go = threading.Event(), threading.Event()

    def hang() -> None:
        reading.set()
        assert go.wait(10)

    taker = Taker()

    def told() -> list[tuple[str, bool]]:
        return [(e.data["reason"], e.data["available"]) for e, _ in taker.told]

    source = Scripted(frame(0), hang, frame(0.1, 9))
    capture = Capture("s", source, Ledger(), target_fps=None, seconds=None, failed=lambda e: None)
    capture.open()
    capture.deliver(taker)
    assert reading.wait(10)
    capture.look_after()
    capture.look_after()
    assert told() == [("stalled", False)]
    go.set()
    assert capture.join(10)
    assert told() == [("stalled", False), ("stalled", True)]
