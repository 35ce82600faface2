"""Memory of a worker with 1, 2, 4 and 8 streams that share an engine, and the time until all run again after a kill.

    python bench/worker_memory.py [--bundle BUNDLE] [--source URI] [--json OUT]

PSS (/proc/PID/smaps_rollup) of a real worker process, once every stream has processed 40 frames; the last column is
what each stream costs beyond the first. Without ``--bundle`` the engine is a graph of a few operations, so that only
the streams count. The restart is that of a real agent's supervisor: from SIGKILL until every stream has processed a
frame again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import av
import cv2
import numpy as np
from support.host_worker import Process
from support.pipelines import box_task, make_variant, model_bytes

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.supervised_stream import WorkerCallbacks
from edgectl.agent.streams.supervisor import Supervisor
from edgectl.core.bundle import Bundle
from edgectl.pipelines.host.protocol import EngineRef, Ready, Start, Stats

FRAMES = 40


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="its fallback variant serves")
    parser.add_argument(
        "--source", help="default: a clip of 1920 × 1080, H.264, made here, 5 frames a second"
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = engine_of(a.bundle, folder)
        source = a.source or f"file:{clip(folder / 'clip.mp4')}?paced=true&loop=true&fps=5"
        pss_mb = {n: memory_mb(folder, engine, source, n) for n in a.streams}
        restart_s = {n: round(restart(folder, engine, source, n), 2) for n in (1, max(a.streams))}
    print("| streams | PSS, MB | each further one, MB |\n| --- | --- | --- |")
    least = min(pss_mb)
    further = {n: (mb - pss_mb[least]) / (n - least) for n, mb in pss_mb.items() if n > least}
    for n, mb in pss_mb.items():
        print(f"| {n} | {mb:.0f} | {f'{further[n]:.1f}' if n in further else ''} |")
    print("all run again after SIGKILL:", ", ".join(f"{n} in {s} s" for n, s in restart_s.items()))
    if a.json is not None:
        a.json.write_text(json.dumps({"pss_mb": pss_mb, "further_mb": further, "restart_s": restart_s}))
    return 0


def clip(path: Path) -> Path:
    """Noise that moves, so that every frame has something to decode."""
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
    noise = cv2.GaussianBlur(noise, (0, 0), 5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": "25"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for i in range(75):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 8 * i, axis=1), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def engine_of(bundle: Path | None, folder: Path) -> EngineRef:
    if bundle is None:
        variant = make_variant(folder / "blobs", box_task(), model_bytes())
        return EngineRef(blobs=variant.blobs, manifest=variant.digest)
    opened = Bundle(bundle)
    return EngineRef(blobs=opened.blobs, manifest=opened.variants[-1].digest)


def memory_mb(folder: Path, engine: EngineRef, source: str, streams: int) -> float:
    """PSS of the worker, in 10⁶ bytes."""
    worker = Process(folder)
    try:
        for i in range(streams):
            stream = f"cam{i}"
            worker.say(
                Start(
                    stream=stream,
                    kind="surveillance",
                    source=source,
                    engines={"detector": engine},
                    stats_every_s=0.5,
                )
            )
            worker.hear(Ready, lambda m, s=stream: m.stream == s)  # type: ignore[misc]
        for i in range(streams):
            worker.hear(
                Stats,
                lambda m, s=f"cam{i}": m.stream == s and m.stats.frames.processed >= FRAMES,  # type: ignore[misc]
                timeout_s=120,
            )
        rollup = Path(f"/proc/{worker.p.pid}/smaps_rollup").read_text()
    finally:
        worker.close()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024 / 1e6


def restart(folder: Path, engine: EngineRef, source: str, streams: int) -> float:
    """Seconds from SIGKILL until every stream has processed a frame again."""
    seen: dict[str, int] = {}
    changed = threading.Condition()

    def on_stats(stream: str, stats: Stats) -> None:
        with changed:
            seen[stream] = stats.stats.frames.processed
            changed.notify_all()

    journal = Journal(folder / f"restart{streams}.db")
    config = StreamConfig(kind="surveillance", source=source, slots={"detector": "gate"})
    supervisor = Supervisor(
        {f"cam{i}": config for i in range(streams)},
        {"gate": engine}.get,
        journal,
        WorkerCallbacks(on_stats, lambda *_: None, lambda *_: None),
        stats_every_s=0.1,
    )
    supervisor.start()
    try:
        with changed:
            changed.wait_for(lambda: len(seen) == streams and all(n > 10 for n in seen.values()), 120)
            pid = supervisor._streams["cam0"].worker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            seen.clear()
            changed.wait_for(lambda: len(seen) == streams and all(n > 0 for n in seen.values()), 120)
            return time.monotonic() - killed
    finally:
        supervisor.close()
        journal.close()


if __name__ == "__main__":
    raise SystemExit(main())
