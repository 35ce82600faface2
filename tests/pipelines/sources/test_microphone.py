"""A microphone that stops, dies, lies or floods is said, counted and started again, and never holds the
stream."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgectl.core.errors import SourceError
from edgectl.pipelines.audio.blocks import RATE, AudioBlock
from edgectl.pipelines.sources import microphone, open_audio

WHOLE_LIFE_S = 60.0  # no test waits so long; what hangs fails


class FakeArecord:
    """An ``arecord`` on PATH that runs Python with ``out`` (raw stdout), ``say`` (stderr) and ``run`` (0,
    1, …: its how manieth start)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = folder / "starts"

    def does(self, body: str) -> None:
        program = self.folder / "arecord"
        program.write_text(
            f"#!{sys.executable}\n"
            "import os, signal, subprocess, sys, time\n"
            "def out(data):\n    sys.stdout.buffer.write(data); sys.stdout.buffer.flush()\n"
            "def say(text):\n    sys.stderr.write(text + '\\n'); sys.stderr.flush()\n"
            f"with open({str(self.starts)!r}, 'a') as f:\n    f.write(f'{{os.getpid()}} {{\" \".join(sys.argv[1:])}}\\n')\n"
            f"run = len(open({str(self.starts)!r}).readlines()) - 1\n" + body + "\n"
        )
        program.chmod(0o755)

    def pids(self) -> list[int]:
        return [int(line.split()[0]) for line in self.starts.read_text().splitlines()]


@pytest.fixture
def arecord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeArecord:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(microphone, "_SILENT_S", 0.3)
    monkeypatch.setattr(microphone, "_STOP_S", 0.1)
    monkeypatch.setattr(microphone, "_STABLE_S", 0.1)
    monkeypatch.setattr(microphone, "backoff_s", lambda attempt, ceiling_s, away_s, jitter: 0.05)
    return FakeArecord(tmp_path)


@pytest.fixture
def listen() -> Iterator[Callable[..., Iterator[AudioBlock]]]:
    """Blocks of a microphone, closed at the end of the test."""
    opened = []

    def blocks(uri: str = "mic://", *, patient: bool = False) -> Iterator[AudioBlock]:
        source = open_audio(uri, patient=patient)
        opened.append(source)
        deadline = time.monotonic() + WHOLE_LIFE_S
        while (block := source.read()) is not None:
            assert time.monotonic() < deadline, "nothing of what was waited for has come"
            yield block

    yield blocks
    for source in opened:
        source.close()
        assert source.read() is None


def until(blocks: Iterator[AudioBlock], enough: Callable[[list[AudioBlock]], bool]) -> list[AudioBlock]:
    seen: list[AudioBlock] = []
    for block in blocks:
        seen.append(block)
        if enough(seen):
            return seen
    raise AssertionError("the microphone ended")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_end(pids: list[int]) -> bool:
    """Killed processes that are no children of ours end a moment later."""
    deadline = time.monotonic() + WHOLE_LIFE_S
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def sound(blocks: list[AudioBlock]) -> list[AudioBlock]:
    return [b for b in blocks if len(b.data)]


SECOND = "out((b'\\x01\\x02' * 16000))"

ENDS = {
    "hangs": (f"{SECOND}; time.sleep(3600)", "timeout"),
    "ends": (SECOND, "ended"),
    "fails": (
        f"{SECOND}; say('arecord: pcm_read:2221: read error: Input/output error'); sys.exit(1)",
        "ended",
    ),
    "is unplugged": (
        f"{SECOND}; say('arecord: xrun:1: read error: No such device'); sys.exit(1)",
        "not_found",
    ),
    "overruns": (f"{SECOND}; say('arecord: xrun:1664: fatal overrun: Broken pipe'); sys.exit(1)", "overrun"),
    "dies": (f"{SECOND}; os.kill(os.getpid(), signal.SIGKILL)", "ended"),
    "closes its output and lives": (f"{SECOND}; os.close(1); time.sleep(3600)", "ended"),
    "leaves its output to a child": (f"{SECOND}; subprocess.Popen(['sleep', '3600'])", "ended"),
}


@pytest.mark.parametrize("how", ENDS)
def test_what_stops_is_said_and_started_again_and_sample_time_goes_on(
    how: str, arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    body, reason = ENDS[how]
    arecord.does(body)
    blocks = until(listen(), lambda seen: sum(b.gap > 0 for b in seen) == 2)
    heard = sound(blocks)
    assert {b.outage for b in blocks if not len(b.data)} <= {None, "timeout", reason}
    assert reason in {b.outage for b in blocks}
    assert all(b.first == a.first + len(a.data) + b.gap for a, b in itertools.pairwise(heard))
    for before, after in itertools.pairwise(heard):
        # as much as the time that has passed, less what came at once
        if after.gap:
            passed = (after.captured_ns - before.captured_ns) / 1e9 * RATE
            assert passed - RATE / 4 - 16 <= after.gap <= passed + 16
    assert len(arecord.pids()) == 3


def test_half_a_sample_at_the_end_of_a_read_waits_for_its_other_half(
    arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does(
        "data = b''.join(i.to_bytes(2, 'little') for i in range(5000))\n"
        "for i in range(0, len(data), 333):\n    out(data[i:i + 333]); time.sleep(0.001)\ntime.sleep(3600)"
    )
    blocks = until(listen(), lambda seen: sum(len(b.data) for b in seen) == 5000)
    np.testing.assert_array_equal(np.concatenate([b.data for b in blocks]) * 32768, np.arange(5000))


def test_half_a_sample_at_the_end_is_dropped_and_nothing_shifts(
    arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does("out(b'\\x00\\x40' * 1000 + b'\\x7f')")
    blocks = until(listen(), lambda seen: sum(len(b.data) for b in seen) == 3000)
    assert {float(v) for b in blocks for v in b.data} == {0.5}


def test_messages_without_end_do_not_stop_the_sound(
    arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does("while True:\n    say('x' * 70_000); out(bytes(8000))")
    assert until(listen(), lambda seen: sum(len(b.data) for b in seen) > 40_000)[-1].outage is None


def test_an_overrun_that_it_goes_on_after_is_a_gap(
    arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does(
        "out(bytes(32000)); say('overrun!!! (at least 250.000 ms long)'); time.sleep(0.1); out(bytes(32000)); time.sleep(3600)"
    )
    blocks = until(listen(), lambda seen: sum(len(b.data) for b in seen) > 25_000)
    assert sum(b.gap for b in blocks) == RATE // 4
    assert all(b.first == a.first + len(a.data) + b.gap for a, b in itertools.pairwise(sound(blocks)))


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("ALSA lib pcm.c:2664:(snd_pcm_open_noupdate) Unknown PCM hw:7", "arecord -L"),
        ("arecord: main:831: audio open error: No such file or directory", "arecord -L"),
        ("arecord: main:831: audio open error: Permission denied", "group"),
        ("arecord: set_params:1352: Channels count non available", "channels=2"),
        ("arecord: set_params:1339: Sample format non available", "plughw"),
        ("Warning: rate is not accurate (requested = 16000Hz, got = 48000Hz)", "plughw"),
    ],
)
def test_a_device_that_will_never_be_heard_is_refused_at_the_start(
    message: str, hint: str, arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does(f"say({message!r}); {'time.sleep(3600)' if 'rate' in message else 'sys.exit(1)'}")
    with pytest.raises(SourceError) as e:
        until(listen("mic://hw:7"), lambda _: False)
    assert "hw:7" in e.value.message
    assert hint in str(e.value.hint)
    assert all_end(arecord.pids())


def test_a_device_that_is_away_at_the_start_is_waited_for_by_who_has_patience(
    arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does(
        f"if run < 3:\n    say('audio open error: No such file or directory'); sys.exit(1)\n{SECOND}; time.sleep(3600)"
    )
    blocks = until(listen(patient=True), lambda seen: len(seen[-1].data) > 0)
    assert "not_found" in {b.outage for b in blocks}
    assert (blocks[-1].first, blocks[-1].gap, blocks[-1].outage) == (0, 0, None)


def test_a_busy_device_is_waited_for(
    arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does(
        f"if run < 2:\n    say('audio open error: Device or resource busy'); sys.exit(1)\n{SECOND}; time.sleep(3600)"
    )
    blocks = until(listen(), lambda seen: len(seen[-1].data) > 0)
    assert "busy" in {b.outage for b in blocks}


def test_a_device_that_is_slow_to_start_is_said_and_not_given_up(
    arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does(f"time.sleep(1.5); {SECOND}; time.sleep(3600)")
    blocks = until(listen(), lambda seen: len(seen[-1].data) > 0)
    assert "timeout" in {b.outage for b in blocks}
    assert len(arecord.pids()) == 1


@pytest.mark.parametrize("ignores", [False, True])
def test_closing_ends_the_child_and_what_it_started(ignores: bool, arecord: FakeArecord) -> None:
    arecord.does(
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if ignores else "")
        + "child = subprocess.Popen(['sleep', '3600'])\n"
        + f"open({str(arecord.starts)!r}, 'a').write(f'{{child.pid}} -\\n')\n"
        + SECOND
        + "\ntime.sleep(3600)"
    )
    source = open_audio("mic://")
    reader = threading.Thread(target=lambda: [None for _ in iter(source.read, None)])
    reader.start()
    deadline = time.monotonic() + WHOLE_LIFE_S
    while not arecord.starts.exists() or len(arecord.pids()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    source.close()
    source.close()
    reader.join(WHOLE_LIFE_S)
    assert not reader.is_alive()
    assert all_end(arecord.pids())


def test_a_microphone_that_was_never_read_is_closed(arecord: FakeArecord) -> None:
    arecord.does("time.sleep(3600)")
    open_audio("mic://").close()
    assert not arecord.starts.exists()


@pytest.mark.parametrize(
    ("channel", "level"), [("left", 0.25), ("right", 0.5), ("mean&channels=2", 0.375), ("2", 0.5)]
)
def test_a_channel_of_a_microphone_can_be_chosen(
    channel: str, level: float, arecord: FakeArecord, listen: Callable[..., Iterator[AudioBlock]]
) -> None:
    arecord.does("out(b'\\x00\\x20\\x00\\x40' * 1000); time.sleep(3600)")
    blocks = until(listen(f"mic://hw:1,0?channel={channel}"), lambda seen: len(seen[-1].data) > 0)
    assert float(blocks[-1].data[0]) == level
    assert "-D hw:1,0" in arecord.starts.read_text()
    assert "-c 2" in arecord.starts.read_text()


def test_without_arecord_the_next_step_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError) as e:
        open_audio("mic://")
    assert "alsa-utils" in str(e.value.hint)
