"""Look at the TensorRT-RTX of this device, and check an engine on it: opened, compared with the golden outputs, timed; what
it compiled for this very GPU is kept beside it. A child process of :mod:`edgectl.engines.finalise.rtx_engine`.

``python -m edgectl.engines.finalise.rtx_check BLOBS MANIFEST ENGINE`` prints one JSON line ``{ok, p50_ms}``; with
``--identify`` alone, what the engine's cache key needs to know.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.bundle import Variant
from edgectl.engines.child import answer
from edgectl.engines.finalise.golden import check_golden, read_golden
from edgectl.engines.runtimes.cuda import open_cuda
from edgectl.engines.runtimes.tensorrt_rtx import RtxEngine, rtx_version
from edgectl.engines.timing import bench

_RUNS = 64


def _main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="edgectl.engines.finalise.rtx_check")
    parser.add_argument("--identify", action="store_true")
    parser.add_argument("blobs", type=Path, nargs="?")
    parser.add_argument("manifest", nargs="?")
    parser.add_argument("engine", type=Path, nargs="?")
    a = parser.parse_args(arguments)
    if a.identify:
        return {"tensorrt-rtx": rtx_version(), **open_cuda().identity()}
    variant = Variant.open(a.blobs, a.manifest)
    engine = RtxEngine(a.engine)
    try:
        check_golden(engine, variant)
        times = bench(engine, [feeds for feeds, _ in read_golden(variant)], seconds=0.0, min_runs=_RUNS)
        # again: from the second inference on it may run as a CUDA graph
        check_golden(engine, variant)
        engine.keep_cache()
    finally:
        engine.close()
    return {"p50_ms": float(np.median(times))}


if __name__ == "__main__":
    sys.exit(answer(lambda: _main(sys.argv[1:])))
