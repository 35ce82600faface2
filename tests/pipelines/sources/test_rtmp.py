"""A stream from a media server: ffmpeg as one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import free_port
from support.pipelines import write_clip

from edgectl.pipelines.sources import open_source


def test_what_a_media_server_plays_is_read_and_its_end_is_an_outage(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=50, fps=25)
    uri = f"rtmp://127.0.0.1:{free_port()}/live/key"
    command = f"ffmpeg -v quiet -re -i {clip} -c:v libx264 -g 5 -f flv -listen 1 {uri}"
    server = subprocess.Popen(command.split(), stdin=subprocess.DEVNULL)
    source = open_source(uri, patient=True)
    # ffmpeg takes one connection alone, so nobody may look whether it is there
    object.__setattr__(source._camera, "look", lambda: None)  # type: ignore[attr-defined]
    try:
        source.open()
        frames = []
        while len(frames) < 10:
            frame = source.read(1)
            frames += [] if frame is None else [frame]
        assert [f.stamp.seq for f in frames] == list(range(10))
        assert (frames[0].width, frames[0].height) == (64, 48)
        while source.outage is None:
            source.read(1)
        assert source.outage in ("ended", "refused", "timeout")
    finally:
        source.close()
        server.kill()
        server.wait()
