"""How fast a file goes through, against the slower of its decoder alone and its engine alone.

    python bench/live/file_mode.py ../shared/models/fastestdet-352.onnx

1080p H.264, the engine on one thread. In turn: every frame decoded and thrown away; the engine on a tensor that is
ready; the pipeline. Rounds are interleaved; the ratio is taken within a round.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

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

from edgectl.pipelines.sources import EndOfStream, open_source


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--rounds", type=int, default=8)
    a = p.parse_args()
    quiet_process()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = clip_1080p(folder)
        variant = detector(folder / "blobs", a.model)
        rows: dict[str, list[float]] = {"decode": [], "engine": [], "pipeline": [], "ratio": []}
        for _ in range(a.rounds):
            decode, engine = decode_fps(clip), engine_fps(TenObjects(opened(variant)))
            one = stream("s", str(clip), variant, wrap=TenObjects)
            one.start()
            began = time.monotonic()
            one.wait(600)
            took = time.monotonic() - began
            one.stop()
            fps = one.ledger.frames().processed / took
            for key, value in (("decode", decode), ("engine", engine), ("pipeline", fps)):
                rows[key].append(value)
            rows["ratio"].append(fps / min(decode, engine))
    report({k: interval(v) for k, v in rows.items()} | {"unit": "frames/s", "goal": "ratio >= 0.95"}, a.json)


def decode_fps(clip: Path) -> float:
    source = open_source(str(clip))
    source.open()
    began, n = time.monotonic(), 0
    while True:
        try:
            n += source.read(5) is not None
        except EndOfStream:
            break
    source.close()
    return n / (time.monotonic() - began)


def engine_fps(engine: TenObjects) -> float:
    feeds = {engine.inputs[0].name: np.zeros(engine.inputs[0].shape, np.float32)}
    engine.run(feeds)
    began = time.monotonic()
    for _ in range(200):
        engine.run(feeds)
    took = time.monotonic() - began
    engine.close()
    return 200 / took


if __name__ == "__main__":
    main()
