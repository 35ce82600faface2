"""The live page: how far behind its pictures are, what one viewer costs, and when a browser first shows something.

A real ``edgectl run --view`` of a drawn scene (1280x720 at 10 frames a second) in a process of its own. A viewer reads
what the page reads, pictures and numbers; the number of each frame is read back from the pixels of its JPEG. A frame
was due at (start + number / rate), and how far behind a picture is counts from then until the viewer has all of it.
The start is what the picture's own head says of when it was taken, less its number: the bench checks that this is one
and the same time for all pictures.

Processor time is that of all threads of the process, in turns of so many seconds with a viewer and without, so that
what else the machine does hits both. First paint is what Chromium's performance API says of a page that it has never
seen, and beside it when the first moving picture was there.

    python bench/live_page.py --turns 6 --seconds 20
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import free_port
from support.browser import CHROMIUM, Browser

from edgectl.builder.build import build_bundle
from edgectl.models import reference
from edgectl.pipelines.synth import timecode
from edgectl.pipelines.tasks import load_task

FPS, WIDTH, HEIGHT = 10, 1280, 720
SOURCE = f"synth://yard?seed=3&fps={FPS}&width={WIDTH}&height={HEIGHT}"
LAG_MS, CORE, PAINT_MS = 300.0, 0.05, 1000.0


@dataclass
class Seen:
    """Pictures that a viewer got."""

    lags_ms: list[float] = field(default_factory=list)
    starts_ns: list[int] = field(default_factory=list)
    """When the scene began, as each picture says."""
    unreadable: int = 0
    sizes: list[int] = field(default_factory=list)

    def take(self, about: dict[str, Any], jpeg: bytes, now_ns: int) -> None:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
        number = None if image is None else timecode.read(np.asarray(image, np.uint8))
        if number is None:
            self.unreadable += 1
            return
        self.starts_ns.append(about["taken_ns"] - round(number * 1e9 / FPS))
        self.lags_ms.append((now_ns - about["taken_ns"]) / 1e6)
        self.sizes.append(len(jpeg))


def view(url: str, seen: Seen, stop: threading.Event) -> None:
    """What the page does, until ``stop``."""
    with (
        httpx.Client(timeout=30) as client,
        client.stream("GET", f"{url}/pictures", params={"show": f"run:{WIDTH}"}) as answer,
    ):
        buffer = bytearray()
        for piece in answer.iter_raw():
            buffer += piece
            now_ns = time.monotonic_ns()
            while len(buffer) >= 8:
                head, jpeg = struct.unpack_from(">II", buffer)
                if len(buffer) < 8 + head + jpeg:
                    break
                seen.take(json.loads(buffer[8 : 8 + head]), bytes(buffer[8 + head : 8 + head + jpeg]), now_ns)
                del buffer[: 8 + head + jpeg]
            if stop.is_set():
                return


def listen(url: str, stop: threading.Event) -> None:
    with httpx.Client(timeout=30) as client, client.stream("GET", f"{url}/events") as answer:
        for _ in answer.iter_raw():
            if stop.is_set():
                return


def cpu_share(process: psutil.Process, seconds: float) -> float:
    """Of one core, over the next seconds."""
    before, begin = process.cpu_times(), time.monotonic()
    time.sleep(seconds)
    after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return float(spent / (time.monotonic() - begin))


def watched(process: psutil.Process, url: str, seconds: float, seen: Seen) -> float:
    """A page has two connections: pictures, and numbers with events."""
    stop = threading.Event()
    viewers = [
        threading.Thread(target=view, args=(url, seen, stop)),
        threading.Thread(target=listen, args=(url, stop)),
    ]
    for viewer in viewers:
        viewer.start()
    time.sleep(1.0)
    try:
        return cpu_share(process, seconds)
    finally:
        stop.set()
        for viewer in viewers:
            viewer.join()


def paints(url: str, times: int) -> list[dict[str, float]]:
    """First paint and first moving picture of new browsers, ms after navigation began."""
    found = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder, Browser(Path(folder)) as browser:
            browser.open(url)
            browser.until("performance.getEntriesByType('mark').length > 0")
            entries = "[...performance.getEntriesByType('paint'), ...performance.getEntriesByType('mark')]"
            found.append(dict(browser.run(f"{entries}.map(e => [e.name, e.startTime])")))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=6, help="with a viewer and without, each")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a turn")
    parser.add_argument("--pages", type=int, default=5, help="how often a browser opens the page")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = measure(Path(name), a.turns, a.seconds, a.pages)
    print(json.dumps(out, indent=2))
    if a.json is not None:
        a.json.write_text(json.dumps(out, indent=2))
    return 0 if out["good"] else 1


def measure(folder: Path, turns: int, seconds: float, pages: int) -> dict[str, Any]:
    ours = reference("yard-detector")
    build_bundle(
        ours.model,
        profiles=["cpu"],
        task=load_task(str(ours.task)),
        calibration="synth://yard?seed=5&paced=0&fps=2&seconds=8",
        out=folder / "bundle",
        minutes=0.02,
        name="yard",
        max_drop=0.5,
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "edgectl.cli", "run", "surveillance", "-b", str(folder / "bundle")]
    command += ["-s", SOURCE, "--view-at", f"127.0.0.1:{port}"]
    with (folder / "run.log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(f"{url}/streams/run/picture.jpg", running, folder / "run.log")
        process = psutil.Process(running.pid)
        seen = Seen()
        rows = []
        for turn in range(turns):
            without = cpu_share(process, seconds)
            rows.append((without, watched(process, url, seconds, seen)))
            print(f"turn {turn + 1}: {without:.1%} of a core, watched {rows[-1][1]:.1%}", file=sys.stderr)
        shown = paints(url, pages) if CHROMIUM is not None else []
    finally:
        running.terminate()
        running.wait(30)
    lags = np.array(seen.lags_ms)
    extra = [watched - without for without, watched in rows]
    first = [p["first-contentful-paint"] for p in shown]
    spread_ms = (max(seen.starts_ns) - min(seen.starts_ns)) / 1e6
    p99 = float(np.percentile(lags, 99))
    return {
        "pictures": len(lags),
        "unreadable": seen.unreadable,
        "start_of_scene_spread_ms": spread_ms,
        "jpeg_bytes_median": int(statistics.median(seen.sizes)),
        "behind_ms": {f"p{p}": round(float(np.percentile(lags, p)), 1) for p in (50, 95, 99)}
        | {"max": round(float(lags.max()), 1)},
        "core_without": [round(w, 4) for w, _ in rows],
        "core_watched": [round(w, 4) for _, w in rows],
        "core_of_a_viewer": {
            "median": round(statistics.median(extra), 4),
            "min": round(min(extra), 4),
            "max": round(max(extra), 4),
        },
        "first_paint_ms": [round(f) for f in first] or "no chromium here",
        "first_picture_ms": [round(p["picture:run"]) for p in shown],
        "load": [round(x, 2) for x in os.getloadavg()],
        "cores": os.cpu_count(),
        "good": bool(
            p99 <= LAG_MS
            and spread_ms < 1
            and not seen.unreadable
            and statistics.median(extra) <= CORE
            and all(f <= PAINT_MS for f in first)
        ),
    }


def wait_for(url: str, running: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + 120
    while time.monotonic() < end_s and running.poll() is None:
        try:
            if httpx.get(url, timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    sys.exit(f"the page did not come: {log.read_text()}")


if __name__ == "__main__":
    sys.exit(main())
