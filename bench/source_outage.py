"""How soon a camera that was away is seen again, and what waiting for it costs.

A real RTSP server (GStreamer's: H.264, 25 pictures a second, a key frame each second) is killed, stays away, and is
started again at a random part of a second. Time runs from the moment when it listens to the first frame: up to 2 s
plus one group of pictures (1 s) are allowed. Processor time is that of this process while the camera is away. Beside
it: a camera that drops what is sent to it, as one does that lost its power (its address is not routed).

    python bench/source_outage.py --rounds 10 --down 20
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import socket
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import rtsp

from edgectl.pipelines.sources import Source, open_source


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--down", type=float, default=20.0, help="seconds that the camera is away")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    logging.disable()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = rtsp.camera(port, encoder="h264")
    source = open_source(f"rtsp://127.0.0.1:{port}/test", patient=True)
    source.open()
    back_s, share = [], []
    for _ in range(a.rounds):
        _next(source)
        rtsp.end(server)
        while source.outage is None:
            source.read(0.2)
        share.append(_cost(source, a.down + random.random()))
        server = rtsp.camera(port, encoder="h264")
        start = time.monotonic()
        _next(source)
        back_s.append(time.monotonic() - start)
    source.close()
    rtsp.end(server)
    silent = open_source("rtsp://192.0.2.1/test", patient=True)  # RFC 5737: nobody's
    silent.open()
    silent_share = _cost(silent, a.down)
    silent.close()
    result = {
        "rounds": a.rounds,
        "down_s": a.down,
        "first_frame_s": {"median": round(median(back_s), 2), "max": round(max(back_s), 2)},
        "cpu_share_while_away": {
            "server_gone": round(max(share), 4),
            "address_gone": round(silent_share, 4),
        },
    }
    print(json.dumps(result, indent=2))
    if a.json:
        a.json.write_text(json.dumps(result))


def _next(source: Source) -> None:
    while source.read(0.2) is None:
        pass


def _cost(source: Source, seconds: float) -> float:
    """Processor time per time, while the source is away."""
    start, used = time.monotonic(), time.process_time()
    while time.monotonic() - start < seconds:
        source.read(0.2)
    return (time.process_time() - used) / (time.monotonic() - start)


if __name__ == "__main__":
    main()
