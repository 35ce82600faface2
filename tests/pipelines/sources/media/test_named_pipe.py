"""A video through a named pipe: read to its end; nobody who writes, or who stops writing, is said."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from support.pipelines import write_clip

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources import EndOfStream, Source, open_source
from edgectl.pipelines.sources.media import named_pipe


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.ts")
    return tmp_path / "pipe.ts"


def write(pipe: Path, data: bytes, then: threading.Event | None = None) -> threading.Thread:
    def run() -> None:
        with open(pipe, "wb") as f:
            f.write(data)
            f.flush()
            if then is not None:
                then.wait()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def clip(tmp_path: Path) -> bytes:
    import subprocess

    path = write_clip(tmp_path / "c.mp4")
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-c:v", "mpeg2video", str(tmp_path / "c.ts")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return (tmp_path / "c.ts").read_bytes()


def test_a_pipe_gives_every_frame_up_to_its_end(pipe: Path, tmp_path: Path) -> None:
    thread = write(pipe, clip(tmp_path))
    source = open_source(str(pipe))
    source.open()
    frames = _drain(source)
    thread.join()
    assert frames == 30


def test_nobody_who_writes_is_said_after_a_while(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_pipe, "_WAIT_S", 0.3)
    with pytest.raises(SourceError, match=r"nobody writes into the pipe pipe\.ts") as caught:
        open_source(str(pipe)).open()
    assert caught.value.hint


def test_a_writer_that_stops_without_closing_is_said(
    pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named_pipe, "_WAIT_S", 1.0)
    done = threading.Event()
    thread = write(pipe, clip(tmp_path), done)
    source = open_source(str(pipe))
    source.open()
    try:
        with pytest.raises(SourceError, match="nothing came for 1 s"):
            _drain(source)
    finally:
        done.set()
        thread.join()


def test_an_interrupt_ends_the_wait_for_a_writer(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_pipe, "_WAIT_S", 3600.0)
    source = open_source(str(pipe))
    threading.Timer(0.3, source.interrupt).start()
    with pytest.raises(SourceError):
        source.open()


def test_what_is_neither_a_file_nor_a_pipe_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="neither a file nor a pipe"):
        open_source("/dev/zero").open()


def _drain(source: Source) -> int:
    frames = 0
    try:
        while source.read(5) is not None:
            frames += 1
    except EndOfStream:
        pass
    finally:
        source.close()
    return frames
