"""A camera in a child: frames by shared memory; one that hangs, crashes or lies is an outage with a reason."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support.cameras
from conftest import free_port
from support.fleet import wait_until
from support.pipelines import write_clip

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources.child import child_reader
from edgectl.pipelines.sources.child.child_reader import ChildReader, Grabber
from edgectl.pipelines.sources.child.grabber import SLOTS
from edgectl.pipelines.sources.media.camera import Camera, LiveSource
from edgectl.pipelines.sources.media.picture import Picture
from edgectl.pipelines.sources.media.reader import reason_of

DEVICE = f"{support.cameras.__file__}:grab"
FFMPEG = "edgectl.pipelines.sources.child.ffmpeg:grab"


def device(
    frames: int, then: str, *, stall_s: float = 60.0, open_s: float = 60.0, **more: Any
) -> ChildReader:
    argument = {"width": 64, "height": 48, "frames": frames, "then": then, **more}
    grabber = Grabber(DEVICE, open_s=open_s, stall_s=stall_s)
    return ChildReader("v4l2:///dev/video9", grabber, argument, stop=threading.Event())


def read(reader: ChildReader) -> tuple[list[Picture], SourceError]:
    pictures = []
    try:
        for picture in reader.frames():
            if picture is not None:
                pictures.append(picture)
    except SourceError as e:
        reader.close()
        return pictures, e
    raise AssertionError("a child ends with a reason")


def test_frames_come_in_order_with_their_pixels_and_the_time_when_they_were_there() -> None:
    start = time.monotonic_ns()
    reader = device(30, "end", period_s=0.02)
    assert (reader.width, reader.height, reader.fps) == (64, 48, 25.0)
    pictures, e = read(reader)
    assert [int(p.planes[0].mean()) for p in pictures] == list(range(30))
    assert [q.shape for q in pictures[0].planes] == [(48, 64), (24, 32), (24, 32)]
    times = [p.arrived_ns or 0 for p in pictures]
    assert start < times[0]
    assert min(np.diff(times)) > 0
    assert times[-1] <= time.monotonic_ns()
    assert reason_of(e.__cause__ or e) == "ended"


def test_a_reader_that_is_late_gets_what_the_ring_holds_and_counts_the_rest() -> None:
    reader = device(20, "hang")
    frames = reader.frames()
    first = None
    while first is None:
        first = next(frames)
    # The device is done when it has nothing more to write: its processor time stands still.
    before, now = -1.0, 0.0
    while now != before:
        before = now
        time.sleep(0.1)
        now = sum(float(x) for x in Path(f"/proc/{reader.pid}/stat").read_text().split()[13:15])
    got = [first]
    while (picture := next(frames)) is not None:
        got.append(picture)
    reader.close()
    assert SLOTS <= len(got) <= 20
    values = [int(p.planes[0].mean()) for p in got]
    assert values == sorted(values)
    assert reader.left_out == values[-1] + 1 - len(got)


def test_what_a_late_reader_missed_is_counted_over_all_children_of_a_camera(tmp_path: Path) -> None:
    counted, missed = read_late(tmp_path)
    assert counted == missed > 0


def read_late(tmp_path: Path) -> tuple[int, int]:
    """What a source counted, and what is missing between the pictures that came, of a camera's first two children."""
    children: list[ChildReader] = []
    halves: list[Path] = []

    def connect(stop: threading.Event) -> ChildReader:
        halves.append(tmp_path / f"half-{len(halves)}")
        children.append(device(20, "end", half=str(halves[-1])))
        return children[-1]

    source = LiveSource("v4l2:///dev/video9", Camera(connect))
    source.open()
    values: list[list[int]] = [[]]
    while len(children) < 3:
        if (picture := source.read(0.2)) is not None:
            values[-1].append(int(picture.planes[0].mean()))
            if len(values[-1]) == 1:
                wait_until(halves[len(values) - 1].exists, "the device has filled its ring, and more")
        elif source.outage is not None and values[-1]:
            values.append([])
    source.close()
    whole = [one for one in values if one][:2]
    return source.superseded_frames, sum(one[-1] + 1 - len(one) for one in whole)


def test_the_size_may_change_in_mid_stream() -> None:
    pictures, _ = read(device(3, "grow"))
    assert [(p.width, p.height) for p in pictures] == [(64, 48)] * 3 + [(128, 96)]
    assert int(pictures[-1].planes[0].mean()) == 200


@pytest.mark.parametrize(
    ("then", "reason", "words"),
    [
        ("end", "ended", "no more frames"),
        ("crash", "crashed", "SIGSEGV"),
        ("exit", "crashed", "code 3"),
        ("raise", "crashed", "the driver is confused"),
        ("hang", "stalled", "hangs"),
    ],
)
def test_however_a_child_ends_is_one_sentence_with_a_reason(then: str, reason: str, words: str) -> None:
    reader = device(2, then, stall_s=0.3)
    pictures, e = read(reader)
    assert len(pictures) == 2
    assert reason_of(e.__cause__ or e) == reason
    assert words in e.message
    assert "\n" not in e.message
    assert not Path(f"/proc/{reader.pid}").exists()


def test_a_device_that_does_not_open_is_given_up_and_its_child_is_gone() -> None:
    with pytest.raises(SourceError, match=r"hangs: nothing came for 0\.3 s") as caught:
        device(1, "hang at once", open_s=0.3)
    assert reason_of(caught.value.__cause__ or caught.value) == "stalled"
    assert child_reader._DYING == []


@pytest.mark.parametrize(
    "lie",
    [
        {"slot": 99},
        {"slot": -1},
        {"ring": 7},
        {"shapes": [[48, 10**9]] * 3},
        {"shapes": [[-48, -64], [1, 1], [1, 1]]},
        {"shapes": [[48, 64]]},
        {"fmt": "RGBA"},
        {"t_ns": "never"},
    ],
)
def test_a_child_that_lost_its_mind_is_not_believed(lie: dict[str, Any]) -> None:
    frame = {
        "ring": 1,
        "slot": 0,
        "seq": 2,
        "t_ns": 1,
        "shapes": [[48, 64], [24, 32], [24, 32]],
        "fmt": "I420",
    }
    whole = {**frame, "colour": ["bt601", False], **lie}
    pictures, e = read(device(1, "lie", lie=whole))
    assert len(pictures) == 1
    assert reason_of(e.__cause__ or e) == "crashed"
    assert "makes no sense" in e.message


def test_a_camera_that_hangs_in_ffmpeg_is_killed_and_read_again_by_a_new_child(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=60, fps=25)
    port = free_port()
    command = f"ffmpeg -v quiet -re -stream_loop -1 -i {clip} -c:v mpeg2video -g 5 -f mpegts tcp://127.0.0.1:{port}?listen=1"
    argument = {"url": f"tcp://127.0.0.1:{port}", "what": "cam", "format": "mpegts", "options": {}}
    children: list[ChildReader] = []

    def connect(stop: threading.Event) -> ChildReader:
        children.append(ChildReader("cam", Grabber(FFMPEG, stall_s=2.0, open_s=30.0), argument, stop=stop))
        return children[-1]

    source = LiveSource("v4l2:///dev/video9", Camera(connect), patient=True)
    senders = [subprocess.Popen(command.split(), stdin=subprocess.DEVNULL)]
    try:
        source.open()
        first = None
        while first is None:
            first = source.read(0.2)
        os.kill(children[0].pid, signal.SIGSTOP)
        last = first
        while source.outage is None:
            last = source.read(0.2) or last
        assert source.outage == "stalled"
        assert not Path(f"/proc/{children[0].pid}").exists()
        senders[0].wait()
        senders.append(subprocess.Popen(command.split(), stdin=subprocess.DEVNULL))
        again = None
        while again is None:
            again = source.read(0.2)
        assert again.stamp.seq == last.stamp.seq + 1
        assert again.stamp.t_ns > last.stamp.t_ns
    finally:
        source.close()
        for sender in senders:
            sender.kill()
            sender.wait()
    assert not any(Path(f"/proc/{child.pid}").exists() for child in children)


_STREAM = f"""
import sys, threading, time
from edgectl.pipelines.sources.child.child_reader import ChildReader, Grabber
argument = {{"width": 64, "height": 48, "frames": 3, "then": "hang"}}
reader = ChildReader("cam", Grabber({DEVICE!r}, stall_s=600), argument, stop=threading.Event())
seen = next(p for p in reader.frames() if p is not None)
print(reader.pid, flush=True)
time.sleep(600)
"""


def test_a_stream_that_is_killed_leaves_no_child_and_no_memory_behind() -> None:
    before = set(os.listdir("/dev/shm"))
    stream = subprocess.Popen([sys.executable, "-c", _STREAM], stdout=subprocess.PIPE)
    with stream:
        assert stream.stdout is not None
        pid = int(stream.stdout.readline())
        pidfd = os.pidfd_open(pid)
        stream.kill()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(60_000), "the child outlives its stream"
        os.close(pidfd)
    assert {n for n in set(os.listdir("/dev/shm")) - before if "edgectl" in n} == set()


def test_frames_for_which_there_is_no_room_are_said_before_any_is_taken() -> None:
    code = f"""
import resource, signal, threading
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from edgectl.core.errors import SourceError
from edgectl.pipelines.sources.child.child_reader import ChildReader, Grabber
argument = {{"width": 1920, "height": 1080, "frames": 3, "then": "hang"}}
reader = ChildReader("cam", Grabber({DEVICE!r}), argument, stop=threading.Event())
try:
    print([p for p in reader.frames()])
except SourceError as e:
    print(e.__cause__.reason, e.message)
reader.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "no_room cam: its frames need 12 MB of shared memory: File too large\n", done.stderr


def test_a_closed_source_does_not_wait_for_a_device_that_does_not_open() -> None:
    stop = threading.Event()
    stop.set()
    argument = {"width": 64, "height": 48, "frames": 1, "then": "hang at once"}
    with pytest.raises(SourceError, match="closed"):
        ChildReader("cam", Grabber(DEVICE, open_s=3600.0), argument, stop=stop)


def test_without_the_program_that_reads_it_a_camera_is_away() -> None:
    with pytest.raises(SourceError, match="cannot be started"):
        ChildReader("cam", Grabber(DEVICE, python="/nowhere/python3"), {}, stop=threading.Event())
