"""How fast a file goes through, against the slower of its decoder alone and its engine alone.

    python bench/live/file_mode.py ../shared/models/fastestdet-352.onnx

1080p H.264, the engine on one thread. In turn: every frame decoded and thrown away; the engine on a tensor that is
ready; the pipeline. Rounds are interleaved; the ratio is taken within a round. ``--calls 2`` runs the engine twice a
frame, as a model of twice the work would: with a light one, decoder and engine alone fill two cores, and nothing is
left for what is between them (``rest_ms``: processor time a frame beside both).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from common import (
    TenObjects,
    clip_1080p,
    detector,
    interval,
    opened,
    parser,
    quiet_process,
    report,
    stream,
)
from numpy.typing import NDArray

from edgectl.pipelines.sources import EndOfStream, open_source


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--rounds", type=int, default=8)
    p.add_argument("--calls", type=int, default=1, help="of the engine, for each frame")
    a = p.parse_args()
    quiet_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = clip_1080p(folder)
        variant = detector(folder / "blobs", a.model)
        keys = ("decode", "engine", "pipeline", "ratio", "rest_ms")
        rows: dict[str, list[float]] = {key: [] for key in keys}
        for _ in range(a.rounds):
            decode, decode_cpu = decode_fps(clip)
            engine, engine_cpu = engine_fps(Repeated(opened(variant), a.calls))
            one = stream("s", str(clip), variant, wrap=lambda opened: Repeated(opened, a.calls))
            one.start()
            began, cpu = time.monotonic(), time.process_time()
            one.wait(600)
            took, cpu = time.monotonic() - began, time.process_time() - cpu
            one.stop()
            frames = one.ledger.frames().processed
            fps, rest = frames / took, 1000 * cpu / frames - decode_cpu - engine_cpu
            for key, value in zip(keys, (decode, engine, fps, fps / min(decode, engine), rest), strict=True):
                rows[key].append(value)
    figures = {k: interval(v) for k, v in rows.items()}
    report(figures | {"calls": a.calls, "unit": "frames/s", "goal": "ratio >= 0.95"}, a.json)


class Repeated(TenObjects):
    """Runs the engine several times for each frame."""

    def __init__(self, engine: Any, calls: int) -> None:
        super().__init__(engine)
        self._more = calls - 1

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for _ in range(self._more):
            self._engine.run(feeds)
        return super().run(feeds)


def decode_fps(clip: Path) -> tuple[float, float]:
    """Frames a second, and processor time a frame, ms."""
    source = open_source(str(clip))
    source.open()
    began, cpu, n = time.monotonic(), time.process_time(), 0
    while True:
        try:
            n += source.read(5) is not None
        except EndOfStream:
            break
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    source.close()
    return n / took, 1000 * cpu / n


def engine_fps(engine: TenObjects) -> tuple[float, float]:
    """Frames a second, and processor time a frame, ms."""
    feeds = {engine.inputs[0].name: np.zeros(engine.inputs[0].shape, np.float32)}
    engine.run(feeds)
    began, cpu = time.monotonic(), time.process_time()
    for _ in range(200):
        engine.run(feeds)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    engine.close()
    return 200 / took, 1000 * cpu / 200


if __name__ == "__main__":
    main()
