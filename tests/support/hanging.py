"""A program: two cameras in one process, the first of which has a sink that hangs. It says a line when the sink hangs and
the second one has gone on, ends as by Ctrl-C, and says another.

Arguments: what hangs (:data:`WAYS`), and an empty folder. That it ends at all, in time, is for who started it to see.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from support.pipelines import BoxEngine, box_task, make_variant

from edgectl.core.wire import StreamStats
from edgectl.pipelines import sinks
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.run import StreamToRun, run_streams

CAMERA = "synth://yard?fps=10&paced=1&width=320&height=240"
_FRAMES = 10
"""So many the second stream must have processed since the first one's sink hangs."""
HELD: list[socket.socket] = []
HANGS = threading.Event()


def silent() -> int:
    """The port of a server that takes connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))

    def take() -> None:
        while True:
            HELD.append(listener.accept()[0])
            HANGS.set()

    threading.Thread(target=take, daemon=True).start()
    return int(listener.getsockname()[1])


def black_hole() -> int:
    """The port of a server whose queue of connections is full: the next one gets no answer."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(listener.getsockname())
        HELD.append(one)
    HELD.append(listener)
    HANGS.set()
    return int(listener.getsockname()[1])


def no_names() -> str:
    """A host whose name server says nothing."""

    def wait(*_: Any, **__: Any) -> Any:
        HANGS.set()
        threading.Event().wait()

    socket.getaddrinfo = wait
    return "nas.example"


def no_reader(path: Path) -> None:
    """A pipe that nobody has open: who opens it waits, as on a disk that hangs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    HANGS.set()


def full(path: Path) -> None:
    """A pipe that somebody has open and does not read: the first bytes go through."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)

    def look() -> None:
        poll = select.poll()
        poll.register(end, select.POLLOUT)
        while poll.poll(0):
            time.sleep(0.01)
        HANGS.set()

    threading.Thread(target=look, daemon=True).start()


def clip(path: Path) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 5
        for i in range(50):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * i, np.uint8), format="bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return f"{path}?paced=1&loop=1"


Config = dict[str, Any]


def _file(name: str, hang: Callable[[Path], None], **config: Any) -> Callable[[Path], Config]:
    def make(out: Path) -> Config:
        hang(out / name)
        return config

    return make


WAYS: dict[str, Callable[[Path], Config]] = {
    "restream, silent": lambda _: {"restream": f"rtsp://127.0.0.1:{silent()}/yard"},
    "restream, black hole": lambda _: {"restream": f"rtsp://127.0.0.1:{black_hole()}/yard"},
    "restream, no names": lambda _: {"restream": f"rtsp://{no_names()}/yard"},
    "restream with TLS, silent": lambda _: {"restream": f"rtsps://127.0.0.1:{silent()}/yard"},
    "webhook, silent": lambda _: {"webhook": {"url": f"http://127.0.0.1:{silent()}/x"}},
    "webhook, black hole": lambda _: {"webhook": {"url": f"http://127.0.0.1:{black_hole()}/x"}},
    "webhook, no names": lambda _: {"webhook": {"url": f"http://{no_names()}/x"}},
    "webhook with TLS, silent": lambda _: {"webhook": {"url": f"https://127.0.0.1:{silent()}/x"}},
    "mqtt, silent": lambda _: {"mqtt": {"url": f"mqtt://127.0.0.1:{silent()}"}},
    "mqtt, black hole": lambda _: {"mqtt": {"url": f"mqtt://127.0.0.1:{black_hole()}"}},
    "mqtt, no names": lambda _: {"mqtt": {"url": f"mqtt://{no_names()}"}},
    "mqtt with TLS, silent": lambda _: {"mqtt": {"url": f"mqtts://127.0.0.1:{silent()}"}},
    "annotate, cannot be opened": _file("annotated.mp4", no_reader, annotate=True),
    "annotate, cannot be written": _file("annotated.mp4", full, annotate=True),
    "tracklog, cannot be written": _file("tracks.jsonl", full, tracklog=True),
    "snapshots, cannot be listed": _file(".written", no_reader, snapshots={"on": ["all"]}),
    "clips, cannot be listed": _file(
        ".written", no_reader, clips={"on": ["all"], "before_s": 0, "after_s": 0}
    ),
    "recording, cannot be listed": _file(".written", no_reader, recording=True),
    "events, cannot be opened": _file("events.jsonl", no_reader),
}
"""What hangs → the configuration of the first stream, whose folder is given."""


def main(way: str, folder: str) -> None:
    out = Path(folder)
    (out / "a").mkdir()
    everything = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}
    own = {"zones": {"all": everything}, "annotate": False}
    config = {**own, **WAYS[way](out / "a")}
    counted: dict[str, int] = {}
    since: list[int] = []
    source = clip(out / "clip.mp4") if way.startswith(("clips", "recording")) else CAMERA
    if not (starts := not way.startswith("events")):
        sinks._OPEN_S = 1.0

    def progress(stats: dict[str, StreamStats], _: float | None) -> None:
        for name, one in stats.items():
            counted[name] = one.frames.processed
        done = counted.get("second", 0)
        if HANGS.is_set() and bool(counted.get("first")) == starts and done:
            since.append(done)
        if since and done - since[0] >= _FRAMES:
            print("goes on", flush=True)
            since.append(10**9)
            _thread.interrupt_main()

    with contextlib.suppress(KeyboardInterrupt):
        run_streams(
            "surveillance",
            [],
            [
                StreamToRun("first", source, parse_config("surveillance", config), out / "a"),
                StreamToRun("second", CAMERA, parse_config("surveillance", own), out / "b"),
            ],
            on_progress=progress,
            variants={"detector": make_variant(out / "blobs", box_task())},
            open_engine=lambda _: BoxEngine(lambda _: [(0.1, 0.1, 0.3, 0.5, 0.9, 0)]),
        )
    print("has ended", flush=True)
    # what is left behind waits in native code or in the kernel
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
